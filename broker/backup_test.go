package broker_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/gzip"

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

// TestABackupOfANewerFormatWritesNothing: it names the format, and which this version reads.
func TestABackupOfANewerFormatWritesNothing(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	sealed, err := age.Encrypt(&raw, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(sealed)
	out := tar.NewWriter(packed)
	manifest := `{"format":2,"made":"2030-01-01T00:00:00Z","version":"9.0.0"}`
	if err := out.WriteHeader(&tar.Header{Name: "vcsync-backup.json", Mode: 0o600, Size: int64(len(manifest)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte(manifest)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Close(), packed.Close(), sealed.Close()); err != nil {
		t.Fatal(err)
	}
	file, dir := filepath.Join(t.TempDir(), "b.age"), filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = broker.Restore(t.Context(), broker.Config{Dir: dir, LazySync: true}, file, false, key)
	if !errors.Is(err, broker.ErrBackup) || !strings.Contains(err.Error(), "format 2, this one reads up to 1") {
		t.Errorf("restore: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("something was written")
	}
}

// TestARestoreIntoAnExternalStore: by control's key, into an empty store only.
func TestARestoreIntoAnExternalStore(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	old := brokertest.Start(t)
	if _, err := old.PutServer(t.Context(), schemas.Server{ID: "one", Connector: "bridge", Address: "http://one.invalid", User: "u"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := old.SetPassword(t.Context(), "one", "true-secret"); err != nil {
		t.Fatal(err)
	}
	account := broker.Account{Name: "root", Hash: "h", Grants: []broker.Grant{{Role: "admin"}}, Made: time.Now().UTC(),
		Sessions: []broker.Session{{Hash: "s"}}, Tokens: []broker.Token{{Name: "night", Hash: "t"}}}
	if _, err := old.PutAccount(t.Context(), account, 0); err != nil {
		t.Fatal(err)
	}
	if err := old.CloseDoor(t.Context()); err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if _, err := old.Backup(t.Context(), &whole, "test", key.Recipient()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b.age")
	if err := os.WriteFile(file, whole.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, broker.InitOptions{})
	cfg := s.config(t, "control", broker.Control)
	if _, err := broker.Restore(t.Context(), cfg, file, false, key); !errors.Is(err, broker.ErrNotEmpty) {
		t.Errorf("beside another keyring: %v, want ErrNotEmpty", err)
	}
	if err := os.Remove(filepath.Join(cfg.Keys, "keyring.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Restore(t.Context(), cfg, file, false, key); err != nil {
		t.Fatal(err)
	}
	b := openConfig(t, cfg)
	if m, err := b.GetSafeMode(t.Context()); err != nil || !m.On {
		t.Errorf("safe mode: %+v, %v", m, err)
	}
	if pw, err := b.Password(t.Context(), "one"); err != nil || pw != "true-secret" {
		t.Errorf("password: %v", err)
	}
	// What was revoked since the backup is not good again, and the door is closed.
	if a, err := b.GetAccount(t.Context(), "root"); err != nil || a.Hash != "h" || len(a.Sessions)+len(a.Tokens) > 0 {
		t.Errorf("the account: %+v, %v", a, err)
	}
	if closed, err := b.DoorClosed(t.Context()); err != nil || !closed {
		t.Errorf("the door is closed: %v, %v", closed, err)
	}
	if epoch, err := b.Epoch(t.Context(), "one"); err != nil || epoch < 1_000_000 {
		t.Errorf("epoch %d, %v: it has to be higher than any that was lost", epoch, err)
	}
	again := s.config(t, "control", broker.Control)
	if _, err := broker.Restore(t.Context(), again, file, false, key); !errors.Is(err, broker.ErrNotEmpty) {
		t.Errorf("into a store that is not empty: %v, want ErrNotEmpty", err)
	}
}
