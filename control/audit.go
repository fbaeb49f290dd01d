package control

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
)

const (
	// auditScan is how many records one request looks through for those that it wants.
	auditScan = 5000
	// auditStep is how many records one request checks.
	auditStep = 2000
)

// AuditEntry is a record of the audit.
type AuditEntry struct {
	Seq    uint64    `json:"seq" doc:"The number of the record, from 1, without gaps."`
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	From   string    `json:"from,omitzero" doc:"The address that the act came from."`
	Action string    `json:"action"`
	Object string    `json:"object"`
	Before uint64    `json:"before,omitzero" doc:"The revision that the act replaced."`
	Detail string    `json:"detail,omitzero"`
	Record string    `json:"record" doc:"The stored text. Its member prev is the hash of the record before."`
	Hash   string    `json:"hash,omitzero" doc:"The SHA-256 of the stored text, as it was written with it; absent where an earlier release wrote it."`
	Seal   string    `json:"seal,omitzero" doc:"The keyed digest of the hash."`
}

// AuditPage is a page of the audit.
type AuditPage struct {
	Items []AuditEntry `json:"items" nullable:"false"`
	Next  uint64       `json:"next,omitzero" doc:"The cursor of the next page; absent on the last. A page may be empty and have a next one."`
}

// AuditCheck is what a check of a part of the audit found.
type AuditCheck struct {
	Checked   int         `json:"checked" doc:"How many records were looked at."`
	Unchained int         `json:"unchained,omitzero" doc:"How many of them are of a release that did not link records."`
	Last      uint64      `json:"last" doc:"The number of the last record that was looked at."`
	Head      string      `json:"head,omitzero" doc:"The hash of that record."`
	Next      uint64      `json:"next,omitzero" doc:"The cursor of the next part; absent where there is none."`
	Broken    *AuditFault `json:"broken,omitempty" doc:"Where the chain breaks; absent where all is right."`
}

// AuditFault says where the chain breaks.
type AuditFault struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Why  string    `json:"why"`
}

type auditInput struct {
	Cursor uint64    `query:"cursor" doc:"The next of the page before; the beginning where absent."`
	Order  string    `query:"order" enum:"newest,oldest" default:"newest" doc:"Which come first."`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Who    string    `query:"who" maxLength:"200" doc:"Only the acts of this account."`
	Action string    `query:"action" maxLength:"100" doc:"Only this action, or those that begin with it and a dot."`
	Object string    `query:"object" maxLength:"1000" doc:"Only this object, or those that begin with it and a slash."`
	Since  time.Time `query:"since" doc:"Only records of this time or later."`
}

func (in auditInput) wants(r broker.StoredAudit) bool {
	return (in.Who == "" || r.Who == in.Who) && !r.Time.Before(in.Since) &&
		(in.Action == "" || r.Action == in.Action || strings.HasPrefix(r.Action, in.Action+".")) &&
		(in.Object == "" || r.Object == in.Object || strings.HasPrefix(r.Object, in.Object+"/"))
}

func (s *Server) listAudit(ctx context.Context, in *auditInput) (*output[AuditPage], error) {
	out := &output[AuditPage]{Body: AuditPage{Items: []AuditEntry{}}}
	down, from := in.Order != "oldest", in.Cursor
	first, last, err := s.broker.AuditRange(ctx)
	if err != nil {
		return nil, err
	}
	if from == 0 {
		if from = max(first, 1); down {
			from = last
		}
	}
	seen := 0
	err = s.broker.ReadAudit(ctx, from, down, func(e broker.StoredAudit) bool {
		if seen++; seen > auditScan || len(out.Body.Items) == in.Limit {
			out.Body.Next = e.Seq
			return false
		}
		if in.wants(e) {
			out.Body.Items = append(out.Body.Items, AuditEntry{Seq: e.Seq, Time: e.Time, Who: e.Who, From: e.From, Action: e.Action, Object: e.Object,
				Before: e.Before, Detail: e.Detail, Record: e.Raw, Hash: e.Hash, Seal: e.Seal})
		}
		// Records are written in the order of time, but for what clocks do in an hour.
		return !down || in.Since.IsZero() || e.Time.After(in.Since.Add(-time.Hour))
	})
	return out, err
}

// AuditCursor is where a check goes on.
type AuditCursor struct {
	Cursor uint64 `query:"cursor" doc:"The next of the part before; the beginning where absent."`
}

func (s *Server) verifyAudit(ctx context.Context, in *AuditCursor) (*output[AuditCheck], error) {
	out := &output[AuditCheck]{}
	c := &out.Body
	from := max(in.Cursor, 1)
	first, last, err := s.broker.AuditRange(ctx)
	if err != nil {
		return nil, err
	}
	if from < first && last > 0 {
		c.Broken = &AuditFault{Seq: from, Why: "it is gone"}
		return out, nil
	}
	var before broker.StoredAudit
	if from > 1 {
		before, err = s.broker.AuditAt(ctx, from-1)
		if errors.Is(err, broker.ErrNotFound) {
			c.Broken = &AuditFault{Seq: from - 1, Why: "it is gone"}
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
	err = s.broker.ReadAudit(ctx, from, false, func(e broker.StoredAudit) bool {
		if c.Checked == auditStep {
			c.Next = e.Seq
			return false
		}
		c.Checked++
		chained, why := broker.CheckAudit(before, e, s.broker.AuditSealed)
		if !chained {
			c.Unchained++
		}
		if why != "" {
			c.Broken = &AuditFault{Seq: e.Seq, Time: e.Time, Why: why}
			return false
		}
		before, c.Last, c.Head = e, e.Seq, e.Hash
		return true
	})
	return out, err
}
