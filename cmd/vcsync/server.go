package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newServerCommand(a *app) *cobra.Command {
	return group("server", "The VisualCron servers that vcsync knows",
		newServerAdd(a), newServerEdit(a), newServerList(a), newServerTest(a), newServerRemove(a), newServerHintToken(a))
}

func newServerAdd(a *app) *cobra.Command {
	var in control.NewServer
	var file string
	var stdin bool
	var deletes []string
	c := &cobra.Command{
		Use:   "add NAME --address URL --user USER",
		Short: "Add a server, after a test",
		Long: `Asks the server who it is, and stores it.

The password comes from --password-file, --password-stdin, the variable
VCSYNC_PASSWORD, or is asked for. It is stored sealed and shown nowhere.`,
		Example: `  vcsync server add production --address http://127.0.0.1:7701 --user admin
  vcsync server add standby --address http://10.0.0.7:7701 --user sync --password-file pw --offline`,
		Args: exactly(1, "the server's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.ID = args[0]
			var err error
			if in.Deletes, err = measureFlags(nil, deletes); err != nil {
				return err
			}
			rec := schemas.Server{ID: schemas.Slug(in.ID), Connector: in.Connector, Address: in.Address, User: in.User}
			if err := cmp.Or(rec.Validate(), control.TitleFault(in.Name)); err != nil {
				return usageError("%w", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			if in.Password, err = a.password(file, stdin, in.User+" at "+in.ID); err != nil {
				return err
			}
			var out control.AddedServer
			raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("servers"), nil, in, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				if !out.Test.OK {
					_, err := fmt.Fprintf(a.out, "Server %s is stored untested: %s\n", out.ID, clean(out.Test.Reason))
					return err
				}
				_, err := fmt.Fprintf(a.out, "Server %s is stored: %s, version %s.\n", out.ID, clean(cmp.Or(out.Test.Name, "no name")), clean(cmp.Or(out.Test.Version, "unknown")))
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&in.Address, "address", "", "http://host:port or https://host:port of the server or its bridge")
	f.StringVar(&in.Connector, "connector", "bridge", "how vcsync speaks to it")
	f.StringVar(&in.User, "user", "", "VisualCron account")
	f.StringVar(&in.Name, "title", "", "what people call the server")
	f.StringArrayVar(&in.Pins, "pin", nil, pinHelp)
	f.StringVar(&file, "password-file", "", "file with the password")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&in.UnreachableOK, "offline", false, "store it even if it cannot be reached now")
	f.StringArrayVar(&deletes, "deletes", nil, "how many deletions of a type at once are believed without a person, as TYPE=NUMBER,SHARE% or TYPE=default; may be repeated")
	return c
}

const pinHelp = "a public key that the server's certificate may have, as sha256/BASE64, in place of what the system's authorities vouch for; twice while one follows the other"

// measureFlags puts the values of --deletes over what there is.
func measureFlags(have map[string]control.MeasureRecord, texts []string) (map[string]control.MeasureRecord, error) {
	out := map[string]control.MeasureRecord{}
	maps.Copy(out, have)
	for _, text := range texts {
		name, measure, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usageError("--deletes %q: want TYPE=NUMBER,SHARE%%, such as Job=20,10%%", text)
		}
		t, err := schemas.ParseType(name)
		if err != nil {
			return nil, usageError("--deletes %q: %w", text, err)
		}
		if measure == "default" {
			delete(out, string(t))
			continue
		}
		m, err := schemas.ParseMeasure(measure)
		if err != nil {
			return nil, usageError("--deletes %q: %s", text, strings.TrimPrefix(err.Error(), schemas.ErrServer.Error()+": "))
		}
		out[string(t)] = control.MeasureRecord{Number: m.Number, Share: m.Share}
	}
	return out, nil
}

func newServerEdit(a *app) *cobra.Command {
	var title, address, user, file string
	var deletes, pins []string
	var offline, dryRun, stdin, prompt bool
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change how a server is reached, its password, and how many deletions are believed",
		Long: `Changes what is named and leaves the rest. With another address, account or pin the
password has to be entered again: the stored one is sent nowhere else. The server is asked
who it is first. Where all is so already, nothing is written.

--pin none gives the decision about its certificate back to the system's authorities.

--deletes says how many objects of a type may be gone at once and still be taken for
deleted: the greater of a number and a share of the type. What is more waits: see
vcsync airlock.

Exit codes: 0 changed, or so already; 1 refused, such as for a server that does not
answer; with --dry-run: something would change; 2 no such server, or a bad value.`,
		Example: `  vcsync server edit production --deletes Job=20,10%
  vcsync server edit production --deletes Job=default --title "Head office"`,
		Args: exactly(1, "the server's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			newPassword := file != "" || stdin || prompt
			if !changed("title") && !changed("address") && !changed("user") && !changed("deletes") && !changed("pin") && !newPassword {
				return usageError("nothing to change: name --title, --address, --user, --pin, --password or --deletes")
			}
			if _, err := measureFlags(nil, deletes); err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var have control.ServerRecord
			raw, tag, err := api.call(cmd.Context(), http.MethodGet, apiPath("servers", args[0]), nil, nil, &have)
			if err != nil {
				return err
			}
			in := control.ServerChange{ServerBody: control.ServerBody{Name: have.Name, Connector: have.Connector, Address: have.Address, User: have.User, Pins: have.Pins}, UnreachableOK: offline}
			if in.Deletes, err = measureFlags(have.Deletes, deletes); err != nil {
				return err
			}
			for name, to := range map[string]struct {
				field *string
				value string
			}{"title": {&in.Name, title}, "address": {&in.Address, address}, "user": {&in.User, user}} {
				if changed(name) {
					*to.field = to.value
				}
			}
			if changed("pin") {
				if in.Pins = pins; slices.Equal(pins, []string{"none"}) {
					in.Pins = nil
				}
			}
			rec := schemas.Server{ID: schemas.Slug(have.ID), Connector: in.Connector, Address: in.Address, User: in.User, Pins: in.Pins}
			fault := rec.Validate()
			if in.Name != have.Name {
				fault = cmp.Or(fault, control.TitleFault(in.Name))
			}
			rec.Normalize()
			in.Pins = rec.Pins
			elsewhere := in.Address != have.Address || in.User != have.User || !slices.Equal(in.Pins, have.Pins)
			same := in.Name == have.Name && !elsewhere && !newPassword && maps.Equal(in.Deletes, have.Deletes)
			switch {
			case fault != nil:
				return usageError("%w", fault)
			case same:
				return a.show(raw, func() error {
					_, err := fmt.Fprintf(a.out, "Server %s is so already; nothing was changed.\n", clean(args[0]))
					return err
				})
			case dryRun:
				have.Name, have.Address, have.User, have.Pins, have.Deletes = in.Name, in.Address, in.User, in.Pins, in.Deletes
				if raw, err = json.Marshal(have); err != nil {
					return failed(exitRunTime, err)
				}
				return errors.Join(a.show(raw, func() error { return nil }), failed(exitDifferent, fmt.Errorf("server %s would be changed; nothing was changed (--dry-run)", clean(args[0]))))
			}
			if elsewhere || newPassword {
				if in.Password, err = a.password(file, stdin, in.User+" at "+args[0]); err != nil {
					return err
				}
			}
			if raw, _, err = api.call(cmd.Context(), http.MethodPut, apiPath("servers", args[0]), map[string]string{"If-Match": tag}, in, nil); err != nil {
				return err
			}
			return a.show(raw, func() error {
				_, err := fmt.Fprintf(a.out, "Server %s is changed.\n", clean(args[0]))
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&title, "title", "", "what people call the server")
	f.StringVar(&address, "address", "", "http://host:port or https://host:port of the server or its bridge")
	f.StringVar(&user, "user", "", "VisualCron account")
	f.StringArrayVar(&deletes, "deletes", nil, "how many deletions of a type at once are believed without a person, as TYPE=NUMBER,SHARE% or TYPE=default; may be repeated")
	f.StringArrayVar(&pins, "pin", nil, pinHelp+"; none for none")
	f.BoolVar(&prompt, "password", false, "enter another password: VCSYNC_PASSWORD, or asked for on a terminal")
	f.StringVar(&file, "password-file", "", "file with another password")
	f.BoolVar(&stdin, "password-stdin", false, "read another password from standard input")
	f.BoolVar(&offline, "offline", false, "store it even if it cannot be reached now")
	f.BoolVar(&dryRun, "dry-run", false, "say whether something would change, and change nothing")
	return c
}

// password gets the account's password from where the caller says, without ever
// taking it from the command line, which others can see.
func (a *app) password(file string, stdin bool, account string) (string, error) {
	var raw []byte
	var err error
	switch {
	case file != "" && stdin:
		return "", usageError("--password-file and --password-stdin exclude each other")
	case file != "":
		raw, err = os.ReadFile(file)
	case stdin:
		raw, err = io.ReadAll(io.LimitReader(a.in, 64<<10))
	case os.Getenv("VCSYNC_PASSWORD") != "":
		raw = []byte(os.Getenv("VCSYNC_PASSWORD"))
	default:
		f, ok := a.in.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return "", usageError("no password: use --password-file, --password-stdin or VCSYNC_PASSWORD, or run this on a terminal to be asked")
		}
		fmt.Fprintf(a.err, "Password of %s: ", account)
		raw, err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.err)
	}
	if err != nil {
		return "", usageError("read the password: %w", err)
	}
	pw := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if pw == "" {
		return "", usageError("the password is empty")
	}
	return pw, nil
}

func newServerList(a *app) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the servers", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var out items[control.ServerRecord]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("servers"), nil, nil, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(out.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "No servers yet. Add one with: vcsync server add NAME --address URL --user USER")
				return err
			}
			t := newTable("NAME", "TITLE", "CONNECTOR", "ADDRESS", "USER", "IDENTITY")
			for _, s := range out.Items {
				t.add(s.ID, dash(s.Name), s.Connector, s.Address, s.User, cmp.Or(s.Identity, "not reached yet"))
			}
			return t.print(a.out)
		})
	}}
}

