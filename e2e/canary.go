package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// Spellings returns how a secret may look when it has leaked: raw, in base64 at
// each of the three offsets (standard and URL alphabet), in hex, escaped for URLs, JSON,
// HTML and XML, and in UTF-16 of both orders.
func Spellings(secret string) []string {
	out := []string{secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))), url.QueryEscape(secret), url.PathEscape(secret),
		html.EscapeString(secret), strings.Trim(strconv.QuoteToASCII(secret), `"`)}
	for _, escape := range []bool{true, false} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escape)
		if enc.Encode(secret) == nil {
			out = append(out, strings.Trim(b.String(), "\"\n"))
		}
	}
	var x bytes.Buffer
	if xml.EscapeText(&x, []byte(secret)) == nil {
		out = append(out, x.String())
	}
	var little, big []byte
	for _, u := range utf16.Encode([]rune(secret)) {
		little, big = binary.LittleEndian.AppendUint16(little, u), binary.BigEndian.AppendUint16(big, u)
	}
	out = append(out, string(little), string(big))
	for offset := range 3 {
		padded := append(bytes.Repeat([]byte{0}, offset), secret...)
		text := base64.RawStdEncoding.EncodeToString(padded)
		// The characters that also hold bits of a neighbour are left out.
		text = text[(offset*8+5)/6:]
		if (len(padded)*8)%6 != 0 {
			text = text[:len(text)-1]
		}
		out = append(out, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// FindSecret returns where in the files under the folders a secret stands, in any
// of its spellings.
func FindSecret(secret string, folders ...string) ([]string, error) {
	var hits []string
	spellings := Spellings(secret)
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, s := range spellings {
				if bytes.Contains(content, []byte(s)) {
					hits = append(hits, fmt.Sprintf("%s holds %q", path, s))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return hits, nil
}

// Stored returns everything that lies in the broker's streams and buckets as whoever
// may read them sees it: subjects, headers and data, the latter decompressed. On disk
// much of it is compressed, so that a search there alone is half blind.
func Stored(ctx context.Context, b *broker.Broker) (map[string][]byte, error) {
	out := map[string][]byte{}
	names := b.JS().StreamNames(ctx)
	for name := range names.Name() {
		s, err := b.JS().Stream(ctx, name)
		if err != nil {
			return nil, err
		}
		info := s.CachedInfo()
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq && info.State.Msgs > 0; seq++ {
			m, err := s.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s, message %d: %w", name, seq, err)
			}
			text := []byte(m.Subject + "\n")
			for k, v := range m.Header {
				text = append(text, k+": "+strings.Join(v, ", ")+"\n"...)
			}
			text = append(append(text, m.Data...), '\n')
			if e, err := schemas.ParseEvent(m.Subject, m.Header, m.Data); err == nil {
				data, err := e.Object.Encode()
				if err != nil {
					return nil, err
				}
				text = append(text, data...)
			}
			out[name] = append(out[name], text...)
		}
	}
	return out, names.Err()
}
