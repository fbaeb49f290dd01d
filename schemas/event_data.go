package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// Header names that say how an event's data travels. Without them it is the
// envelope as it is.
const (
	// HeaderEncoding says how the data is compressed.
	HeaderEncoding = "Vc-Encoding"
	// HeaderDataDigest and HeaderDataSize say that the message has no data of its own,
	// because it is too large: which bytes stand for it, and how many they are.
	HeaderDataDigest = "Vc-Data-Digest"
	HeaderDataSize   = "Vc-Data-Size"
)

const (
	// EncodingZstd is the one encoding that there is: Zstandard (RFC 8878).
	EncodingZstd = "zstd"
	// MaxData is the greatest size of an envelope in bytes. The largest body that is
	// synced has 64 MiB, and what is sealed of it grows by a third and more. Nothing is
	// decompressed any further.
	MaxData = 128 << 20
	// compressFrom is the size in bytes from which an envelope is compressed. A
	// smaller one stays readable for every tool, and costs a block of the disk anyway.
	compressFrom = 4 << 10
	// zstdWindow is how far back the compression looks, and half of the memory that it
	// holds: a job's tasks resemble each other, and one has 10 to 20 kB.
	zstdWindow = 256 << 10
)

// One encoder and one decoder serve all, one call at a time: what they hold, about 1
// and 0.3 MiB, they hold for as long as the process lives. They are made whole at
// once, because a channel that is made in a bubble of testing/synctest belongs to it.
var (
	zstdEncoder = newZstdEncoder()
	zstdDecoder = newZstdDecoder()
)

// The quickest level is enough for null slots; entropy coding of what has no
// repetition takes a quarter off keys and certificates, which are base64.
func newZstdEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		panic(err) // the options are constants
	}
	e.EncodeAll([]byte{0}, nil) // which makes its channel
	return e
}

func newZstdDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxData))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}

// compress returns the data as it travels, and how it is encoded: as it is where
// it is small or compression gains nothing.
func compress(data []byte) ([]byte, string) {
	if len(data) < compressFrom {
		return data, ""
	}
	if packed := zstdEncoder.EncodeAll(data, nil); len(packed) < len(data) {
		return packed, EncodingZstd
	}
	return data, ""
}

// decompress is the inverse of compress. It never makes more than MaxData bytes,
// whatever the data says of itself.
func decompress(data []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		return data, nil
	case EncodingZstd:
		out, err := zstdDecoder.DecodeAll(data, nil)
		if err != nil {
			return nil, fmt.Errorf("decompress the data: %w", err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("unknown encoding %.32q, want %s", encoding, EncodingZstd)
}

// DataSize returns how many bytes the data of a message will have when it is
// decompressed, as it says itself; at most MaxData.
func DataSize(header map[string][]string, data []byte) int {
	if v := header[HeaderEncoding]; len(v) == 1 && v[0] == EncodingZstd {
		var h zstd.Header
		if h.Decode(data) != nil || !h.HasFCS || h.FrameContentSize > MaxData {
			return MaxData // or it is nothing that can be decompressed
		}
		return int(h.FrameContentSize)
	}
	return len(data)
}

// Ref stands for data that lies outside of its message: the SHA-256 of the bytes,
// by which they are found and checked, and their number. The zero Ref says that the
// data is in the message.
type Ref struct {
	Digest Digest
	Size   int
}

// RefOf returns the Ref of data.
func RefOf(data []byte) Ref {
	sum := sha256.Sum256(data)
	return Ref{Digest(hex.EncodeToString(sum[:])), len(data)}
}

// IsZero tells whether r stands for nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// SetHeader notes in the headers of a message, which then has no data, that r stands
// for it.
func (r Ref) SetHeader(header map[string][]string) {
	header[HeaderDataDigest] = []string{string(r.Digest)}
	header[HeaderDataSize] = []string{strconv.Itoa(r.Size)}
}

// Check tells whether data is what r stands for. The error wraps ErrEvent.
func (r Ref) Check(data []byte) error {
	if have := RefOf(data); have != r {
		return fmt.Errorf("%w: %d bytes of data with the SHA-256 %s, and the event names %d bytes with %s", ErrEvent, have.Size, have.Digest.Short(), r.Size, r.Digest.Short())
	}
	return nil
}

// parseRef reads the headers that SetHeader writes.
func parseRef(digest, size string) (Ref, error) {
	if digest == "" && size == "" {
		return Ref{}, nil
	}
	d, err := ParseDigest(digest)
	if err != nil {
		return Ref{}, fmt.Errorf("header %s: %w", HeaderDataDigest, err)
	}
	n, err := strconv.Atoi(size)
	if err != nil || d == "" || n < 1 || n > MaxData || strconv.Itoa(n) != size {
		return Ref{}, fmt.Errorf("headers %s and %s are %.80q and %.32q: want a digest and a number of bytes up to %d", HeaderDataDigest, HeaderDataSize, digest, size, MaxData)
	}
	return Ref{d, n}, nil
}
