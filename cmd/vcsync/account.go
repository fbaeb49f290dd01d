package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
)

// passwordFlags are how a command gets a password.
type passwordFlags struct {
	file  string
	stdin bool
}

func (p *passwordFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&p.file, "password-file", "", "file with the password")
	c.Flags().BoolVar(&p.stdin, "password-stdin", false, "read the password from standard input")
}

func newLoginCommand(a *app) *cobra.Command {
	var pw passwordFlags
	c := &cobra.Command{
		Use:   "login ACCOUNT",
		Short: "Sign in; the commands use the session until it ends",
		Long: `Signs in and keeps the session in a file of your own (0600), beside the contexts. It
ends after 8 hours, after 30 minutes without a command, and with "vcsync logout". For
scripts make a token (vcsync token add) and give it in VCSYNC_TOKEN.`,
		Args: exactly(1, "the name of an account"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			api.token = "" // one that has expired would stand in the way
			password, err := a.password(pw.file, pw.stdin, args[0])
			if err != nil {
				return err
			}
			var in control.SignedIn
			raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("session"), nil, control.SignIn{Account: args[0], Password: password}, &in)
			if err != nil {
				return err
			}
			k, err := readContexts()
			if err != nil {
				return err
			}
			k.Tokens[api.base] = in.Token
			if err := k.write(); err != nil {
				return err
			}
			_ = raw // it holds the session, which is shown nowhere
			_, err = fmt.Fprintf(a.out, "Signed in at %s as %s until %s.\n", api.base, args[0], in.Expires.Local().Format(time.RFC3339))
			return failed(exitRunTime, err)
		},
	}
	pw.add(c)
	return c
}

func newLogoutCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "logout", Short: "End the session", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		k, err := readContexts()
		if err != nil {
			return err
		}
		if k.Tokens[api.base] == "" {
			return usageError("there is no session at %s", api.base)
		}
		api.token = k.Tokens[api.base]
		_, _, err = api.call(cmd.Context(), http.MethodDelete, apiPath("session"), nil, nil, nil)
		if err != nil && !isStatus(err, http.StatusUnauthorized) {
			return err
		}
		delete(k.Tokens, api.base)
		if err := k.write(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "The session at %s has ended.\n", api.base)
		return failed(exitRunTime, err)
	}}
}

// grants reads what --role says.
func grants(texts []string) (out []control.GrantRecord, err error) {
	for _, text := range texts {
		g, err := broker.ParseGrant(text)
		if err != nil {
			return nil, usageError("--role %w", err)
		}
		out = append(out, control.GrantRecord{Role: g.Role, Settings: g.Settings, Servers: g.Servers})
	}
	return out, nil
}

func grantText(in []control.GrantRecord) string {
	var out []string
	for _, g := range in {
		out = append(out, broker.Grant{Role: g.Role, Settings: g.Settings, Servers: g.Servers}.String())
	}
	return cmp.Or(strings.Join(out, " "), "-")
}

// whoIs is the name of an account, with what its provider calls its owner.
func whoIs(v control.AccountRecord) string {
	if v.Title == "" {
		return v.Name
	}
	return v.Name + " (" + v.Title + ")"
}

const roleHelp = "role: viewer, operator, approver, auditor or admin, everywhere or as ROLE@setting/NAME,server/NAME; may be repeated"

