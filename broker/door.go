package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// Grant is a role, everywhere or only at some sync settings or servers.
type Grant struct {
	Role string `json:"role"`
	// Settings and Servers limit the grant to these; it holds everywhere where both are
	// empty.
	Settings []string `json:"settings,omitempty"`
	Servers  []string `json:"servers,omitempty"`
}

// Session is one sign-in. Its secret is kept nowhere, Hash is its SHA-256 in hex.
type Session struct {
	Hash string `json:"hash"`
	// Cookie tells that it is a browser's: as a cookie it is good, and as a header not.
	Cookie  bool      `json:"cookie,omitzero"`
	From    string    `json:"from,omitzero"`
	Begun   time.Time `json:"begun"`
	Used    time.Time `json:"used"` // to a minute
	Expires time.Time `json:"expires"`
}

// Token is a secret for scripts. It may do what its account may, within Limit where there
// is one. The secret is kept nowhere, Hash is its SHA-256 in hex.
type Token struct {
	Name    string    `json:"name"`
	Hash    string    `json:"hash"`
	Limit   []Grant   `json:"limit,omitempty"`
	Made    time.Time `json:"made"`
	Used    time.Time `json:"used,omitzero"` // to a minute
	Expires time.Time `json:"expires"`
}

// Account is somebody who may sign in.
type Account struct {
	Name schemas.Slug `json:"name"`
	// Hash is that of the password, with its parameters.
	Hash     string  `json:"hash"`
	Grants   []Grant `json:"grants"`
	Disabled bool    `json:"disabled,omitzero"`
	// External is the provider that vouches for the account, which has no password here;
	// "" for an account of vcsync. Title is what it calls its owner, and SignedIn when he
	// last came from there.
	External string    `json:"external,omitzero"`
	Title    string    `json:"title,omitzero"`
	SignedIn time.Time `json:"signedIn,omitzero"`
	Made     time.Time `json:"made"`
	Sessions []Session `json:"sessions,omitempty"`
	Tokens   []Token   `json:"tokens,omitempty"`
	// Failures counts the wrong passwords since the last right one, Failed is the time of
	// the last.
	Failures int       `json:"failures,omitzero"`
	Failed   time.Time `json:"failed,omitzero"`
	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// StoredAccount is an account with the revision that its next change must name.
type StoredAccount struct {
	Account
	Revision uint64
}

const (
	userPrefix = "account."
	doorKey    = "door"
	// doorFile says beside the store that there were accounts, so that a store that was
	// lost, or put back from before, opens to nobody.
	doorFile = "door-closed"
)

// GetAccount returns an account, ErrNotFound where there is none of that name.
func (b *Broker) GetAccount(ctx context.Context, name schemas.Slug) (StoredAccount, error) {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return StoredAccount{}, fmt.Errorf("account %s: %w", name, err)
	}
	return b.getAccount(ctx, kv, userPrefix+string(name))
}

func (b *Broker) getAccount(ctx context.Context, kv jetstream.KeyValue, key string) (StoredAccount, error) {
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return StoredAccount{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	if err != nil {
		return StoredAccount{}, fmt.Errorf("read %s: %w", key, err)
	}
	text, err := b.Keys.Open(key, string(e.Value()))
	if err != nil {
		return StoredAccount{}, fmt.Errorf("read %s: %w", key, err)
	}
	a := StoredAccount{Revision: e.Revision()}
	if err := json.Unmarshal([]byte(text), &a.Account); err != nil || userPrefix+string(a.Name) != key {
		return StoredAccount{}, fmt.Errorf("%s: %w", key, ErrRecord) // the text is not shown: it holds hashes
	}
	return a, nil
}

// Accounts returns all accounts by name, and the names of those that cannot be read: nobody
// can sign in with them, and they keep nothing else from working.
func (b *Broker) Accounts(ctx context.Context) (out []StoredAccount, faulty []schemas.Slug, err error) {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return nil, nil, fmt.Errorf("list the accounts: %w", err)
	}
	keys, err := kv.ListKeysFiltered(ctx, userPrefix+"*")
	if err != nil {
		return nil, nil, fmt.Errorf("list the accounts: %w", err)
	}
	var names []string
	for k := range keys.Keys() {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		a, err := b.getAccount(ctx, kv, k)
		switch {
		case errors.Is(err, ErrNotFound):
		case errors.Is(err, ErrKeyring), errors.Is(err, ErrRecord):
			faulty = append(faulty, schemas.Slug(strings.TrimPrefix(k, userPrefix)))
		case err != nil:
			return nil, nil, err
		default:
			out = append(out, a)
		}
	}
	return out, faulty, nil
}

// DropAccount forgets an account that cannot be read.
func (b *Broker) DropAccount(ctx context.Context, name schemas.Slug) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		err = kv.Delete(ctx, userPrefix+string(name))
	}
	return recordError("delete", userPrefix+string(name), err)
}

