package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
)

func newAuditCommand(a *app) *cobra.Command {
	c := group("audit", "Who did what: list, check and export it", newAuditList(a), newAuditVerify(a), newAuditExport(a))
	c.Long = `Every act through the API is put on record before its effect, and what became of it
afterwards. Each record carries the hash of the one before it, so that none can be changed,
removed or moved unseen; vcsync audit verify checks that.`
	return c
}

func newAuditList(a *app) *cobra.Command {
	var since, until, who, action, object string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List the acts, newest first, each with its result", Args: none,
		Example: `  vcsync audit list --since 24h --who anna
  vcsync audit list --action setting --object setting/prod-to-test`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if limit < 1 || limit > 100000 {
				return usageError("--limit %d: want 1 to 100000", limit)
			}
			for _, f := range []struct{ name, value string }{{"since", since}, {"until", until}} {
				if f.value == "" {
					continue
				}
				t, err := parseSince(f.value, time.Now())
				if err != nil {
					return usageError("--%s %q: want how long ago, such as 2h, or a time, such as 2026-03-04T15:00:00Z", f.name, f.value)
				}
				q.Set(f.name, t.UTC().Format(time.RFC3339Nano))
			}
			for name, value := range map[string]string{"who": who, "action": action, "object": object} {
				if value != "" {
					q.Set(name, value)
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			all := control.AuditList{Items: []control.AuditEntry{}}
			for {
				q.Set("limit", strconv.Itoa(min(limit-len(all.Items), 1000)))
				var page control.AuditList
				if _, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("audit")+"?"+q.Encode(), nil, nil, &page); err != nil {
					return err
				}
				all.Items = append(all.Items, page.Items...)
				if all.Next = page.Next; page.Next == 0 || len(all.Items) >= limit {
					break
				}
				q.Set("before", strconv.FormatUint(page.Next, 10))
			}
			return a.showReport(all, func() error {
				if len(all.Items) == 0 {
					_, err := fmt.Fprintln(a.out, "No acts.")
					return err
				}
				t := newTable("SEQ", "TIME", "WHO", "FROM", "ACTION", "OBJECT", "RESULT", "DETAIL")
				for _, e := range all.Items {
					t.add(strconv.FormatUint(e.Seq, 10), when(e.Time), dash(shorten(e.Who, 40)), dash(shorten(e.From, 40)), e.Action, dash(shorten(e.Object, 64)), dash(shorten(e.Result, 60)), dash(shorten(e.Detail, 100)))
				}
				return t.print(a.out)
			})
		}}
	f := c.Flags()
	f.StringVar(&since, "since", "", "only acts since then: 2h, or a time such as 2026-03-04T15:00:00Z")
	f.StringVar(&until, "until", "", "only acts before that, in the same forms")
	f.StringVar(&who, "who", "", "only acts of this account")
	f.StringVar(&action, "action", "", "only this action, such as setting.update, or all that it begins: setting")
	f.StringVar(&object, "object", "", "only acts on this object, such as setting/prod-to-test, or all that it begins: server")
	f.IntVar(&limit, "limit", 50, "at most so many")
	return c
}

func newAuditVerify(a *app) *cobra.Command {
	var file, keys string
	c := &cobra.Command{Use: "verify", Short: "Check that no record was changed, removed or moved", Args: none,
		Long: `Checks every record of the audit: its content against its hash, its place, the record
before it, and that this installation's keyring made it. With -f it checks a file that
vcsync audit export wrote, without any vcsync running; add --keys DIR, the folder with
keyring.json, to check there too who made it. A file cannot tell whether records are
missing at its end: compare the last record and its hash with what was written down.

Exit codes: 0 whole, 1 broken: the first record that is not what was written is named.`,
		Example: `  vcsync audit verify
  vcsync audit verify -f audit.jsonl --keys /etc/vcsync/keys`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keys != "" && file == "" {
				return usageError("--keys is for a file: name it with -f")
			}
			var check broker.AuditCheck
			var err error
			if file != "" {
				check, err = verifyFile(file, keys)
			} else {
				check, err = a.verifyAPI(cmd.Context())
			}
			if err != nil {
				return err
			}
			if err := a.showReport(check, func() error { return a.printCheck(check) }); err != nil {
				return err
			}
			if b := check.Broken; b != nil {
				return failed(exitDifferent, fmt.Errorf("the audit is broken at record %d (%s): %s.\n"+
					"  What is before it is as it was written. Keep what there is with vcsync audit export -f FILE, compare it with the newest export or backup that was whole,\n"+
					"  and find out who could write to the broker's files, or to its %s, since then", b.Seq, when(b.Time), b.Reason, broker.StreamAudit))
			}
			return nil
		}}
	c.Flags().StringVarP(&file, "file", "f", "", "check this file of vcsync audit export")
	c.Flags().StringVar(&keys, "keys", "", "folder with the keyring.json that made the file")
	return c
}

