package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	auditWindow = 1000
	// auditScan is how many records one call of AuditPage looks at.
	auditScan = 20 * auditWindow
	// resultWithin is how many records after an act its result is looked for.
	resultWithin = 200
)

// AuditQuery says which acts to read; an empty field stands for any. Action and Object also
// match what they begin, up to a dot or a slash: "setting" is any act on a setting.
type AuditQuery struct {
	Since, Until        time.Time
	Who, Action, Object string
}

func (q AuditQuery) takes(r AuditRecord) bool {
	begins := func(text, want, sep string) bool {
		return want == "" || text == want || strings.HasPrefix(text, want+sep)
	}
	return (q.Since.IsZero() || !r.Time.Before(q.Since)) && (q.Until.IsZero() || r.Time.Before(q.Until)) &&
		(q.Who == "" || q.Who == r.Who) && begins(r.Action, q.Action, ".") && begins(r.Object, q.Object, "/")
}

// StoredAudit is an act with its result; that of a process that ended in between is empty.
type StoredAudit struct {
	AuditRecord
	Result string
}

// AuditPage returns the newest acts that the query matches, newest first and at most limit
// of them, that lie before a sequence (0: before none). Next is where to go on, 0 where
// there is no more: one call looks at a bounded number of records, so a page may be short
// or empty. A message that is no record is shown as one without a time.
func (b *Broker) AuditPage(ctx context.Context, q AuditQuery, before uint64, limit int) (out []StoredAudit, next uint64, err error) {
	_, last, err := b.auditEnds(ctx)
	if err != nil {
		return nil, 0, err
	}
	results := map[uint64]string{}
	high := last
	if before > 0 && before <= last {
		high = before - 1
		err := b.readAudit(ctx, before, min(last, before+resultWithin), func(_ uint64, line []byte) bool {
			if e := parseAuditLine(line); e.Of > 0 {
				results[e.Of] = e.Result
			}
			return true
		})
		if err != nil {
			return nil, 0, err
		}
	}
	for scanned := 0; high > 0 && scanned < auditScan; scanned += auditWindow {
		low := high - min(high, auditWindow) + 1
		var found []StoredAudit
		over := false
		err := b.readAudit(ctx, low, high, func(seq uint64, line []byte) bool {
			e := parseAuditLine(line)
			if e.err != nil || e.Action == "" {
				e.AuditRecord = AuditRecord{Action: "unreadable", AuditLink: AuditLink{Seq: seq}}
			}
			e.Seq = seq
			if e.Of > 0 {
				results[e.Of] = e.Result
			} else if q.takes(e.AuditRecord) {
				found = append(found, StoredAudit{AuditRecord: e.AuditRecord})
			}
			// The clocks of two processes differ by less than an hour.
			over = over || e.err == nil && e.Time.Before(q.Since.Add(-time.Hour))
			return true
		})
		if err != nil {
			return nil, 0, err
		}
		for i := len(found) - 1; i >= 0; i-- {
			if len(out) == limit {
				return out, out[limit-1].Seq, nil
			}
			found[i].Result = results[found[i].Seq]
			out = append(out, found[i])
		}
		if high = low - 1; over {
			return out, 0, nil
		}
	}
	if high == 0 {
		return out, 0, nil
	}
	return out, high + 1, nil
}

// ExportAudit writes the records after a sequence as lines of JSON, at most limit of them,
// in their order. It returns how many it wrote and the sequence of the last.
func (b *Broker) ExportAudit(ctx context.Context, w io.Writer, after uint64, limit int) (n int, last uint64, err error) {
	present, _, err := b.auditEnds(ctx)
	if err != nil || present <= after {
		return 0, after, err
	}
	last = after
	var werr error
	err = b.readAudit(ctx, after+1, present, func(seq uint64, line []byte) bool {
		if _, werr = w.Write(append(bytes.Clone(line), '\n')); werr == nil {
			n, last = n+1, seq
		}
		return werr == nil && n < limit
	})
	return n, last, errors.Join(err, werr)
}

// VerifyAudit goes on with a check, by at most limit records. It returns true when it has
// seen all or found the audit broken.
func (b *Broker) VerifyAudit(ctx context.Context, c *AuditCheck, limit int) (bool, error) {
	present, last, err := b.auditEnds(ctx)
	if err != nil {
		return false, err
	}
	n := 0
	if present > c.Last {
		err := b.readAudit(ctx, c.Last+1, present, func(_ uint64, line []byte) bool {
			n++
			return c.AddLine(line, b.Keys) && n < limit
		})
		if err != nil {
			return false, err
		}
	}
	if c.Broken == nil && c.Last < present && n >= limit {
		return false, nil
	}
	c.End(last, b.Keys)
	return true, nil
}

// auditEnds returns the sequence of the last record that is there, and of the last that
// was ever stored.
func (b *Broker) auditEnds(ctx context.Context) (present, last uint64, err error) {
	m, err := b.storedMsg(ctx, StreamAudit, msgGet{LastBySubject: auditSubjects})
	if err == nil {
		present = m.Sequence
	} else if !errors.Is(err, ErrNotFound) {
		return 0, 0, fmt.Errorf("read the audit: %w", err)
	}
	s, err := b.js.Stream(ctx, StreamAudit)
	if err != nil {
		return 0, 0, fmt.Errorf("read the audit: %w", err)
	}
	// What others appended between the two questions is left for later.
	state := s.CachedInfo().State
	if last = state.LastSeq; last > present {
		next, err := b.storedMsg(ctx, StreamAudit, msgGet{Seq: present + 1})
		if err == nil && next.Sequence == present+1 {
			last = present
		} else if err != nil && !errors.Is(err, ErrNotFound) {
			return 0, 0, fmt.Errorf("read the audit: %w", err)
		}
	}
	return present, last, nil
}

// readAudit calls each with the records from low to high, which is there, in their order,
// as lines of an export, until it returns false.
func (b *Broker) readAudit(ctx context.Context, low, high uint64, each func(seq uint64, line []byte) bool) error {
	cons, err := b.orderedConsumer(ctx, StreamAudit, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: max(low, 1), InactiveThreshold: time.Minute})
	if err != nil {
		return fmt.Errorf("read the audit: %w", err)
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(500), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(3*time.Second))
	if err != nil {
		return fmt.Errorf("read the audit: %w", err)
	}
	defer it.Stop()
	// On a cluster the member that is read may be behind.
	ctx, cancel := context.WithTimeoutCause(ctx, auditRead, errLags("read the audit", 0, high))
	defer cancel()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read the audit: %w", errors.Join(err, context.Cause(ctx)))
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read the audit: %w", err)
		}
		if meta.Sequence.Stream > high || !each(meta.Sequence.Stream, auditLine(meta.Sequence.Stream, m.Data())) || meta.Sequence.Stream == high {
			return nil
		}
	}
}

// auditRead bounds one reading.
const auditRead = time.Minute
