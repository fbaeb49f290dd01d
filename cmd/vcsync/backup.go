package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
)

// BackupReport is what a backup or a restore did, for --json.
type BackupReport struct {
	File  string             `json:"file"`
	Bytes int64              `json:"bytes,omitzero"`
	Info  *broker.BackupInfo `json:"info,omitempty"`
	// DryRun tells that nothing was written.
	DryRun bool `json:"dryRun,omitzero"`
}

const passphraseVariable = envPrefix + "BACKUP_PASSPHRASE"

// passphrase reads a backup's passphrase from a file, the environment or a terminal.
func (a *app) passphrase(file string, again bool) (string, error) {
	pass := os.Getenv(passphraseVariable)
	switch {
	case file != "":
		raw, err := os.ReadFile(file)
		if err != nil {
			return "", usageError("--passphrase-file: %w", err)
		}
		pass = strings.TrimRight(string(raw), "\r\n")
	case pass == "" && terminal(a.in):
		for _, prompt := range []string{"Passphrase of the backup: ", "Once more: "} {
			fmt.Fprint(a.err, prompt)
			raw, err := term.ReadPassword(int(a.in.(*os.File).Fd()))
			fmt.Fprintln(a.err)
			if err != nil {
				return "", failed(exitEnvironment, fmt.Errorf("read the passphrase: %w", err))
			}
			if !again {
				return string(raw), nil
			}
			if pass != "" && pass != string(raw) {
				return "", usageError("the two passphrases differ; nothing was done")
			}
			pass = string(raw)
		}
	}
	if pass == "" {
		return "", usageError("the backup's passphrase is missing: give it with --passphrase-file or %s", passphraseVariable)
	}
	if again && len(pass) < 12 {
		return "", usageError("the passphrase is too short: want at least 12 characters; whoever guesses it has every password")
	}
	return pass, nil
}

func newBackupCommand(a *app) *cobra.Command {
	var passFile, recipient string
	var force, dryRun bool
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write an encrypted backup of everything but events",
		Long: `Writes what cannot be read again from the sources: servers, settings, passwords, what
vcsync brought where (the ledger), parked records, identities and the keyring. Events are
not in it: they are captured anew. The file is encrypted with age, for a passphrase
(--passphrase-file, VCSYNC_BACKUP_PASSPHRASE, or asked for) or for a recipient, and is
there only when it is whole. See docs/backup.md.`,
		Example: `  vcsync backup /backup/vcsync.age --passphrase-file /etc/vcsync/backup-pass
  vcsync backup vcsync.age --recipient age1...`,
		Args: exactly(1, "a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if recipient != "" && passFile != "" {
				return usageError("--recipient and --passphrase-file exclude each other")
			}
			if _, err := os.Lstat(args[0]); err == nil && !force {
				return usageError("%s is there already: name another file, or replace it with --force; nothing was done", args[0])
			}
			in := control.BackupRequest{Recipient: recipient}
			if recipient == "" {
				var err error
				if in.Passphrase, err = a.passphrase(passFile, true); err != nil {
					return err
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			report := BackupReport{File: args[0], DryRun: dryRun}
			if !dryRun {
				if report.Bytes, err = a.writeBackup(cmd.Context(), api, args[0], in); err != nil {
					return err
				}
			} else if _, _, _, err := getSafeMode(cmd.Context(), api); err != nil { // it can be reached
				return err
			}
			return a.showReport(report, func() error {
				if dryRun {
					_, err := fmt.Fprintf(a.out, "A backup would be written to %s; nothing was written (--dry-run).\n", args[0])
					return err
				}
				_, err := fmt.Fprintf(a.out, "Backup written to %s (%d bytes). Whoever opens it has every password: keep its passphrase or key elsewhere.\n", args[0], report.Bytes)
				return err
			})
		},
	}
	c.Flags().StringVar(&passFile, "passphrase-file", "", "file with the passphrase")
	c.Flags().StringVar(&recipient, "recipient", "", "encrypt for this age recipient (age1...) instead of a passphrase")
	c.Flags().BoolVar(&force, "force", false, "replace the file where it is there")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "write nothing")
	return c
}

