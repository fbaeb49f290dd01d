package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// ErrKeyInUse says that a key cannot be taken out of a keyring.
var ErrKeyInUse = errors.New("the key is in use")

// KeyInfo is a key of a keyring, without the key.
type KeyInfo struct {
	ID string
	// Current tells that new texts are sealed with it.
	Current bool
}

// KeyUse is how much is sealed with a key.
type KeyUse struct {
	KeyInfo
	// Known tells that the key is in the keyring of this process.
	Known bool
	// Secrets counts passwords of servers and accounts, States objects in whose newest state
	// something is sealed with it. What the history before that holds is not counted.
	Secrets, States int
}

// List returns the keys, the current one first.
func (k *Keyring) List() (out []KeyInfo) {
	for _, id := range slices.Sorted(maps.Keys(k.seals)) {
		out = append(out, KeyInfo{id, id == k.current})
	}
	slices.SortStableFunc(out, func(a, b KeyInfo) int {
		switch {
		case a.Current:
			return -1
		case b.Current:
			return 1
		}
		return 0
	})
	return out
}

// readKeyringFile reads a keyring's file as it stands.
func readKeyringFile(dir string) (path string, rec keyringRecord, err error) {
	path = filepath.Join(dir, keyringFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return path, rec, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	if _, err := parseKeyring(path, raw); err != nil {
		return path, rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return path, rec, fmt.Errorf("%w: %s is damaged", ErrKeyring, path)
	}
	return path, rec, nil
}

// changeKeyrings changes the same keyring in several folders: all are read before any is
// written, and a file is replaced whole.
func changeKeyrings(dirs []string, change func(*keyringRecord) error) error {
	type file struct {
		path string
		raw  []byte
	}
	var files []file
	var digest []byte
	for _, dir := range dirs {
		path, rec, err := readKeyringFile(dir)
		if err != nil {
			return err
		}
		if digest == nil {
			digest = rec.Digest
		}
		if !bytes.Equal(digest, rec.Digest) {
			return fmt.Errorf("%w: %s is the keyring of another installation than the one in %s", ErrKeyring, path, dirs[0])
		}
		if err := change(&rec); err != nil {
			return fmt.Errorf("%w in %s", err, path)
		}
		raw, err := json.MarshalIndent(rec, "", "  ")
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrKeyring, path, err)
		}
		files = append(files, file{path, raw})
	}
	for _, f := range files {
		if err := writeFile(f.path, f.raw); err != nil {
			return fmt.Errorf("%w: write %s: %w", ErrKeyring, f.path, err)
		}
	}
	return nil
}

// AddKey puts one new key into the keyrings of these folders, which must be those of one
// installation, and returns its id. Nothing is sealed with it before UseKey: every process
// has to know it first.
func AddKey(dirs ...string) (id string, err error) {
	random := make([]byte, 4+32)
	_, _ = rand.Read(random) // it never fails
	id = hex.EncodeToString(random[:4])
	return id, changeKeyrings(dirs, func(r *keyringRecord) error {
		if r.Seal[id] != nil {
			return fmt.Errorf("%w: there is a key %s already", ErrKeyring, id)
		}
		r.Seal[id] = random[4:]
		return nil
	})
}

// UseKey makes a key that is there the one that seals.
func UseKey(id string, dirs ...string) error {
	return changeKeyrings(dirs, func(r *keyringRecord) error {
		if r.Seal[id] == nil {
			return fmt.Errorf("%w: there is no key %.16q", ErrKeyring, id)
		}
		r.Current = id
		return nil
	})
}

// RetireKey takes a key out of the keyrings: what is sealed with it opens nowhere again.
// The key that seals is refused with ErrKeyInUse.
func RetireKey(id string, dirs ...string) error {
	return changeKeyrings(dirs, func(r *keyringRecord) error {
		switch {
		case r.Seal[id] == nil:
			return fmt.Errorf("%w: there is no key %.16q", ErrKeyring, id)
		case r.Current == id:
			return fmt.Errorf("%w: new texts are sealed with %s: use another first", ErrKeyInUse, id)
		}
		delete(r.Seal, id)
		return nil
	})
}