// PutAccount stores an account, under the same rule as PutServer.
func (b *Broker) PutAccount(ctx context.Context, a Account, after uint64) (uint64, error) {
	key := userPrefix + string(a.Name)
	raw, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	sealed := []byte(b.Keys.Seal(key, string(raw)))
	var rev uint64
	if after == 0 {
		rev, err = kv.Create(ctx, key, sealed)
	} else {
		rev, err = kv.Update(ctx, key, sealed, after)
	}
	return rev, recordError("store", key, err)
}

// DeleteAccount forgets an account with its sessions and tokens; after is its revision.
func (b *Broker) DeleteAccount(ctx context.Context, name schemas.Slug, after uint64) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		err = kv.Delete(ctx, userPrefix+string(name), jetstream.LastRevision(after))
	}
	return recordError("delete", userPrefix+string(name), err)
}

// dropSealedAccounts forgets the accounts that another keyring sealed: nobody can sign in
// with them, and while one is there that cannot be read, control does not start. The door
// stays closed, and who can read the data folder makes a first admin anew.
func (b *Broker) dropSealedAccounts(ctx context.Context) error {
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return err
	}
	keys, err := kv.ListKeysFiltered(ctx, userPrefix+"*")
	if err != nil {
		return err
	}
	for key := range keys.Keys() {
		e, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := b.Keys.Open(key, string(e.Value())); err == nil {
			continue
		}
		name := strings.TrimPrefix(key, userPrefix)
		r := AuditRecord{Time: time.Now().UTC(), Who: "vcsync", Action: "account.remove", Object: "account/" + name, Before: e.Revision(), Detail: "the keyring that sealed it was lost"}
		if err := b.Audit(ctx, r); err != nil {
			return err
		}
		if err := kv.Delete(ctx, key, jetstream.LastRevision(e.Revision())); err != nil {
			return err
		}
	}
	return nil
}

// DoorClosed tells whether there was ever an account here. From then on nobody comes in
// without one, whatever became of the accounts.
func (b *Broker) DoorClosed(ctx context.Context) (bool, error) {
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, doorFile)); err == nil || !errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err != nil {
		return true, fmt.Errorf("look whether there are accounts: %w", err)
	}
	_, err = kv.Get(ctx, doorKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("look whether there are accounts: %w", err)
	}
	return true, nil
}

// CloseDoor remembers, in the store and beside it, that there are accounts.
func (b *Broker) CloseDoor(ctx context.Context) error {
	at := time.Now().UTC().Format(time.RFC3339)
	if err := writeFile(filepath.Join(b.cfg.Dir, doorFile), []byte("Accounts since "+at+". With this file nobody comes in without one.\n")); err != nil {
		return fmt.Errorf("remember that there are accounts: %w", err)
	}
	kv, err := b.js.KeyValue(ctx, BucketSecret)
	if err == nil {
		_, err = kv.Create(ctx, doorKey, []byte(at))
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("remember that there are accounts: %w", err)
	}
	return nil
}

// Covers tells whether a grant holds at a sync setting between two servers, or at a
// server where setting is empty.
func (g Grant) Covers(setting string, servers ...string) bool {
	if len(g.Settings) > 0 && (setting == "" || !slices.Contains(g.Settings, setting)) {
		return false
	}
	if len(g.Servers) > 0 && (len(servers) == 0 || slices.ContainsFunc(servers, func(s string) bool { return !slices.Contains(g.Servers, s) })) {
		return false
	}
	return true
}

// Everywhere tells whether the grant has no limit.
func (g Grant) Everywhere() bool { return len(g.Settings) == 0 && len(g.Servers) == 0 }

// ParseGrant reads ROLE or ROLE@setting/NAME,server/NAME,...; whether there is such a role
// is for its caller to know.
func ParseGrant(text string) (Grant, error) {
	role, at, limited := strings.Cut(text, "@")
	g := Grant{Role: role}
	for place := range strings.SplitSeq(at, ",") {
		kind, name, _ := strings.Cut(place, "/")
		_, err := schemas.ParseSlug(name)
		switch {
		case !limited:
		case kind == "setting" && err == nil:
			g.Settings = append(g.Settings, name)
		case kind == "server" && err == nil:
			g.Servers = append(g.Servers, name)
		default:
			return Grant{}, fmt.Errorf("%.80q: want ROLE, or ROLE@setting/NAME,server/NAME", text)
		}
	}
	return g, nil
}

// String writes a grant as it is written on a command line.
func (g Grant) String() string {
	var at []string
	for _, s := range g.Settings {
		at = append(at, "setting/"+s)
	}
	for _, s := range g.Servers {
		at = append(at, "server/"+s)
	}
	if at == nil {
		return g.Role
	}
	return g.Role + "@" + strings.Join(at, ",")
}

// signedOut returns the record of an account without its sessions and tokens: one that was
// revoked after a backup is not good again because of it.
func (b *Broker) signedOut(key string, data []byte) []byte {
	text, err := b.Keys.Open(key, string(data))
	if err != nil {
		return data // it opens nowhere
	}
	var a Account
	if json.Unmarshal([]byte(text), &a) != nil {
		return data
	}
	a.Sessions, a.Tokens = nil, nil
	raw, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return data
	}
	return []byte(b.Keys.Seal(key, string(raw)))
}
