package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/schemas"
)

// contexts are the places that the client commands know, and the sessions there. They
// lie in a file of the user's own, with mode 0600.
type contexts struct {
	Selected string            `json:"selected,omitzero"`
	Contexts map[string]string `json:"contexts,omitempty"` // name to address
	Tokens   map[string]string `json:"tokens,omitempty"`   // http(s)://host:port to session
	CAs      map[string]string `json:"cas,omitempty"`      // https://host:port to the file of its authority
}

// address is that of the selected context; "" for none.
func (c contexts) address() string { return c.Contexts[c.Selected] }

func contextsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", failed(exitEnvironment, fmt.Errorf("find the folder for contexts: %w", err))
	}
	return filepath.Join(dir, "vcsync", "contexts.json"), nil
}

// readContexts reads the file; there need be none, nor a place for it.
func readContexts() (contexts, error) {
	c := contexts{Contexts: map[string]string{}, Tokens: map[string]string{}, CAs: map[string]string{}}
	path, err := contextsFile()
	if err != nil {
		return c, nil //nolint:nilerr // a user without a home has no contexts
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
		if err != nil {
			err = errors.New("it is not what vcsync context writes") // the text may hold a token
		}
		for _, m := range []*map[string]string{&c.Contexts, &c.Tokens, &c.CAs} {
			if *m == nil { // somebody wrote null
				*m = map[string]string{}
			}
		}
	}
	if err != nil {
		return c, failed(exitUsage, fmt.Errorf("read %s: %w; remove it and sign in anew", path, err))
	}
	return c, nil
}

func (c contexts) write() error {
	path, err := contextsFile()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(c, json.Deterministic(true), jsontext.WithIndent("  "))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	var f *os.File
	if err == nil {
		f, err = os.CreateTemp(filepath.Dir(path), ".contexts-*") // mode 0600
	}
	if err == nil {
		_, err = f.Write(append(raw, '\n'))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}
	if err != nil {
		return failed(exitEnvironment, fmt.Errorf("write %s: %w", path, err))
	}
	return nil
}

func newContextCommand(a *app) *cobra.Command {
	var selectIt bool
	var ca string
	add := &cobra.Command{Use: "add NAME ADDRESS", Short: "Remember the address of an API", Example: "  vcsync context add production https://vcsync.example.org:7780 --ca ca.pem --select", Args: exactly(2, "a name and an address"), RunE: func(_ *cobra.Command, args []string) error {
		if _, err := schemas.ParseSlug(args[0]); err != nil {
			return usageError("the name of the context: %w", err)
		}
		k, err := newClient(args[1], "the address")
		if err != nil {
			return err
		}
		c, err := readContexts()
		if err != nil {
			return err
		}
		delete(c.CAs, k.base)
		if ca != "" {
			if !strings.HasPrefix(k.base, "https://") {
				return usageError("--ca goes with an address that begins with https://")
			}
			path, err := filepath.Abs(ca)
			if err != nil {
				return usageError("--ca: %w", err)
			}
			c.CAs[k.base] = path
			if _, err := clientTLS(k.base, path); err != nil {
				return err
			}
		}
		c.Contexts[args[0]] = args[1]
		if selectIt || c.Selected == "" {
			c.Selected = args[0]
		}
		if err := c.write(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "The context %s is %s; %s is selected.\n", args[0], args[1], c.Selected)
		return failed(exitRunTime, err)
	}}
	add.Flags().StringVar(&ca, "ca", "", "file with the certificate authority of that vcsync, in PEM; that of the system else")
	add.Flags().BoolVar(&selectIt, "select", false, "use it from now on")
	sel := &cobra.Command{Use: "select NAME", Short: "Use a context from now on", Args: exactly(1, "the name of a context"), RunE: func(_ *cobra.Command, args []string) error {
		c, err := readContexts()
		if err != nil {
			return err
		}
		if c.Contexts[args[0]] == "" {
			return usageError("there is no context %.80q; list them: vcsync context list", args[0])
		}
		c.Selected = args[0]
		if err := c.write(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s, at %s, is selected.\n", args[0], c.address())
		return failed(exitRunTime, err)
	}}
	list := &cobra.Command{Use: "list", Short: "List the contexts", Args: none, RunE: func(*cobra.Command, []string) error {
		c, err := readContexts()
		if err != nil {
			return err
		}
		if len(c.Contexts) == 0 {
			_, err := fmt.Fprintf(a.out, "There are no contexts: the commands go to VCSYNC_API_ADDR, or %s. Add one: vcsync context add NAME ADDRESS\n", defaultAPIAddr)
			return failed(exitRunTime, err)
		}
		t := newTable("SELECTED", "NAME", "ADDRESS", "SIGNED IN")
		for _, name := range slices.Sorted(maps.Keys(c.Contexts)) {
			mark, in := "", "no"
			if name == c.Selected {
				mark = "*"
			}
			if k, err := newClient(c.Contexts[name], "the context"); err == nil && c.Tokens[k.base] != "" {
				in = "yes"
			}
			t.add(mark, name, c.Contexts[name], in)
		}
		return failed(exitRunTime, t.print(a.out))
	}}
	remove := &cobra.Command{Use: "remove NAME", Short: "Forget a context, and the session there", Args: exactly(1, "the name of a context"), RunE: func(_ *cobra.Command, args []string) error {
		c, err := readContexts()
		if err != nil {
			return err
		}
		addr := c.Contexts[args[0]]
		if addr == "" {
			return usageError("there is no context %.80q; list them: vcsync context list", args[0])
		}
		if k, err := newClient(addr, "the context"); err == nil {
			delete(c.Tokens, k.base)
		}
		if delete(c.Contexts, args[0]); c.Selected == args[0] {
			c.Selected = ""
		}
		return c.write()
	}}
	return group("context", "Addresses of several vcsyncs by name, and which one the commands go to", add, sel, list, remove)
}
