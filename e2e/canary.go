package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Spellings returns how a secret may look when it has leaked: raw, in base64 at
// each of the three offsets (standard and URL alphabet), in hex and URL-escaped.
func Spellings(secret string) []string {
	out := []string{secret, hex.EncodeToString([]byte(secret)), url.QueryEscape(secret)}
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
	return out
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
