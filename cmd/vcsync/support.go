package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// supportParts is what a support bundle holds: the path of the API, and the name of the
// file. All of it is what the API shows to whoever asks; none of it holds a secret.
var supportParts = []struct{ path, file string }{
	{"/readyz", "ready.json"},
	{"/metrics", "metrics.txt"},
	{apiPath("status"), "status.json"},
	{apiPath("safe-mode"), "safe-mode.json"},
	{apiPath("servers"), "servers.json"},
	{apiPath("settings"), "settings.json"},
	{apiPath("parked"), "parked.json"},
	{apiPath("airlock"), "airlock.json"},
	{apiPath("passes"), "passes.json"},
	{apiPath("events") + "?limit=1000", "events.json"},
	{apiPath("keys"), "keys.json"},
	{apiPath("audit") + "?limit=1000", "audit.json"},
	{apiPath("audit", "verify"), "audit-verify.json"},
}

func newSupportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "support FILE",
		Short: "Write a bundle for whoever helps you: status, metrics, settings, events, audit",
		Long: `Writes what vcsync shows of itself into a new file (.tar.gz): status, metrics, servers,
settings, what is parked and held, the newest thousand events and acts. It holds names,
groups, addresses and accounts, and no password, token or secret of an object. Look at it
before you give it away. What your account may not read is left out, and listed.`,
		Args: exactly(1, "the file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, os.ErrExist) {
				return usageError("%s is there already; name another file", args[0])
			}
			if err != nil {
				return failed(exitEnvironment, err)
			}
			n, missing, err := a.support(cmd.Context(), api, f)
			if cerr := f.Close(); err == nil {
				err = failed(exitEnvironment, cerr)
			}
			if err != nil {
				_ = os.Remove(args[0]) // half a bundle is none
				return err
			}
			text := fmt.Sprintf("%d files are in %s.", n, args[0])
			if missing != nil {
				text += " Left out: " + strings.Join(missing, ", ") + "."
			}
			_, err = fmt.Fprintln(a.out, clean(text))
			return failed(exitRunTime, err)
		},
	}
}

// support writes the bundle and returns how many files are in it, and what is not.
func (a *app) support(ctx context.Context, api *client, w io.Writer) (n int, missing []string, err error) {
	gz := gzip.NewWriter(w)
	out := tar.NewWriter(gz)
	now := time.Now()
	add := func(name string, raw []byte) error {
		n++
		err := out.WriteHeader(&tar.Header{Name: "vcsync-support/" + name, Mode: 0o600, Size: int64(len(raw)), ModTime: now})
		if err == nil {
			_, err = out.Write(raw)
		}
		return failed(exitEnvironment, err)
	}
	for _, p := range supportParts {
		raw, err := api.raw(ctx, p.path)
		if e, ok := errors.AsType[*apiError](err); ok {
			missing = append(missing, fmt.Sprintf("%s (%d)", p.file, e.status))
			continue
		}
		if err == nil {
			err = add(p.file, raw)
		}
		if err != nil {
			return n, nil, err
		}
	}
	about := fmt.Sprintf("vcsync %s, %s/%s, %s\n", buildVersion(), runtime.GOOS, runtime.GOARCH, now.UTC().Format(time.RFC3339))
	if missing != nil {
		about += "left out: " + strings.Join(missing, ", ") + "\n"
	}
	err = add("about.txt", []byte(about))
	for _, c := range []io.Closer{out, gz} {
		if cerr := c.Close(); err == nil {
			err = failed(exitEnvironment, cerr)
		}
	}
	return n, missing, err
}

// raw reads what is at a path, of any type.
func (c *client) raw(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, failed(exitEnvironment, fmt.Errorf("read the answer of vcsync at %s: %w", c.base, err))
	}
	return raw, nil
}
