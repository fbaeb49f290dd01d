package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// AuditRecord says who did what. It holds no object's content and no secret.
type AuditRecord struct {
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	From   string    `json:"from,omitzero"`
	Action string    `json:"action"` // such as "setting.update"
	Object string    `json:"object"` // such as "setting/prod-to-test"
	// Before is the revision that the act replaces, 0 where there is none.
	Before uint64 `json:"before,omitzero"`
	Detail string `json:"detail,omitzero"`
	// New is the digest of the record that the act stores, where it stores one.
	New string `json:"new,omitzero"`
	// Settings is the revision of the sync setting under which it was decided.
	Settings uint64 `json:"settings,omitzero"`
	// Approval names what was approved: a plan, or a batch of deletions.
	Approval string `json:"approval,omitzero"`
	// Of is the sequence of an earlier record whose Result this one tells; 0 for an act.
	Of     uint64 `json:"of,omitzero"`
	Result string `json:"result,omitzero"`

	AuditLink
}

// AuditLink ties a record to the one before it; see docs/adr/0023-audit-chain.md. It is
// zero in records of releases that had no chain.
type AuditLink struct {
	ID   string `json:"id,omitzero"`   // tells it from every other
	Seq  uint64 `json:"seq,omitzero"`  // its place in the stream
	Prev string `json:"prev,omitzero"` // hash of the record before
	Key  string `json:"key,omitzero"`  // names the keyring that MAC was made with
	MAC  string `json:"mac,omitzero"`  // over all but MAC and Hash
	Hash string `json:"hash,omitzero"` // over all but Hash
}

// ResultDone is the result of an act that had its effect.
const ResultDone = "done"

const (
	// auditTry bounds one attempt to append, and auditAgain is the pause before another.
	auditTry   = 5 * time.Second
	auditAgain = 20 * time.Millisecond
)

// auditMost is how many bytes of each member a record keeps.
var auditMost = struct{ name, object, detail, result int }{200, 400, 2000, 400}

// auditHead is where the chain stands.
type auditHead struct {
	known bool
	seq   uint64 // the stream's last
	hash  string // of the last record, empty where there is none
}

// Audit stores a record and returns when it is on disk. Acts that change state
// call it before their effect and do not happen when it fails (G12).
func (b *Broker) Audit(ctx context.Context, r AuditRecord) error {
	_, err := b.AuditAct(ctx, r)
	return err
}

// AuditAct is Audit, and returns the sequence of the record, for AuditResult.
func (b *Broker) AuditAct(ctx context.Context, r AuditRecord) (uint64, error) {
	seq, err := b.appendAudit(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("write the audit record, without which nothing is changed: %w", err)
	}
	return seq, nil
}

// AuditResult stores what became of the act with that sequence: a record of its own,
// since none is ever changed. Where failed is nil it was done.
func (b *Broker) AuditResult(ctx context.Context, act AuditRecord, of uint64, failed error) error {
	r := AuditRecord{Time: time.Now().UTC(), Who: act.Who, From: act.From, Action: act.Action, Object: act.Object, Of: of, Result: ResultDone}
	if failed != nil {
		r.Result = "failed: " + failed.Error()
	}
	if _, err := b.appendAudit(ctx, r); err != nil {
		return fmt.Errorf("write the result of audit record %d: %w", of, err)
	}
	return nil
}

// appendAudit appends a record to the chain. The broker takes it only where nobody has
// appended meanwhile, so that two processes never continue from the same record.
func (b *Broker) appendAudit(ctx context.Context, r AuditRecord) (uint64, error) {
	select {
	case b.auditing <- struct{}{}:
		defer func() { <-b.auditing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for _, f := range []struct {
		text *string
		most int
	}{{&r.Who, auditMost.name}, {&r.From, auditMost.name}, {&r.Action, auditMost.name}, {&r.Object, auditMost.object},
		{&r.Detail, auditMost.detail}, {&r.Approval, auditMost.name}, {&r.Result, auditMost.result}} {
		*f.text = bounded(*f.text, f.most)
	}
	r.ID = nuid.Next()
	for {
		head := b.audited
		if !head.known {
			var err error
			if head, err = b.readAuditHead(ctx); err != nil {
				return 0, err
			}
		}
		raw, hash, err := b.Keys.linkAudit(r, head)
		if err != nil {
			return 0, err
		}
		b.audited = auditHead{}
		err = b.publishAudit(ctx, r, head.seq, raw)
		if err == nil {
			b.audited = auditHead{true, head.seq + 1, hash}
			return head.seq + 1, nil
		}
		if !errors.Is(err, ErrConflict) {
			return 0, err
		}
		if err := pause(ctx, auditAgain); err != nil {
			return 0, fmt.Errorf("others write to the audit all the time: %w", err)
		}
	}
}

// publishAudit stores one record after the sequence after, or says that there is another
// (ErrConflict). A lost answer is settled by a look at that place: the same message may
// be sent again, since it fits there once.
func (b *Broker) publishAudit(ctx context.Context, r AuditRecord, after uint64, raw []byte) error {
	m := nats.NewMsg("vcsync.audit." + r.Action)
	m.Data = raw
	m.Header.Set(jetstream.ExpectedLastSeqHeader, fmt.Sprint(after))
	for {
		try, cancel := context.WithTimeout(ctx, auditTry)
		ack, err := b.js.PublishMsg(try, m, jetstream.WithRetryAttempts(0))
		cancel()
		var api *jetstream.APIError
		switch {
		case err == nil && ack.Sequence == after+1:
			return nil
		case err == nil:
			return fmt.Errorf("%w: %s stored a record at %d that was meant for %d", ErrLayout, StreamAudit, ack.Sequence, after+1)
		case storeFull(err):
			return fmt.Errorf("%s has no room left (%w): look at it with vcsync audit list, keep a copy with vcsync audit export, and give it more with the nats command (nats stream edit %s --max-bytes), through VCSYNC_NATS_LISTEN where the broker is built in", StreamAudit, err, StreamAudit)
		case errors.As(err, &api) && api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence && api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequenceConstant,
			errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
			return err
		}
		got, gerr := b.storedMsg(ctx, StreamAudit, msgGet{Seq: after + 1})
		switch {
		case gerr == nil && auditID(got.Data) == r.ID:
			return nil
		case gerr == nil, api != nil:
			return ErrConflict
		}
		if perr := pause(ctx, auditAgain); perr != nil {
			return fmt.Errorf("no answer came in time, so the record may be there or not: %w", err)
		}
	}
}

// readAuditHead asks the leader where the chain stands.
func (b *Broker) readAuditHead(ctx context.Context) (auditHead, error) {
	s, err := b.js.Stream(ctx, StreamAudit)
	if err != nil {
		return auditHead{}, fmt.Errorf("look up %s: %w", StreamAudit, err)
	}
	head := auditHead{known: true, seq: s.CachedInfo().State.LastSeq}
	m, err := b.storedMsg(ctx, StreamAudit, msgGet{LastBySubject: auditSubjects})
	if errors.Is(err, ErrNotFound) {
		return head, nil
	}
	if err != nil {
		return auditHead{}, err
	}
	head.seq = max(head.seq, m.Sequence)
	head.hash = parseAuditLine(auditLine(m.Sequence, m.Data)).hash
	return head, nil
}

// auditID returns the id of a stored record, empty where it has none.
func auditID(data []byte) string {
	var r AuditRecord
	if json.Unmarshal(data, &r) != nil {
		return ""
	}
	return r.ID
}

// bounded cuts a text to so many bytes, and makes it text where it is none.
func bounded(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " ..."
}

// pause waits, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
