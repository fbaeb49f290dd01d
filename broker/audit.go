package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
}

// StoredAudit is a record as it lies in VCS_AUDIT.
type StoredAudit struct {
	AuditRecord
	// Seq counts the records from 1, without gaps.
	Seq uint64
	// Raw is the stored text, whose SHA-256 in hex is Hash. Prev, a part of the text, is
	// that of the record before it; NoAudit where there is none. Records of a release
	// that had no chain have no Prev and no Hash.
	Raw, Hash, Prev string
	// Seal is the keyed digest of Hash: without the keyring nobody can write a record
	// that passes for one of this installation.
	Seal string
}

// AuditBreak says where a chain of records breaks.
type AuditBreak struct {
	Seq  uint64
	Time time.Time
	Why  string
}

const (
	hashHeader = "Vcsync-Hash"
	sealHeader = "Vcsync-Seal"
	// auditText bounds each text of a record, in bytes.
	auditText = 4 << 10
	// auditTries is how often a record is tried anew because another process of control
	// has written one.
	auditTries = 10
)

// NoAudit is what the first record names as the hash of the one before it.
var NoAudit = strings.Repeat("0", 2*sha256.Size)

// chainedRecord is the stored form.
type chainedRecord struct {
	AuditRecord
	Prev string `json:"prev,omitzero"`
}

// auditTail is the end of the chain, as this process knows it.
type auditTail struct {
	mu    sync.Mutex
	known bool
	seq   uint64
	hash  string // of the record with seq
}

// Audit stores a record, linked to the one before it, and returns when it is on disk.
// Acts that change state call it before their effect and do not happen when it fails
// (G12).
func (b *Broker) Audit(ctx context.Context, r AuditRecord) error {
	if err := b.appendAudit(ctx, r); err != nil {
		return fmt.Errorf("write the audit record, without which nothing is changed: %w", err)
	}
	return nil
}

func (b *Broker) appendAudit(ctx context.Context, r AuditRecord) error {
	for _, s := range []*string{&r.Who, &r.From, &r.Object, &r.Detail} {
		if len(*s) > auditText {
			*s = strings.ToValidUTF8((*s)[:auditText], "") + " ..."
		}
	}
	t := &b.audit
	t.mu.Lock()
	defer t.mu.Unlock()
	for try := 1; ; try++ {
		if !t.known {
			if err := b.readAuditTail(ctx); err != nil {
				return err
			}
		}
		raw, err := json.Marshal(chainedRecord{r, t.hash})
		if err != nil {
			return err
		}
		hash := hashOf(string(raw))
		msg := &nats.Msg{Subject: "vcsync.audit." + r.Action, Data: raw, Header: nats.Header{hashHeader: {hash}, sealHeader: {b.auditSeal(hash)}}}
		ack, err := b.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequence(t.seq))
		if err == nil {
			t.seq, t.hash = ack.Sequence, hash
			return nil
		}
		// Whether it was stored is settled by the record that is the last one now.
		t.known = false
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
		lerr := b.readAuditTail(look)
		cancel()
		if lerr == nil && t.hash == hash {
			return nil
		}
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence || try == auditTries || ctx.Err() != nil {
			return err
		}
	}
}

// readAuditTail reads the last record. The caller holds the tail.
func (b *Broker) readAuditTail(ctx context.Context) error {
	_, last, err := b.AuditRange(ctx)
	if err != nil {
		return err
	}
	hash := NoAudit
	if last > 0 {
		e, err := b.AuditAt(ctx, last)
		if err != nil {
			return err
		}
		hash = hashOf(e.Raw)
	}
	b.audit.known, b.audit.seq, b.audit.hash = true, last, hash
	return nil
}

// AuditRange returns the numbers of the first and the last record; last is 0 where there
// is none.
func (b *Broker) AuditRange(ctx context.Context) (first, last uint64, err error) {
	s, err := b.js.Stream(ctx, StreamAudit)
	if err != nil {
		return 0, 0, fmt.Errorf("look at the audit: %w", err)
	}
	state := s.CachedInfo().State
	return state.FirstSeq, state.LastSeq, nil
}

// AuditAt returns one record. The error wraps ErrNotFound where there is none of that
// number. A text that cannot be read is returned as it is, under the time of its storing.
func (b *Broker) AuditAt(ctx context.Context, seq uint64) (StoredAudit, error) {
	s, err := b.js.Stream(ctx, StreamAudit)
	if err != nil {
		return StoredAudit{}, fmt.Errorf("look at the audit: %w", err)
	}
	return auditAt(ctx, s, seq)
}

func auditAt(ctx context.Context, s jetstream.Stream, seq uint64) (StoredAudit, error) {
	m, err := s.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return StoredAudit{}, fmt.Errorf("audit record %d: %w", seq, ErrNotFound)
	}
	if err != nil {
		return StoredAudit{}, fmt.Errorf("read audit record %d: %w", seq, err)
	}
	e := StoredAudit{Seq: seq, Raw: string(m.Data), Hash: m.Header.Get(hashHeader), Seal: m.Header.Get(sealHeader)}
	var c chainedRecord
	if json.Unmarshal(m.Data, &c) == nil {
		e.AuditRecord, e.Prev = c.AuditRecord, c.Prev
	}
	if e.Time.IsZero() {
		e.Time = m.Time
	}
	return e, nil
}

// ReadAudit calls each with the records from one number on, upwards or downwards, until
// each returns false or there is none left. Numbers without a record are passed over.
func (b *Broker) ReadAudit(ctx context.Context, from uint64, down bool, each func(StoredAudit) bool) error {
	s, err := b.js.Stream(ctx, StreamAudit)
	if err != nil {
		return fmt.Errorf("look at the audit: %w", err)
	}
	state := s.CachedInfo().State
	for seq := from; seq >= max(state.FirstSeq, 1) && seq <= state.LastSeq; {
		e, err := auditAt(ctx, s, seq)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && !each(e) {
			return nil
		}
		if down {
			seq--
		} else {
			seq++
		}
	}
	return nil
}

// AuditSealed tells whether the seal of a record is one of this installation's keyring.
func (b *Broker) AuditSealed(e StoredAudit) bool { return e.Seal == b.auditSeal(e.Hash) }

func (b *Broker) auditSeal(hash string) string { return b.Keys.Digest("vcsync-audit:" + hash) }

// CheckAudit tells whether a record follows the one before it, which is the zero one at
// the beginning. Sealed tells whether its seal is right; nil where that cannot be known,
// as for an exported file. Why is empty where all is right; chained is false for a record
// of a release that had no chain yet.
func CheckAudit(before, e StoredAudit, sealed func(StoredAudit) bool) (chained bool, why string) {
	want := NoAudit
	if before.Seq > 0 {
		want = hashOf(before.Raw)
	}
	switch {
	case e.Seq > before.Seq+1:
		return true, fmt.Sprintf("what stood before it, from record %d on, is gone", before.Seq+1)
	case e.Seq != before.Seq+1:
		return true, fmt.Sprintf("it stands after record %d", before.Seq)
	case e.Prev == "" && e.Hash == "" && before.Hash == "":
		return false, ""
	case hashOf(e.Raw) != e.Hash:
		return true, "its text is not the one that was written"
	case sealed != nil && !sealed(e):
		return true, "its seal is not one of this installation's keyring: it was changed or written by somebody else, or the keyring is another one"
	case e.Prev != want:
		return true, fmt.Sprintf("it was not written after record %d as that reads now", before.Seq)
	}
	return true, ""
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