func newAccountCommand(a *app) *cobra.Command {
	var pw passwordFlags
	var tokenFile string
	first := &cobra.Command{
		Use:   "first NAME",
		Short: "Make the first admin; from then on nobody comes in without an account",
		Long: `Makes the first admin, with the one-time token that vcsync wrote into its data folder
when it started: who can read that folder may do so, and nobody else. From then on
every request needs an account or a token.`,
		Args: exactly(1, "the name of the account"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := cmp.Or(tokenFile, filepath.Join(cmp.Or(os.Getenv(envPrefix+"DATA"), "data"), control.FirstAdminFile))
			raw, err := os.ReadFile(path)
			if err != nil {
				return usageError("read the one-time token: %w; name the file with --token-file, or the data folder with VCSYNC_DATA. There is none where there is an admin already", err)
			}
			password, err := a.password(pw.file, pw.stdin, args[0])
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			if _, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("first-admin"), nil, control.FirstAdmin{Token: strings.TrimSpace(string(raw)), Account: args[0], Password: password}, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "The account %s is there, with the role admin. Next: vcsync login %s\n", args[0], args[0])
			return failed(exitRunTime, err)
		},
	}
	first.Flags().StringVar(&tokenFile, "token-file", "", "file with the one-time token (default "+control.FirstAdminFile+" in VCSYNC_DATA)")
	pw.add(first)

	var roles []string
	add := &cobra.Command{Use: "add NAME --role ROLE", Short: "Add an account", Args: exactly(1, "the name of the account"),
		Example: "  vcsync account add ann --role viewer --role operator@setting/prod-to-test --password-file pw",
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := grants(roles)
			if err != nil {
				return err
			}
			if len(g) == 0 {
				return usageError("--role is missing")
			}
			password, err := a.password(pw.file, pw.stdin, args[0])
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("accounts"), nil, control.NewAccount{Name: args[0], Password: password, Grants: g}, nil)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				_, err := fmt.Fprintf(a.out, "The account %s is there: %s.\n", args[0], grantText(g))
				return err
			})
		}}
	add.Flags().StringArrayVar(&roles, "role", nil, roleHelp)
	pw.add(add)

	list := &cobra.Command{Use: "list", Short: "List the accounts", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var all items[control.AccountRecord]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("accounts"), nil, nil, &all)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(all.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "There are no accounts: everybody on the machine of vcsync may do everything. Make the first: vcsync account first NAME")
				return err
			}
			t := newTable("ACCOUNT", "ROLES", "STATE", "SESSIONS", "TOKENS", "LAST USE", "WRONG PASSWORDS")
			for _, v := range all.Items {
				state := "enabled"
				switch {
				case v.Unreadable:
					state = "cannot be read: remove it"
				case v.Disabled:
					state = "disabled"
				}
				t.add(clean(whoIs(v)), grantText(v.Grants), state, fmt.Sprint(v.Sessions), fmt.Sprint(v.Tokens), when(v.LastUse), fmt.Sprint(v.Failures))
			}
			return t.print(a.out)
		})
	}}

	me := &cobra.Command{Use: "me", Short: "Say who you are and what you may", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var v control.AccountRecord
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("me"), nil, nil, &v)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			text := fmt.Sprintf("%s at %s: %s", whoIs(v), api.base, grantText(v.Grants))
			if v.Limit != nil {
				text += "; the token only: " + grantText(v.Limit)
			}
			_, err := fmt.Fprintln(a.out, clean(text))
			return err
		})
	}}

	var newRoles []string
	var disable, enable bool
	edit := &cobra.Command{Use: "edit NAME", Short: "Change the roles of an account, or disable it; its sessions end", Args: exactly(1, "the name of the account"), RunE: func(cmd *cobra.Command, args []string) error {
		g, err := grants(newRoles)
		if err != nil {
			return err
		}
		if disable && enable || g == nil && !disable && !enable {
			return usageError("want --role, --disable or --enable")
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var have control.AccountRecord
		_, tag, err := api.call(cmd.Context(), http.MethodGet, apiPath("accounts", args[0]), nil, nil, &have)
		if err != nil {
			return err
		}
		if g == nil {
			g = have.Grants
		}
		raw, _, err := api.call(cmd.Context(), http.MethodPut, apiPath("accounts", args[0]), map[string]string{"If-Match": tag}, control.AccountBody{Grants: g, Disabled: disable || have.Disabled && !enable}, nil)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			_, err := fmt.Fprintf(a.out, "The account %s was changed; its sessions have ended.\n", args[0])
			return err
		})
	}}
	edit.Flags().StringArrayVar(&newRoles, "role", nil, roleHelp+"; in place of those it has")
	edit.Flags().BoolVar(&disable, "disable", false, "nobody can sign in with it, and its tokens are good for nothing")
	edit.Flags().BoolVar(&enable, "enable", false, "let it sign in again")

	password := &cobra.Command{Use: "password NAME", Short: "Give an account another password; its sessions and tokens end", Args: exactly(1, "the name of the account"), RunE: func(cmd *cobra.Command, args []string) error {
		text, err := a.password(pw.file, pw.stdin, args[0])
		if err != nil {
			return err
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		_, tag, err := api.call(cmd.Context(), http.MethodGet, apiPath("accounts", args[0]), nil, nil, nil)
		if err != nil {
			return err
		}
		if _, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("accounts", args[0], "password"), map[string]string{"If-Match": tag}, control.NewPassword{Password: text}, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "The account %s has another password; its sessions and tokens have ended.\n", args[0])
		return failed(exitRunTime, err)
	}}
	pw.add(password)

	remove := &cobra.Command{Use: "remove NAME", Short: "Forget an account, its sessions and its tokens", Args: exactly(1, "the name of the account"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		_, tag, err := api.call(cmd.Context(), http.MethodGet, apiPath("accounts", args[0]), nil, nil, nil)
		if err != nil {
			return err
		}
		if _, _, err := api.call(cmd.Context(), http.MethodDelete, apiPath("accounts", args[0]), map[string]string{"If-Match": tag}, nil, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "The account %s is gone.\n", args[0])
		return failed(exitRunTime, err)
	}}
	return group("account", "Who may sign in, and what they may do", first, add, list, me, edit, password, remove)
}

