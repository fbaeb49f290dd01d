package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// testTime bounds the test of a server.
const testTime = 20 * time.Second

// ServerRecord is a server as the API shows it. It has no place for a password.
type ServerRecord struct {
	ID        string   `json:"id" doc:"The short name; it never changes."`
	Name      string   `json:"name,omitzero" doc:"What people call it."`
	Connector string   `json:"connector" doc:"How vcsync speaks to it."`
	Address   string   `json:"address"`
	User      string   `json:"user" doc:"The VisualCron account."`
	Pins      []string `json:"pins,omitempty" doc:"Public keys that the server's certificate may have."`
	// Deletes is by type.
	Deletes  map[string]MeasureRecord `json:"deletes,omitempty" doc:"By type, how many deletions at once are believed without a person; 5 and 10 % where absent."`
	Identity string                   `json:"identity,omitzero" doc:"The server's own id; absent while it was never reached."`
	Created  time.Time                `json:"created,omitzero"`
	Revision uint64                   `json:"revision"`
}

// NewServer is the body of adding a server.
type NewServer struct {
	ID        string   `json:"id" minLength:"1" maxLength:"48" doc:"The short name: lower-case letters, digits and inner hyphens."`
	Name      string   `json:"name,omitzero" maxLength:"200" doc:"What people call it."`
	Connector string   `json:"connector,omitzero" maxLength:"32" default:"bridge"`
	Address   string   `json:"address" maxLength:"2000" doc:"http://host:port or https://host:port"`
	User      string   `json:"user" maxLength:"200" doc:"The VisualCron account."`
	Pins      []string `json:"pins,omitempty" maxItems:"2" doc:"Public keys that the server's certificate may have, as sha256/BASE64; the system's authorities decide where absent."`
	// Deletes is by type.
	Deletes       map[string]MeasureRecord `json:"deletes,omitempty" doc:"By type, how many deletions at once are believed without a person; 5 and 10 % where absent."`
	Password      string                   `json:"password" maxLength:"1000" writeOnly:"true" doc:"Stored sealed, never shown."`
	UnreachableOK bool                     `json:"unreachableOk,omitzero" doc:"Store it even if it cannot be reached now."`
}

// ServerTest is what a test of a server found.
type ServerTest struct {
	OK          bool               `json:"ok"`
	Identity    string             `json:"identity,omitzero" doc:"The server's own id."`
	Name        string             `json:"name,omitzero" doc:"What the server calls itself."`
	Version     string             `json:"version,omitzero"`
	Types       []string           `json:"types,omitzero" doc:"The types it can list."`
	Changes     bool               `json:"changes,omitzero" doc:"It tells of changes by itself."`
	Certificate *CertificateRecord `json:"certificate,omitempty" doc:"That which the server showed; absent where the connection is not encrypted."`
	Class       string             `json:"class,omitzero" doc:"The kind of failure."`
	Reason      string             `json:"reason,omitzero"`
	Hint        string             `json:"hint,omitzero" doc:"What to do next."`
}

// CertificateRecord is the certificate of a server.
type CertificateRecord struct {
	Pin     string    `json:"pin" doc:"Of its public key, as a server's pins hold it."`
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Ends    time.Time `json:"ends"`
}

// AddedServer is the answer to adding a server.
type AddedServer struct {
	ServerRecord
	Test ServerTest `json:"test"`
}

func serverRecord(s broker.StoredServer) ServerRecord {
	return ServerRecord{ID: string(s.ID), Name: s.Name, Connector: s.Connector, Address: s.Address, User: s.User, Pins: s.Pins, Deletes: measureRecords(s.Deletes), Identity: s.Identity,
		Created: s.Created, Revision: s.Revision}
}

func sortedServers(snap broker.Snapshot) []broker.StoredServer {
	out := make([]broker.StoredServer, 0, len(snap.Servers))
	for _, v := range snap.Servers {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b broker.StoredServer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (s *Server) listServers(ctx context.Context, _ *noInput) (*output[list[ServerRecord]], error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[ServerRecord]]{}
	for _, v := range sortedServers(snap) {
		out.Body.Items = append(out.Body.Items, serverRecord(v))
	}
	return out, nil
}

func (s *Server) server(ctx context.Context, text string) (broker.StoredServer, broker.Snapshot, error) {
	id, err := parseSlug(text)
	if err != nil {
		return broker.StoredServer{}, broker.Snapshot{}, err
	}
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return broker.StoredServer{}, snap, err
	}
	v, ok := snap.Servers[id]
	if !ok {
		if err := snap.Unreadable["server."+string(id)]; err != nil {
			return v, snap, huma.Error409Conflict(fmt.Sprintf("The record of server %s is not understood by this version: %v", id, err))
		}
		return v, snap, notFound("server", id)
	}
	return v, snap, nil
}

