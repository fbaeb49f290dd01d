package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
)

// The files of a stream as nats-server 2.15.2 writes them (server/filestore.go). A block
// is a run of records, or "cmp", an algorithm, the length and the same compressed with
// its last checksum as it is.
//
//	length(4) sequence(8) time(8) subject length(2) subject [header length(4) header] message checksum(8)
//
// The highest bit of the length says that there are headers, the two highest of the
// sequence that the record tells of a deletion. The checksum leaves out the lengths.
const (
	recordHead = 22
	recordSum  = highwayhash.Size64
	headerBit  = 1 << 31
	deletedBit = 1<<63 | 1<<62
	recordMost = 32 << 20
	// blockMost bounds what a block may unpack to. A block is at most 8 MiB and one
	// message long.
	blockMost = 64 << 20

	damagedFolder = "damaged"
	noMeta        = "it, or its checksum in meta.sum, is not there"

	damageHint = "Nothing was started and nothing changed. Bring back the newest data folder that is whole, or restore a backup (vcsync restore); " +
		"or, to go on with what is left, start %s once with --accept-loss: the stream's files are then moved aside, every source is read anew " +
		"under a new epoch and compared, vcsync is in safe mode, and nothing is deleted because of the loss"
)

// damage is a stream whose files are not what the broker wrote.
type damage struct {
	folder string // of the stream
	stream string
	file   string
	what   string
}

func (d damage) String() string { return fmt.Sprintf("%s: %s: %s", d.stream, d.file, d.what) }

// verifyStore reads every record of vcsync's streams in the store of a broker that does
// not run, and returns the first damage of each stream. nats-server itself truncates, or
// leaves out, what it cannot read, and tells nobody. After an unclean stop the last
// record of a stream may be torn: what was acknowledged had been synced. So a rest that
// cannot be read is no damage where no record lies behind it and reached, what the stream
// is known to have had, lies before it; reached may be nil. The memory it takes is that of
// one block, unpacked.
func verifyStore(ctx context.Context, log *slog.Logger, dir string, unclean bool, reached func(stream string) uint64) ([]damage, error) {
	folders, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(dir, jetStreamFolder)), "*", "streams", "*"))
	if err != nil {
		return nil, fmt.Errorf("look for the store's streams: %w", err)
	}
	begun := time.Now()
	var out []damage
	var read int64
	for _, folder := range folders {
		name := filepath.Base(folder)
		if !slices.Contains(layoutNames(), name) {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, "meta.key")); err == nil {
			log.WarnContext(ctx, "the stream is encrypted by the broker, so that its files cannot be checked for damage", "stream", name)
			continue
		}
		var had uint64
		if reached != nil {
			had = reached(name)
		}
		d, n, err := verifyStream(ctx, folder, unclean, had)
		if err != nil {
			return nil, err
		}
		read += n
		if d != nil {
			out = append(out, *d)
		}
	}
	log.DebugContext(ctx, "the store's files were read and compared with their checksums", "bytes", read, "seconds", time.Since(begun).Seconds())
	return out, nil
}