func newTokenCommand(a *app) *cobra.Command {
	var roles []string
	days := 90
	add := &cobra.Command{Use: "add NAME", Short: "Make a token for a script; it is shown this once", Args: exactly(1, "a name for the token"),
		Example: "  vcsync token add nightly --role viewer --days 365",
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := grants(roles)
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			var made control.MadeToken
			raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("me", "tokens"), nil, control.NewToken{Name: args[0], Days: days, Limit: g}, &made)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				_, err := fmt.Fprintf(a.out, "%s\nIt is shown this once. Scripts give it in VCSYNC_TOKEN. It is good until %s.\n", made.Token, when(made.Expires))
				return err
			})
		}}
	add.Flags().StringArrayVar(&roles, "role", nil, "limit it: "+roleHelp)
	add.Flags().IntVar(&days, "days", days, "how many days it is good; 365 at most")
	var of string
	list := &cobra.Command{Use: "list", Short: "List your tokens, or those of an account", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var all items[control.TokenRecord]
		path := apiPath("me", "tokens")
		if of != "" {
			path = apiPath("accounts", of, "tokens")
		}
		raw, _, err := api.call(cmd.Context(), http.MethodGet, path, nil, nil, &all)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(all.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "There are no tokens.")
				return err
			}
			t := newTable("TOKEN", "LIMIT", "MADE", "EXPIRES", "LAST USE")
			for _, v := range all.Items {
				t.add(v.Name, grantText(v.Limit), when(v.Made), when(v.Expires), when(v.LastUse))
			}
			return t.print(a.out)
		})
	}}
	revoke := &cobra.Command{Use: "revoke NAME", Short: "Make a token good for nothing", Args: exactly(1, "the name of the token"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		path := apiPath("me", "tokens", args[0])
		if of != "" {
			path = apiPath("accounts", of, "tokens", args[0])
		}
		if _, _, err := api.call(cmd.Context(), http.MethodDelete, path, nil, nil, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "The token %s is good for nothing now.\n", clean(args[0]))
		return failed(exitRunTime, err)
	}}
	for _, c := range []*cobra.Command{list, revoke} {
		c.Flags().StringVar(&of, "account", "", "of this account, for admins")
	}
	return group("token", "Tokens of your account, for scripts", add, list, revoke)
}
