package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// StoredServer is a server with the revision that its next change must name.
type StoredServer struct {
	schemas.Server
	Revision uint64
}

// StoredSetting is a sync setting with the revision that its next change must name.
type StoredSetting struct {
	schemas.Setting
	Revision uint64
}

// Snapshot is all servers, settings and runs at one moment.
type Snapshot struct {
	// Revision grows with every change.
	Revision uint64
	Servers  map[schemas.Slug]StoredServer
	Settings map[schemas.Slug]StoredSetting
	// Runs holds the newest run of each setting that ever had one, by setting; the
	// setting may be gone.
	Runs map[schemas.Slug]StoredRun
	// Versions holds the VisualCron version that each server said last, in its own words.
	Versions map[schemas.Slug]string
	// Listed holds, by source and type, the revision that was known when a listing began
	// that was complete and published: see Awaits.
	Listed map[schemas.Slug]map[schemas.Type]uint64
	// SafeMode is the zero record, which is off, where there is none.
	SafeMode StoredSafeMode
	// Verdicts holds, by setting, what people decided about deletions at its target.
	Verdicts map[schemas.Slug]Verdicts
	// Unreadable names the records that this version does not understand. They are
	// left as they are, and what they say is not acted on.
	Unreadable map[string]error
}

func newSnapshot() Snapshot {
	return Snapshot{Servers: map[schemas.Slug]StoredServer{}, Settings: map[schemas.Slug]StoredSetting{}, Runs: map[schemas.Slug]StoredRun{}, Versions: map[schemas.Slug]string{}, Listed: map[schemas.Slug]map[schemas.Type]uint64{}, Verdicts: map[schemas.Slug]Verdicts{}, Unreadable: map[string]error{}}
}

// Clone returns a copy that changes to the original do not reach.
func (s Snapshot) Clone() Snapshot {
	s.Servers, s.Settings, s.Runs, s.Versions, s.Unreadable = maps.Clone(s.Servers), maps.Clone(s.Settings), maps.Clone(s.Runs), maps.Clone(s.Versions), maps.Clone(s.Unreadable)
	s.Listed, s.Verdicts = maps.Clone(s.Listed), maps.Clone(s.Verdicts)
	return s
}

// Since returns what schemas.Setting.Since has to be of a setting that is stored over the
// one in the snapshot, or as a new one.
func (s Snapshot) Since(v schemas.Setting) map[schemas.Type]uint64 {
	if !v.Active {
		return nil
	}
	out := map[schemas.Type]uint64{}
	old := s.Settings[v.ID]
	for _, t := range v.TakenTypes() {
		if since := old.since(t); !old.Active || old.Source != v.Source || !old.Rules[t].Takes() {
			out[t] = s.Revision
		} else if since > 0 {
			out[t] = since
		}
	}
	return out
}

// Awaits returns the types that a setting takes and that were not listed at its source
// since it became active or began to take them, with the revision since then: what was
// captured of them may be long gone there, because nobody followed it meanwhile.
func (s Snapshot) Awaits(v StoredSetting) map[schemas.Type]uint64 {
	if !v.Active {
		return nil
	}
	var out map[schemas.Type]uint64
	for _, t := range v.TakenTypes() {
		if since := v.since(t); since > 0 && s.Listed[v.Source][t] <= since {
			if out == nil {
				out = map[schemas.Type]uint64{}
			}
			out[t] = since
		}
	}
	return out
}

// since returns the revision since which the setting takes a type, 0 for long ago. It was
// stored after that, so a later one is of another numbering, of a store that was made
// anew: no listing would ever come up to it.
func (v StoredSetting) since(t schemas.Type) uint64 {
	if v.Revision == 0 {
		return v.Since[t]
	}
	return min(v.Since[t], max(v.Revision-1, 1))
}

// CapturesValues tells whether a source is captured with the values of its user
// variables: one of its settings asks for them. One that is off does too: a run of it, or
// switching it on and off, would else make every variable a new version each time.
func (s Snapshot) CapturesValues(source schemas.Slug) bool {
	for _, v := range s.Settings {
		if v.Source == source && v.VariableValues && v.Rules[schemas.Variable].Takes() {
			return true
		}
	}
	return false
}

