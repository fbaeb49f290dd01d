package control

import (
	"context"
	"fmt"

	"github.com/vcsync/vcsync/broker"
)

// KeyRecord is a key of the keyring, without the key.
type KeyRecord struct {
	ID      string `json:"id"`
	Current bool   `json:"current,omitzero" doc:"New texts are sealed with it."`
	Known   bool   `json:"known" doc:"It is in the keyring of this process. What is sealed with another opens nowhere."`
	Secrets int    `json:"secrets" doc:"Passwords of servers, and accounts, that are sealed with it."`
	States  int    `json:"states" doc:"Objects in whose newest state something is sealed with it. The history before is not counted."`
}

// Rewrapped is the answer to sealing anew.
type Rewrapped struct {
	Count int `json:"count" doc:"Passwords and accounts that were sealed anew."`
}

func (s *Server) listKeys(ctx context.Context, _ *noInput) (*output[list[KeyRecord]], error) {
	uses, err := s.broker.KeyUses(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[KeyRecord]]{}
	for _, u := range uses {
		out.Body.Items = append(out.Body.Items, KeyRecord{u.ID, u.Current, u.Known, u.Secrets, u.States})
	}
	return out, nil
}

func (s *Server) rewrapKeys(ctx context.Context, _ *noInput) (*output[Rewrapped], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	current := s.broker.Keys.List()[0].ID
	out := &output[Rewrapped]{}
	err := s.act(ctx, broker.AuditRecord{Action: "keys.rewrap", Object: "keyring", Detail: fmt.Sprintf("with key %s", current)}, func(ctx context.Context) (err error) {
		out.Body.Count, err = s.broker.Rewrap(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
