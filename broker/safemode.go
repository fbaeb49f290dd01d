package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"
)

// safeModeKey is the key of the record of safe mode in VCS_CFG.
const safeModeKey = "safemode"

// SafeMode says whether the installation is in safe mode: what it remembers may not be
// true, so nothing is deleted anywhere, and nothing else is written but entries of a plan
// that a person approved.
type SafeMode struct {
	On bool `json:"on"`
	// Since is when it was entered or left, By who did that: an account, "local" where there are none, "vcsync"
	// for a start that found a reason. Why is for people.
	Since time.Time `json:"since,omitzero"`
	By    string    `json:"by,omitzero"`
	Why   string    `json:"why,omitzero"`
	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// StoredSafeMode is the record with the revision that its next change must name, 0 where
// there is none.
type StoredSafeMode struct {
	SafeMode
	Revision uint64
}

// whyMost is how many bytes of reasons a record keeps: each cause is added to those
// before.
const whyMost = 2000

// parseSafeMode reads the record. One that is not understood counts as on: an unknown
// reason to be careful is one.
func parseSafeMode(e jetstream.KeyValueEntry) (StoredSafeMode, error) {
	out := StoredSafeMode{Revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), &out.SafeMode); err != nil {
		out.SafeMode = SafeMode{On: true, Since: e.Created().UTC(), Why: "the record of safe mode cannot be read"}
		return out, fmt.Errorf("%w: safe mode: %w", ErrRecord, err)
	}
	return out, nil
}

// PutSafeMode stores the record, under the same rule as PutServer.
func (b *Broker) PutSafeMode(ctx context.Context, m SafeMode, after uint64) (uint64, error) {
	raw, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return 0, fmt.Errorf("store safe mode: %w", err)
	}
	return b.putRecord(ctx, safeModeKey, raw, after)
}

// EnterSafeMode puts the installation into safe mode. Where it is there already the reason
// is added to those that are on record.
func (b *Broker) EnterSafeMode(ctx context.Context, by, why string) error {
	for {
		old, err := b.GetSafeMode(ctx)
		if err != nil && !errors.Is(err, ErrRecord) {
			return err
		}
		next := SafeMode{On: true, Since: time.Now().UTC(), By: by, Why: why, Unknown: old.Unknown}
		if old.On {
			if next.Since, next.By = old.Since, old.By; strings.Contains(old.Why, why) {
				next.Why = old.Why
			} else if old.Why != "" {
				next.Why = old.Why + "; " + why
			}
		}
		if len(next.Why) > whyMost {
			next.Why = strings.ToValidUTF8(next.Why[:whyMost], "") + " ..."
		}
		if _, err = b.PutSafeMode(ctx, next, old.Revision); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// enterByItself enters safe mode because of what this start found, audited first (G12).
func (b *Broker) enterByItself(ctx context.Context, why string) error {
	if err := b.Audit(ctx, AuditRecord{Time: time.Now().UTC(), Who: "vcsync", Action: "safe-mode.on", Object: "safe-mode", Detail: why}); err != nil {
		return err
	}
	return b.EnterSafeMode(ctx, "vcsync", why)
}

// GetSafeMode returns the record; the zero record, which is off, where there is none.
func (b *Broker) GetSafeMode(ctx context.Context) (StoredSafeMode, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return StoredSafeMode{}, fmt.Errorf("safe mode: %w", err)
	}
	e, err := kv.Get(ctx, safeModeKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return StoredSafeMode{}, nil
	}
	if err != nil {
		return StoredSafeMode{}, fmt.Errorf("safe mode: %w", err)
	}
	return parseSafeMode(e)
}
