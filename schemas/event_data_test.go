package schemas

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"
)

func TestALargeEventIsCompressedAndASmallOneIsNot(t *testing.T) {
	small, large := anEvent(), aLargeEvent()
	if h, data := mustEncode(t, small); h[HeaderEncoding] != nil || data[0] != '{' {
		t.Errorf("a small event is encoded: %v", h[HeaderEncoding])
	}
	h, data := mustEncode(t, large)
	if !reflect.DeepEqual(h[HeaderEncoding], []string{EncodingZstd}) || len(data) > len(large.Object.Body)/5 {
		t.Errorf("encoding %v, %d bytes of a body of %d", h[HeaderEncoding], len(data), len(large.Object.Body))
	}
	checkRoundTrip(t, large)
	// A release that does not compress is read as well (G10).
	delete(h, HeaderEncoding)
	plain, err := large.Object.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseEvent(large.Subject(), h, plain); err != nil || !reflect.DeepEqual(got, large) {
		t.Errorf("large and not compressed: %+v, error %v", got, err)
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	blanks := bytes.Repeat([]byte{' '}, MaxData/2)
	frame := w.EncodeAll(blanks, nil)
	h, _ := mustEncode(t, aLargeEvent())
	// A stream does not say how long it is.
	var stream bytes.Buffer
	w.Reset(&stream)
	for range 3 {
		if _, err := w.Write(blanks); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, bomb := range map[string][]byte{
		"a frame that says its size":         w.EncodeAll(append(bytes.Repeat([]byte{' '}, MaxData), ' '), nil),
		"three frames that are too much":     bytes.Repeat(frame, 3),
		"a frame that does not say its size": stream.Bytes(),
		"a frame that is cut":                frame[:len(frame)-1],
		"a frame with bytes behind it":       append(bytes.Clone(w.EncodeAll([]byte("{}"), nil)), "{}"...),
		"what is no frame":                   []byte("(\xb5/\xfd nothing"),
		"a frame whose content was changed":  flip(w.EncodeAll([]byte(strings.Repeat("abc", 9)), nil)),
	} {
		if len(bomb) > 1<<20 {
			t.Fatalf("%s has %d bytes", name, len(bomb))
		}
		if _, err := ParseEvent(aLargeEvent().Subject(), h, bomb); !errors.Is(err, ErrEvent) {
			t.Errorf("%s: %v, want ErrEvent", name, err)
		}
		if out, err := decompress(bomb, EncodingZstd); err == nil {
			t.Errorf("%s is decompressed to %d bytes", name, len(out))
		}
	}
}

// flip changes one bit in the middle.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func TestAnEnvelopeThatIsTooLargeIsRefused(t *testing.T) {
	e := anEvent()
	e.Object.Sealed = nil
	e.Object.Body = jsontext.Value(`{"X":"` + strings.Repeat("x", MaxData) + `"}`)
	if _, _, err := e.Encode(); !errors.Is(err, ErrEvent) {
		t.Errorf("%v, want ErrEvent", err)
	}
}

func TestAnEventByReference(t *testing.T) {
	e := aLargeEvent()
	h, data := mustEncode(t, e)
	ref := RefOf(data)
	ref.SetHeader(h)
	head, err := ParseHead(e.Subject(), h)
	if err != nil || head.Ref != ref || head.Encoding != EncodingZstd {
		t.Fatalf("%+v, error %v, want %+v", head, err, ref)
	}
	if got, err := ParseEvent(e.Key().StateSubject(), h, data); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v, error %v", got, err)
	}
	for name, other := range map[string][]byte{"no data": nil, "changed data": flip(data), "data that is cut": data[:len(data)-1]} {
		if _, err := ParseEvent(e.Subject(), h, other); !errors.Is(err, ErrEvent) {
			t.Errorf("%s: %v, want ErrEvent", name, err)
		}
	}
}
