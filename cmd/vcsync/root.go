package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// app is what the client commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	api      string // --api
	json     bool   // --json
}

// newRoot makes the command tree. Begun tells afterwards whether a command ran, so
// that an error before is known as one of usage.
func newRoot(stdin io.Reader, stdout, stderr io.Writer) (root *cobra.Command, begun *bool) {
	a := &app{in: stdin, out: stdout, err: stderr}
	begun = new(bool)
	root = &cobra.Command{
		Use:   "vcsync",
		Short: "Syncs VisualCron objects between servers",
		Long: `vcsync makes a change on one VisualCron server arrive on the others, as its sync
settings say.

Start everything with "vcsync up"; the other commands speak to it.

Exit codes: 0 done or equal, 1 different or refused by a rule, 2 usage or
configuration, 3 environment (API not reachable, not signed in, port taken, data folder
in use), 4 run time. With --dry-run nothing is changed, and 1 means that something would be, or
would be refused; backup and restore only check then, and give 0 where it can be done.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          none,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			*begun = true
		},
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w; see %s --help", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newContextCommand(a), newUpCommand(a), newBrokerCommand(a), newProducerCommand(a), newConsumerCommand(a), newControlCommand(a), newDemoCommand(a), newStandinCommand(), newVersionCommand(a))
	for _, c := range []*cobra.Command{newServerCommand(a), newSettingCommand(a), newEventsCommand(a), newStatusCommand(a), newParkedCommand(a), newHealthCommand(a), newExportCommand(a), newApplyCommand(a), newSyncCommand(a), newDiffCommand(a), newDriftCommand(a),
		newSafeModeCommand(a), newRebuildCommand(a), newBackupCommand(a), newRestoreCommand(a), newAirlockCommand(a),
		newHistoryCommand(a), newReplayCommand(a), newExplainCommand(a), newPassCommand(a), newUndoCommand(a), newRevertCommand(a), newAuditCommand(a), newKeysCommand(a), newSupportCommand(a), newLoginCommand(a), newLogoutCommand(a), newAccountCommand(a), newTokenCommand(a), newNotifyCommand(a),
	} {
		c.PersistentFlags().StringVar(&a.api, "api", "", "address of the API (default VCSYNC_API_ADDR, or "+defaultAPIAddr+")")
		c.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON instead of tables")
		root.AddCommand(c)
	}
	return root, begun
}

// group makes a command that only holds others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(cmds...)
	var names []string
	for _, s := range cmds {
		names = append(names, s.Name())
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		what := "is missing"
		if len(args) > 0 {
			what = fmt.Sprintf("%q is none of them", args[0])
		}
		return usageError("%s: the command %s: want %s", cmd.CommandPath(), what, strings.Join(names, ", "))
	}
	c.Args = cobra.ArbitraryArgs
	return c
}