const (
	serverPrefix   = "server."
	settingPrefix  = "setting."
	identityPrefix = "identity."
	versionPrefix  = "visualcron."
	listedPrefix   = "listed."
	passwordPrefix = "password."
	hintPrefix     = "hint."
)

func (s *Snapshot) take(e jetstream.KeyValueEntry) {
	s.Revision = max(s.Revision, e.Revision())
	gone := e.Operation() != jetstream.KeyValuePut
	delete(s.Unreadable, e.Key())
	var err error
	if name, ok := strings.CutPrefix(e.Key(), serverPrefix); ok {
		delete(s.Servers, schemas.Slug(name))
		if !gone {
			var v schemas.Server
			if v, err = schemas.ParseServer(e.Value()); err == nil && string(v.ID) != name {
				err = fmt.Errorf("%w: it says it is %q", ErrRecord, v.ID)
			}
			if err == nil {
				s.Servers[v.ID] = StoredServer{v, e.Revision()}
			}
		}
	}
	if name, ok := strings.CutPrefix(e.Key(), settingPrefix); ok {
		delete(s.Settings, schemas.Slug(name))
		if !gone {
			var v schemas.Setting
			if v, err = schemas.ParseSetting(e.Value()); err == nil && string(v.ID) != name {
				err = fmt.Errorf("%w: it says it is %q", ErrRecord, v.ID)
			}
			if err == nil {
				s.Settings[v.ID] = StoredSetting{v, e.Revision()}
			}
		}
	}
	if name, ok := strings.CutPrefix(e.Key(), runPrefix); ok {
		delete(s.Runs, schemas.Slug(name))
		if !gone {
			var v StoredRun
			if v, err = parseRun(e); err == nil {
				s.Runs[v.Setting] = v
			}
		}
	}
	if name, ok := strings.CutPrefix(e.Key(), versionPrefix); ok {
		delete(s.Versions, schemas.Slug(name))
		if !gone {
			s.Versions[schemas.Slug(name)] = string(e.Value())
		}
	}
	if name, ok := strings.CutPrefix(e.Key(), listedPrefix); ok {
		delete(s.Listed, schemas.Slug(name))
		if !gone {
			var v map[string]uint64
			if err = json.Unmarshal(e.Value(), &v); err == nil {
				s.Listed[schemas.Slug(name)] = listedOf(v, e.Revision())
			}
		}
	}
	if name, ok := strings.CutPrefix(e.Key(), verdictPrefix); ok {
		delete(s.Verdicts, schemas.Slug(name))
		if !gone {
			var v Verdicts
			if v, err = parseVerdicts(e); err == nil {
				s.Verdicts[v.Setting] = v
			}
		}
	}
	if e.Key() == safeModeKey {
		if s.SafeMode = (StoredSafeMode{}); !gone {
			s.SafeMode, err = parseSafeMode(e)
		}
	}
	if err != nil {
		s.Unreadable[e.Key()] = err
	}
}

// listedOf returns what a record of that revision says was listed. Types of a newer
// release stay as they are. A listing began before its record, so a later revision is of
// another numbering and proves nothing.
func listedOf(v map[string]uint64, revision uint64) map[schemas.Type]uint64 {
	out := make(map[schemas.Type]uint64, len(v))
	for t, at := range v {
		if at < revision {
			out[schemas.Type(t)] = at
		}
	}
	return out
}

