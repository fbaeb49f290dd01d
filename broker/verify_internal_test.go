package broker

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkVerify reads a store of 256 MiB with records of 2 KiB.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	folder := filepath.Join(dir, jetStreamFolder, "$G", "streams", StreamEvents)
	if err := os.MkdirAll(filepath.Join(folder, "msgs"), 0o700); err != nil {
		b.Fatal(err)
	}
	h := newHash(StreamEvents)
	h.Write([]byte("{}"))
	os.WriteFile(filepath.Join(folder, "meta.inf"), []byte("{}"), 0o600)
	os.WriteFile(filepath.Join(folder, "meta.sum"), fmt.Appendf(nil, "%x", h.Sum(nil)), 0o600)
	seq := uint64(0)
	data := make([]byte, 2048)
	rand.Read(data)
	for block := range 32 {
		h := newHash(fmt.Sprintf("%s-%d", StreamEvents, block+1))
		var buf []byte
		for len(buf) < 8<<20 {
			seq++
			head := make([]byte, recordHead)
			binary.LittleEndian.PutUint32(head, uint32(recordHead+1+len(data)+recordSum))
			binary.LittleEndian.PutUint64(head[4:], seq)
			binary.LittleEndian.PutUint16(head[20:], 1)
			h.Reset()
			h.Write(head[4:20])
			h.Write([]byte("s"))
			h.Write(data)
			buf = h.Sum(append(append(append(buf, head...), 's'), data...))
		}
		b.SetBytes(int64(len(buf)) * 32)
		if err := os.WriteFile(filepath.Join(folder, "msgs", fmt.Sprintf("%d.blk", block+1)), buf, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if d, err := verifyStore(b.Context(), slog.New(slog.DiscardHandler), dir, false, nil); err != nil || d != nil {
			b.Fatal(d, err)
		}
	}
}
