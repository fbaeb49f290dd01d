package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// Parked is an object state that cannot be applied now and needs a person or
// another object.
type Parked struct {
	Target  schemas.Slug  `json:"target"`
	Setting schemas.Slug  `json:"setting"`
	Source  schemas.Slug  `json:"source"`
	Type    schemas.Type  `json:"type"`
	Token   schemas.Token `json:"token"`
	ID      schemas.ID    `json:"id,omitzero"` // empty where the message was unreadable
	// SourceID is the object's id at its source where it is another than here: see IsOf.
	SourceID schemas.ID      `json:"sourceId,omitzero"`
	Name     string          `json:"name,omitzero"`
	Version  schemas.Version `json:"version"`
	// Class is a short word for the kind of reason; Reason is for people, Fix says
	// what to do.
	Class    string    `json:"class"`
	Reason   string    `json:"reason"`
	Fix      string    `json:"fix,omitzero"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Attempts int       `json:"attempts"`
	// NextTry is when vcsync tries again by itself; zero where only a person, a
	// newer version or another object helps.
	NextTry time.Time `json:"nextTry,omitzero"`
	// RetryAsked counts the requests of people to try again, RetryDone those that
	// were tried.
	RetryAsked int `json:"retryAsked,omitzero"`
	RetryDone  int `json:"retryDone,omitzero"`
	// Pass is the pass that paused the object, of class ClassUndone.
	Pass string `json:"pass,omitzero"`
	// Discarded is the reason a person gave for leaving this version unapplied.
	Discarded string `json:"discarded,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
	// Revision is the record's own, for the next change of it.
	Revision uint64 `json:"-"`
}

// Key returns where the record lies.
func (p Parked) Key() string {
	return string(p.Target) + "." + string(p.Type) + "." + string(p.Token)
}

// ClassUndone is the class of a record that stands for all versions of an object: a person
// undid what was written of it, and until one resumes it, it is left as it is.
const ClassUndone = "undone"

// IsPaused tells whether the record keeps every version of the object away until a person
// asks for another try.
func (p Parked) IsPaused() bool { return p.Class == ClassUndone && p.RetryAsked <= p.RetryDone }

// IsOf tells whether the record is about an object of a source, by its id there. By pins
// two objects may be looked at under one id, one after the other.
func (p Parked) IsOf(source schemas.Slug, from schemas.ID) bool {
	return p.Source == source && (p.SourceID == from || p.SourceID == "" && p.ID == from)
}

// PutParked stores a record. With p.Revision 0 there must be none, else that must
// be its revision; ErrConflict otherwise. It returns the new revision when the
// record is on disk.
func (b *Broker) PutParked(ctx context.Context, p Parked) (uint64, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return 0, fmt.Errorf("park %s: %w", p.Key(), err)
	}
	kv, err := b.js.KeyValue(ctx, BucketParked)
	if err != nil {
		return 0, fmt.Errorf("park %s: %w", p.Key(), err)
	}
	var rev uint64
	if p.Revision == 0 {
		rev, err = kv.Create(ctx, p.Key(), raw)
	} else {
		rev, err = kv.Update(ctx, p.Key(), raw, p.Revision)
	}
	return rev, recordError("park", p.Key(), err)
}

// Unpark removes a record of that revision.
func (b *Broker) Unpark(ctx context.Context, p Parked) error {
	kv, err := b.js.KeyValue(ctx, BucketParked)
	if err == nil {
		err = kv.Delete(ctx, p.Key(), jetstream.LastRevision(p.Revision))
	}
	return recordError("unpark", p.Key(), err)
}

// GetParked returns the record of an object at a target, ErrNotFound where it is
// not parked.
func (b *Broker) GetParked(ctx context.Context, target schemas.Slug, t schemas.Type, token schemas.Token) (Parked, error) {
	key := Parked{Target: target, Type: t, Token: token}.Key()
	kv, err := b.js.KeyValue(ctx, BucketParked)
	if err != nil {
		return Parked{}, fmt.Errorf("read parked %s: %w", key, err)
	}
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Parked{}, fmt.Errorf("parked %s: %w", key, ErrNotFound)
	}
	if err != nil {
		return Parked{}, fmt.Errorf("read parked %s: %w", key, err)
	}
	return parseParked(e)
}

// WatchParked calls each for every record of a target and for every change of one
// (gone for one that was removed: then only its key's parts are set), and ready
// once when all that was there has come. An empty target means all of them.
func (b *Broker) WatchParked(ctx context.Context, target schemas.Slug, each func(p Parked, gone bool), ready func() (stop bool)) error {
	keys := ">"
	if target != "" {
		keys = string(target) + ".>"
	}
	return b.watch(ctx, BucketParked, keys, func(e jetstream.KeyValueEntry) error {
		if e.Operation() != jetstream.KeyValuePut {
			if f := strings.Split(e.Key(), "."); len(f) == 3 {
				each(Parked{Target: schemas.Slug(f[0]), Type: schemas.Type(f[1]), Token: schemas.Token(f[2]), Revision: e.Revision()}, true)
			}
			return nil
		}
		p, err := parseParked(e)
		if err != nil {
			b.log.Warn("a parked record is left alone", "key", e.Key(), "error", err)
			return nil
		}
		each(p, false)
		return nil
	}, ready)
}

// ListParked returns the records of a target, or of all for an empty target.
func (b *Broker) ListParked(ctx context.Context, target schemas.Slug) ([]Parked, error) {
	var out []Parked
	err := b.WatchParked(ctx, target, func(p Parked, gone bool) {
		if !gone {
			out = append(out, p)
		}
	}, func() bool { return true })
	return out, err
}

func parseParked(e jetstream.KeyValueEntry) (Parked, error) {
	var p Parked
	if err := json.Unmarshal(e.Value(), &p); err != nil {
		return Parked{}, fmt.Errorf("%w: parked %s: %w", ErrRecord, e.Key(), err)
	}
	if p.Key() != e.Key() {
		return Parked{}, fmt.Errorf("%w: parked %s says it is %s", ErrRecord, e.Key(), p.Key())
	}
	p.Revision = e.Revision()
	return p, nil
}
