package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// ParkedRecord is an object state that waits for a person or another object.
type ParkedRecord struct {
	Target    string    `json:"target"`
	Setting   string    `json:"setting,omitzero"`
	Source    string    `json:"source"`
	Type      string    `json:"type"`
	ID        string    `json:"id,omitzero" doc:"Absent where the message was not readable."`
	Token     string    `json:"token" doc:"The object's id in paths of this API."`
	Name      string    `json:"name,omitzero"`
	Version   string    `json:"version" doc:"Epoch and revision."`
	Class     string    `json:"class" doc:"A short word for the kind of reason."`
	Reason    string    `json:"reason"`
	Fix       string    `json:"fix,omitzero" doc:"What to do."`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Attempts  int       `json:"attempts"`
	NextTry   time.Time `json:"nextTry,omitzero" doc:"When vcsync tries again by itself."`
	Retrying  bool      `json:"retrying,omitzero" doc:"A person asked for a try that has not been made yet."`
	Discarded string    `json:"discarded,omitzero" doc:"The reason for leaving this version unapplied."`
}

// DiscardReason is the body of discarding.
type DiscardReason struct {
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"Why this version is left unapplied; it stands in the audit."`
}

// RetryCount is how many records will be tried again.
type RetryCount struct {
	Asked int `json:"asked"`
}

func parkedRecord(p broker.Parked) ParkedRecord {
	return ParkedRecord{Target: string(p.Target), Setting: string(p.Setting), Source: string(p.Source), Type: string(p.Type), ID: string(p.ID),
		Token: string(p.Token), Name: p.Name, Version: p.Version.String(), Class: p.Class, Reason: p.Reason, Fix: p.Fix, First: p.First,
		Last: p.Last, Attempts: p.Attempts, NextTry: p.NextTry, Retrying: p.RetryAsked > p.RetryDone, Discarded: p.Discarded}
}

// ParkedPath names a parked record.
type ParkedPath struct {
	Target string `path:"target" maxLength:"48"`
	Type   string `path:"type" maxLength:"32"`
	Token  string `path:"token" maxLength:"400"`
}

// TargetQuery names a target; exported, because huma passes over what is embedded and is not.
type TargetQuery struct {
	Target string `query:"target" doc:"Only what waits for this server."`
}

// retryQuery says what is tried again.
type retryQuery struct {
	TargetQuery
	Pass string `query:"pass" maxLength:"64" doc:"Only what this pass paused: it is resumed. Where absent, what is paused stays so."`
}

func (q TargetQuery) slug() (schemas.Slug, error) {
	if q.Target == "" {
		return "", nil
	}
	return schemas.ParseSlug(q.Target)
}

func (s *Server) sortedParked(ctx context.Context, target schemas.Slug) ([]broker.Parked, error) {
	all, err := s.broker.ListParked(ctx, target)
	slices.SortFunc(all, func(a, b broker.Parked) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), a.First.Compare(b.First), cmp.Compare(a.Key(), b.Key()))
	})
	return all, err
}

func (s *Server) listParked(ctx context.Context, in *TargetQuery) (*output[list[ParkedRecord]], error) {
	target, err := in.slug()
	if err != nil {
		return nil, err
	}
	all, err := s.sortedParked(ctx, target)
	if err != nil {
		return nil, err
	}
	out := &output[list[ParkedRecord]]{}
	for _, p := range all {
		out.Body.Items = append(out.Body.Items, parkedRecord(p))
	}
	return out, nil
}

func (s *Server) parked(ctx context.Context, in *ParkedPath) (broker.Parked, error) {
	target, err := schemas.ParseSlug(in.Target)
	if err != nil {
		return broker.Parked{}, err
	}
	t, err := schemas.ParseType(in.Type)
	if err != nil {
		return broker.Parked{}, err
	}
	token, err := schemas.ParseToken(in.Token)
	if err != nil {
		return broker.Parked{}, err
	}
	p, err := s.broker.GetParked(ctx, target, t, token)
	if errors.Is(err, broker.ErrNotFound) {
		return p, huma.Error404NotFound(fmt.Sprintf("%s/%s is not parked at %s.", t, token, target))
	}
	return p, err
}

func (s *Server) getParked(ctx context.Context, in *ParkedPath) (*tagged[ParkedRecord], error) {
	p, err := s.parked(ctx, in)
	if err != nil {
		return nil, err
	}
	return &tagged[ParkedRecord]{parkedTag(p), parkedRecord(p)}, nil
}

// parkedTag is the ETag of a parked record: the version that is parked, because the rest
// changes with every try.
func parkedTag(p broker.Parked) string { return `"` + p.Version.String() + `"` }

// changeParked changes a record that the consumer may be changing too: the change
// is made again on what is there then, and nothing is done where the record is
// gone.
func (s *Server) changeParked(ctx context.Context, p broker.Parked, change func(*broker.Parked)) (broker.Parked, error) {
	for {
		change(&p)
		rev, err := s.broker.PutParked(ctx, p)
		if err == nil {
			p.Revision = rev
			return p, nil
		}
		if !errors.Is(err, broker.ErrConflict) {
			return p, err
		}
		if p, err = s.broker.GetParked(ctx, p.Target, p.Type, p.Token); err != nil {
			return p, err
		}
	}
}

func askRetry(p *broker.Parked) {
	p.RetryAsked = max(p.RetryAsked, p.RetryDone) + 1
	p.Discarded = ""
}

func (s *Server) retryParked(ctx context.Context, in *ParkedPath) (*output[ParkedRecord], error) {
	p, err := s.parked(ctx, in)
	if err != nil {
		return nil, err
	}
	err = s.act(ctx, broker.AuditRecord{Action: "parked.retry", Object: parkedName(p), Before: p.Revision}, func(ctx context.Context) error {
		p, err = s.changeParked(ctx, p, askRetry)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &output[ParkedRecord]{parkedRecord(p)}, nil
}

func (s *Server) retryAllParked(ctx context.Context, in *retryQuery) (*output[RetryCount], error) {
	target, err := in.slug()
	if err != nil {
		return nil, err
	}
	all, err := s.sortedParked(ctx, target)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p broker.Parked) bool {
		if in.Pass != "" {
			return !p.IsPaused() || p.Pass != in.Pass
		}
		return p.Discarded != "" || p.IsPaused() // a pause is ended on purpose only
	})
	out := &output[RetryCount]{}
	if len(all) == 0 {
		return out, nil
	}
	object := "parked"
	if target != "" {
		object += "/" + string(target)
	}
	if in.Pass != "" {
		object += "/paused by " + in.Pass
	}
	err = s.act(ctx, broker.AuditRecord{Action: "parked.retry-all", Object: object, Detail: fmt.Sprintf("%d records", len(all))}, func(ctx context.Context) error {
		for _, p := range all {
			_, err := s.changeParked(ctx, p, askRetry)
			if errors.Is(err, broker.ErrNotFound) {
				continue // it went through meanwhile
			}
			if err != nil {
				return err
			}
			out.Body.Asked++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) discardParked(ctx context.Context, in *struct {
	ParkedPath
	IfMatch string `header:"If-Match" doc:"The ETag that was read, or *."`
	Body    DiscardReason
}) (*output[ParkedRecord], error) {
	reason := strings.TrimSpace(in.Body.Reason)
	if reason == "" {
		return nil, huma.Error422UnprocessableEntity("reason: empty")
	}
	p, err := s.parked(ctx, &in.ParkedPath)
	if err != nil {
		return nil, err
	}
	if err := matchTag(in.IfMatch, parkedTag(p)); err != nil {
		return nil, err
	}
	seen := p.Version
	err = s.act(ctx, broker.AuditRecord{Action: "parked.discard", Object: parkedName(p), Before: p.Revision, Detail: seen.String() + ": " + reason},
		func(ctx context.Context) error {
			newer := false
			p, err = s.changeParked(ctx, p, func(p *broker.Parked) {
				if newer = p.Version != seen; !newer {
					p.Discarded = reason
				}
			})
			if err == nil && newer {
				return huma.Error409Conflict("A newer version of the object is parked by now: look at it, and repeat.")
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	return &output[ParkedRecord]{parkedRecord(p)}, nil
}

func parkedName(p broker.Parked) string {
	return "parked/" + string(p.Target) + "/" + string(p.Type) + "/" + string(p.Token)
}
