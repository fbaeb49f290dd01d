package schemas

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	lowGUID  = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	highGUID = "0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9"
)

// ids are what a server can call an object; "" as token means that no object can
// have that id.
var ids = []struct{ name, id, token string }{
	{"a GUID is its own token", lowGUID, lowGUID},
	{"a GUID becomes lower case", highGUID, lowGUID},
	{"a GUID in mixed case becomes lower case", "0a1B2C3D-4e5f-6071-8293-A4B5C6D7E8F9", lowGUID},
	{"a name keeps its case", "Nightly-Run_2", "Nightly-Run_2"},
	{"braces are no part of a GUID, so the case stays", "{" + highGUID + "}", "=7B" + highGUID + "=7D"},
	{"a GUID with one digit too few is a name", highGUID[:35], highGUID[:35]},
	{"a GUID with a letter beyond F is a name", "G" + highGUID[1:], "G" + highGUID[1:]},
	{"a GUID without hyphens is a name", strings.ReplaceAll(highGUID, "-", ""), strings.ReplaceAll(highGUID, "-", "")},
	{"a dot is no level", ".", "=2E"},
	{"two dots are no parent", "..", "=2E=2E"},
	{"a star is no wildcard", "*", "=2A"},
	{"a greater-than is no wildcard", ">", "=3E"},
	{"a dollar is no system subject", "$KV", "=24KV"},
	{"a slash is no path", "a/b", "a=2Fb"},
	{"a blank", "a b", "a=20b"},
	{"a blank alone", " ", "=20"},
	{"a tab", "a\tb", "a=09b"},
	{"a line end is no header", "a\r\nVc-Kind: deleted", "a=0D=0AVc-Kind=3A=20deleted"},
	{"DEL", "\x7f", "=7F"},
	{"a percent stays a percent", "%41", "=2541"},
	{"an accent, byte by byte", "é", "=C3=A9"},
	{"its decomposed form is another id", "e\u0301", "e=CC=81"},
	{"a character outside the basic plane", "😀", "=F0=9F=98=80"},
	{"the replacement character, which is valid", "\ufffd", "=EF=BF=BD"},
	{"an id that looks like an escape", "=41", "=3D41"},
	{"an id that looks like a lower-case escape", "=2e", "=3D2e"},
	{"an id that looks like a hash's token", "=H" + strings.Repeat("A", 51) + "Q", "=3DH" + strings.Repeat("A", 51) + "Q"},
	{"an id that looks like a hash's token without its mark", "H" + strings.Repeat("A", 51) + "Q", "H" + strings.Repeat("A", 51) + "Q"},
	{"an equals sign alone", "=", "=3D"},
	{"an equals sign at the end", "a=", "a=3D"},
	{"128 bytes are spelled out", strings.Repeat("x", 128), strings.Repeat("x", 128)},
	{"128 bytes that need escapes are spelled out too", strings.Repeat(".", 128), strings.Repeat("=2E", 128)},
	{"129 bytes become a hash", strings.Repeat("x", 129), "=HB3E6WM7HIUILZXI7F2SVEBXIF4QWJHC4FPWL6K2DH22HLM2MAG6Q"},
	{"64 characters of two bytes are spelled out", strings.Repeat("é", 64), strings.Repeat("=C3=A9", 64)},
	{"4096 bytes become a hash", strings.Repeat("x", 4096), "=H"},

	{"nothing", "", ""},
	{"the zero GUID stands for no object", zeroGUID, ""},
	{"NUL", "a\x00b", ""},
	{"NUL alone", "\x00", ""},
	{"invalid UTF-8", "a\xff", ""},
	{"a character cut in the middle", "a\xc3", ""},
	{"a surrogate in UTF-8", "\xed\xa0\x80", ""},
	{"4097 bytes", strings.Repeat("x", 4097), ""},
	{"5000 bytes", strings.Repeat("x", 5000), ""},
}

