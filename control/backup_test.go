package control_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// backup makes one, for a key that nobody has.
func (w *world) backup(header ...string) answer {
	w.t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do("POST", "/api/v1/backup", fmt.Sprintf(`{"recipient":%q}`, key.Recipient()), header...)
}

// brokenBackup asks for a backup that breaks off, and returns what the client saw of it.
func (w *world) brokenBackup() error {
	w.t.Helper()
	keyring := filepath.Join(w.dir, "keyring.json")
	if err := os.Rename(keyring, keyring+".away"); err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.srv.Client().Post(w.srv.URL+"/api/v1/backup", "application/json", strings.NewReader(`{"passphrase":"correct horse battery"}`))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func TestABackupThatBreaksOffIsCut(t *testing.T) {
	if err := newWorld(t).brokenBackup(); err == nil {
		t.Error("it looks whole to its client")
	}
}
