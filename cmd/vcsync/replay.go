package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
)

func newReplayCommand(a *app) *cobra.Command {
	var f runFlags
	var since string
	var fromSeq uint64
	var dryRun, yes bool
	c := &cobra.Command{
		Use:   "replay SETTING (--since TIME | --from-seq N | --type TYPE | --object TYPE/ID)",
		Short: "Apply again what was captured, where the target differs",
		Long: `Takes the newest state of every object of which something was captured in the range,
shows what would be done at the target, asks, and does it through the same plan as
"vcsync sync". What is equal there is left alone, however many events there were. The
source is not listed, so it may be down: the plan says of which time its states are.
It works on inactive sync settings too. Edits at the target are undone as by Sync now.

The range ends now. --since and --from-seq exclude each other; --type and --object
narrow it, and may be repeated.

Exit codes: as of vcsync sync.`,
		Example: `  vcsync replay prod-to-test --since 2h --dry-run
  vcsync replay prod-to-test --from-seq 48210 --type Job
  vcsync replay prod-to-test --object Job/3f2c1a50-... --yes`,
		Args: exactly(1, "a sync setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.scope()
			if err != nil {
				return err
			}
			in.DryRun, in.Replay = dryRun, &control.NewReplay{FromSeq: fromSeq}
			changed := cmd.Flags().Changed
			switch {
			case changed("since") && changed("from-seq"):
				return usageError("--since and --from-seq exclude each other")
			case changed("from-seq") && fromSeq == 0:
				return usageError("--from-seq 0: sequences begin with 1; vcsync events --json shows them")
			case !changed("since") && !changed("from-seq") && len(in.Types)+len(in.Objects) == 0:
				return usageError("say what is applied again: --since, --from-seq, --type or --object; --from-seq 1 is all of it")
			case dryRun && yes:
				return usageError("--dry-run and --yes exclude each other")
			}
			if changed("since") {
				if in.Replay.Since, err = parseSince(since, time.Now()); err != nil {
					return err
				}
				in.Replay.Since = in.Replay.Since.UTC()
			}
			if !dryRun && !yes && !terminal(a.in) {
				return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.sync(cmd.Context(), api, args[0], in, yes, f.all)
		},
	}
	f.register(c)
	c.Flags().StringVar(&since, "since", "", "objects of which something was captured since then: 2h, or a time such as 2026-03-04T15:00:00Z")
	c.Flags().Uint64Var(&fromSeq, "from-seq", 0, "objects of which something was captured from this sequence on")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// asOf says of which time the states are that a replay applies.
func asOf(run control.RunRecord) string {
	if run.Plan.Newest.IsZero() {
		return "A replay of what was captured. Nothing was, in this range."
	}
	text := fmt.Sprintf("A replay of what was captured: the newest of these states is of %s.", when(run.Plan.Newest))
	if run.Captured.IsZero() {
		return text + fmt.Sprintf(" When %s was last listed is not known; what changed there since may be missing.", run.Plan.Source)
	}
	return text + fmt.Sprintf(" %s was last listed at %s; what changed there later is not in this plan.", run.Plan.Source, when(run.Captured))
}