func (a *app) printCheck(c broker.AuditCheck) error {
	if c.Broken != nil {
		_, err := fmt.Fprintf(a.out, "BROKEN at record %d; %d records before it are whole.\n", c.Broken.Seq, min(c.Records, c.Broken.Seq-1))
		return err
	}
	if c.Records == 0 {
		_, err := fmt.Fprintln(a.out, "Whole: there are no records.")
		return err
	}
	fmt.Fprintf(a.out, "Whole: %d records; the last is %d of %s, hash %s\n", c.Records, c.Last, when(c.Time), clean(c.Head))
	switch {
	case c.ChainFrom == 0:
		fmt.Fprintln(a.out, "None of them is in a chain: releases without one wrote them. The next act begins it.")
	case c.ChainFrom > 1:
		fmt.Fprintf(a.out, "The chain begins at record %d; releases without one wrote what is before it, and only the record just before is held by it.\n", c.ChainFrom)
	}
	if c.ChainFrom == 1 && c.Unchained > 0 {
		fmt.Fprintf(a.out, "%d records were written by a release without a chain in between; the record after them holds the last of them.\n", c.Unchained)
	}
	if c.OtherKey > 0 {
		fmt.Fprintf(a.out, "From record %d on some were made with an earlier keyring: who made those cannot be checked.\n", c.OtherKey)
	}
	if c.Keyed == 0 && c.ChainFrom > 0 {
		fmt.Fprintln(a.out, "Who made them was not checked: give the folder of the keyring with --keys.")
	}
	return nil
}

func (a *app) verifyAPI(ctx context.Context) (broker.AuditCheck, error) {
	api, err := a.client()
	if err != nil {
		return broker.AuditCheck{}, err
	}
	for cursor := ""; ; {
		var part control.AuditVerified
		path := apiPath("audit", "verify")
		if cursor != "" {
			path += "?" + url.Values{"cursor": {cursor}}.Encode()
		}
		if _, _, err := api.call(ctx, http.MethodGet, path, nil, nil, &part); err != nil {
			return broker.AuditCheck{}, err
		}
		if cursor = part.Next; part.Done || cursor == "" {
			return part.AuditCheck, nil
		}
	}
}

// auditLineMost is the longest line that is read; a record is far smaller.
const auditLineMost = 16 << 20

func verifyFile(file, keys string) (c broker.AuditCheck, err error) {
	var ring *broker.Keyring
	if keys != "" {
		if _, err := os.Stat(filepath.Join(keys, "keyring.json")); err != nil { // opening would make one
			return c, usageError("--keys: %w", err)
		}
		if ring, err = broker.OpenKeyring(keys); err != nil {
			return c, usageError("--keys: %w", err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return c, usageError("-f: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, auditLineMost)
	for lines.Scan() {
		if !c.AddLine(lines.Bytes(), ring) {
			return c, nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		c.AddLine(nil, ring)
		return c, nil
	} else if err != nil {
		return c, failed(exitEnvironment, fmt.Errorf("read %s: %w", file, err))
	}
	c.End(0, ring)
	return c, nil
}

func newAuditExport(a *app) *cobra.Command {
	var file string
	var force bool
	c := &cobra.Command{Use: "export", Short: "Write all records as lines of JSON, as they are stored", Args: none,
		Long: `Writes every record on a line of its own, as it is stored, with the fields of the chain:
to a file, which is there only when it is whole, or to standard output. vcsync audit verify
-f checks it.`,
		Example: `  vcsync audit export -f audit-2026-11.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if _, err := os.Lstat(file); file != "" && err == nil && !force {
				return usageError("%s is there already: name another file, or replace it with --force; nothing was done", file)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			if file == "" {
				_, err := exportAudit(cmd.Context(), api, a.out)
				return err
			}
			f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // 0600
			if err != nil {
				return failed(exitEnvironment, fmt.Errorf("write the export: %w", err))
			}
			defer os.Remove(f.Name()) // fails once it is renamed
			n, err := exportAudit(cmd.Context(), api, f)
			if err != nil {
				return errors.Join(err, f.Close())
			}
			if err = errors.Join(f.Sync(), f.Close()); err == nil {
				err = os.Rename(f.Name(), file)
			}
			if err != nil {
				return failed(exitRunTime, fmt.Errorf("write the export to %s: %w; there is none", file, err))
			}
			return a.showReport(struct {
				File    string `json:"file"`
				Records uint64 `json:"records"`
			}{file, n}, func() error {
				_, err := fmt.Fprintf(a.out, "%d records written to %s. Check it: vcsync audit verify -f %s\n", n, file, file)
				return err
			})
		}}
	c.Flags().StringVarP(&file, "file", "f", "", "write to this file; standard output where none is named")
	c.Flags().BoolVar(&force, "force", false, "replace the file where it is there")
	return c
}

// exportAudit writes all records, part by part, and returns how many there were.
func exportAudit(ctx context.Context, api *client, w io.Writer) (n uint64, err error) {
	for after := uint64(0); ; {
		resp, err := api.send(ctx, http.MethodGet, apiPath("audit", "export")+"?after="+strconv.FormatUint(after, 10), nil, nil)
		if err != nil {
			return n, err
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		resp.Body.Close()
		if err != nil {
			return n, failed(exitEnvironment, fmt.Errorf("read the answer of vcsync at %s: %w", api.base, err))
		}
		if len(raw) == 0 {
			return n, nil
		}
		for _, b := range raw {
			if b == '\n' {
				n++
			}
		}
		if _, err := w.Write(raw); err != nil {
			return n, failed(exitRunTime, fmt.Errorf("write the export: %w", err))
		}
		last, err := strconv.ParseUint(resp.Header.Get("Vcsync-Last"), 10, 64)
		if err != nil || last <= after {
			return n, failed(exitEnvironment, fmt.Errorf("the answer at %s is not one of this version of vcsync", api.base))
		}
		after = last
	}
}
