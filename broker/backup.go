package broker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
	"github.com/klauspost/compress/gzip"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	// backupFormat is raised when an older vcsync would misread a backup.
	backupFormat   = 1
	backupManifest = "vcsync-backup.json"
	backupSums     = "checksums.json"
	backupAudit    = "audit.json"
	// backupRecord is the greatest record of a backup in bytes; the broker takes none
	// beyond.
	backupRecord = MaxPayload
	// restoringFile lies in the data folder while a restore writes to it.
	restoringFile = "restoring"
)

// ErrBackup says that a file is no backup that can be restored. Nothing was written.
var ErrBackup = errors.New("the backup cannot be used")

// ErrNotEmpty says that there is a store already where one is to be restored.
var ErrNotEmpty = errors.New("a restore needs an empty data folder and an empty store")

// BackupInfo says what a backup holds.
type BackupInfo struct {
	Format  int       `json:"format"`
	Made    time.Time `json:"made"`
	Version string    `json:"version,omitzero"` // of vcsync
	// Records counts the records by bucket.
	Records map[string]int `json:"records,omitzero"`
	// AuditSequence and AuditDigest (SHA-256, hex) are those of the last audit record when
	// it was made.
	AuditSequence uint64 `json:"auditSequence,omitzero"`
	AuditDigest   string `json:"auditDigest,omitzero"`
}

// backedUp are the buckets of a backup; of VCS_CFG only the keys with these prefixes.
// What belongs to the event stream that is lost with the store (runs, listings, verdicts
// on held deletions) is not among them.
var (
	backedUp     = []string{BucketConfig, BucketSecret, BucketLedger, BucketParked}
	backedConfig = []string{serverPrefix, settingPrefix, identityPrefix, versionPrefix, "epoch.", "account."}
)

// Backup writes to w, encrypted with age for one recipient, what cannot be read again from
// the sources: servers, settings, passwords, the ledger, parked records, identities, the
// keyring, and the head of the audit. Only a process with the keyring's file can.
func (b *Broker) Backup(ctx context.Context, w io.Writer, version string, to age.Recipient) (info BackupInfo, err error) {
	info = BackupInfo{Format: backupFormat, Made: time.Now().UTC(), Version: version, Records: map[string]int{}}
	keyring, err := os.ReadFile(filepath.Join(b.cfg.Keys, keyringFile))
	if err != nil {
		return info, fmt.Errorf("back up the keyring: %w", err)
	}
	sealed, err := age.Encrypt(w, to)
	if err != nil {
		return info, fmt.Errorf("encrypt the backup: %w", err)
	}
	packed := gzip.NewWriter(sealed)
	out := &backupWriter{tar: tar.NewWriter(packed), made: info.Made, sums: map[string]string{}}
	if err := out.putJSON(backupManifest, info); err != nil {
		return info, err
	}
	if err := out.put(keyringFile, keyring); err != nil {
		return info, err
	}
	if info.AuditSequence, info.AuditDigest, err = b.auditDigest(ctx); err != nil {
		return info, err
	}
	for _, bucket := range backedUp {
		err := b.watch(ctx, bucket, ">", func(e jetstream.KeyValueEntry) error {
			if e.Operation() != jetstream.KeyValuePut || !isBackedUp(bucket, e.Key()) {
				return nil
			}
			info.Records[bucket]++
			return out.put(bucket+"/"+e.Key(), e.Value())
		}, func() bool { return true })
		if err != nil {
			return info, fmt.Errorf("back up %s: %w", bucket, err)
		}
	}
	if err := out.putJSON(backupAudit, info); err != nil {
		return info, err
	}
	if err := out.putJSON(backupSums, out.sums); err != nil {
		return info, err
	}
	if err := errors.Join(out.tar.Close(), packed.Close(), sealed.Close()); err != nil {
		return info, fmt.Errorf("write the backup: %w", err)
	}
	return info, nil
}

func isBackedUp(bucket, key string) bool {
	return bucket != BucketConfig || slices.ContainsFunc(backedConfig, func(p string) bool { return strings.HasPrefix(key, p) })
}

// auditDigest returns the sequence and the digest of the last audit record.
func (b *Broker) auditDigest(ctx context.Context) (uint64, string, error) {
	m, err := b.storedMsg(ctx, StreamAudit, msgGet{LastBySubject: auditSubjects})
	if errors.Is(err, ErrNotFound) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("head of the audit: %w", err)
	}
	sum := sha256.Sum256(m.Data)
	return m.Sequence, hex.EncodeToString(sum[:]), nil
}

type backupWriter struct {
	tar  *tar.Writer
	made time.Time
	sums map[string]string
}

func (w *backupWriter) put(name string, data []byte) error {
	err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: w.made, Typeflag: tar.TypeReg, Format: tar.FormatPAX})
	if err == nil {
		_, err = w.tar.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	sum := sha256.Sum256(data)
	w.sums[name] = hex.EncodeToString(sum[:])
	return nil
}

func (w *backupWriter) putJSON(name string, v any) error {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return w.put(name, raw)
}