func newServerTest(a *app) *cobra.Command {
	return &cobra.Command{Use: "test NAME", Short: "Ask a server who it is", Args: exactly(1, "the server's name"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var out control.ServerTest
		raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("servers", args[0], "test"), nil, nil, &out)
		if err != nil {
			return err
		}
		if err := a.show(raw, func() error {
			if !out.OK {
				return nil
			}
			_, err := fmt.Fprintf(a.out, "Server %s answers: %s, version %s, id %s, %d types, change hints: %s.\n", clean(args[0]), clean(dash(out.Name)),
				clean(dash(out.Version)), clean(out.Identity), len(out.Types), yesNo(out.Changes))
			if c := out.Certificate; c != nil && err == nil {
				_, err = fmt.Fprintf(a.out, "Its certificate is of %s, issued by %s, until %s; pin %s\n", clean(c.Subject), clean(c.Issuer), when(c.Ends), c.Pin)
			}
			return err
		}); err != nil {
			return err
		}
		if !out.OK {
			text := "server " + args[0] + ": " + out.Reason
			if out.Hint != "" {
				text += "; " + out.Hint
			}
			return failed(exitRunTime, errors.New(text))
		}
		return nil
	}}
}

func newServerRemove(a *app) *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Short: "Forget a server and its password", Args: exactly(1, "the server's name"), RunE: func(cmd *cobra.Command, args []string) error {
		return a.removeRecord(cmd, "servers", "Server", args[0], "What it is named for stays: the name belongs to that VisualCron server.")
	}}
}

