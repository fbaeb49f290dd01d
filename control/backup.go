package control

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
)

// BackupRequest is the body of asking for a backup: with whom it is encrypted, one of the
// two.
type BackupRequest struct {
	Passphrase string `json:"passphrase,omitzero" minLength:"12" maxLength:"1024" doc:"The passphrase that opens it. It is kept nowhere."`
	Recipient  string `json:"recipient,omitzero" maxLength:"200" doc:"An age recipient (age1...), whose key opens it."`
}

func (s *Server) backup(ctx context.Context, in *bodyInput[BackupRequest]) (*huma.StreamResponse, error) {
	var to age.Recipient
	var err error
	switch b := in.Body; {
	case (b.Passphrase == "") == (b.Recipient == ""):
		return nil, huma.Error422UnprocessableEntity("Give either a passphrase or a recipient.")
	case b.Recipient != "":
		to, err = age.ParseX25519Recipient(b.Recipient)
	default:
		to, err = age.NewScryptRecipient(b.Passphrase)
	}
	if err != nil {
		return nil, huma.Error422UnprocessableEntity("The recipient is none of age: want age1...")
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		// The backup is the effect, so that the audit says of one that broke off that it
		// failed.
		begun := false
		err := s.act(c.Context(), broker.AuditRecord{Action: backupAction, Object: "backup"}, func(context.Context) error {
			begun = true
			c.SetHeader("Content-Type", "application/octet-stream")
			c.SetHeader("Cache-Control", "no-store")
			info, err := s.broker.Backup(c.Context(), c.BodyWriter(), s.cfg.Version, to) // not bounded as other acts are: it may be long
			if err == nil {
				s.backedUp.note(info.Made)
			}
			return err
		})
		switch {
		case err == nil:
		case begun:
			s.log.ErrorContext(c.Context(), "a backup could not be made", "error", err)
			panic(http.ErrAbortHandler) // the client sees that it is cut
		default:
			_ = huma.WriteErr(s.api, c, http.StatusServiceUnavailable, err.Error()) // the client may be gone
		}
	}}, nil
}

const backupAction = "backup.make"

// lastBackup is when the last backup was made. The audit remembers it; it is looked for
// there once, from the newest record on, a page at each look.
type lastBackup struct {
	sync.Mutex
	at     time.Time
	before uint64 // where the search has come to
	over   bool
}

func (l *lastBackup) note(at time.Time) {
	l.Lock()
	defer l.Unlock()
	l.at, l.over = at, true
}

// lastBackup returns when the last backup was made; zero where none is known.
func (s *Server) lastBackup(ctx context.Context) (time.Time, error) {
	l := &s.backedUp
	l.Lock()
	before, over, at := l.before, l.over, l.at
	l.Unlock()
	if over {
		return at, nil
	}
	acts, next, err := s.broker.AuditPage(ctx, broker.AuditQuery{Action: backupAction}, before, 100)
	if err != nil {
		return time.Time{}, fmt.Errorf("look for the last backup in the audit: %w", err)
	}
	l.Lock()
	defer l.Unlock()
	for _, a := range acts { // newest first
		if !l.over && a.Result == broker.ResultDone {
			l.at, l.over = a.Time, true
		}
	}
	l.before, l.over = next, l.over || next == 0
	return l.at, nil
}
