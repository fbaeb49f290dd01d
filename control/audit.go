package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/broker"
)

const (
	// auditStep is how many records one call looks at or gives out.
	auditStep = 5000
	// resultLimit is how long the record of a result may take.
	resultLimit = 10 * time.Second
)

// concluded puts on record what became of an act, and returns its error. A result that
// cannot be written changes nothing: the act itself is on record.
func (s *Server) concluded(ctx context.Context, r broker.AuditRecord, seq uint64, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultLimit)
	defer cancel()
	if err := s.broker.AuditResult(ctx, r, seq, failed); err != nil {
		s.unrecorded.Add(1)
		s.log.WarnContext(ctx, "the result of an act is not in the audit", "action", r.Action, "object", r.Object, "record", seq, "error", err)
	}
	return failed
}

// digestOf names what an act stores, for its record.
func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// AuditEntry is an act as the API shows it.
type AuditEntry struct {
	Seq      uint64    `json:"seq" doc:"Its place in the audit."`
	Time     time.Time `json:"time,omitzero"`
	Who      string    `json:"who,omitzero"`
	From     string    `json:"from,omitzero" doc:"The address that the request came from."`
	Action   string    `json:"action" doc:"Such as setting.update; unreadable where the record is none."`
	Object   string    `json:"object,omitzero" doc:"Such as setting/prod-to-test."`
	Before   uint64    `json:"before,omitzero" doc:"The revision that it replaces."`
	New      string    `json:"new,omitzero" doc:"SHA-256 of the record that it stores."`
	Settings uint64    `json:"settings,omitzero" doc:"The revision of the sync setting under which it was decided."`
	Approval string    `json:"approval,omitzero" doc:"The plan or batch that was approved."`
	Detail   string    `json:"detail,omitzero"`
	Result   string    `json:"result,omitzero" doc:"done, or failed and why; absent where vcsync ended between the record and the effect, or after it."`
	Hash     string    `json:"hash,omitzero" doc:"Its hash in the chain; absent in records of releases without one."`
}

// AuditList is a page of the audit.
type AuditList struct {
	Items []AuditEntry `json:"items" nullable:"false"`
	Next  uint64       `json:"next,omitzero" doc:"Give it as before to read on; absent at the end. A page may be short or empty and have a next one."`
}

type auditInput struct {
	Since  time.Time `query:"since" doc:"Only acts since then."`
	Until  time.Time `query:"until" doc:"Only acts before that."`
	Who    string    `query:"who" maxLength:"200" doc:"Only acts of this account."`
	Action string    `query:"action" maxLength:"200" doc:"Only this action, such as setting.update, or all that it begins: setting."`
	Object string    `query:"object" maxLength:"400" doc:"Only acts on this object, such as setting/prod-to-test, or all that it begins: server."`
	Before uint64    `query:"before" doc:"Only acts before this sequence."`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"50"`
}

func (s *Server) listAudit(ctx context.Context, in *auditInput) (*output[AuditList], error) {
	acts, next, err := s.broker.AuditPage(ctx, broker.AuditQuery{Since: in.Since, Until: in.Until, Who: in.Who, Action: in.Action, Object: in.Object}, in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &output[AuditList]{Body: AuditList{Next: next}}
	for _, a := range acts {
		out.Body.Items = append(out.Body.Items, AuditEntry{Seq: a.Seq, Time: a.Time, Who: a.Who, From: a.From, Action: a.Action, Object: a.Object,
			Before: a.Before, New: a.New, Settings: a.Settings, Approval: a.Approval, Detail: a.Detail, Result: a.Result, Hash: a.Hash})
	}
	return out, nil
}

// AuditVerified is how far a check of the audit has come.
type AuditVerified struct {
	broker.AuditCheck
	Done bool   `json:"done" doc:"All was looked at, or it is broken."`
	Next string `json:"next,omitzero" doc:"Give it as cursor to go on; absent when done."`
}

type verifyInput struct {
	Cursor string `query:"cursor" maxLength:"4096" doc:"The next of the answer before; empty to begin."`
}

func (s *Server) verifyAudit(ctx context.Context, in *verifyInput) (*output[AuditVerified], error) {
	out := &output[AuditVerified]{}
	if in.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(in.Cursor)
		if err != nil || json.Unmarshal(raw, &out.Body.AuditCheck) != nil {
			return nil, huma.Error422UnprocessableEntity("The cursor is none that this API gave out: begin again without one.")
		}
	}
	var err error
	if out.Body.Done, err = s.broker.VerifyAudit(ctx, &out.Body.AuditCheck, auditStep); err != nil {
		return nil, err
	}
	if !out.Body.Done {
		raw, err := json.Marshal(out.Body.AuditCheck)
		if err != nil {
			return nil, err
		}
		out.Body.Next = base64.RawURLEncoding.EncodeToString(raw)
	}
	return out, nil
}

type exportInput struct {
	After uint64 `query:"after" doc:"Only records after this sequence; 0 begins with the first."`
}

type exportOutput struct {
	ContentType string `header:"Content-Type"`
	Last        uint64 `header:"Vcsync-Last" doc:"The sequence of the last record; give it as after to read on, until a part is empty."`
	Body        []byte
}

func (s *Server) exportAudit(ctx context.Context, in *exportInput) (*exportOutput, error) {
	var buf bytes.Buffer
	_, last, err := s.broker.ExportAudit(ctx, &buf, in.After, auditStep)
	if err != nil {
		return nil, err
	}
	return &exportOutput{ContentType: "application/jsonl", Last: last, Body: buf.Bytes()}, nil
}
