package control

import (
	"context"
	"net/http"

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
	if err := s.act(ctx, broker.AuditRecord{Action: "backup.make", Object: "backup"}, func(context.Context) error { return nil }); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", "application/octet-stream")
		c.SetHeader("Cache-Control", "no-store")
		if _, err := s.broker.Backup(c.Context(), c.BodyWriter(), s.cfg.Version, to); err != nil {
			s.log.ErrorContext(c.Context(), "a backup could not be made", "error", err)
			panic(http.ErrAbortHandler) // the client sees that it is cut
		}
	}}, nil
}
