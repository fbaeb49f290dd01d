package broker

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	doneSubjects = "vcsync.done.>"
	donePrefix   = "vcsync.done."
	// headerDone holds what is known of a write without the body: JSON, in base64, since a
	// header takes no other text.
	headerDone = "Vcsync-Done"
	// DoneAge is how long VCS_DONE keeps what was at a target before a write, and
	// doneMaxBytes how much of it at most; the oldest goes first.
	DoneAge      = 30 * 24 * time.Hour
	doneMaxBytes = 1 << 30
)

// Done is one write to a target, with what was there before. It is stored in VCS_DONE
// before the write is sent, so one that was refused has such a record too: what the
// target holds now tells.
type Done struct {
	Target schemas.Slug `json:"target"`
	// Pass is what the write is a part of: the run, or a burst of live and audit writes of
	// one setting.
	Pass string       `json:"pass"`
	Type schemas.Type `json:"type"`
	// ID is the object's at the target, SourceID that at its source where it is another.
	ID       schemas.ID `json:"id"`
	SourceID schemas.ID `json:"sourceId,omitzero"`
	Name     string     `json:"name,omitzero"`
	Group    string     `json:"group,omitzero"`
	// Act is a word of decide.Act: add, update or delete.
	Act     string          `json:"act"`
	Setting schemas.Slug    `json:"setting,omitzero"`
	Source  schemas.Slug    `json:"source,omitzero"`
	Version schemas.Version `json:"version,omitzero"`
	// Path is where the content came by, as in Entry.
	Path []schemas.Slug `json:"path,omitzero"`
	// By approved it; empty where nobody had to.
	By string `json:"by,omitzero"`
	// Undoes is the pass that this one undoes, Reverts the version that it brought back;
	// empty for neither.
	Undoes  string `json:"undoes,omitzero"`
	Reverts string `json:"reverts,omitzero"`
	// Pauses tells that the object is paused at the target after the write.
	// Paused is the pass that had paused it before; empty for none.
	Pauses bool   `json:"pauses,omitzero"`
	Paused string `json:"paused,omitzero"`
	// Before and After are the digests of what the target held and was to hold then, with
	// everything that can count; empty for no object. Secrets is how it gave its secrets.
	Before  schemas.Digest `json:"before,omitzero"`
	After   schemas.Digest `json:"after,omitzero"`
	Secrets string         `json:"secrets,omitzero"`
	// Ledger is the entry of the ledger that the write replaces; nil for none. Unrecorded
	// tells that the write makes none either.
	Ledger     *Entry `json:"ledger,omitempty"`
	Unrecorded bool   `json:"unrecorded,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`

	// Object holds the body that was there, its secrets sealed with the target as the
	// source (schemas.SealContext); no body where there was no object. Only DoneObject
	// fills it.
	Object schemas.Object `json:"-"`
	// Seq is the record's in VCS_DONE, At when it was stored, by the broker's clock.
	Seq uint64    `json:"-"`
	At  time.Time `json:"-"`
}

func (d Done) subject() string {
	return donePrefix + strings.Join([]string{string(d.Target), d.Pass, string(d.Type), string(d.ID.Token())}, ".")
}

// From returns the object's id at its source.
func (d Done) From() schemas.ID { return cmp.Or(d.SourceID, d.ID) }

// event is the body in the form in which bodies travel: of the target, as a source.
func (d Done) event(at time.Time) schemas.Event {
	e := schemas.Event{Source: d.Target, Kind: schemas.Updated, Version: schemas.Version{Epoch: 1, Revision: 1}, Digest: d.Before, Time: at, Object: d.Object}
	e.Object.Type, e.Object.ID, e.Object.Name, e.Object.Group = d.Type, d.ID, d.Name, d.Group
	if d.Object.Body == nil {
		e.Kind, e.Digest = schemas.Deleted, ""
	}
	return e
}