func newServerHintToken(a *app) *cobra.Command {
	var revoke bool
	c := &cobra.Command{
		Use:   "hint-token NAME",
		Short: "Make the token with which a server tells that something changed",
		Long: `Makes a token and prints it once, with what to enter in VisualCron so that a job
there makes the next poll immediate. Only the token's hash is kept. A new token
takes the place of the one before it. See docs/hints.md.`,
		Example: `  vcsync server hint-token production
  vcsync server hint-token production --revoke`,
		Args: exactly(1, "the server's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			_, tag, err := api.call(cmd.Context(), http.MethodGet, apiPath("servers", args[0]), nil, nil, nil)
			if err != nil {
				return err
			}
			path, header := apiPath("servers", args[0], "hint-token"), map[string]string{"If-Match": tag}
			if revoke {
				raw, _, err := api.call(cmd.Context(), http.MethodDelete, path, header, nil, nil)
				if err != nil {
					return err
				}
				return a.show(raw, func() error {
					_, err := fmt.Fprintf(a.out, "The hint token of %s is revoked; its hints are refused from now on.\n", clean(args[0]))
					return err
				})
			}
			var out control.HintToken
			raw, _, err := api.call(cmd.Context(), http.MethodPost, path, header, nil, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error { return a.printHintToken(out, api.base) })
		},
	}
	c.Flags().BoolVar(&revoke, "revoke", false, "take no more hints of this server")
	return c
}

// printHintToken says what to enter in VisualCron.
func (a *app) printHintToken(h control.HintToken, base string) error {
	_, err := fmt.Fprintf(a.out, `Hints of %[1]s have this token now. It is shown this once; only its hash is kept.

In VisualCron on %[1]s, make a job for it, such as "vcsync hint":

  Trigger   event trigger "VisualCron" on the local server, with every event of
            "added", "updated" and "deleted"; tick "Ignore current Job" and
            "Ignore Server Off (always run)"
  Task      HTTP
              URL      %[2]s%[3]s
              Method   POST, with any body or none
              Header   Authorization: Bearer %[4]s

Leave this job out of the sync, by its id:

  vcsync setting edit SETTING --rule Job/ID=none

vcsync listens on its own machine only. If VisualCron runs on another one, lay a
tunnel, and name the tunnel's end on that machine in the URL: see docs/hints.md.
`, h.Server, base, h.Path, h.Token)
	return err
}

// removeRecord reads a record and deletes exactly what it read.
func (a *app) removeRecord(cmd *cobra.Command, kind, word, name, more string) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	_, etag, err := api.call(cmd.Context(), http.MethodGet, apiPath(kind, name), nil, nil, nil)
	if err != nil {
		return err
	}
	raw, _, err := api.call(cmd.Context(), http.MethodDelete, apiPath(kind, name), map[string]string{"If-Match": etag}, nil, nil)
	if err != nil {
		return err
	}
	return a.show(raw, func() error {
		w := bufio.NewWriter(a.out)
		fmt.Fprintf(w, "%s %s is removed. %s\n", word, clean(name), more)
		return w.Flush()
	})
}
