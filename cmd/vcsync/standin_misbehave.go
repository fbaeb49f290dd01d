package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func newStandinMisbehaveCommand() *cobra.Command {
	var typ string
	var off, list, asJSON bool
	cmd := &cobra.Command{
		Use:   "misbehave SERVER [MODE[=ARG]...]",
		Short: "Make a running stand-in misbehave, or behave again",
		Long: `Turn ways to misbehave on in a running stand-in, several at once if you like, and
show what is on. Without a MODE it only shows. What is on ends with the stand-in's
process. --list tells of all modes.`,
		Example: `  vcsync standin misbehave --list
  vcsync standin misbehave test secrets=masked slow=2s
  vcsync standin misbehave production error=500,html --type Connection
  vcsync standin misbehave production --off error
  vcsync standin misbehave production --off`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if list {
				if len(args) > 0 || off || typ != "" {
					return usageError("--list goes with --json only")
				}
				return failed(exitRunTime, printModes(out, asJSON))
			}
			if len(args) == 0 {
				return usageError("%s takes SERVER and perhaps modes, or --list; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			var t schemas.Type
			if typ != "" {
				var err error
				if t, err = schemas.ParseType(typ); err != nil {
					return usageError("--type: %w", err)
				}
			}
			var named []standin.Misbehaviour
			for _, text := range args[1:] {
				m := standin.Misbehaviour{Mode: text, Type: t}
				var err error
				if off {
					if !slices.ContainsFunc(standin.Modes(), func(x standin.Mode) bool { return x.Name == text }) {
						err = fmt.Errorf("--off %.64q: there is no such mode", text)
					}
				} else {
					m, err = standin.ParseMisbehaviour(text, t)
				}
				if err != nil {
					return usageError("%w; see %s --list", err, cmd.CommandPath())
				}
				named = append(named, m)
			}
			a, err := misbehave(cmd.Context(), args[0], func(on []standin.Misbehaviour) []standin.Misbehaviour {
				switch {
				case !off:
					for _, m := range named {
						on = slices.DeleteFunc(on, func(x standin.Misbehaviour) bool { return x.Mode == m.Mode && x.Type == m.Type })
						on = append(on, m)
					}
					return on
				case len(named) == 0 && t == "":
					return nil
				}
				return slices.DeleteFunc(on, func(x standin.Misbehaviour) bool {
					return (t == "" || x.Type == t) &&
						(len(named) == 0 || slices.ContainsFunc(named, func(m standin.Misbehaviour) bool { return m.Mode == x.Mode }))
				})
			}, off || len(named) > 0)
			if err != nil {
				return err
			}
			return failed(exitRunTime, printMisbehaviours(out, a, asJSON))
		},
	}
	f := cmd.Flags()
	f.StringVar(&typ, "type", "", "for objects of this type only")
	f.BoolVar(&off, "off", false, "turn the named modes off; all where none is named")
	f.BoolVar(&list, "list", false, "print all modes")
	f.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

func printModes(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, standin.Modes())
	}
	tab := newTable("MODE", "BY TYPE", "WHAT")
	for _, m := range standin.Modes() {
		tab.add(modeUsage(m), yesNo(m.Typed), m.What)
	}
	for _, f := range standin.ListingFaults() {
		tab.add("listing="+f.Name, yesNo(true), f.What)
	}
	return tab.print(w)
}

// modeUsage is a mode as it is typed.
func modeUsage(m standin.Mode) string {
	arg, may := strings.CutPrefix(m.Arg, "[")
	switch {
	case arg == "":
		return m.Name
	case may:
		return m.Name + "[=" + arg
	}
	return m.Name + "=" + arg
}

func printMisbehaviours(w io.Writer, a standin.Admin, asJSON bool) error {
	if asJSON {
		return printJSON(w, a.On)
	}
	if len(a.On) == 0 {
		_, err := fmt.Fprintf(w, "stand-in %s behaves\n", clean(a.Name))
		return err
	}
	tab := newTable("MODE", "TYPE", "WHAT")
	for _, m := range a.On {
		what := ""
		for _, x := range a.Modes {
			if x.Name == m.Mode {
				what = x.What
			}
		}
		for _, x := range a.Faults {
			if m.Mode == "listing" && x.Name == m.Arg {
				what = x.What
			}
		}
		tab.add(m.String(), cmp.Or(string(m.Type), "all"), what)
	}
	return tab.print(w)
}

func printJSON(w io.Writer, v any) error {
	if err := json.MarshalWrite(w, v, jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// misbehave changes what is on at a stand-in and returns what is on then. It does
// not go by the contract, which may be what misbehaves.
func misbehave(ctx context.Context, server string, change func([]standin.Misbehaviour) []standin.Misbehaviour, write bool) (standin.Admin, error) {
	name, addr, err := standinAddress(server)
	if err != nil {
		return standin.Admin{}, err
	}
	base, err := url.Parse(addr)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.User != nil {
		return standin.Admin{}, usageError("SERVER %.64q: want production, test, standby, host:port or a URL", server)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport := &http.Transport{} // no proxy: the stand-ins are near
	defer transport.CloseIdleConnections()
	token := ""
	call := func(method, resource string, in, out any) error {
		var body io.Reader
		if in != nil {
			b, err := json.Marshal(in)
			if err != nil {
				return err
			}
			body = bytes.NewReader(b)
		}
		req, err := http.NewRequestWithContext(ctx, method, base.JoinPath("standin/v1", resource).String(), body)
		if err != nil {
			return usageError("SERVER %.64q is no address", server)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := transport.RoundTrip(req) // itself, not a Client: it follows no redirect
		if err != nil {
			return failed(exitEnvironment, fmt.Errorf("cannot reach %s: %w; check that the stand-in runs and that the address is right", name, err))
		}
		defer func() { _ = res.Body.Close() }() // it was only read
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		switch {
		case err != nil:
			return failed(exitEnvironment, fmt.Errorf("the answer of %s broke off: %w", name, err))
		case res.StatusCode == http.StatusUnauthorized:
			return usageError("%s does not take the account; give it in VCSYNC_STANDIN_USER and VCSYNC_STANDIN_PASSWORD", name)
		case res.StatusCode == http.StatusBadRequest:
			var p struct {
				Detail string `json:"detail"`
			}
			_ = json.Unmarshal(b, &p) // without, the status tells enough
			return usageError("%s does not take this (HTTP %d): %.200s", name, res.StatusCode, p.Detail)
		case res.StatusCode != http.StatusOK || json.Unmarshal(b, out) != nil:
			return failed(exitDifferent, fmt.Errorf("%s is no stand-in that can be told to misbehave (HTTP %d)", name, res.StatusCode))
		}
		return nil
	}
	var session struct {
		Token string `json:"token"`
	}
	err = call(http.MethodPost, "logon", map[string]string{"user": variable("STANDIN_USER"), "password": variable("STANDIN_PASSWORD")}, &session)
	if err != nil {
		return standin.Admin{}, err
	}
	token = session.Token
	var a standin.Admin
	if err := call(http.MethodGet, "misbehaviour", nil, &a); err != nil {
		return standin.Admin{}, err
	}
	if !strings.Contains(a.Version, "stand-in") {
		return standin.Admin{}, failed(exitDifferent, errors.New("what answers is no stand-in"))
	}
	if !write {
		return a, nil
	}
	on := change(a.On)
	if on == nil {
		on = []standin.Misbehaviour{}
	}
	return a, call(http.MethodPut, "misbehaviour", map[string]any{"on": on}, &a)
}
