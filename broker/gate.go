package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// gate stands between the roles and the making of consumers. The subject to which a
// consumer delivers stands in the body of the request, where no right sees it, and is
// one of the store's own account: a stream's, or that of a request to the store. So
// the gate reads the body, and asks on behalf of whom it lets through.
type gate struct {
	key    nkeys.KeyPair
	public string
	log    *slog.Logger
}

const (
	// gateWait is how long the store may take to make a consumer. Who asked has given
	// up by then.
	gateWait = 20 * time.Second
	// gateMost is how many requests are under way at once.
	gateMost = 256
	// ephemeralMost is the longest that a role's consumer is kept after it was last
	// asked for anything.
	ephemeralMost = 10 * time.Minute
)

func newGate(log *slog.Logger) (*gate, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	return &gate{key: key, public: public, log: log}, err
}

// admit adds the gate to the users of a configuration that has the store's account.
// It can sign in from within this process only.
func (g *gate) admit(o *server.Options) {
	for _, a := range o.Accounts {
		if a.Name != storeAccount {
			continue
		}
		p := func(s ...string) *server.SubjectPermission { return &server.SubjectPermission{Allow: s} }
		o.Nkeys = append(o.Nkeys, &server.NkeyUser{Nkey: g.public, Account: a,
			AllowedConnectionTypes: map[string]struct{}{jwt.ConnectionTypeInProcess: {}},
			Permissions: &server.Permissions{Publish: p(createConsumer+">", "_R_.>"),
				Subscribe: p(gatePrefix+">", InboxPrefix(g.public)+".>")}})
	}
}

// open listens until the returned function is called.
func (g *gate) open(s *server.Server) (func(), error) {
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Nkey(g.public, g.key.Sign), nats.Name("vcsync gate"),
		nats.CustomInboxPrefix(InboxPrefix(g.public)), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			g.log.Error("the broker's gate for consumers met a fault", "error", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("open the broker's gate for consumers: %w", err)
	}
	room := make(chan struct{}, gateMost)
	// One of the members of a cluster hears each request, as a rule the one that the
	// client is connected to.
	_, err = nc.QueueSubscribe(gatePrefix+"*."+createConsumer+">", "gate", func(m *nats.Msg) {
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			g.handle(nc, m)
		}()
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open the broker's gate for consumers: %w", err)
	}
	return nc.Close, nil
}

func (g *gate) handle(nc *nats.Conn, m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	public, subject, _ := strings.Cut(strings.TrimPrefix(m.Subject, gatePrefix), ".")
	body, err := admissible(public, m.Data)
	if err != nil {
		g.log.Warn("a consumer was refused to a key", "key", public, "subject", subject, "reason", err)
		g.respond(m, refusal(err))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), gateWait)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return // as if the store had not answered
	}
	g.respond(m, answer.Data)
}

func (g *gate) respond(m *nats.Msg, data []byte) {
	if err := m.Respond(data); err != nil {
		g.log.Warn("the broker's gate for consumers could not answer", "error", err)
	}
}

// admissible returns the request as the store gets it. It is written anew, by the
// types with which the store reads it: both understand the same.
func admissible(public string, raw []byte) ([]byte, error) {
	var req server.CreateConsumerRequest
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&req); err != nil {
		return nil, fmt.Errorf("it is no request: %w", err)
	}
	c := &req.Config
	switch {
	case c.Durable != "":
		return nil, errors.New("only control makes and changes durable consumers")
	case c.DeliverSubject != "" && !strings.HasPrefix(c.DeliverSubject, InboxPrefix(public)+"."):
		return nil, fmt.Errorf("it would deliver to %.200q, which is no inbox of this key", c.DeliverSubject)
	case c.Direct, c.Sourcing:
		return nil, errors.New("only the store itself makes consumers of this kind")
	}
	// Never to change one that is there, perhaps another's.
	req.Action = server.ActionCreate
	c.InactiveThreshold = min(c.InactiveThreshold, ephemeralMost)
	return json.Marshal(req)
}

func refusal(err error) []byte {
	raw, _ := json.Marshal(map[string]any{"type": server.JSApiConsumerCreateResponseType,
		"error": map[string]any{"code": 403, "err_code": 0, "description": "vcsync: " + err.Error()}})
	return raw
}