func escapeGlob(s string) string {
	if os.PathSeparator == '\\' {
		return s // there is no escape on Windows; a folder with a bracket finds nothing
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// verifyStream returns the first damage of a stream, and how many bytes it has read.
func verifyStream(ctx context.Context, folder string, unclean bool, reached uint64) (*damage, int64, error) {
	name := filepath.Base(folder)
	bad := func(file, what string) *damage { return &damage{folder, name, file, what} }
	blocks, err := blocksOf(filepath.Join(folder, "msgs"))
	if err != nil {
		return nil, 0, fmt.Errorf("check stream %s for damage: %w", name, err)
	}
	what, err := verifyMeta(folder, name)
	if err != nil {
		return nil, 0, fmt.Errorf("check stream %s for damage: %w", name, err)
	}
	if what != "" {
		if what == noMeta && len(blocks) == 0 {
			return nil, 0, nil // a stream that was never finished
		}
		return bad(filepath.Join(folder, "meta.inf"), what), 0, nil
	}
	var last uint64
	var read int64
	for i, index := range blocks {
		if err := ctx.Err(); err != nil {
			return nil, read, fmt.Errorf("check stream %s for damage: %w", name, err)
		}
		file := filepath.Join(folder, "msgs", strconv.FormatUint(uint64(index), 10)+".blk")
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, read, fmt.Errorf("check stream %s for damage: %w", name, err)
		}
		read += int64(len(raw))
		buf, packed, err := unpack(raw)
		if err != nil {
			return bad(file, err.Error()), read, nil
		}
		v := newVerifier(name, index)
		at, err := v.block(buf, &last)
		if err == nil {
			continue
		}
		if torn := unclean && !packed && i == len(blocks)-1 && reached <= last && !v.follows(buf[at:], last); torn {
			continue
		}
		return bad(file, fmt.Sprintf("the record at byte %d, after message %d, %v", at, last, err)), read, nil
	}
	return nil, read, nil
}

// blocksOf returns the numbers of a stream's block files, in order.
func blocksOf(dir string) ([]uint32, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []uint32
	for _, f := range files {
		stem, ok := strings.CutSuffix(f.Name(), ".blk")
		if n, err := strconv.ParseUint(stem, 10, 32); ok && err == nil {
			out = append(out, uint32(n))
		}
	}
	slices.Sort(out)
	return out, nil
}

// verifyMeta compares a stream's configuration with its checksum.
func verifyMeta(folder, name string) (what string, err error) {
	raw, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
	if err == nil {
		var sum []byte
		if sum, err = os.ReadFile(filepath.Join(folder, "meta.sum")); err == nil {
			h := newHash(name)
			h.Write(raw)
			if hex.EncodeToString(h.Sum(nil)) != string(sum) {
				return "it does not match its checksum in meta.sum", nil
			}
			return "", nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return noMeta, nil
	}
	return "", err
}

func newHash(of string) *highwayhash.Digest64 {
	key := sha256.Sum256([]byte(of))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // only of a key of another length
	}
	return h
}

// unpack returns a block's records. One that does not begin as a packed one is none.
func unpack(raw []byte) (buf []byte, packed bool, err error) {
	if len(raw) < 5 || !bytes.HasPrefix(raw, []byte{'c', 'm', 'p', 1}) {
		return raw, false, nil
	}
	size, n := binary.Uvarint(raw[4:])
	if n <= 0 || size > blockMost || len(raw) < 4+n+recordSum {
		return nil, true, errors.New("its head is none of a compressed block")
	}
	body, sum := raw[4+n:len(raw)-recordSum], raw[len(raw)-recordSum:]
	out := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := out.ReadFrom(io.LimitReader(s2.NewReader(bytes.NewReader(body)), blockMost)); err != nil {
		return nil, true, fmt.Errorf("the compressed block cannot be read: %w", err)
	}
	out.Write(sum)
	if uint64(out.Len()) != size {
		return nil, true, fmt.Errorf("the compressed block holds %d bytes and says %d", out.Len(), size)
	}
	return out.Bytes(), true, nil
}

// verifier compares the records of one block with their checksums.
type verifier struct {
	hash *highwayhash.Digest64
	sum  [recordSum]byte
}

func newVerifier(stream string, index uint32) *verifier {
	return &verifier{hash: newHash(fmt.Sprintf("%s-%d", stream, index))}
}

// block goes through the records of a block, and returns where the first lies that is
// not as it was written. last is raised to the highest sequence seen.
func (v *verifier) block(buf []byte, last *uint64) (at int, err error) {
	for at < len(buf) {
		n, seq, err := v.record(buf[at:])
		if err != nil {
			return at, err
		}
		*last = max(*last, seq)
		at += n
	}
	return at, nil
}

var (
	errCut      = errors.New("is not complete")
	errChecksum = errors.New("does not match its checksum")
	errHeaders  = errors.New("has headers that do not end where they should")
)

// record looks at the record at the begin of buf.
func (v *verifier) record(buf []byte) (n int, seq uint64, err error) {
	if len(buf) < recordHead+recordSum {
		return 0, 0, errCut
	}
	le := binary.LittleEndian
	length, subject := le.Uint32(buf), int(le.Uint16(buf[20:]))
	headers := length&headerBit != 0
	n = int(length &^ headerBit)
	skip := 0
	if headers {
		skip = 4
	}
	if n > recordMost || n > len(buf) || recordHead+subject+skip+recordSum > n {
		return 0, 0, errCut
	}
	v.hash.Reset()
	v.hash.Write(buf[4:20])
	v.hash.Write(buf[recordHead : recordHead+subject])
	rest := buf[recordHead+subject+skip : n-recordSum]
	v.hash.Write(rest)
	if !bytes.Equal(v.hash.Sum(v.sum[:0]), buf[n-recordSum:n]) {
		return 0, 0, errChecksum
	}
	if headers { // the checksum does not cover their length
		h := int(le.Uint32(buf[recordHead+subject:]))
		if h > len(rest) || !bytes.HasPrefix(rest[:h], []byte("NATS/1.0")) || !bytes.HasSuffix(rest[:h], []byte("\r\n\r\n")) {
			return 0, 0, errHeaders
		}
	}
	return n, le.Uint64(buf[4:]) &^ deletedBit, nil
}

// follows tells whether a whole record lies anywhere behind the begin of buf, with a
// sequence that can come after last.
func (v *verifier) follows(buf []byte, last uint64) bool {
	const further = 1 << 32
	for at := 1; at+recordHead+recordSum <= len(buf); at++ {
		seq := binary.LittleEndian.Uint64(buf[at+4:]) &^ deletedBit
		if seq > last+further {
			continue
		}
		if n, _, err := v.record(buf[at:]); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// settleDamage looks for damage in the store of a broker that does not run yet. Without
// accept it refuses, and names start as what to start with it; with it, it moves the folders of the damaged streams aside, so that
// they are made anew, and says what was damaged. VCS_STATE is a copy of VCS_EV and goes
// with it, for a copy of what is no more there would never be followed by what comes.
func settleDamage(ctx context.Context, log *slog.Logger, dir, store string, accept bool, start string, reached func(string) uint64) ([]string, error) {
	_, err := os.Stat(filepath.Join(dir, runningFile))
	found, err := verifyStore(ctx, log, store, err == nil, reached)
	if err != nil || found == nil {
		return nil, err
	}
	var said []string
	for _, d := range found {
		said = append(said, d.String())
	}
	if !accept {
		return nil, fmt.Errorf("%w: %s. %s", ErrDamaged, strings.Join(said, "; "), fmt.Sprintf(damageHint, start))
	}
	aside := filepath.Join(store, damagedFolder, time.Now().UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return nil, fmt.Errorf("move damaged streams aside: %w", err)
	}
	move := func(folder string) error {
		if err := os.Rename(folder, filepath.Join(aside, filepath.Base(folder))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move a damaged stream aside: %w", err)
		}
		return nil
	}
	for _, d := range found {
		if err := move(d.folder); err != nil {
			return nil, err
		}
		if d.stream == StreamEvents {
			if err := move(filepath.Join(filepath.Dir(d.folder), StreamState)); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range found {
		if err := syncDir(filepath.Dir(d.folder)); err != nil {
			return nil, fmt.Errorf("move damaged streams aside: %w", err)
		}
	}
	log.WarnContext(ctx, "damaged streams were moved aside, to be made anew; remove them when nobody needs them any more", "damage", said, "folder", aside)
	return said, nil
}