// sealedKeys returns the ids of the keys with which texts in raw are sealed.
func sealedKeys(raw []byte) []string {
	var out []string
	for {
		_, rest, ok := bytes.Cut(raw, []byte(sealMark))
		if !ok {
			return out
		}
		if id, _, ok := bytes.Cut(rest[:min(len(rest), 32)], []byte(":")); ok && !slices.Contains(out, string(id)) {
			out = append(out, string(id))
		}
		raw = rest
	}
}

// KeyUses counts what is sealed with each key, by reading all passwords and the newest
// state of every object.
func (b *Broker) KeyUses(ctx context.Context) ([]KeyUse, error) {
	uses := map[string]*KeyUse{}
	for _, k := range b.Keys.List() {
		uses[k.ID] = &KeyUse{KeyInfo: k, Known: true}
	}
	use := func(id string) *KeyUse {
		if uses[id] == nil {
			uses[id] = &KeyUse{KeyInfo: KeyInfo{ID: id}}
		}
		return uses[id]
	}
	err := b.eachSealed(ctx, func(e jetstream.KeyValueEntry) error {
		for _, id := range sealedKeys(e.Value()) {
			use(id).Secrets++
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the uses of keys: %w", err)
	}
	var all []Newest
	if err := b.ScanState(ctx, []string{schemas.SourceStateFilter("*")}, func(n Newest) { all = append(all, n) }, func(Unreadable) {}); err != nil {
		return nil, fmt.Errorf("count the uses of keys: %w", err)
	}
	for _, n := range all {
		if n.Digest == "" {
			continue // deleted
		}
		ev, _, err := b.NewestOf(ctx, n.Key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count the uses of keys: %w", err)
		}
		for _, id := range sealedKeys(ev.Object.Body) {
			use(id).States++
		}
	}
	var out []KeyUse
	for _, id := range slices.Sorted(maps.Keys(uses)) {
		out = append(out, *uses[id])
	}
	return out, nil
}

// eachSealed goes over the records of VCS_SEC that hold sealed text.
func (b *Broker) eachSealed(ctx context.Context, each func(jetstream.KeyValueEntry) error) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return err
	}
	keys, err := kv.ListKeys(ctx)
	if err != nil {
		return err
	}
	var names []string
	for k := range keys.Keys() {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, name := range names {
		e, err := kv.Get(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !IsSealed(string(e.Value())) {
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// Rewrap seals the passwords of servers and the accounts with the key that seals now, where
// they were sealed with another. It returns how many it sealed anew, and may be repeated
// after any error.
func (b *Broker) Rewrap(ctx context.Context) (n int, err error) {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return 0, fmt.Errorf("seal the passwords anew: %w", err)
	}
	var closed []error
	err = b.eachSealed(ctx, func(e jetstream.KeyValueEntry) error {
		for try := 0; ; try++ {
			if strings.HasPrefix(string(e.Value()), sealMark+b.Keys.current+":") {
				return nil
			}
			text, err := b.Keys.Open(e.Key(), string(e.Value()))
			if err != nil {
				closed = append(closed, fmt.Errorf("%s: %w", e.Key(), err))
				return nil
			}
			_, err = kv.Update(ctx, e.Key(), []byte(b.Keys.Seal(e.Key(), text)), e.Revision())
			if err == nil {
				n++
				return nil
			}
			if err = recordError("seal anew", e.Key(), err); !errors.Is(err, ErrConflict) || try == 9 {
				return err
			}
			if e, err = kv.Get(ctx, e.Key()); errors.Is(err, jetstream.ErrKeyNotFound) { // it is gone meanwhile
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	if err = errors.Join(append(closed, err)...); err != nil {
		return n, fmt.Errorf("seal the passwords anew: %w", err)
	}
	return n, nil
}

// KeyringOf returns when the keyring in a folder was made, and its keys.
func KeyringOf(dir string) (created time.Time, keys []KeyInfo, err error) {
	path, rec, err := readKeyringFile(dir)
	if err != nil {
		return created, nil, err
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return created, nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	k, err := parseKeyring(path, raw)
	if err != nil {
		return created, nil, err
	}
	return rec.Created, k.List(), nil
}
