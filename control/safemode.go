package control

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
)

// SafeModeRecord says whether vcsync is in safe mode: nothing is deleted at any target,
// and nothing else is written there but what a person approved in a plan.
type SafeModeRecord struct {
	On    bool      `json:"on"`
	Since time.Time `json:"since,omitzero" doc:"When it was entered or left."`
	By    string    `json:"by,omitzero" doc:"Who entered or left it: vcsync for a start that found a reason."`
	Why   string    `json:"why,omitzero"`
}

// SafeModeChange is the body of entering or leaving safe mode.
type SafeModeChange struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why; for whoever reads the status and the audit."`
}

func safeModeRecord(m broker.SafeMode) SafeModeRecord {
	return SafeModeRecord{m.On, m.Since, m.By, m.Why}
}

func (s *Server) getSafeMode(ctx context.Context, _ *noInput) (*tagged[SafeModeRecord], error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return &tagged[SafeModeRecord]{etag(snap.SafeMode.Revision), safeModeRecord(snap.SafeMode.SafeMode)}, nil
}

func (s *Server) enterSafeMode(ctx context.Context, in *bodyInput[SafeModeChange]) (*tagged[SafeModeRecord], error) {
	return s.putSafeMode(ctx, "safe-mode.on", "*", broker.SafeMode{On: true, Why: in.Body.Reason})
}

// leaveInput names the record that the caller saw: whoever leaves safe mode has read why
// it was entered.
type leaveInput struct {
	IfMatch string `header:"If-Match" doc:"The ETag that was read, or *."`
	Body    SafeModeChange
}

func (s *Server) leaveSafeMode(ctx context.Context, in *leaveInput) (*tagged[SafeModeRecord], error) {
	return s.putSafeMode(ctx, "safe-mode.off", in.IfMatch, broker.SafeMode{Why: in.Body.Reason})
}

func (s *Server) putSafeMode(ctx context.Context, action, ifMatch string, next broker.SafeMode) (*tagged[SafeModeRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	old := snap.SafeMode
	if err := match(ifMatch, old.Revision); err != nil {
		return nil, err
	}
	if old.On == next.On {
		if next.On {
			return nil, huma.NewError(http.StatusConflict, "vcsync is in safe mode already: "+old.Why+".")
		}
		return nil, huma.NewError(http.StatusConflict, "vcsync is not in safe mode.")
	}
	next.Since, next.By, next.Unknown = time.Now().UTC(), who(ctx), old.Unknown
	var rev uint64
	err = s.act(ctx, broker.AuditRecord{Action: action, Object: "safe-mode", Before: old.Revision, Detail: next.Why}, func(ctx context.Context) error {
		var err error
		rev, err = s.broker.PutSafeMode(ctx, next, old.Revision)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tagged[SafeModeRecord]{etag(rev), safeModeRecord(next)}, nil
}