func TestIDsAndTheirTokens(t *testing.T) {
	seen := map[Token]ID{}
	for _, c := range ids {
		t.Run(c.name, func(t *testing.T) {
			id, err := ParseID(c.id)
			if c.token == "" {
				if !errors.Is(err, ErrID) || id != "" {
					t.Fatalf("%q, error %v, want ErrID", id, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			token := id.Token()
			if token != Token(c.token) && !(c.token == "=H" && strings.HasPrefix(string(token), "=H")) {
				t.Errorf("token %s, want %s", token, c.token)
			}
			if strings.Trim(string(token), "-_=0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(token) > 3*MaxPlainID {
				t.Errorf("token %q is no subject token and key of bounded length", token)
			}
			if other, ok := seen[token]; ok && other != id {
				t.Errorf("%q and %q share the token %s", id, other, token)
			}
			seen[token] = id
			if back, err := ParseToken(string(token)); err != nil || back != token {
				t.Errorf("ParseToken gives %q, error %v", back, err)
			}
			spelled, ok := token.ID()
			if long := len(id) > MaxPlainID; ok == long || !long && spelled != id {
				t.Errorf("the token spells %q (%v), want %q", spelled, ok, id)
			}
		})
	}
}

var badTokens = []struct{ name, token string }{
	{"nothing", ""},
	{"a dot", "."},
	{"two tokens", "a.b"},
	{"a star", "*"},
	{"a greater-than", ">"},
	{"a blank", "a b"},
	{"a line end", "a\n"},
	{"a byte that must be escaped", "é"},
	{"a plain byte escaped: not the shortest spelling", "=41"},
	{"a hyphen escaped: not the shortest spelling", "a=2Db"},
	{"an escape in lower-case hex", "=2e"},
	{"an escape in mixed case", "=c3=A9"},
	{"an escape cut after the equals sign", "a="},
	{"an escape cut after one digit", "a=2"},
	{"an escape with a blank for a digit", "= 2"},
	{"an escape that signs its number", "=+2"},
	{"an escaped NUL", "=00"},
	{"an escape that is no UTF-8", "=FF"},
	{"a GUID in upper case", highGUID},
	{"the zero GUID", zeroGUID},
	{"129 plain bytes, which are a hash's business", strings.Repeat("x", 129)},
	{"129 escaped bytes", strings.Repeat("=2E", 129)},
	{"a hash mark alone", "=H"},
	{"a hash with a character outside base32", "=H1" + strings.Repeat("A", 51)},
	{"a hash one character short", "=H" + strings.Repeat("A", 51)},
	{"a hash one character long", "=H" + strings.Repeat("A", 53)},
	{"a hash in lower case", "=H" + strings.Repeat("a", 52)},
	{"a hash with padding", "=H" + strings.Repeat("A", 52) + "===="},
	{"a hash with a line end inside", "=H" + strings.Repeat("A", 20) + "\n" + strings.Repeat("A", 32)},
	{"a hash whose unused bits are set", "=H" + strings.Repeat("A", 51) + "B"},
	{"a hash with a lower-case mark", "=h" + strings.Repeat("A", 52)},
}

func TestParseTokenRefusesWhatNoIDMakes(t *testing.T) {
	for _, c := range badTokens {
		t.Run(c.name, func(t *testing.T) {
			if token, err := ParseToken(c.token); !errors.Is(err, ErrToken) || token != "" {
				t.Errorf("%q, error %v, want ErrToken", token, err)
			}
			if id, ok := Token(c.token).ID(); ok && id.Token() == Token(c.token) {
				t.Errorf("spells %q all the same", id)
			}
		})
	}
}

func FuzzParseID(f *testing.F) {
	for _, c := range ids {
		f.Add(c.id)
	}
	for _, c := range badTokens {
		f.Add(c.token)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !errors.Is(err, ErrID) {
				t.Fatalf("%v does not wrap ErrID", err)
			}
			return
		}
		if again, err := ParseID(id.String()); err != nil || again != id {
			t.Fatalf("%q is not canonical: %q, %v", id, again, err)
		}
		if !strings.EqualFold(string(id), s) || !utf8.ValidString(string(id)) {
			t.Fatalf("%q became %q", s, id)
		}
		token := id.Token()
		if back, err := ParseToken(string(token)); err != nil || back != token {
			t.Fatalf("token %q of %q: %q, %v", token, id, back, err)
		}
		if spelled, ok := token.ID(); ok != (len(id) <= MaxPlainID) || ok && spelled != id {
			t.Fatalf("token %q of %q spells %q, %v", token, id, spelled, ok)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	for _, c := range ids {
		f.Add(c.token)
		f.Add(string(ID(c.id).Token()))
	}
	for _, c := range badTokens {
		f.Add(c.token)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Fatalf("%v does not wrap ErrToken", err)
			}
			return
		}
		if token.String() != s {
			t.Fatalf("round trip: %q became %q", s, token)
		}
		if id, ok := token.ID(); ok && id.Token() != token {
			t.Fatalf("%q spells %q, whose token is %q", token, id, id.Token())
		} else if !ok && !strings.HasPrefix(s, hashMark) {
			t.Fatalf("%q spells nothing and is no hash", token)
		}
	})
}
