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
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
)

// maxAuditLine bounds a line of an exported audit.
const maxAuditLine = 1 << 20

func newAuditCommand(a *app) *cobra.Command {
	return group("audit", "Who did what, and whether its records are as they were written", newAuditListCommand(a), newAuditVerifyCommand(a), newAuditExportCommand(a))
}

func newAuditListCommand(a *app) *cobra.Command {
	var who, action, object string
	var since time.Duration
	limit := 50
	c := &cobra.Command{
		Use:   "list",
		Short: "List the newest records of the audit",
		Example: `  vcsync audit list --since 24h
  vcsync audit list --action setting --object setting/prod-to-test`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 100000 || since < 0 {
				return usageError("--limit wants 1 to 100000, and --since a time such as 24h")
			}
			q := url.Values{}
			for k, v := range map[string]string{"who": who, "action": action, "object": object} {
				if v != "" {
					q.Set(k, v)
				}
			}
			if since > 0 {
				q.Set("since", time.Now().Add(-since).UTC().Format(time.RFC3339))
			}
			all := items[control.AuditEntry]{Items: []control.AuditEntry{}}
			if err := a.eachAudit(cmd.Context(), q, limit, func(e control.AuditEntry) error {
				all.Items = append(all.Items, e)
				return nil
			}); err != nil {
				return err
			}
			raw, err := json.Marshal(all)
			if err != nil {
				return failed(exitRunTime, err)
			}
			return a.show(raw, func() error {
				if len(all.Items) == 0 {
					_, err := fmt.Fprintln(a.out, "There is no such record.")
					return err
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "RECORD\tTIME\tWHO\tFROM\tACTION\tOBJECT\tDETAIL") // Flush has the error
				for _, e := range all.Items {
					fmt.Fprintf(w, "%d\t%s", e.Seq, e.Time.UTC().Format(time.RFC3339))
					for _, s := range []string{e.Who, e.From, e.Action, e.Object, e.Detail} {
						if s = control.Printable(s, false); s == "" {
							s = "-"
						}
						fmt.Fprintf(w, "\t%s", s)
					}
					fmt.Fprintln(w)
				}
				return w.Flush()
			})
		},
	}
	c.Flags().StringVar(&who, "who", "", "only acts of this account")
	c.Flags().StringVar(&action, "action", "", "only this action, such as setting.update, or all of setting")
	c.Flags().StringVar(&object, "object", "", "only this object, such as setting/prod-to-test")
	c.Flags().DurationVar(&since, "since", 0, "only records of this long ago or later, such as 24h")
	c.Flags().IntVar(&limit, "limit", limit, "at most so many records")
	return c
}

// eachAudit calls each with the records that a query finds, at most limit where that is
// not 0.
func (a *app) eachAudit(ctx context.Context, q url.Values, limit int, each func(control.AuditEntry) error) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	defer api.http.CloseIdleConnections()
	for n := 0; ; {
		q.Set("limit", "1000")
		var page control.AuditPage
		if _, _, err := api.call(ctx, http.MethodGet, apiPath("audit")+"?"+q.Encode(), nil, nil, &page); err != nil {
			return err
		}
		for _, e := range page.Items {
			if err := each(e); err != nil {
				return err
			}
			if n++; n == limit {
				return nil
			}
		}
		if page.Next == 0 {
			return nil
		}
		q.Set("cursor", strconv.FormatUint(page.Next, 10))
	}
}