func (s *Server) getServer(ctx context.Context, in *IDPath) (*tagged[ServerRecord], error) {
	v, _, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &tagged[ServerRecord]{etag(v.Revision), serverRecord(v)}, nil
}

func (s *Server) addServer(ctx context.Context, in *bodyInput[NewServer]) (*tagged[AddedServer], error) {
	b := in.Body
	rec := schemas.Server{ID: schemas.Slug(b.ID), Name: b.Name, Connector: cmp.Or(b.Connector, "bridge"), Address: b.Address, User: b.User,
		Pins: b.Pins, Deletes: measures(b.Deletes), Created: time.Now().UTC()}
	if err := cmp.Or(rec.Validate(), TitleFault(rec.Name)); err != nil {
		return nil, err
	}
	if b.Password == "" {
		return nil, huma.Error422UnprocessableEntity("password: empty")
	}
	if rec.Connector != "bridge" {
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("connector: %.32q is not there yet; want bridge", rec.Connector))
	}
	// A name that is taken is said before the server is asked anything.
	if err := s.nameFree(ctx, rec.ID); err != nil {
		return nil, err
	}
	if err := s.mayTest(); err != nil {
		return nil, err
	}
	test := s.try(ctx, rec, b.Password)
	if !test.OK && !(b.UnreachableOK && reachLater(test.Class)) {
		detail := fmt.Sprintf("Server %s was not added: %s.", rec.ID, strings.TrimSuffix(test.Reason, "."))
		if test.Hint != "" {
			detail += " " + upperFirst(test.Hint) + "."
		}
		if reachLater(test.Class) {
			detail += " To store it untested, say unreachableOk (--offline)."
		}
		return nil, huma.Error422UnprocessableEntity(detail)
	}

	s.writes.Lock()
	defer s.writes.Unlock()
	if err := s.nameFree(ctx, rec.ID); err != nil {
		return nil, err
	}
	rec.Identity = test.Identity
	if test.Identity != "" {
		bound, err := s.broker.Identity(ctx, rec.ID)
		if err != nil {
			return nil, err
		}
		if bound != "" && bound != test.Identity {
			return nil, identityConflict(rec.ID, bound, test.Identity)
		}
		other, err := s.broker.SameServer(ctx, rec.ID, test.Identity)
		if err != nil {
			return nil, err
		}
		if other != "" {
			return nil, huma.Error409Conflict(fmt.Sprintf("Server %s was not added: at %s answers the same VisualCron server as at %s, which is known already. Under two names it could be synced onto itself.", rec.ID, rec.Address, other))
		}
	}
	var rev uint64
	err := s.act(ctx, broker.AuditRecord{Action: "server.add", Object: "server/" + string(rec.ID), Detail: rec.Address + " as " + rec.User},
		func(ctx context.Context) error {
			if rec.Identity != "" {
				bound, err := s.broker.BindIdentity(ctx, rec.ID, rec.Identity)
				if err != nil {
					return err
				}
				if bound != rec.Identity {
					return identityConflict(rec.ID, bound, rec.Identity)
				}
			}
			// What a removal that was cut off left behind is not this server's token.
			if err := s.broker.DeleteHintToken(ctx, rec.ID); err != nil {
				return err
			}
			// The password first: whoever sees the server finds it.
			if err := s.broker.SetPassword(ctx, rec.ID, b.Password); err != nil {
				return err
			}
			var err error
			rev, err = s.broker.PutServer(ctx, rec, 0)
			if errors.Is(err, broker.ErrConflict) {
				return huma.Error409Conflict(fmt.Sprintf("There is a server %s already.", rec.ID))
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	return &tagged[AddedServer]{etag(rev), AddedServer{serverRecord(broker.StoredServer{Server: rec, Revision: rev}), test}}, nil
}

// ServerChange is the body of changing a server.
type ServerChange struct {
	ServerBody
	Password      string `json:"password,omitzero" maxLength:"1000" writeOnly:"true" doc:"Needed where the address, the account, the connector or the pins change: a stored password goes nowhere else than where it was entered for. It stays where absent."`
	UnreachableOK bool   `json:"unreachableOk,omitzero" doc:"Store it even if it cannot be reached now."`
}

// replaceServer changes how a server is reached, and its password. Its name stays that of
// the same VisualCron server, which a test makes sure of. The stored password is never
// sent to another address, nor to a server with another key: who may change an address
// would learn it.
func (s *Server) replaceServer(ctx context.Context, in *idMatchBody[ServerChange]) (*tagged[AddedServer], error) {
	old, _, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, old.Revision); err != nil {
		return nil, err
	}
	b := in.Body
	rec := old.Server
	rec.Name, rec.Connector, rec.Address, rec.User, rec.Pins, rec.Deletes = b.Name, cmp.Or(b.Connector, "bridge"), b.Address, b.User, b.Pins, measures(b.Deletes)
	rec.Normalize()
	rec.KeepUnknown(old.Server)
	if err := rec.Validate(); err != nil {
		return nil, err
	}
	if rec.Name != old.Name { // one that is stored already is no reason to refuse another change
		if err := TitleFault(rec.Name); err != nil {
			return nil, err
		}
	}
	if rec.Connector != "bridge" {
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("connector: %.32q is not there yet; want bridge", rec.Connector))
	}
	var test ServerTest
	elsewhere := rec.Address != old.Address || rec.User != old.User || rec.Connector != old.Connector || !slices.Equal(rec.Pins, old.Pins)
	if elsewhere && b.Password == "" {
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("Server %s was not changed: with another address, account or pin the password has to be entered again. The stored one is sent nowhere else than where it was entered for.", rec.ID))
	}
	if elsewhere || b.Password != "" {
		if err := s.mayTest(); err != nil {
			return nil, err
		}
		test = s.try(ctx, rec, b.Password)
		if !test.OK && !(b.UnreachableOK && reachLater(test.Class)) {
			detail := fmt.Sprintf("Server %s was not changed: %s.", rec.ID, strings.TrimSuffix(test.Reason, "."))
			if test.Hint != "" {
				detail += " " + upperFirst(test.Hint) + "."
			}
			if reachLater(test.Class) {
				detail += " To store it untested, say unreachableOk (--offline)."
			}
			return nil, huma.Error422UnprocessableEntity(detail)
		}
		if test.OK {
			bound, err := s.broker.Identity(ctx, rec.ID)
			if err != nil {
				return nil, err
			}
			if bound != "" && bound != test.Identity {
				return nil, identityConflict(rec.ID, bound, test.Identity)
			}
			if other, err := s.broker.SameServer(ctx, rec.ID, test.Identity); err != nil {
				return nil, err
			} else if other != "" {
				return nil, huma.Error409Conflict(fmt.Sprintf("Server %s was not changed: at %s answers the same VisualCron server as at %s, which is known already. Under two names it could be synced onto itself.", rec.ID, rec.Address, other))
			}
		}
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	var rev uint64
	err = s.act(ctx, broker.AuditRecord{Action: "server.update", Object: "server/" + string(rec.ID), Before: old.Revision, Detail: rec.Address + " as " + rec.User},
		func(ctx context.Context) error {
			if test.OK {
				bound, err := s.broker.BindIdentity(ctx, rec.ID, test.Identity)
				if err != nil {
					return err
				}
				if bound != test.Identity {
					return identityConflict(rec.ID, bound, test.Identity)
				}
				rec.Identity = bound
			}
			return s.storeServer(ctx, rec, old, b.Password, elsewhere, &rev)
		})
	if err != nil {
		return nil, err
	}
	return &tagged[AddedServer]{etag(rev), AddedServer{serverRecord(broker.StoredServer{Server: rec, Revision: rev}), test}}, nil
}