func (a *app) showReport(v any, table func() error) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return failed(exitRunTime, err)
	}
	return a.show(raw, table)
}

// writeBackup writes the file under a temporary name, and renames it when it is whole and
// on disk.
func (a *app) writeBackup(ctx context.Context, api *client, path string, in control.BackupRequest) (n int64, err error) {
	resp, err := api.send(ctx, http.MethodPost, apiPath("backup"), nil, in)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return 0, failed(exitEnvironment, fmt.Errorf("write the backup: %w", err))
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	n, err = io.Copy(f, resp.Body)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return 0, failed(exitRunTime, fmt.Errorf("write the backup to %s: %w; there is none", path, err))
	}
	return n, nil
}

func newRestoreCommand(a *app) *cobra.Command {
	var passFile, identity string
	var dryRun, yes bool
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a new store from a backup, in safe mode",
		Long: `Makes the store from a backup, in the data folder of VCSYNC_DATA, or at VCSYNC_NATS_URL,
while no vcsync runs there. The folder and the store have to be empty. All of the backup
is checked before anything is written. vcsync is in safe mode afterwards: start it, look
with vcsync rebuild, and leave safe mode when all is as it should be. See docs/backup.md.

Exit codes: 0 done, or with --dry-run: it can be restored; 2 the file, its passphrase or
key is wrong; 3 the folder or the store is not empty, or in use.`,
		Args: exactly(1, "a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig()
			if err != nil {
				return err
			}
			switch {
			case identity != "" && passFile != "":
				return usageError("--identity and --passphrase-file exclude each other")
			case dryRun && yes:
				return usageError("--dry-run and --yes exclude each other")
			case !dryRun && !yes && !terminal(a.in):
				return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only check; nothing was changed")
			}
			with, err := a.identities(identity, passFile)
			if err != nil {
				return err
			}
			role := broker.All
			if cfg.NATSURL != "" {
				role = broker.Control
			}
			bc := brokerConfig(cfg, role, false, newLog(a.err, cfg.LogLevel, cfg.LogFormat))
			ctx := cmd.Context()
			report := BackupReport{File: args[0], DryRun: dryRun}
			restore := func(dry bool) error {
				info, err := broker.Restore(ctx, bc, args[0], dry, with...)
				report.Info = &info
				if errors.Is(err, broker.ErrBackup) {
					return failed(exitUsage, err)
				}
				return failed(exitEnvironment, err)
			}
			if !dryRun && !yes {
				if err := restore(true); err != nil {
					return err
				}
				if err := a.confirm(ctx, fmt.Sprintf("Restore the backup of %s to %s?", when(report.Info.Made), cfg.Data)); err != nil {
					return err
				}
			}
			if err := restore(dryRun); err != nil {
				return err
			}
			return a.showReport(report, func() error {
				what := "Restored. vcsync is in safe mode: start it, then look with vcsync rebuild."
				if dryRun {
					what = "It can be restored; nothing was written (--dry-run)."
				}
				_, err := fmt.Fprintf(a.out, "Backup of %s. %s\n", when(report.Info.Made), what)
				return err
			})
		},
	}
	c.Flags().StringVar(&passFile, "passphrase-file", "", "file with the passphrase")
	c.Flags().StringVar(&identity, "identity", "", "file with the age key of the recipient that it was made for")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only check it")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// identities returns what opens a backup.
func (a *app) identities(file, passFile string) ([]age.Identity, error) {
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError("--identity: %w", err)
		}
		out, err := age.ParseIdentities(bytes.NewReader(raw))
		if err != nil {
			return nil, usageError("--identity: %s holds no age key", file) // its content is a secret
		}
		return out, nil
	}
	pass, err := a.passphrase(passFile, false)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(pass)
	if err != nil {
		return nil, usageError("the passphrase: %w", err)
	}
	return []age.Identity{id}, nil
}
