package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/visualcron/standin"
)

// newStandinCommand runs a stand-in for a VisualCron server, and holds the commands
// that change what running ones hold.
func newStandinCommand() *cobra.Command {
	var name, addr, dir, user, passwordFile string
	var seed bool
	cmd := &cobra.Command{
		Use:   "standin",
		Short: "Run a stand-in for a VisualCron server, or change what one holds",
		Long: `Run a stand-in for a VisualCron server in the foreground until interrupted. It is
not VisualCron: it speaks vcsync's bridge contract, keeps its objects in a folder,
and lets the statistics of its jobs move by themselves.

The subcommands change what running stand-ins hold, and how they behave. They name one as production, test or
standby (addresses from VCSYNC_STANDIN_PRODUCTION_ADDR, _TEST_ADDR, _STANDBY_ADDR;
127.0.0.1:7701 to 7703 where unset), as host:port, or as a URL. Their account is
the demo one, or VCSYNC_STANDIN_USER and VCSYNC_STANDIN_PASSWORD.`,
		Example: `  vcsync standin --name production --addr 127.0.0.1:7701 --dir ./data/production
  vcsync standin seed production
  vcsync standin list production
  vcsync standin edit production Job/<id> --set Description="edited by hand"
  vcsync standin misbehave test secrets=masked`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageError("--dir: name the folder that the stand-in keeps its objects in")
			}
			cfg := standin.Config{Dir: dir, Name: name, User: user}
			if passwordFile != "" {
				b, err := os.ReadFile(passwordFile)
				if err != nil {
					return failed(exitUsage, fmt.Errorf("--password-file: %w", err))
				}
				if cfg.Password = strings.TrimRight(string(b), "\r\n"); cfg.Password == "" {
					return usageError("--password-file: %s is empty", passwordFile)
				}
			}
			// The port first: a second stand-in on the same folder ends here.
			l, err := standin.Listen(cmd.Context(), addr)
			if err != nil {
				return failed(exitEnvironment, err)
			}
			s, err := standin.Open(cfg)
			if err != nil {
				return failed(openCode(err), errors.Join(err, l.Close()))
			}
			if seed {
				if err := standin.Seed(s); err != nil && !errors.Is(err, standin.ErrNotEmpty) {
					return failed(exitEnvironment, errors.Join(err, l.Close(), s.Close()))
				}
			}
			host, port, _ := net.SplitHostPort(l.Addr().String()) // Listen gave it
			fmt.Fprintf(cmd.OutOrStdout(), "stand-in %q (not VisualCron) at http://%s, account %s, objects in %s\n", s.Name(), net.JoinHostPort(host, port), user, dir)
			if ip := net.ParseIP(host); passwordFile == "" && (ip == nil || !ip.IsLoopback()) {
				cmd.PrintErrf("warning: %s can be reached from other machines with the demo password; give --password-file\n", addr)
			}
			err = s.Serve(cmd.Context(), l)
			if err = errors.Join(err, s.Close()); err != nil {
				return failed(exitRunTime, err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "stand-in", "display name of the server")
	f.StringVar(&addr, "addr", "127.0.0.1:7701", "address to listen on")
	f.StringVar(&dir, "dir", "", "folder of its objects (required)")
	f.StringVar(&user, "user", standin.DefaultUser, "name of its only account")
	f.StringVar(&passwordFile, "password-file", "", "file that holds the account's password (default: the demo password)")
	f.BoolVar(&seed, "seed", false, "fill it before it serves, if it holds its built-in objects only; see seed")
	cmd.AddCommand(newStandinSeedCommand(), newStandinListCommand(), newStandinGetCommand(), newStandinPutCommand(),
		newStandinEditCommand(), newStandinDeleteCommand(), newStandinMisbehaveCommand())
	return cmd
}

// openCode is the exit code for a stand-in that cannot be opened.
func openCode(err error) int {
	if errors.Is(err, standin.ErrConfig) {
		return exitUsage
	}
	return exitEnvironment
}
