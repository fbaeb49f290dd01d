package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	airlockPrefix = "airlock."
	accountPrefix = "account."
	// airlockNamed is how many objects of an airlock are kept with their names,
	// airlockMost how many at all: a record has to fit in a message.
	airlockNamed = 2000
	airlockMost  = 40000
)

// Airlock holds the deletions of one type that wait at a source, and what people
// decided about them (G4). The source's producer writes it, and control the decisions;
// each names the revision that it read. It is kept as long as one of its objects is gone
// at the source, however long nobody looks: what was held once is not believed later
// because some of it was decided.
type Airlock struct {
	Source schemas.Slug `json:"source"`
	Type   schemas.Type `json:"type"`
	// Batch names the objects that wait for a decision: another set of them, or another
	// version of one, is another batch. Empty where all are decided.
	Batch string `json:"batch,omitzero"`
	// Class is why they wait, in a word, and Why for people.
	Class string `json:"class,omitzero"`
	Why   string `json:"why,omitzero"`
	// Live is how many objects of the type there were, and Limit how many deletions
	// would have been believed.
	Live  int `json:"live"`
	Limit int `json:"limit"`
	// Since is when the first of them was held.
	Since time.Time `json:"since"`
	// Objects are sorted by token. Unlisted counts those beyond the room of a record:
	// they wait too.
	Objects   []AirlockObject   `json:"objects"`
	Unlisted  int               `json:"unlisted,omitzero"`
	Decisions []AirlockDecision `json:"decisions,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
	// Revision is the record's own, for the next change of it.
	Revision uint64 `json:"-"`
}

// AirlockObject is an object that is gone at the source, in the version that the stream
// still has.
type AirlockObject struct {
	Token   schemas.Token   `json:"token"`
	Version schemas.Version `json:"version"`
	// ID, Name and Group are those of the first 2,000 only.
	ID    schemas.ID `json:"id,omitzero"`
	Name  string     `json:"name,omitzero"`
	Group string     `json:"group,omitzero"`
	// Itself tells of a job that deletes itself when it has run.
	Itself bool `json:"itself,omitzero"`
	// Decision is the Number of what was decided about it, 0 where nothing was.
	Decision int `json:"decision,omitzero"`
}

// AirlockDecision is what a person decided about objects of a batch.
type AirlockDecision struct {
	Number int `json:"number"`
	// Batch is the one that the person saw.
	Batch   string  `json:"batch"`
	Verdict Verdict `json:"verdict"`
	// Who and From are as in AuditRecord.
	Who    string    `json:"who"`
	From   string    `json:"from,omitzero"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	// Since is when the first of the batch was held; Decide gives it. Zero where an older
	// release decided.
	Since time.Time `json:"since,omitzero"`
}

// Verdict is a decision about a deletion that is held.
type Verdict string

// The verdicts. Of an object without one, nothing is decided.
const (
	// Approved: the deletion is published if two fresh complete listings still lack the
	// object, and its version is still the one that the person saw.
	Approved Verdict = "approved"
	// Rejected: the object stays as it is in the stream and at the targets, and counts in
	// no measure, until the source has it again.
	Rejected Verdict = "rejected"
)

// Of returns what was decided about an object, and false where nothing was.
func (a Airlock) Of(o AirlockObject) (AirlockDecision, bool) {
	i := slices.IndexFunc(a.Decisions, func(d AirlockDecision) bool { return d.Number == o.Decision })
	if o.Decision == 0 || i < 0 {
		return AirlockDecision{}, false
	}
	return a.Decisions[i], true
}

// Waits tells whether nothing is decided about an object.
func (a Airlock) Waits(o AirlockObject) bool {
	_, decided := a.Of(o)
	return !decided
}

// Find returns the place of an object in a.Objects, and false where it is not there.
func (a Airlock) Find(token schemas.Token) (int, bool) {
	return slices.BinarySearchFunc(a.Objects, token, func(o AirlockObject, t schemas.Token) int { return strings.Compare(string(o.Token), string(t)) })
}

