package broker

import (
	"errors"
	"github.com/go-json-experiment/json"
	"io"
	"strings"
	"time"
)

// A pass in its parts, so that a test can do something in between.
var (
	OldBodies    = (*Broker).oldBodies
	DropNamed    = (*Broker).dropNamed
	RemoveBodies = (*Broker).removeBodies

	BodyName   = bodyName
	BodyRecord = (*Broker).bodyRecord
	RenewBody  = (*Broker).renewBody
)

// SetBackwardsFor shortens the time after which a store in use counts as lost, and
// returns a function that puts it back.
func SetBackwardsFor(d time.Duration) func() {
	old := backwardsFor
	backwardsFor = d
	return func() { backwardsFor = old }
}

// TooOld is what vcsync says of a NATS server's version.
var TooOld = tooOld

// LateEnd is how a body is handed to the client.
func LateEnd(r io.Reader) io.Reader { return lateEnd{r} }

// SecondAudit is another process that writes to the audit of b.
func SecondAudit(b *Broker) *Broker {
	return &Broker{Keys: b.Keys, cfg: b.cfg, log: b.log, nc: b.nc, js: b.js, auditing: make(chan struct{}, 1)}
}

// Relink changes a record of an export and writes the chain from there anew, with the
// MACs of keys, or the old ones where it is nil.
func Relink(keys *Keyring, lines []string, from int, old, with string) []string {
	head := auditHead{seq: uint64(from - 1)}
	if from > 1 {
		head.hash = parseAuditLine([]byte(lines[from-2])).Hash
	}
	lines[from-1] = strings.Replace(lines[from-1], old, with, 1)
	for i := from - 1; i < len(lines); i++ {
		r := parseAuditLine([]byte(lines[i])).AuditRecord
		var raw []byte
		var err error
		if keys != nil {
			raw, r.Hash, err = keys.linkAudit(r, head)
		} else {
			r.Prev, r.Hash = head.hash, ""
			raw, err = json.Marshal(r)
			form, cerr := canonical(raw)
			r.Hash = hashOf(form)
			if err = errors.Join(err, cerr); err == nil {
				raw, err = json.Marshal(r)
			}
		}
		if err != nil {
			panic(err)
		}
		lines[i], head = string(raw), auditHead{seq: r.Seq, hash: r.Hash}
		head.seq = uint64(i + 1)
	}
	return lines
}