// WatchConfig calls each with a snapshot of all servers, settings and runs, first of
// what is there and then after every change, until ctx ends; also of all anew when the
// connection to the broker was lost and is back.
// It returns nil when ctx ended, and an error only where the watch cannot begin.
func (b *Broker) WatchConfig(ctx context.Context, each func(Snapshot)) error {
	for began := false; ; {
		snap, initial := newSnapshot(), true
		err := b.watch(ctx, BucketConfig, ">", func(e jetstream.KeyValueEntry) error {
			snap.take(e)
			if !initial && (strings.HasPrefix(e.Key(), serverPrefix) || strings.HasPrefix(e.Key(), settingPrefix) || strings.HasPrefix(e.Key(), runPrefix) || strings.HasPrefix(e.Key(), versionPrefix) || strings.HasPrefix(e.Key(), listedPrefix) || strings.HasPrefix(e.Key(), verdictPrefix) || e.Key() == safeModeKey) {
				each(snap.Clone())
			}
			return nil
		}, func() bool {
			began, initial = true, false
			each(snap.Clone())
			return false
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !began:
			return err
		}
		b.log.InfoContext(ctx, "the settings are watched anew", "reason", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// watchAgain is the time between two tries to watch the settings, once they were.
const watchAgain = 250 * time.Millisecond

// Snapshot returns all servers and settings as they are now.
func (b *Broker) Snapshot(ctx context.Context) (Snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var out *Snapshot
	err := b.WatchConfig(ctx, func(s Snapshot) {
		if out == nil {
			out = &s
		}
		cancel()
	})
	if out == nil {
		return Snapshot{}, errors.Join(err, ctx.Err())
	}
	return *out, nil
}

// PutServer stores a server. With after 0 it must be new, else its revision must
// be after; ErrConflict otherwise. It returns the new revision.
func (b *Broker) PutServer(ctx context.Context, s schemas.Server, after uint64) (uint64, error) {
	raw, err := s.Encode()
	if err != nil {
		return 0, err
	}
	return b.putRecord(ctx, serverPrefix+string(s.ID), raw, after)
}

// PutSetting stores a sync setting, under the same rule as PutServer.
func (b *Broker) PutSetting(ctx context.Context, s schemas.Setting, after uint64) (uint64, error) {
	raw, err := s.Encode()
	if err != nil {
		return 0, err
	}
	return b.putRecord(ctx, settingPrefix+string(s.ID), raw, after)
}

// DeleteServer forgets a server, its password and its hint token; after is its
// revision.
func (b *Broker) DeleteServer(ctx context.Context, id schemas.Slug, after uint64) error {
	if err := b.deleteRecord(ctx, serverPrefix+string(id), after); err != nil {
		return err
	}
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		err = errors.Join(kv.Delete(ctx, passwordPrefix+string(id)), kv.Delete(ctx, hintPrefix+string(id)))
	}
	if err != nil {
		return fmt.Errorf("forget the password and the hint token of %s: %w", id, err)
	}
	return nil
}

// DeleteSetting forgets a sync setting; after is its revision. Nothing at its
// target is deleted.
func (b *Broker) DeleteSetting(ctx context.Context, id schemas.Slug, after uint64) error {
	return b.deleteRecord(ctx, settingPrefix+string(id), after)
}

func (b *Broker) putRecord(ctx context.Context, key string, raw []byte, after uint64) (uint64, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	var rev uint64
	if after == 0 {
		rev, err = kv.Create(ctx, key, raw)
	} else {
		rev, err = kv.Update(ctx, key, raw, after)
	}
	return rev, recordError("store", key, err)
}

func (b *Broker) deleteRecord(ctx context.Context, key string, after uint64) error {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err == nil {
		err = kv.Delete(ctx, key, jetstream.LastRevision(after))
	}
	return recordError("delete", key, err)
}

func recordError(op, key string, err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyExists), errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return fmt.Errorf("%s %s: %w", op, key, ErrConflict)
	}
	return fmt.Errorf("%s %s: %w", op, key, err)
}

// Password returns the account password of a server, ErrNotFound where none is
// stored.
func (b *Broker) Password(ctx context.Context, id schemas.Slug) (string, error) {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return "", fmt.Errorf("password of %s: %w", id, err)
	}
	e, err := kv.Get(ctx, passwordPrefix+string(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", fmt.Errorf("password of %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("password of %s: %w", id, err)
	}
	return b.Keys.Open(passwordPrefix+string(id), string(e.Value()))
}

// SetPassword stores the account password of a server, sealed.
func (b *Broker) SetPassword(ctx context.Context, id schemas.Slug, password string) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		_, err = kv.Put(ctx, passwordPrefix+string(id), []byte(b.Keys.Seal(passwordPrefix+string(id), password)))
	}
	if err != nil {
		return fmt.Errorf("store the password of %s: %w", id, err)
	}
	return nil
}

// DeletePassword forgets the account password of a server; there need be none.
func (b *Broker) DeletePassword(ctx context.Context, id schemas.Slug) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		err = kv.Delete(ctx, passwordPrefix+string(id))
	}
	if err != nil {
		return fmt.Errorf("forget the password of %s: %w", id, err)
	}
	return nil
}

