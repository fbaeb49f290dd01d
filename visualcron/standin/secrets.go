package standin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Mask is what stands for every secret that is masked.
const Mask = "********"

// Which members are secret is a table of the stand-in's own, on purpose: a server
// that asked vcsync what to hide could not show what vcsync overlooks.
var (
	// secretMembers are secret by their place; * is any item of a list.
	secretMembers = map[schemas.Type][]string{
		schemas.Certificate: {"Data", "Password"},
		schemas.Credential:  {"Password"},
		schemas.Job:         {"Variables/*/ValueObject"},
		schemas.MFTServer:   {"Users/*/PassWord", "PrivateKey"},
		schemas.PGPKeyRing:  {"Keys/*/Data", "Keys/*/Passphrase"},
		schemas.SSHKey:      {"Data", "Passphrase"},
		schemas.User:        {"PassWord"},
		schemas.Variable:    {"ValueObject"},
	}
	// secretsBelow are the members below which a secret is told by its name. Of a
	// type that stands in neither table the whole body is searched.
	secretsBelow = map[schemas.Type][]string{
		schemas.Job:            {"Tasks", "Triggers"},
		schemas.Notification:   {"Task"},
		schemas.TaskRepository: {"Task"},
	}
)

func secretName(name string) bool {
	n := strings.ToLower(name)
	return strings.HasPrefix(n, "encrypted") || slices.ContainsFunc([]string{"password", "passphrase", "privatekey", "secret", "apikey",
		"accesskey", "accesstoken", "refreshtoken"}, func(s string) bool { return strings.HasSuffix(n, s) })
}

