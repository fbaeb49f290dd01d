package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
)

func newKeysCommand(a *app) *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the keys of the running vcsync, and how much is sealed with each", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var all items[control.KeyRecord]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("keys"), nil, nil, &all)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			t := newTable("KEY", "STATE", "PASSWORDS AND ACCOUNTS", "OBJECTS")
			for _, k := range all.Items {
				state := "opens what it sealed"
				switch {
				case k.Current:
					state = "seals"
				case !k.Known:
					state = "missing: what it sealed opens nowhere"
				}
				t.add(k.ID, state, fmt.Sprint(k.Secrets), fmt.Sprint(k.States))
			}
			return t.print(a.out)
		})
	}}
	add := &cobra.Command{Use: "add FOLDER...", Short: "Put a new key into the keyrings of these folders; nothing is sealed with it yet", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, dirs []string) error {
			id, err := broker.AddKey(dirs...)
			if err != nil {
				return usageError("%w", err)
			}
			_, err = fmt.Fprintf(a.out, "Key %s is in %s. Start every process anew, so that all know it; then: vcsync keys use %s %s\n", id, strings.Join(dirs, ", "), id, strings.Join(dirs, " "))
			return failed(exitRunTime, err)
		}}
	use := &cobra.Command{Use: "use KEY FOLDER...", Short: "Seal with a key from now on", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := broker.UseKey(args[0], args[1:]...); err != nil {
				return usageError("%w", err)
			}
			_, err := fmt.Fprintf(a.out, "Key %s seals from the next start on. Start every process anew; then seal the passwords with it: vcsync keys rewrap\n", args[0])
			return failed(exitRunTime, err)
		}}
	rewrap := &cobra.Command{Use: "rewrap", Short: "Seal all passwords and accounts with the key that seals now", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		var out control.Rewrapped
		raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("keys", "rewrap"), nil, nil, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			_, err := fmt.Fprintf(a.out, "%d passwords and accounts were sealed anew.\n", out.Count)
			return err
		})
	}}
	var loss bool
	retire := &cobra.Command{
		Use:   "retire KEY FOLDER...",
		Short: "Take a key out of the keyrings of these folders",
		Long: `Takes a key out of the keyrings. What is sealed with it opens nowhere again, so the
running vcsync is asked first: where a password, an account or the newest state of an object
is sealed with it, that is refused. The history before and what an undo would bring back are
not looked through: secrets in older versions are lost with their key.

--accept-loss does it unasked.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !loss {
				api, err := a.client()
				if err != nil {
					return err
				}
				defer api.http.CloseIdleConnections()
				var all items[control.KeyRecord]
				if _, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("keys"), nil, nil, &all); err != nil {
					return err
				}
				for _, k := range all.Items {
					if k.ID == args[0] && k.Secrets+k.States > 0 {
						return failed(exitDifferent, fmt.Errorf("key %s still opens %d passwords and accounts and the newest state of %d objects: run vcsync keys rewrap for the first; the others get another key when they are edited at their source. Nothing was changed", k.ID, k.Secrets, k.States))
					}
				}
			}
			if err := broker.RetireKey(args[0], args[1:]...); errors.Is(err, broker.ErrKeyInUse) {
				return failed(exitDifferent, err)
			} else if err != nil {
				return usageError("%w", err)
			}
			_, err := fmt.Fprintf(a.out, "Key %s is gone from %s. Start every process anew.\n", args[0], strings.Join(args[1:], ", "))
			return failed(exitRunTime, err)
		},
	}
	retire.Flags().BoolVar(&loss, "accept-loss", false, "do not ask what is still sealed with it")
	return group("keys", "The keys with which passwords and secrets are sealed", list, add, use, rewrap, retire)
}