func newAuditExportCommand(a *app) *cobra.Command {
	file := "-"
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the whole audit as JSON lines, oldest first",
		Long: `Writes every record of the audit as a line of JSON, oldest first, with the stored
text and its hash, so that "vcsync audit verify -f FILE" can check the file anywhere.
Keep one elsewhere from time to time: who has both the store and its keyring could
write another audit, and its hashes would differ from those of the file.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			out, n := a.out, 0
			if file != "-" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return failed(exitEnvironment, fmt.Errorf("export the audit: %w", err))
				}
				defer func() {
					if cerr := f.Close(); cerr != nil && err == nil {
						err = failed(exitEnvironment, fmt.Errorf("export the audit: %w", cerr))
					}
				}()
				out = f
			}
			w := bufio.NewWriter(out)
			err = a.eachAudit(cmd.Context(), url.Values{"order": {"oldest"}}, 0, func(e control.AuditEntry) error {
				raw, err := json.Marshal(e)
				if err != nil {
					return failed(exitRunTime, err)
				}
				n++
				_, err = fmt.Fprintf(w, "%s\n", raw)
				return failed(exitEnvironment, err)
			})
			if err == nil {
				err = failed(exitEnvironment, w.Flush())
			}
			if err == nil && file != "-" {
				_, err = fmt.Fprintf(a.out, "%d records are in %s. Check them with: vcsync audit verify -f %s\n", n, file, file)
				err = failed(exitRunTime, err)
			}
			return err
		},
	}
	c.Flags().StringVarP(&file, "file", "f", file, "file to write, which must not be there yet; - for standard output")
	return c
}

func newAuditVerifyCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that no record of the audit was changed, removed or inserted",
		Long: `Checks the number, text, link and seal of every record, and ends at the first that is
not as it was written. With -f it checks an exported file, without the seals: those
need the keyring of the installation.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var sum control.AuditCheck
			var err error
			if file != "" {
				sum, err = verifyAuditFile(file)
			} else {
				sum, err = a.verifyAudit(cmd.Context())
			}
			if err != nil {
				return err
			}
			raw, err := json.Marshal(sum)
			if err != nil {
				return failed(exitRunTime, err)
			}
			if err := a.show(raw, func() error {
				if sum.Broken != nil {
					return nil
				}
				text := fmt.Sprintf("The audit is whole: %d records", sum.Checked)
				if sum.Unchained > 0 {
					text += fmt.Sprintf(", of which the first %d are of a release that did not link them", sum.Unchained)
				}
				if sum.Head != "" {
					text += "; the last has the hash " + sum.Head
				}
				_, err := fmt.Fprintln(a.out, text+".")
				return err
			}); err != nil || sum.Broken == nil {
				return err
			}
			when := ""
			if !sum.Broken.Time.IsZero() {
				when = " of " + sum.Broken.Time.UTC().Format(time.RFC3339)
			}
			return failed(exitDifferent, fmt.Errorf("the audit is broken at record %d%s: %s. What stands before it is right. Keep a copy of the store, compare with an earlier export, and find out who could write to it",
				sum.Broken.Seq, when, sum.Broken.Why))
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "an exported file, instead of the audit itself")
	return c
}

func (a *app) verifyAudit(ctx context.Context) (control.AuditCheck, error) {
	var sum control.AuditCheck
	api, err := a.client()
	if err != nil {
		return sum, err
	}
	defer api.http.CloseIdleConnections()
	for cursor := uint64(1); cursor > 0; {
		var part control.AuditCheck
		if _, _, err := api.call(ctx, http.MethodGet, apiPath("audit", "verify")+"?cursor="+strconv.FormatUint(cursor, 10), nil, nil, &part); err != nil {
			return sum, err
		}
		part.Checked, part.Unchained = part.Checked+sum.Checked, part.Unchained+sum.Unchained
		if sum, cursor = part, part.Next; sum.Broken != nil {
			break
		}
	}
	return sum, nil
}

func verifyAuditFile(name string) (control.AuditCheck, error) {
	var sum control.AuditCheck
	f, err := os.Open(name)
	if err != nil {
		return sum, usageError("check the audit: %w", err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, maxAuditLine)
	var before broker.StoredAudit
	for in.Scan() {
		sum.Checked++
		var e control.AuditEntry
		var said struct {
			Prev string `json:"prev"`
			broker.AuditRecord
		}
		err := json.Unmarshal(in.Bytes(), &e)
		if err == nil {
			err = json.Unmarshal([]byte(e.Record), &said)
		}
		if err != nil {
			sum.Broken = &control.AuditFault{Seq: before.Seq + 1, Why: "its line in the file is not one of an exported audit"}
			return sum, nil
		}
		rec := broker.StoredAudit{AuditRecord: broker.AuditRecord{Time: e.Time, Who: e.Who, From: e.From, Action: e.Action, Object: e.Object, Before: e.Before, Detail: e.Detail},
			Seq: e.Seq, Raw: e.Record, Hash: e.Hash, Seal: e.Seal, Prev: said.Prev}
		chained, why := broker.CheckAudit(before, rec, nil)
		if !chained {
			sum.Unchained++
		}
		// The members of the line are there to be read; the text is what was written.
		if !said.Time.Equal(rec.Time) && !said.Time.IsZero() {
			why = "its line says something else than its text"
		} else if said.Time = rec.Time; said.AuditRecord != rec.AuditRecord && why == "" {
			why = "its line says something else than its text"
		}
		if why != "" {
			sum.Broken = &control.AuditFault{Seq: e.Seq, Time: e.Time, Why: why}
			return sum, nil
		}
		before, sum.Last, sum.Head = rec, e.Seq, e.Hash
	}
	if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
		sum.Broken = &control.AuditFault{Seq: before.Seq + 1, Why: "its line in the file is longer than any of an exported audit"}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return sum, failed(exitEnvironment, fmt.Errorf("read %s: %w", name, err))
	}
	return sum, nil
}
