package broker_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// TestABadBackupWritesNothing cuts a backup anywhere, and alters any byte of it.
func TestABadBackupWritesNothing(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b := brokertest.Start(t)
	if _, err := b.PutServer(t.Context(), schemas.Server{ID: "one", Connector: "bridge", Address: "http://one.invalid", User: "u"}, 0); err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if _, err := b.Backup(t.Context(), &whole, "test", key.Recipient()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b.age")
	restore := func(raw []byte, dryRun bool) error {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := broker.Restore(t.Context(), broker.Config{Dir: dir, LazySync: true}, file, dryRun, key)
		if _, serr := os.Stat(dir); serr == nil {
			t.Error("something was written")
		}
		return err
	}
	if err := restore(whole.Bytes(), true); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < whole.Len(); i += 7 {
		bad := bytes.Clone(whole.Bytes())
		bad[i] ^= 1
		if err := restore(bad, false); !errors.Is(err, broker.ErrBackup) {
			t.Fatalf("with byte %d altered: %v", i, err)
		}
		if err := restore(whole.Bytes()[:i], false); !errors.Is(err, broker.ErrBackup) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}