// pointerToken escapes a member's name for a JSON pointer.
func pointerToken(name string) string {
	if !strings.ContainsAny(name, "~/") {
		return name
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// eachSecret visits every secret member of a body, empty ones too: i is its place
// in holder, at its JSON pointer.
func eachSecret(t schemas.Type, root *node, visit func(at string, holder *node, i int)) {
	places, below := secretMembers[t], secretsBelow[t]
	var walk func(n *node, at, place string, named bool)
	walk = func(n *node, at, place string, named bool) {
		for i, kid := range n.kids {
			step, spot, deep := strconv.Itoa(i), "*", named
			if n.kind == '{' {
				step, spot = pointerToken(n.names[i]), n.names[i]
			}
			if place != "" {
				spot = place + "/" + spot
			}
			if n.kind == '{' && (slices.Contains(places, spot) || named && secretName(n.names[i])) {
				visit(at+"/"+step, n, i)
				continue
			}
			walk(kid, at+"/"+step, spot, deep || slices.Contains(below, spot))
		}
	}
	walk(root, "", "", places == nil && below == nil)
}

// void tells whether a member holds nothing that could be secret.
func (n *node) void() bool {
	switch n.kind {
	case 'n', 't', 'f':
		return true
	case '"':
		return len(n.raw) == len(`""`)
	}
	return false
}

// SecretMode returns how secrets of a type come out.
func (s *Server) SecretMode(t schemas.Type) visualcron.SecretMode {
	if arg, on := s.mode("secrets", t); on {
		return visualcron.SecretMode(arg)
	}
	return visualcron.SecretsEqual
}

// Secrets returns what an object's secret members truly hold, whatever the mode, as
// JSON by JSON pointer; nil where there is no such object.
func (s *Server) Secrets(t schemas.Type, id schemas.ID) map[string]string {
	body, ok := s.Get(t, id)
	if !ok {
		return nil
	}
	out := map[string]string{}
	if n, err := parseNode(body); err == nil {
		eachSecret(t, n, func(at string, holder *node, i int) { out[at] = string(holder.kids[i].append(nil)) })
	}
	return out
}

// WithoutSecrets returns the body without its secret members: what is sent to a
// server that shall keep the secrets it has. The error wraps ErrBody.
func WithoutSecrets(t schemas.Type, body []byte) ([]byte, error) {
	n, err := parseNode(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	type spot struct {
		holder *node
		i      int
	}
	var spots []spot
	eachSecret(t, n, func(_ string, holder *node, i int) { spots = append(spots, spot{holder, i}) })
	for _, x := range slices.Backward(spots) { // so that places before stay right
		x.holder.remove(x.i)
	}
	return n.append(nil), nil
}

// hide puts into place of every secret what the mode shows of it.
func (s *Server) hide(t schemas.Type, n *node) {
	mode := s.SecretMode(t)
	if mode == visualcron.SecretsEqual {
		return
	}
	_, fresh := s.mode("fresh-iv", t)
	eachSecret(t, n, func(at string, holder *node, i int) {
		if holder.kids[i].void() {
			return
		}
		switch mode {
		case visualcron.SecretsOpaque:
			holder.kids[i] = textNode(s.seal(at, holder.kids[i].append(nil), fresh))
		case visualcron.SecretsMasked:
			holder.kids[i] = textNode(Mask)
		case visualcron.SecretsNull:
			holder.kids[i] = rawNode("null")
		}
	})
}

// take makes of a body as sent what is to be stored. In mode equal that is the body
// itself. In the others a secret member that was left out keeps what old holds in
// its place, and one that was sent is stored as sent: a mask then is the secret.
// Only ciphertext of this very server still means what it was made of.
func (s *Server) take(t schemas.Type, n, old *node) {
	mode := s.SecretMode(t)
	if mode == visualcron.SecretsEqual {
		return
	}
	if mode == visualcron.SecretsOpaque {
		eachSecret(t, n, func(_ string, holder *node, i int) {
			if plain, ok := s.unseal(holder.kids[i].text()); ok {
				if v, err := parseNode(plain); err == nil {
					holder.kids[i] = v
				}
			}
		})
	}
	if old == nil {
		return
	}
	// Which members of the old body are secret, by the object that holds them.
	secret := map[*node][]int{}
	eachSecret(t, old, func(_ string, holder *node, i int) { secret[holder] = append(secret[holder], i) })
	var keep func(n, old *node)
	keep = func(n, old *node) {
		if old == nil || n.kind != old.kind {
			return
		}
		for i, kid := range n.kids {
			if n.kind == '{' {
				keep(kid, old.get(n.names[i]))
			} else if n.kind == '[' {
				keep(kid, old.twin(n, i))
			}
		}
		if n.kind == '{' {
			for _, i := range secret[old] {
				if n.index(old.names[i]) < 0 {
					n.set(old.names[i], old.kids[i])
				}
			}
		}
	}
	keep(n, old)
}

const sealMark = "standin-opaque:"

// sealer is made of the server's own id, so that no other one opens what it sealed.
func (s *Server) sealer() (cipher.AEAD, []byte) {
	key := sha256.Sum256([]byte("vcsync stand-in secrets/" + s.id))
	block, err := aes.NewCipher(key[:])
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCM(block); err == nil {
			return aead, key[:]
		}
	}
	panic("standin: " + err.Error()) // the size of the key is right
}

// seal returns ciphertext, the same for the same secret at the same place unless
// fresh.
func (s *Server) seal(at string, plain []byte, fresh bool) string {
	aead, key := s.sealer()
	nonce := make([]byte, aead.NonceSize())
	if fresh {
		_, _ = rand.Read(nonce) // never fails
	} else {
		mac := hmac.New(sha256.New, key)
		mac.Write(append([]byte(at+"\x00"), plain...))
		copy(nonce, mac.Sum(nil))
	}
	return sealMark + base64.StdEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, nil))
}

// unseal opens what this server sealed.
func (s *Server) unseal(text string) (plain []byte, ok bool) {
	b, marked := strings.CutPrefix(text, sealMark)
	raw, err := base64.StdEncoding.DecodeString(b)
	aead, _ := s.sealer()
	if !marked || err != nil || len(raw) < aead.NonceSize() {
		return nil, false
	}
	plain, err = aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], nil)
	return plain, err == nil && jsontext.Value(plain).IsValid()
}