// PutDone stores what is at a target before a write, and returns when it is on disk.
func (b *Broker) PutDone(ctx context.Context, d Done) error {
	fail := func(err error) error {
		return fmt.Errorf("store what %s held of %s %s before a write: %w", d.Target, d.Type, d.ID, err)
	}
	header, data, err := d.event(time.Now()).Encode()
	if err != nil {
		return fail(err)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return fail(err)
	}
	m := nats.NewMsg(d.subject())
	m.Header = header
	m.Header.Del(jetstream.MsgIDHeader) // two writes of one object are two records
	if len(data) > inlineMost {
		ref, err := b.putBody(ctx, data)
		if err != nil {
			return fail(err)
		}
		ref.SetHeader(m.Header)
	} else {
		m.Data = data
	}
	m.Header.Set(headerDone, base64.StdEncoding.EncodeToString(raw))
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if _, err := b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0)); err != nil {
		return fail(err)
	}
	return nil
}

func parseDone(subject string, header nats.Header, seq uint64, at time.Time) (Done, error) {
	var d Done
	raw, err := base64.StdEncoding.DecodeString(header.Get(headerDone))
	if err == nil {
		err = json.Unmarshal(raw, &d)
	}
	if err != nil {
		return d, fmt.Errorf("%w: %.200s: %w", ErrRecord, subject, err)
	}
	if d.subject() != subject {
		return d, fmt.Errorf("%w: %.200s says it is %.200s", ErrRecord, subject, d.subject())
	}
	d.Seq, d.At = seq, at.UTC()
	return d, nil
}

// ScanDone calls each with every write that VCS_DONE holds of a target and a pass, in
// their order and without bodies; of all for empty ones. Since leaves out what is older;
// zero for nothing.
func (b *Broker) ScanDone(ctx context.Context, target schemas.Slug, pass string, since time.Time, each func(Done)) error {
	filter := donePrefix + cmp.Or(string(target), "*") + "." + cmp.Or(pass, "*") + ".>"
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true, InactiveThreshold: time.Minute}
	if !since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	want, err := b.leaderLast(ctx, StreamDone, filter)
	if err != nil {
		return fmt.Errorf("scan %s: %w", StreamDone, err)
	}
	cons, err := b.orderedConsumer(ctx, StreamDone, cfg)
	if err != nil {
		return fmt.Errorf("scan %s: %w", StreamDone, err)
	}
	if cons.CachedInfo().NumPending == 0 {
		want = 0 // what there is, is older
	}
	return b.readAll(ctx, "scan "+StreamDone, cons, want, func(m jetstream.Msg, seq uint64) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		d, err := parseDone(m.Subject(), m.Headers(), seq, meta.Timestamp)
		if err != nil {
			b.log.WarnContext(ctx, "a record of a write is left alone", "subject", m.Subject(), "error", err)
			return
		}
		each(d)
	})
}

// DoneObject reads the record with that sequence, with the body that was there. The error
// wraps ErrNotFound where it is not kept any more, ErrLostBody and schemas.ErrEvent where
// the body is not there or not what it was.
func (b *Broker) DoneObject(ctx context.Context, seq uint64) (Done, error) {
	m, err := b.storedMsg(ctx, StreamDone, msgGet{Seq: seq})
	if err != nil {
		return Done{}, fmt.Errorf("read what was there before a write: %w", err)
	}
	d, err := parseDone(m.Subject, m.Header, m.Sequence, m.Time)
	if err != nil {
		return d, err
	}
	e := d.event(m.Time)
	m.Header.Set(jetstream.MsgIDHeader, e.MsgID())
	h, err := schemas.ParseHead(e.Subject(), m.Header)
	if err != nil {
		// Without a body in hand the kind is that of a deletion; the record has one.
		e.Kind = schemas.Updated
		if h, err = schemas.ParseHead(e.Subject(), m.Header); err != nil {
			return d, err
		}
	}
	data := m.Data
	if !h.Ref.IsZero() {
		if data, err = b.body(ctx, h.Ref); err != nil {
			return d, err
		}
	}
	ev, err := schemas.ParseEvent(e.Subject(), m.Header, data)
	if err != nil {
		return d, err
	}
	d.Object = ev.Object
	return d, nil
}

