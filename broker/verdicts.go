package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// verdictPrefix begins the keys of Verdicts in VCS_CFG.
const verdictPrefix = "verdict."

// VerdictsMost is how many rejected deletions a setting has at most: a record has to fit
// in a message.
const VerdictsMost = 2000

// Verdicts holds the deletions at the target of a sync setting that a person has rejected.
// Control alone writes it. What a person approves is a Run.
type Verdicts struct {
	Setting  schemas.Slug       `json:"setting"`
	Rejected []RejectedDeletion `json:"rejected"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
	// Revision is the record's own, for the next change of it.
	Revision uint64 `json:"-"`
}

// RejectedDeletion is an object that stays at a target although its source has deleted it
// in that version. A newer version of it ends the verdict.
type RejectedDeletion struct {
	Source schemas.Slug `json:"source"`
	Type   schemas.Type `json:"type"`
	// ID is that at the source.
	ID      schemas.ID      `json:"id"`
	Name    string          `json:"name,omitzero"`
	Version schemas.Version `json:"version"`
	// Batch is the one that the person saw.
	Batch string `json:"batch"`
	// Who and From are as in AuditRecord.
	Who    string    `json:"who"`
	From   string    `json:"from,omitzero"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// Find returns the verdict about a deletion, and false where there is none.
func (v Verdicts) Find(source schemas.Slug, t schemas.Type, id schemas.ID, version schemas.Version) (RejectedDeletion, bool) {
	i := slices.IndexFunc(v.Rejected, func(r RejectedDeletion) bool {
		return r.Source == source && r.Type == t && r.ID == id && r.Version == version
	})
	if i < 0 {
		return RejectedDeletion{}, false
	}
	return v.Rejected[i], true
}

// VerdictsAt returns the verdicts of the settings of one target.
func (s Snapshot) VerdictsAt(target schemas.Slug) map[schemas.Slug]Verdicts {
	out := map[schemas.Slug]Verdicts{}
	for id, v := range s.Verdicts {
		if s.Settings[id].Target == target {
			out[id] = v
		}
	}
	return out
}

// PutVerdicts stores a record, under the same rule as PutServer for v.Revision.
func (b *Broker) PutVerdicts(ctx context.Context, v Verdicts) (uint64, error) {
	key := verdictPrefix + string(v.Setting)
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	return b.putRecord(ctx, key, raw, v.Revision)
}

func parseVerdicts(e jetstream.KeyValueEntry) (Verdicts, error) {
	var v Verdicts
	if err := json.Unmarshal(e.Value(), &v); err != nil {
		return Verdicts{}, fmt.Errorf("%w: %s: %w", ErrRecord, e.Key(), err)
	}
	if verdictPrefix+string(v.Setting) != e.Key() {
		return Verdicts{}, fmt.Errorf("%w: %s says it is of %s", ErrRecord, e.Key(), v.Setting)
	}
	v.Revision = e.Revision()
	return v, nil
}
