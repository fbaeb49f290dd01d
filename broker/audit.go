package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// AuditRecord says who did what. It holds no object's content and no secret.
type AuditRecord struct {
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	From   string    `json:"from,omitzero"`
	Action string    `json:"action"` // such as "setting.update"
	Object string    `json:"object"` // such as "setting/prod-to-test"
	// Before is the revision that the act replaces, 0 where there is none.
	Before uint64 `json:"before,omitzero"`
	Detail string `json:"detail,omitzero"`
}

// Audit stores a record and returns when it is on disk. Acts that change state
// call it before their effect and do not happen when it fails (G12).
func (b *Broker) Audit(ctx context.Context, r AuditRecord) error {
	raw, err := json.Marshal(r)
	if err == nil {
		_, err = b.js.Publish(ctx, "vcsync.audit."+r.Action, raw)
	}
	if err != nil {
		return fmt.Errorf("write the audit record, without which nothing is changed: %w", err)
	}
	return nil
}