// LastDone returns the last write of an object at a target, by its id there, without its
// body; ErrNotFound where VCS_DONE holds none.
func (b *Broker) LastDone(ctx context.Context, target schemas.Slug, t schemas.Type, id schemas.ID) (Done, error) {
	d := Done{Target: target, Pass: "*", Type: t, ID: id}
	m, err := b.storedMsg(ctx, StreamDone, msgGet{LastBySubject: d.subject()})
	if err != nil {
		return Done{}, fmt.Errorf("last write of %s %s at %s: %w", t, id, target, err)
	}
	return parseDone(m.Subject, m.Header, m.Sequence, m.Time)
}

// Undone is what a pass did with one object, its writes taken together: what was there
// before the first of them, and what the last was to leave. Where somebody else wrote the
// object in between, only those since then count: the rest is not the pass's to undo.
type Undone struct {
	// First is the first write that counts, Last the last.
	First, Last Done
}

// isApart tells whether somebody else wrote the object between a write of the pass and
// this, the next one: the ledger says what came of that, and the target held something
// else. While it does not say that, the target may have stored it otherwise.
func (d Done) isApart(before Done) bool {
	known := d.Ledger != nil && d.Ledger.State != Intent
	return known && d.Before != before.After && d.Before != before.Before
}

// DoneBy returns what a pass did at a target, by object, in the order of the first
// writes. ErrNotFound where VCS_DONE holds nothing of it.
func (b *Broker) DoneBy(ctx context.Context, target schemas.Slug, pass string) ([]Undone, error) {
	type key struct {
		t  schemas.Type
		id schemas.ID
	}
	at := map[key]int{}
	var out []Undone
	err := b.ScanDone(ctx, target, pass, time.Time{}, func(d Done) {
		k := key{d.Type, d.ID}
		i, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, Undone{d, d})
			return
		}
		if d.isApart(out[i].Last) {
			out[i].First = d
		}
		out[i].Last = d
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("pass %s: %w", pass, ErrNotFound)
	}
	return out, err
}

// PassInfo is a pass without its objects.
type PassInfo struct {
	ID      string
	Target  schemas.Slug
	Setting schemas.Slug
	// By approved it; empty for what vcsync did by itself.
	By      string
	Undoes  string
	Reverts string
	// Began and Ended are when its first and its last write were noted.
	Began, Ended time.Time
	// Acts counts the objects by act; Source are the servers that they came from.
	Acts    map[string]int
	Sources []schemas.Slug
}

// Passes returns the passes of a target that ended at that time or later, the newest
// first; of all targets for an empty one.
func (b *Broker) Passes(ctx context.Context, target schemas.Slug, since time.Time) ([]PassInfo, error) {
	type key struct {
		target schemas.Slug
		pass   string
	}
	type object struct {
		key
		t  schemas.Type
		id schemas.ID
	}
	by := map[key]*PassInfo{}
	acts := map[object]string{}
	// A pass that began earlier lasts 15 minutes, or as long as an approval is good for.
	var from time.Time
	if !since.IsZero() {
		from = since.Add(-ApprovalMost)
	}
	err := b.ScanDone(ctx, target, "", from, func(d Done) {
		k := key{d.Target, d.Pass}
		p := by[k]
		if p == nil {
			p = &PassInfo{ID: d.Pass, Target: d.Target, Setting: d.Setting, By: d.By, Undoes: d.Undoes, Reverts: d.Reverts, Began: d.At, Acts: map[string]int{}}
			by[k] = p
		}
		p.Ended = d.At
		if d.Source != "" && !slices.Contains(p.Sources, d.Source) {
			p.Sources = append(p.Sources, d.Source)
		}
		o := object{k, d.Type, d.ID}
		if acts[o] == "" {
			acts[o] = d.Act
			p.Acts[d.Act]++
		}
	})
	var out []PassInfo
	for _, p := range by {
		if !p.Ended.Before(since) {
			slices.Sort(p.Sources)
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(a, b PassInfo) int { return cmp.Or(b.Began.Compare(a.Began), cmp.Compare(a.ID, b.ID)) })
	return out, errors.Join(err)
}
