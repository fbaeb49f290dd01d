package broker

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What is hashed begins with the form of the chain, so that another form can never be
// taken for this one.
const auditForm = "vcsync audit 1\n"

// auditKey returns the key of the chain and its name, which tells nothing of it.
func (k *Keyring) auditKey() (key []byte, name string) {
	key, err := hkdf.Key(sha256.New, k.digest, nil, auditForm, sha256.Size)
	if err != nil {
		panic(err) // never, of this hash and length
	}
	return key, hex.EncodeToString(macOf(key, []byte("name")))[:16]
}

func macOf(key, data []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// linkAudit returns the record as it is stored after head, and its hash.
func (k *Keyring) linkAudit(r AuditRecord, head auditHead) (raw []byte, hash string, err error) {
	key, name := k.auditKey()
	r.Seq, r.Prev, r.Key, r.MAC, r.Hash = head.seq+1, head.hash, name, "", ""
	for _, seal := range []func([]byte){
		func(form []byte) { r.MAC = hex.EncodeToString(macOf(key, form)) },
		func(form []byte) { r.Hash = hashOf(form) },
	} {
		if raw, err = json.Marshal(r, json.Deterministic(true)); err != nil {
			return nil, "", err
		}
		form, err := canonical(raw)
		if err != nil {
			return nil, "", err
		}
		seal(form)
	}
	raw, err = json.Marshal(r, json.Deterministic(true))
	return raw, r.Hash, err
}

func hashOf(form []byte) string {
	sum := sha256.Sum256(form)
	return hex.EncodeToString(sum[:])
}

// canonical returns the form of a record that is hashed: its JSON by RFC 8785 (with numbers
// as they are), without the members that are named. So a copy that another program has
// written anew has the same.
func canonical(raw []byte, without ...string) ([]byte, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	for _, name := range without {
		delete(members, name)
	}
	form, err := json.Marshal(members, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	if err := (*jsontext.Value)(&form).Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return nil, err
	}
	return append([]byte(auditForm), form...), nil
}

// auditLine returns a message of the audit as one line of an export: the record, with its
// sequence where it has none of its own.
func auditLine(seq uint64, data []byte) []byte {
	var members map[string]jsontext.Value
	if json.Unmarshal(data, &members) != nil || members == nil {
		line, err := json.Marshal(struct {
			Seq        uint64 `json:"seq"`
			Unreadable []byte `json:"unreadable"`
		}{seq, data})
		if err != nil {
			panic(err) // never, of a number and bytes
		}
		return line
	}
	if _, ok := members["seq"]; !ok {
		members["seq"] = jsontext.Value(fmt.Sprint(seq))
		if line, err := json.Marshal(members, json.Deterministic(true)); err == nil {
			return line
		}
	}
	line := jsontext.Value(bytes.Clone(data))
	_ = line.Compact() // it was just read
	return line
}

// auditEntry is what a line tells.
type auditEntry struct {
	AuditRecord
	chained bool
	hash    string // as computed
	inner   []byte // what the MAC is made of
	err     error  // where it is no record
}

func parseAuditLine(line []byte) (e auditEntry) {
	form, err := canonical(line, "hash")
	if err != nil {
		return auditEntry{err: err, hash: hashOf(append([]byte(auditForm), line...))}
	}
	e.hash = hashOf(form)
	if err := json.Unmarshal(line, &e.AuditRecord); err != nil {
		return auditEntry{err: err, hash: e.hash}
	}
	if e.chained = e.Hash != ""; e.chained {
		e.inner, e.err = canonical(line, "hash", "mac")
	}
	return e
}

// AuditBreak is the first record of an audit that is not what was written.
type AuditBreak struct {
	// Seq is its place.
	Seq uint64 `json:"seq"`
	// Time is what it says of itself; where it is missing or cannot be read, the time of
	// the one before it.
	Time   time.Time `json:"time,omitzero"`
	Reason string    `json:"reason"`
}

// AuditCheck looks at an audit record by record, in their order. Its zero value begins
// with the first. It may be kept as JSON in between.
type AuditCheck struct {
	// Records counts those seen, Unchained those of releases without a chain.
	Records   uint64 `json:"records"`
	Unchained uint64 `json:"unchained,omitzero"`
	// ChainFrom is the first record of the chain, 0 where none was seen.
	ChainFrom uint64 `json:"chainFrom,omitzero"`
	// Last is the last record seen, Head its hash and Time what it says of its time.
	Last uint64    `json:"last,omitzero"`
	Head string    `json:"head,omitzero"`
	Time time.Time `json:"time,omitzero"`
	// Keyed counts the records whose MAC was checked. OtherKey is the first of those that
	// were made with another keyring, 0 where none was.
	Keyed    uint64 `json:"keyed,omitzero"`
	OtherKey uint64 `json:"otherKey,omitzero"`
	// Loose is the first of records at the end that the chain does not hold yet.
	Loose  uint64      `json:"loose,omitzero"`
	Broken *AuditBreak `json:"broken,omitzero"`
}

// AddLine looks at the next record, a line of an export. With keys nil its MAC is not
// checked. It returns false where the audit is broken, and says then where in Broken.
func (c *AuditCheck) AddLine(line []byte, keys *Keyring) bool {
	if c.Broken != nil {
		return false
	}
	e, seq := parseAuditLine(line), c.Last+1
	at := e.Time
	if at.IsZero() {
		at = c.Time
	}
	broken := func(format string, a ...any) bool {
		c.Broken = &AuditBreak{seq, at, fmt.Sprintf(format, a...)}
		return false
	}
	switch {
	case e.err != nil:
		return broken("it cannot be read as a record: %v", e.err)
	case e.Seq != seq && c.Last == 0:
		return broken("the first record there is says that it is number %d: what was before it is missing, or it was changed", e.Seq)
	case e.Seq != seq:
		return broken("in its place is a record that says it is number %d: records are missing or were moved, or this one was changed", e.Seq)
	case !e.chained:
		c.Unchained++
		if c.ChainFrom > 0 && c.Loose == 0 {
			c.Loose = seq
		}
	case e.hash != e.Hash:
		return broken("its content does not give its hash: it was changed")
	case e.Prev != c.Head && c.Last > 0:
		seq, at = c.Last, c.Time
		if c.Loose > 0 {
			seq = c.Loose
		}
		return broken("the record after it names another: it was changed or replaced")
	case e.Prev != "" && c.Last == 0:
		return broken("it names a record before it, and there is none: what was before it is missing")
	default:
		if c.ChainFrom == 0 {
			c.ChainFrom = seq
		}
		c.Loose = 0
		if keys == nil {
			break
		}
		key, name := keys.auditKey()
		switch {
		case e.Key != name && c.Keyed > 0:
			return broken("it was made with another keyring than those before it: somebody without this installation's keyring wrote it")
		case e.Key != name && c.OtherKey == 0:
			c.OtherKey = seq
		case e.Key == name && !hmac.Equal([]byte(hex.EncodeToString(macOf(key, e.inner))), []byte(e.MAC)):
			return broken("its MAC is not that of this installation's keyring: it was written anew by somebody without it")
		case e.Key == name:
			c.Keyed++
		}
	}
	c.Records++
	c.Last, c.Head, c.Time = seq, e.hash, at
	return true
}

// End says that there are no more records; last is the sequence of the last that there
// ever was, 0 where that is not known. It returns whether the audit is whole.
func (c *AuditCheck) End(last uint64, keys *Keyring) bool {
	switch {
	case c.Broken != nil:
	case c.Last < last:
		c.Broken = &AuditBreak{c.Last + 1, c.Time, fmt.Sprintf("it is missing: %d records were written", last)}
	case c.Loose > 0:
		c.Broken = &AuditBreak{c.Loose, c.Time, "it is outside of the chain, and nothing after it holds it: a release without a chain wrote it, or somebody else. The next act takes it into the chain as it is"}
	case keys != nil && c.Keyed == 0 && c.OtherKey > 0:
		c.Broken = &AuditBreak{c.OtherKey, c.Time, "from it on everything was made with another keyring than this installation's"}
	}
	return c.Broken == nil
}