// readBackup reads a backup to its proven end and calls each with every record. Any error
// of its own wraps ErrBackup.
func readBackup(r io.Reader, with []age.Identity, each func(name string, data []byte) error) (info BackupInfo, err error) {
	bad := func(format string, a ...any) (BackupInfo, error) {
		return info, fmt.Errorf("%w: "+format, append([]any{ErrBackup}, a...)...)
	}
	plain, err := age.Decrypt(bufio.NewReader(r), with...)
	if err != nil {
		if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
			return bad("the passphrase or key is not the one that it was made with")
		}
		return bad("it is no backup of vcsync, or its head is damaged: %w", err)
	}
	packed, err := gzip.NewReader(plain)
	if err != nil {
		return bad("it is cut or damaged: %w", err)
	}
	in := tar.NewReader(packed)
	have := map[string]string{}
	var sum hash.Hash
	for first := true; ; first = false {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return bad("it is cut: its checksums are missing")
		}
		if err != nil {
			return bad("it is cut or damaged: %w", err)
		}
		if h.Typeflag != tar.TypeReg || h.Size > backupRecord+1<<20 && h.Name != backupSums {
			return bad("it holds %.100q, which no backup of vcsync does", h.Name)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return bad("it is cut or damaged: %w", err)
		}
		sum = sha256.New()
		sum.Write(data)
		switch {
		case first:
			if h.Name != backupManifest || json.Unmarshal(data, &info) != nil || info.Format < 1 {
				return bad("it is no backup of vcsync")
			}
			if info.Format > backupFormat {
				return bad("it is of a newer version of vcsync (format %d, this one reads up to %d): restore it with that version", info.Format, backupFormat)
			}
		case h.Name == backupSums:
			want := map[string]string{}
			if err := json.Unmarshal(data, &want); err != nil || len(want) != len(have) {
				return bad("its checksums are not those of what it holds")
			}
			for name, s := range want {
				if have[name] != s {
					return bad("the checksum of %.100q is wrong", name)
				}
			}
			if _, err := in.Next(); !errors.Is(err, io.EOF) {
				return bad("something follows its end")
			}
			if _, err := io.Copy(io.Discard, packed); err != nil { // also proves the end of the encryption
				return bad("it is cut or damaged: %w", err)
			}
			return info, nil
		case have[h.Name] != "":
			return bad("it holds %.100q twice", h.Name)
		case h.Name == backupAudit:
			if err := json.Unmarshal(data, &info); err != nil {
				return bad("%s is not understood", h.Name)
			}
		default:
			if err := each(h.Name, data); err != nil {
				return bad("%.100q: %w", h.Name, err)
			}
		}
		have[h.Name] = hex.EncodeToString(sum.Sum(nil))
	}
}

// contents is what the first reading of a backup finds out.
type contents struct {
	keyring []byte
	epochs  map[schemas.Slug]uint64
}

// check looks at one record of a backup.
func (c *contents) check(name string, data []byte) error {
	if name == keyringFile {
		c.keyring = data
		var rec keyringRecord
		if err := json.Unmarshal(data, &rec); err != nil || rec.Version != 1 {
			return ErrKeyring
		}
		return nil
	}
	bucket, key, _ := strings.Cut(name, "/")
	if !slices.Contains(backedUp, bucket) || !isBackedUp(bucket, key) {
		return errors.New("no backup of this version holds that")
	}
	higher := func(s schemas.Slug, epoch uint64) { c.epochs[s] = max(c.epochs[s], epoch) }
	switch {
	case bucket == BucketLedger:
		var p pageRecord
		if err := json.Unmarshal(data, &p); err != nil || p.Version != 1 {
			return fmt.Errorf("%w: a page of the ledger", ErrRecord)
		}
		for _, e := range p.Entries {
			higher(e.Source, e.Version.Epoch)
		}
	case bucket != BucketConfig:
	case strings.HasPrefix(key, serverPrefix):
		s, err := schemas.ParseServer(data)
		if err != nil {
			return err
		}
		higher(s.ID, 0)
	case strings.HasPrefix(key, settingPrefix):
		_, err := schemas.ParseSetting(data)
		return err
	case strings.HasPrefix(key, "epoch."):
		n, err := strconv.ParseUint(string(data), 10, 64)
		if err != nil {
			return ErrRecord
		}
		higher(schemas.Slug(strings.TrimPrefix(key, "epoch.")), n)
	}
	return nil
}

