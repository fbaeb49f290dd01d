package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control/notify"
)

// newNotifier makes the notifier of this process; nil where nobody is notified.
func newNotifier(cfg config, log *slog.Logger) (*notify.Notifier, error) {
	if cfg.NotifyFile == "" {
		return nil, nil
	}
	lines, err := notify.Read(cfg.NotifyFile)
	if err != nil {
		// Who asked to be told must not wait for messages that never come.
		return nil, failed(exitUsage, err)
	}
	return notify.New(notify.Config{Lines: lines, Grace: cfg.NotifyGrace, Dir: cfg.Data, From: instance(cfg), Log: log}), nil
}

func newNotifyCommand(a *app) *cobra.Command {
	return group("notify", "Messages to people about what begins and ends", newNotifyTest(a))
}

func newNotifyTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "test",
		Short: "Send one test message to every receiver",
		Long: `Reads VCSYNC_NOTIFY_FILE here, sends one test message to every line of it, whatever
kinds it takes, and says for each what came of it. vcsync need not run. URLs are shown
nowhere: a line is named by its number and its kind of service.

Exit codes: 0 all were sent; 2 the file is not right; 4 one was not sent.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig()
			if err != nil {
				return err
			}
			if cfg.NotifyFile == "" {
				return usageError("VCSYNC_NOTIFY_FILE is not set: name the file with the URLs of the receivers; see docs/notifications.md")
			}
			lines, err := notify.Read(cfg.NotifyFile)
			if err != nil {
				return failed(exitUsage, err)
			}
			out := notify.Try(cmd.Context(), lines, notify.TestMessage(instance(cfg), time.Now()))
			raw, err := json.Marshal(items[notify.Outcome]{out})
			if err != nil {
				return failed(exitRunTime, err)
			}
			missed := 0
			t := newTable("LINE", "SERVICE", "RESULT")
			for _, o := range out {
				result := "sent"
				if !o.Sent {
					missed++
					result = "not sent: " + cmp.Or(o.Reason, "unknown")
				}
				t.add(strconv.Itoa(o.Line), o.Service, result)
			}
			err = a.show(raw, func() error { return t.print(a.out) })
			if missed > 0 {
				err = errors.Join(err, failed(exitRunTime, fmt.Errorf("%d of %d receivers did not get the message", missed, len(out))))
			}
			return err
		},
	}
}
