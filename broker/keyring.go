package broker

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	keyringFile = "keyring.json"
	// sealMark begins every sealed text: the mark, the key's id, the ciphertext.
	sealMark = "vcsync-sealed:"
)

// Keyring holds the secrets of an installation: the key that seals passwords and
// secret parts of bodies, and the key of the digests of secret fields. It lies in
// the data folder with mode 0600. It never prints itself.
type Keyring struct {
	seals map[string]cipher.AEAD
	// current names the key that seals.
	current string
	digest  []byte
}

type keyringRecord struct {
	Version int               `json:"version"`
	Created time.Time         `json:"created"`
	Current string            `json:"current"`
	Seal    map[string][]byte `json:"seal"`
	Digest  []byte            `json:"digest"`
}

// OpenKeyring opens the keyring in dir, and creates it with fresh keys where there
// is none. A file that others may read, or that is damaged, is refused with an
// error that wraps ErrKeyring.
func OpenKeyring(dir string) (*Keyring, error) {
	path := filepath.Join(dir, keyringFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if raw, err = newKeyring(path); err != nil {
			return nil, fmt.Errorf("%w: create %s: %w", ErrKeyring, path, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	return parseKeyring(path, raw)
}

// readKeyring is OpenKeyring for a role that never makes one: a fresh keyring could
// open nothing, and every secret would look changed under it.
func readKeyring(dir string) (*Keyring, error) {
	path := filepath.Join(dir, keyringFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there: copy it from where vcsync broker init wrote it for this role, or from the VCSYNC_KEYS folder of control, and name its folder with VCSYNC_KEYS", ErrKeyring, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	return parseKeyring(path, raw)
}

func parseKeyring(path string, raw []byte) (*Keyring, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 && runtime.GOOS != "windows" { // there the folder's own rights protect it
		return nil, fmt.Errorf("%w: %s has mode %04o, so others can read the keys: run chmod 600 on it, and change the passwords of the servers if somebody may have read it", ErrKeyring, path, m)
	}
	var rec keyringRecord
	if err := json.Unmarshal(raw, &rec); err != nil || rec.Version != 1 || len(rec.Digest) != 32 || rec.Seal[rec.Current] == nil {
		return nil, fmt.Errorf("%w: %s is damaged: restore it from a backup; without it the stored passwords have to be entered again", ErrKeyring, path)
	}
	k := &Keyring{seals: map[string]cipher.AEAD{}, current: rec.Current, digest: rec.Digest}
	for id, key := range rec.Seal {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: key %s: %w", ErrKeyring, path, id, err)
		}
		if k.seals[id], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, fmt.Errorf("%w: %s: key %s: %w", ErrKeyring, path, id, err)
		}
	}
	return k, nil
}

// hasKeyring tells whether there is a keyring in dir.
func hasKeyring(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, keyringFile))
	return !errors.Is(err, fs.ErrNotExist)
}

func newKeyring(path string) ([]byte, error) {
	raw, err := freshKeyring()
	if err != nil {
		return nil, err
	}
	return raw, writeFile(path, raw)
}

// freshKeyring returns the content of a keyring with new keys.
func freshKeyring() ([]byte, error) {
	random := make([]byte, 4+32+32)
	rand.Read(random)
	id := hex.EncodeToString(random[:4])
	return json.MarshalIndent(keyringRecord{Version: 1, Created: time.Now().UTC(), Current: id,
		Seal: map[string][]byte{id: random[4:36]}, Digest: random[36:]}, "", "  ")
}

// String hides the keys.
func (*Keyring) String() string { return "keyring(***)" }

// GoString hides the keys.
func (*Keyring) GoString() string { return "keyring(***)" }

// Seal encrypts a secret for storage with AES-256-GCM. The context names what the
// secret belongs to; a sealed text opens under the same context only, so it cannot
// be moved to another object.
func (k *Keyring) Seal(context, secret string) string {
	ct := k.seals[k.current].Seal(nil, nil, []byte(secret), []byte(context))
	return sealMark + k.current + ":" + base64.RawStdEncoding.EncodeToString(ct)
}

// IsSealed tells whether s looks like a text that Seal made.
func IsSealed(s string) bool { return strings.HasPrefix(s, sealMark) }

// Open is the inverse of Seal. The error wraps ErrKeyring.
func (k *Keyring) Open(context, sealed string) (string, error) {
	rest, ok := strings.CutPrefix(sealed, sealMark)
	id, text, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return "", fmt.Errorf("%w: not a sealed text (%s)", ErrKeyring, context)
	}
	aead := k.seals[id]
	if aead == nil {
		return "", fmt.Errorf("%w: %s was sealed with key %.16q, which is not in the keyring: restore the keyring that belongs to this data", ErrKeyring, context, id)
	}
	ct, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("%w: %s: damaged", ErrKeyring, context)
	}
	secret, err := aead.Open(nil, nil, ct, []byte(context))
	if err != nil {
		return "", fmt.Errorf("%w: %s: damaged, or sealed for something else", ErrKeyring, context)
	}
	return string(secret), nil
}

// Digest returns the keyed digest (HMAC-SHA-256, hex) of a secret. Equal secrets of
// one installation have equal digests, whichever object holds them, and nobody
// without the keyring can try guesses against it.
func (k *Keyring) Digest(secret string) string {
	m := hmac.New(sha256.New, k.digest)
	m.Write([]byte(secret))
	return hex.EncodeToString(m.Sum(nil))
}

// writeFile writes a small file so that after any crash it holds the old or the new
// content, whole and on disk, with mode 0600.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}