// Count returns how many objects have a verdict; with "", how many have none.
func (a Airlock) Count(v Verdict) int {
	n := 0
	if v == "" {
		n = a.Unlisted
	}
	for _, o := range a.Objects {
		if d, _ := a.Of(o); d.Verdict == v {
			n++
		}
	}
	return n
}

// In tells whether an object belongs to a batch: it waits in it, or was decided in it.
func (a Airlock) In(batch string, o AirlockObject) bool {
	if d, ok := a.Of(o); ok {
		return d.Batch == batch
	}
	return a.Batch == batch
}

// Decide gives a verdict, in place of an earlier one, to those objects of d.Batch that
// which takes, brings the record to its normal form and returns how many they were. The
// number of d and its Since are given here.
func (a *Airlock) Decide(d AirlockDecision, which func(AirlockObject) bool) int {
	d.Number = 1
	for _, x := range a.Decisions {
		d.Number = max(d.Number, x.Number+1)
	}
	var chosen []int
	for i, o := range a.Objects {
		if had, _ := a.Of(o); a.In(d.Batch, o) && had.Verdict != d.Verdict && which(o) {
			chosen = append(chosen, i)
			since := had.Since
			if had.Number == 0 {
				since = a.Since
			}
			if d.Since.IsZero() || since.Before(d.Since) {
				d.Since = since
			}
		}
	}
	a.Objects, a.Decisions = slices.Clone(a.Objects), append(slices.Clone(a.Decisions), d)
	for _, i := range chosen {
		a.Objects[i].Decision = d.Number
	}
	a.Normalize()
	return len(chosen)
}

// Normalize sorts the objects, keeps names and places within their bounds, drops what
// no object needs any more, and names the batch anew.
func (a *Airlock) Normalize() {
	slices.SortFunc(a.Objects, func(x, y AirlockObject) int { return strings.Compare(string(x.Token), string(y.Token)) })
	if over := len(a.Objects) - airlockMost; over > 0 {
		a.Objects, a.Unlisted = a.Objects[:airlockMost], a.Unlisted+over
	}
	for i := airlockNamed; i < len(a.Objects); i++ {
		a.Objects[i].ID, a.Objects[i].Name, a.Objects[i].Group = "", "", ""
	}
	used := map[int]bool{}
	h, waits := sha256.New(), a.Unlisted > 0
	fmt.Fprintf(h, "%s %s %d\n", a.Source, a.Type, a.Unlisted)
	for i, o := range a.Objects {
		if _, ok := a.Of(o); !ok {
			a.Objects[i].Decision, waits = 0, true
			fmt.Fprintf(h, "%s %s\n", o.Token, o.Version)
		}
		used[a.Objects[i].Decision] = true
	}
	a.Decisions = slices.DeleteFunc(a.Decisions, func(d AirlockDecision) bool { return !used[d.Number] })
	if a.Batch = ""; waits {
		a.Batch = hex.EncodeToString(h.Sum(nil))[:12]
	} else {
		a.Class, a.Why = "", ""
	}
}

// Key returns where the record lies.
func (a Airlock) Key() string { return airlockPrefix + string(a.Source) + "." + string(a.Type) }

// PutAirlock stores a record, in its normal form, under the same rule as PutParked. It
// returns the new revision when the record is on disk.
func (b *Broker) PutAirlock(ctx context.Context, a Airlock) (uint64, error) {
	raw, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", a.Key(), err)
	}
	return b.putRecord(ctx, a.Key(), raw, a.Revision)
}

// DeleteAirlock removes a record of that revision: nothing of the type waits any more.
func (b *Broker) DeleteAirlock(ctx context.Context, a Airlock) error {
	return b.deleteRecord(ctx, a.Key(), a.Revision)
}

// GetAirlock returns what waits of a type at a source, ErrNotFound where nothing does.
func (b *Broker) GetAirlock(ctx context.Context, source schemas.Slug, t schemas.Type) (Airlock, error) {
	key := Airlock{Source: source, Type: t}.Key()
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return Airlock{}, fmt.Errorf("read %s: %w", key, err)
	}
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Airlock{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	if err != nil {
		return Airlock{}, fmt.Errorf("read %s: %w", key, err)
	}
	return parseAirlock(e)
}

