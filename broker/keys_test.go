package broker_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// TestAKeyIsChanged adds a key, uses it, seals anew and retires the one before: everything
// opens all the time, and nothing but what the old key sealed is lost with it.
func TestAKeyIsChanged(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	b := brokertest.Open(t, dir)
	if _, err := b.PutServer(ctx, schemas.Server{ID: "a", Connector: "bridge", Address: "http://x:1", User: "u"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.SetPassword(ctx, "a", "pass-a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutAccount(ctx, broker.Account{Name: "root", Hash: "h", Grants: []broker.Grant{{Role: "admin"}}, Made: time.Now().UTC()}, 0); err != nil {
		t.Fatal(err)
	}
	publish := func(id schemas.ID, context string) {
		t.Helper()
		sealed := b.Keys.Seal(context, "secret of "+string(id))
		body, err := json.Marshal(map[string]string{"Id": string(id), "Password": sealed})
		if err != nil {
			t.Fatal(err)
		}
		e := schemas.Event{Source: "a", Kind: schemas.Added, Digest: schemas.Digest(strings.Repeat("a", 64)), Time: time.Now(), Version: schemas.Version{Epoch: 1, Revision: 1},
			Object: schemas.Object{Type: schemas.Job, ID: id, Name: "x", Body: body, Sealed: []string{"/Password"}}}
		stored, err := b.Publish(ctx, []broker.Change{{Event: e}})
		if err != nil || stored[0].Err != nil {
			t.Fatal(err, stored)
		}
		if err := b.WaitState(ctx); err != nil {
			t.Fatal(err)
		}
	}
	one, two := schemas.ID("5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60"), schemas.ID("5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a61")
	publish(one, "c")
	uses := func(want ...string) {
		t.Helper()
		got, err := b.KeyUses(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, u := range got {
			raw, _ := json.Marshal([]any{u.Current, u.Known, u.Secrets, u.States})
			words = append(words, u.ID+string(raw))
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(words, " "), w) {
				t.Errorf("uses %v, want %s", words, w)
			}
		}
	}
	old := b.Keys.List()[0].ID
	uses(old + "[true,true,2,1]")

	again := func() {
		t.Helper()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = brokertest.Open(t, dir)
		if pw, err := b.Password(ctx, "a"); err != nil || pw != "pass-a" {
			t.Fatalf("%q, error %v", pw, err)
		}
		if _, err := b.GetAccount(ctx, "root"); err != nil {
			t.Fatal(err)
		}
	}
	id, err := broker.AddKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "keyring.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	again()
	uses(old+"[true,true,2,1]", id+"[false,true,0,0]")
	if n, err := b.Rewrap(ctx); err != nil || n != 0 {
		t.Errorf("%d sealed anew though the key is the same, error %v", n, err)
	}
	if err := broker.UseKey(id, dir); err != nil {
		t.Fatal(err)
	}
	again()
	publish(two, "c")
	uses(old+"[false,true,2,1]", id+"[true,true,0,1]")
	if n, err := b.Rewrap(ctx); err != nil || n != 2 {
		t.Errorf("%d sealed anew, error %v", n, err)
	}
	again()
	uses(old+"[false,true,0,1]", id+"[true,true,2,1]")
	if err := broker.RetireKey(id, dir); !errors.Is(err, broker.ErrKeyInUse) {
		t.Errorf("the key that seals is retired: %v", err)
	}
	if err := broker.RetireKey("00000000", dir); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("%v", err)
	}
	ev, _, err := b.NewestOf(ctx, schemas.Event{Source: "a", Object: schemas.Object{Type: schemas.Job, ID: one}}.Key())
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]string
	if err := json.Unmarshal(ev.Object.Body, &body); err != nil {
		t.Fatal(err)
	}
	if text, err := b.Keys.Open("c", body["Password"]); err != nil || text != "secret of "+string(one) {
		t.Errorf("%q, error %v", text, err)
	}
	if err := broker.RetireKey(old, dir); err != nil {
		t.Fatal(err)
	}
	again()
	uses(old+"[false,false,0,1]", id+"[true,true,2,1]")
	if _, err := b.Keys.Open("c", body["Password"]); !errors.Is(err, broker.ErrKeyring) || !strings.Contains(err.Error(), old) {
		t.Errorf("what the retired key sealed: %v", err)
	}

	// A key that is lost keeps back only what was sealed with it.
	key := func() string {
		t.Helper()
		id, err := broker.AddKey(dir)
		if err == nil {
			err = broker.UseKey(id, dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if err := b.SetPassword(ctx, "b", "pass-b"); err != nil {
		t.Fatal(err)
	}
	lost := key()
	again()
	if err := b.SetPassword(ctx, "a", "pass-a"); err != nil {
		t.Fatal(err)
	}
	last := key()
	if err := broker.RetireKey(lost, dir); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	if n, err := b.Rewrap(ctx); n != 2 || err == nil || !strings.Contains(err.Error(), lost) {
		t.Errorf("with a key that is lost: %d sealed anew, error %v", n, err)
	}
	uses(lost+"[false,false,1,0]", last+"[true,true,2,0]")
}

// TestKeyringsOfOneInstallation changes them together, or none of them.
func TestKeyringsOfOneInstallation(t *testing.T) {
	one, copied, other := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{one, other} {
		if _, err := broker.OpenKeyring(dir); err != nil {
			t.Fatal(err)
		}
	}
	read := func(dir string) string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "keyring.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if err := os.WriteFile(filepath.Join(copied, "keyring.json"), []byte(read(one)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := read(one)
	if _, err := broker.AddKey(one, other); !errors.Is(err, broker.ErrKeyring) || !strings.Contains(err.Error(), "another installation") {
		t.Errorf("%v", err)
	}
	if _, err := broker.AddKey(one, t.TempDir()); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("a folder without a keyring: %v", err)
	}
	if read(one) != before {
		t.Error("a refused change was made in one of them")
	}
	if _, err := broker.AddKey(one, copied); err != nil {
		t.Fatal(err)
	}
	a, b := must(broker.OpenKeyring(one)), must(broker.OpenKeyring(copied))
	text := a.Seal("c", "s")
	if got, err := b.Open("c", text); err != nil || got != "s" || len(a.List()) != 2 || len(b.List()) != 2 {
		t.Errorf("%q, error %v", got, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