// HintToken returns the SHA-256 of the token with which a server's hints come,
// ErrNotFound where there is none. The token itself is kept nowhere.
func (b *Broker) HintToken(ctx context.Context, id schemas.Slug) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return sum, fmt.Errorf("hint token of %s: %w", id, err)
	}
	e, err := kv.Get(ctx, hintPrefix+string(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return sum, fmt.Errorf("hint token of %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return sum, fmt.Errorf("hint token of %s: %w", id, err)
	}
	raw, err := hex.DecodeString(string(e.Value()))
	if err != nil || len(raw) != len(sum) {
		return sum, fmt.Errorf("hint token of %s: %w", id, ErrRecord)
	}
	return [sha256.Size]byte(raw), nil
}

// SetHintToken stores the SHA-256 of a server's new hint token in place of the one
// before it.
func (b *Broker) SetHintToken(ctx context.Context, id schemas.Slug, sum [sha256.Size]byte) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		_, err = kv.Put(ctx, hintPrefix+string(id), []byte(hex.EncodeToString(sum[:])))
	}
	if err != nil {
		return fmt.Errorf("store the hint token of %s: %w", id, err)
	}
	return nil
}

// DeleteHintToken makes a server's hint token good for nothing; there need be none.
func (b *Broker) DeleteHintToken(ctx context.Context, id schemas.Slug) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		err = kv.Delete(ctx, hintPrefix+string(id))
	}
	if err != nil {
		return fmt.Errorf("forget the hint token of %s: %w", id, err)
	}
	return nil
}

// Identity returns which VisualCron server a name stands for, "" where that is not
// known yet.
func (b *Broker) Identity(ctx context.Context, id schemas.Slug) (string, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", id, err)
	}
	e, err := kv.Get(ctx, identityPrefix+string(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", id, err)
	}
	return string(e.Value()), nil
}

// SameServer returns the name of another server on record that stands for the same
// VisualCron server, "" where there is none. Under two names one server could be
// its own target.
func (b *Broker) SameServer(ctx context.Context, id schemas.Slug, identity string) (schemas.Slug, error) {
	snap, err := b.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	for other := range snap.Servers {
		if other == id {
			continue
		}
		have, err := b.Identity(ctx, other)
		if err != nil {
			return "", err
		}
		if have == identity {
			return other, nil
		}
	}
	return "", nil
}

// BindIdentity remembers which VisualCron server a name stands for. It returns the
// identity that the name is bound to: the given one, or an earlier one, which
// outlives the removal of the server because the name's history does too.
func (b *Broker) BindIdentity(ctx context.Context, id schemas.Slug, identity string) (string, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", id, err)
	}
	_, err = kv.Create(ctx, identityPrefix+string(id), []byte(identity))
	if err == nil {
		return identity, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return "", fmt.Errorf("identity of %s: %w", id, err)
	}
	return b.Identity(ctx, id)
}

// SetListed stores, by type, the revision that was known when a source's last complete
// and published listing began. It is written where a setting waits for it (see Awaits),
// and outlives the process that listed: a setting that was active all along goes on after
// a restart, whether or not its source answers then.
func (b *Broker) SetListed(ctx context.Context, source schemas.Slug, listed map[schemas.Type]uint64) error {
	raw, err := json.Marshal(listed, json.Deterministic(true))
	if err == nil {
		var kv jetstream.KeyValue
		if kv, err = b.js.KeyValue(ctx, BucketConfig); err == nil {
			_, err = kv.Put(ctx, listedPrefix+string(source), raw)
		}
	}
	if err != nil {
		return fmt.Errorf("store that %s was listed: %w", source, err)
	}
	return nil
}

// SetVersion stores the VisualCron version that a server says it has, where another is
// on record. It lies beside the settings and not in events: an object that nobody edits
// gets no new event when its server is updated, and would be known by the old version
// for ever.
func (b *Broker) SetVersion(ctx context.Context, id schemas.Slug, version string) error {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return fmt.Errorf("version of %s: %w", id, err)
	}
	e, err := kv.Get(ctx, versionPrefix+string(id))
	switch {
	case err == nil && string(e.Value()) == version:
		return nil
	case err != nil && !errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("version of %s: %w", id, err)
	}
	if _, err := kv.Put(ctx, versionPrefix+string(id), []byte(version)); err != nil {
		return fmt.Errorf("store the version of %s: %w", id, err)
	}
	return nil
}