// Airlocks returns what waits at a source, or at all for an empty one.
func (b *Broker) Airlocks(ctx context.Context, source schemas.Slug) ([]Airlock, error) {
	keys := airlockPrefix + ">"
	if source != "" {
		keys = airlockPrefix + string(source) + ".*"
	}
	var out []Airlock
	err := b.watch(ctx, BucketConfig, keys, func(e jetstream.KeyValueEntry) error {
		if e.Operation() != jetstream.KeyValuePut {
			return nil
		}
		a, err := parseAirlock(e)
		if err != nil {
			b.log.Warn("a record of held deletions is left alone", "key", e.Key(), "error", err)
			return nil
		}
		out = append(out, a)
		return nil
	}, func() bool { return true })
	return out, err
}

func parseAirlock(e jetstream.KeyValueEntry) (Airlock, error) {
	var a Airlock
	if err := json.Unmarshal(e.Value(), &a); err != nil {
		return Airlock{}, fmt.Errorf("%w: %s: %w", ErrRecord, e.Key(), err)
	}
	if a.Key() != e.Key() {
		return Airlock{}, fmt.Errorf("%w: %s says it is %s", ErrRecord, e.Key(), a.Key())
	}
	a.Revision = e.Revision()
	return a, nil
}

// SourceEvidence is what the listings of a source rested on. Its producer writes it, so
// that another one, or the same after a restart, can tell what is otherwise now.
type SourceEvidence struct {
	// Accounts holds, by type, the account with which a listing lacked nothing that was
	// not deleted.
	Accounts map[schemas.Type]SeenBy `json:"accounts"`
	// Ran holds the jobs that ran last, and when the server says that they did; Local
	// tells that these are its local times.
	Ran   map[schemas.ID]time.Time `json:"ran,omitzero"`
	Local bool                     `json:"local,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// SeenBy is an account as its server tells of it.
type SeenBy struct {
	// User is the account's configured name, Name the server's word for it.
	User string `json:"user"`
	Name string `json:"name,omitzero"`
	// Told tells that the server said something of the account, and Rights is a hash of
	// what it may then.
	Told   bool   `json:"told,omitzero"`
	Rights string `json:"rights,omitzero"`
}

// SourceEvidence returns what is on record of a source, the zero value where nothing is.
// The error wraps ErrRecord where it cannot be understood.
func (b *Broker) SourceEvidence(ctx context.Context, source schemas.Slug) (SourceEvidence, error) {
	var v SourceEvidence
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return v, fmt.Errorf("evidence of %s: %w", source, err)
	}
	e, err := kv.Get(ctx, accountPrefix+string(source))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("evidence of %s: %w", source, err)
	}
	if err := json.Unmarshal(e.Value(), &v); err != nil {
		return SourceEvidence{}, fmt.Errorf("%w: evidence of %s: %w", ErrRecord, source, err)
	}
	return v, nil
}

// SetSourceEvidence stores what the listings of a source rest on.
func (b *Broker) SetSourceEvidence(ctx context.Context, source schemas.Slug, v SourceEvidence) error {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err == nil {
		var kv jetstream.KeyValue
		if kv, err = b.js.KeyValue(ctx, BucketConfig); err == nil {
			_, err = kv.Put(ctx, accountPrefix+string(source), raw)
		}
	}
	if err != nil {
		return fmt.Errorf("store the evidence of %s: %w", source, err)
	}
	return nil
}

// HadBefore tells whether an object had that digest in an event of VCS_EV before the
// one with the sequence, as far as its history goes back.
func (b *Broker) HadBefore(ctx context.Context, key schemas.Key, digest schemas.Digest, before uint64) (bool, error) {
	had := false
	err := b.scan(ctx, StreamEvents, []string{key.EventFilter()}, func(m jetstream.Msg, seq uint64) {
		if h, err := schemas.ParseHead(m.Subject(), m.Headers()); err == nil && seq < before && h.Digest == digest && h.Kind != schemas.Deleted {
			had = true
		}
	})
	return had, err
}