// Restore makes the store of cfg from a backup, while no vcsync runs on it: all of it is
// read and checked before anything is written, the data folder and the store have to be
// empty, vcsync is in safe mode afterwards, and every source has an epoch that is higher
// than any that the lost store can have had. With dryRun it only checks. Errors wrap
// ErrBackup, ErrNotEmpty, ErrInUse or what Open returns.
func Restore(ctx context.Context, cfg Config, file string, dryRun bool, with ...age.Identity) (info BackupInfo, err error) {
	f, err := os.Open(file)
	if err != nil {
		return info, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	defer f.Close()
	c := contents{epochs: map[schemas.Slug]uint64{}}
	if info, err = readBackup(f, with, c.check); err != nil {
		return info, err
	}
	if c.keyring == nil {
		return info, fmt.Errorf("%w: it holds no keyring", ErrBackup)
	}
	if err := emptyFolder(cfg.Dir); err != nil {
		return info, err
	}
	keys := cfg.Keys
	if keys == "" {
		keys = cfg.Dir
	}
	if old, err := os.ReadFile(filepath.Join(keys, keyringFile)); err == nil && !bytes.Equal(old, c.keyring) {
		return info, fmt.Errorf("%w: %s holds another keyring than the backup: move it away, and give the backup's to every process afterwards", ErrNotEmpty, keys)
	}
	if dryRun {
		return info, nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return info, fmt.Errorf("create the data folder: %w", err)
	}
	marker := filepath.Join(cfg.Dir, restoringFile)
	if err := writeFile(marker, nil); err != nil {
		return info, fmt.Errorf("begin the restore: %w", err)
	}
	cfg.restore = func() error {
		if _, err := os.Stat(filepath.Join(keys, keyringFile)); errors.Is(err, fs.ErrNotExist) {
			return writeFile(filepath.Join(keys, keyringFile), c.keyring)
		}
		return nil
	}
	b, err := Open(ctx, cfg)
	if errors.Is(err, ErrNotEmpty) {
		_ = os.Remove(marker) // nothing was written
	}
	if err != nil {
		return info, err
	}
	_, serr := f.Seek(0, io.SeekStart)
	if err = errors.Join(serr, b.restore(ctx, f, with, info, c.epochs)); err == nil {
		err = b.Mark(ctx)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return info, fmt.Errorf("the restore broke off; empty %s, and the store, and begin again: %w", cfg.Dir, err)
	}
	if err := errors.Join(os.Remove(marker), syncDir(cfg.Dir)); err != nil {
		return info, fmt.Errorf("end the restore: %w", err)
	}
	return info, nil
}

// emptyFolder refuses a data folder that holds anything.
func emptyFolder(dir string) error {
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look into the data folder: %w", err)
	}
	for _, f := range files {
		// What vcsync broker init wrote may lie there.
		if !slices.Contains([]string{keyringFile, SeedFile, CAFile}, f.Name()) {
			return fmt.Errorf("%w: %s holds %s; move the folder away, or name another with VCSYNC_DATA", ErrNotEmpty, dir, f.Name())
		}
	}
	return nil
}

// emptyStore refuses a store that has any of vcsync's streams.
func (b *Broker) emptyStore(ctx context.Context) error {
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	for name := range infos {
		return fmt.Errorf("%w: the broker has %s already; nothing was written", ErrNotEmpty, name)
	}
	return nil
}

// restore writes what a backup holds to a store that was just made: safe mode and the
// epochs first, so that nothing that a broken restore leaves behind does harm.
func (b *Broker) restore(ctx context.Context, f io.Reader, with []age.Identity, info BackupInfo, epochs map[schemas.Slug]uint64) error {
	if err := b.enterByItself(ctx, fmt.Sprintf("restored from a backup of %s (audit at %d, %.16s)", info.Made.Format(time.RFC3339), info.AuditSequence, info.AuditDigest)); err != nil {
		return err
	}
	// Whatever the lost store went through since the backup, a loss or another restore, its
	// epochs and its generation were lower than the seconds of today's clock.
	now := uint64(max(0, time.Now().Unix()))
	for s, epoch := range epochs {
		if _, err := b.EpochAtLeast(ctx, s, max(epoch+1, now)); err != nil {
			return err
		}
	}
	if err := b.putGeneration(ctx, now); err != nil {
		return err
	}
	b.mark.mu.Lock()
	b.mark.rec.Generation = now
	b.mark.mu.Unlock()
	_, err := readBackup(f, with, func(name string, data []byte) error {
		bucket, key, ok := strings.Cut(name, "/")
		if !ok || bucket == BucketConfig && strings.HasPrefix(key, "epoch.") {
			return nil
		}
		if bucket == BucketConfig && strings.HasPrefix(key, settingPrefix) {
			var err error
			if data, err = unlisted(data); err != nil {
				return err
			}
		}
		if bucket == BucketSecret && strings.HasPrefix(key, userPrefix) {
			data = b.signedOut(key, data)
		}
		kv, err := b.js.KeyValue(ctx, bucket)
		if err == nil {
			_, err = kv.Create(ctx, key, data)
		}
		return err
	})
	return err
}

// unlisted makes an active setting wait for a listing of its source: what the numbers of
// the lost store said of listings is not true of this one.
func unlisted(raw []byte) ([]byte, error) {
	v, err := schemas.ParseSetting(raw)
	if err != nil {
		return nil, err
	}
	v.Since = nil
	for _, t := range v.TakenTypes() {
		if v.Active {
			if v.Since == nil {
				v.Since = map[schemas.Type]uint64{}
			}
			v.Since[t] = 1
		}
	}
	return v.Encode()
}