// storeServer stores a server with a new password, where there is one. Another place never
// meets the old password: it is gone before the place is stored. Roles that read in between
// find none, and look again.
func (s *Server) storeServer(ctx context.Context, rec schemas.Server, old broker.StoredServer, password string, elsewhere bool, rev *uint64) (err error) {
	var before string
	switch {
	case elsewhere:
		if before, err = s.broker.Password(ctx, rec.ID); err != nil && !errors.Is(err, broker.ErrNotFound) {
			return err
		}
		if err := s.broker.DeletePassword(ctx, rec.ID); err != nil {
			return err
		}
	case password != "":
		if err := s.broker.SetPassword(ctx, rec.ID, password); err != nil {
			return err
		}
	}
	*rev, err = s.broker.PutServer(ctx, rec, old.Revision) // another change meanwhile is refused
	switch {
	case errors.Is(err, broker.ErrConflict) && elsewhere && before != "":
		return errors.Join(err, s.broker.SetPassword(ctx, rec.ID, before)) // nothing has changed
	case err != nil || !elsewhere:
		return err
	}
	return s.broker.SetPassword(ctx, rec.ID, password)
}

// mayTest bounds how often servers are asked who they are: whoever may enter addresses
// could look through a network with it.
func (s *Server) mayTest() error {
	if s.tests.Allow() {
		return nil
	}
	return huma.ErrorWithHeaders(huma.NewError(http.StatusTooManyRequests, "Too many servers were tested; try again in a few seconds."), http.Header{"Retry-After": {"5"}})
}

// TitleFault says what is wrong with what people are to call a server: it is one line, and
// nothing in it moves a terminal's cursor. The error wraps schemas.ErrServer.
func TitleFault(title string) error {
	if Printable(title, false) != title {
		return fmt.Errorf("%w: name: the title holds a line break or another character that is not shown; want one line of text", schemas.ErrServer)
	}
	return nil
}

func (s *Server) nameFree(ctx context.Context, id schemas.Slug) error {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return err
	}
	if _, ok := snap.Servers[id]; ok || snap.Unreadable["server."+string(id)] != nil {
		return huma.Error409Conflict(fmt.Sprintf("There is a server %s already; remove it first, or choose another name.", id))
	}
	return nil
}

func identityConflict(id schemas.Slug, bound, found string) error {
	return huma.Error409Conflict(fmt.Sprintf("The name %s stands for the VisualCron server with id %s, and the one at this address has id %s. "+
		"The name's events and what was applied there belong to the other server, so it stays bound to it: choose another name.", id, bound, found))
}

// reachLater tells whether a failed test may end otherwise later without any
// change to what was entered.
func reachLater(class string) bool {
	switch visualcron.Class(class) {
	case visualcron.Unreachable, visualcron.Timeout, visualcron.Busy, visualcron.Fault:
		return true
	}
	return false
}

// try asks a server who it is.
func (s *Server) try(ctx context.Context, rec schemas.Server, password string) ServerTest {
	failed := func(err error) ServerTest {
		t := ServerTest{Class: string(visualcron.ClassOf(err)), Reason: err.Error()}
		if e, ok := errors.AsType[*visualcron.Error](err); ok {
			t.Hint = e.Hint
			t.Reason = strings.TrimSuffix(t.Reason, "; "+e.Hint)
			if t.Hint == "" && e.Class == visualcron.Unreachable {
				t.Hint = "check the address, and that the server or its bridge runs there"
			}
		}
		return t
	}
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	c, err := s.cfg.Open(rec, password)
	if err != nil {
		return failed(err)
	}
	defer c.Close() // nothing was written
	info, err := c.Server(ctx)
	if err != nil {
		return failed(err)
	}
	if info.ID == "" {
		return ServerTest{Class: string(visualcron.BadAnswer), Reason: "the server does not say who it is"}
	}
	t := ServerTest{OK: true, Identity: info.ID, Name: info.Name, Version: info.Version, Changes: info.Changes}
	if c := info.Certificate; c != nil {
		t.Certificate = &CertificateRecord{c.Pin, c.Subject, c.Issuer, c.Ends}
	}
	for _, typ := range schemas.Types() {
		if info.Types[typ].List {
			t.Types = append(t.Types, string(typ))
		}
	}
	return t
}

func (s *Server) removeServer(ctx context.Context, in *IDMatch) (*struct{}, error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, snap, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, v.Revision); err != nil {
		return nil, err
	}
	var named []string
	for _, set := range sortedSettings(snap) {
		if set.Source == v.ID || set.Target == v.ID {
			named = append(named, string(set.ID))
		}
	}
	if len(named) > 0 {
		return nil, huma.Error409Conflict(fmt.Sprintf("Server %s is named by the sync settings %s; remove these first.", v.ID, strings.Join(named, ", ")))
	}
	return nil, s.act(ctx, broker.AuditRecord{Action: "server.remove", Object: "server/" + string(v.ID), Before: v.Revision},
		func(ctx context.Context) error { return s.broker.DeleteServer(ctx, v.ID, v.Revision) })
}

func (s *Server) testServer(ctx context.Context, in *IDPath) (*output[ServerTest], error) {
	v, _, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	password, err := s.broker.Password(ctx, v.ID)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, huma.NewError(http.StatusConflict, fmt.Sprintf("No password of server %s is stored: vcsync server edit NAME --password-file FILE.", v.ID))
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayTest(); err != nil {
		return nil, err
	}
	out := &output[ServerTest]{}
	err = s.act(ctx, broker.AuditRecord{Action: "server.test", Object: "server/" + string(v.ID), Detail: v.Address}, func(ctx context.Context) error {
		out.Body = s.try(ctx, v.Server, password)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
