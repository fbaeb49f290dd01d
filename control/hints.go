package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// hintPattern is the one place where something else than a user of this API calls:
// a job of a VisualCron server, which can send a header and little more. It takes
// any method, so that guard lets all of them through to the same answer.
const hintPattern = apiPrefix + "/hints/{server}"

// HintToken is the answer to making a hint token, and the only one that holds it.
type HintToken struct {
	Server string `json:"server"`
	Token  string `json:"token" doc:"Shown this once; only its hash is kept."`
	Path   string `json:"path" doc:"Where hints go: POST with the header Authorization: Bearer and the token."`
}

// Hinted is the answer to a hint.
type Hinted struct {
	Server string `json:"server"`
	Poll   bool   `json:"poll" doc:"The next listing of the server is immediate."`
	Reason string `json:"reason,omitzero" doc:"Why nothing comes of the hint."`
}

// hintToken makes a server's hint token, in place of the one before it.
func (s *Server) hintToken(ctx context.Context, in *IDMatch) (*output[HintToken], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, _, err := s.server(ctx, in.ID)
	if err == nil {
		err = match(in.IfMatch, v.Revision)
	}
	if err != nil {
		return nil, err
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	token := base64.RawURLEncoding.EncodeToString(random)
	err = s.act(ctx, broker.AuditRecord{Action: "server.hint-token", Object: "server/" + string(v.ID)},
		func(ctx context.Context) error { return s.broker.SetHintToken(ctx, v.ID, sha256.Sum256([]byte(token))) })
	if err != nil {
		return nil, err
	}
	return &output[HintToken]{HintToken{Server: string(v.ID), Token: token, Path: strings.Replace(hintPattern, "{server}", string(v.ID), 1)}}, nil
}

func (s *Server) revokeHintToken(ctx context.Context, in *IDMatch) (*struct{}, error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, _, err := s.server(ctx, in.ID)
	if err == nil {
		err = match(in.IfMatch, v.Revision)
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.broker.HintToken(ctx, v.ID); errors.Is(err, broker.ErrNotFound) {
		return nil, huma.Error404NotFound(fmt.Sprintf("Server %s has no hint token.", v.ID))
	} else if err != nil && !errors.Is(err, broker.ErrRecord) {
		return nil, err
	}
	return nil, s.act(ctx, broker.AuditRecord{Action: "server.hint-revoke", Object: "server/" + string(v.ID)},
		func(ctx context.Context) error { return s.broker.DeleteHintToken(ctx, v.ID) })
}

// serveHint makes the next listing of a server immediate. It changes nothing and is
// no act, so it leaves no audit record: a flood of hints would fill the audit, and
// without room there nobody could change anything. The body is not read; net/http
// drops a short one and closes the connection after a long one.
func (s *Server) serveHint(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeProblem(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s is not possible here, only POST.", r.Method))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	id, ok, err := s.hintFrom(ctx, r)
	switch {
	case err != nil:
		s.log.ErrorContext(ctx, "a hint cannot be checked", "error", err)
		writeProblem(w, http.StatusServiceUnavailable, "The store cannot be read; the log has the details.")
		return
	case !ok:
		// One answer for all, so that nobody learns which servers there are.
		s.refused.add(refusedUnauthorized)
		w.Header().Set("WWW-Authenticate", `Bearer realm="hints"`)
		writeProblem(w, http.StatusUnauthorized, "There is no such server, or this is not its hint token. Send it as Authorization: Bearer TOKEN; make one with: vcsync server hint-token NAME")
		return
	}
	a := Hinted{Server: string(id), Reason: s.hint(id)}
	a.Poll = a.Reason == ""
	s.log.DebugContext(ctx, "hint", "server", id, "poll", a.Poll)
	writeJSON(w, http.StatusAccepted, a)
}

// hintFrom tells which server a hint is for and whether it may come. An error says
// that this is not known.
func (s *Server) hintFrom(ctx context.Context, r *http.Request) (id schemas.Slug, ok bool, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given := sha256.Sum256([]byte(strings.TrimSpace(token)))
	var want [sha256.Size]byte
	known := false
	if id, err = schemas.ParseSlug(r.PathValue("server")); err == nil {
		if want, err = s.broker.HintToken(ctx, id); err != nil && !errors.Is(err, broker.ErrNotFound) {
			return id, false, err
		}
		known = err == nil
	}
	same := subtle.ConstantTimeCompare(given[:], want[:]) == 1
	return id, same && known && strings.EqualFold(scheme, "Bearer"), nil
}

// hint passes a hint on, or says why nothing comes of it.
func (s *Server) hint(id schemas.Slug) (reason string) {
	if s.cfg.Sources == nil {
		return "The producer does not run in this process."
	}
	for _, v := range s.cfg.Sources.Status() {
		if v.Server != id {
			continue
		}
		if v.State == producer.Degraded && v.Class == string(visualcron.Unauthorized) && !v.Partly {
			return "The server refuses vcsync's account. It is asked again at vcsync's own pace, because many logons could lock the account."
		}
		s.cfg.Sources.Poke(id) // it merges hints: a listing follows another at the producer's own pace
		return ""
	}
	return "No active sync setting reads this server."
}

// describeHints puts into the API's description what does not pass through huma.
func (s *Server) describeHints() {
	const scheme = "hintToken"
	doc := s.api.OpenAPI()
	doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{scheme: {Type: "http", Scheme: "bearer",
		Description: "A server's hint token. It is good for nothing else."}}
	problem := func(what string) *huma.Response {
		return &huma.Response{Description: what, Content: map[string]*huma.MediaType{"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/ErrorModel"}}}}
	}
	doc.AddOperation(&huma.Operation{OperationID: "hint", Method: http.MethodPost, Path: hintPattern, Tags: []string{"Servers"},
		Summary:     "Say that something may have changed on a server",
		Description: "Makes the next listing of the server immediate. A hint carries no truth, so the body is not read, whatever its type.",
		Security:    []map[string][]string{{scheme: {}}},
		Parameters:  []*huma.Param{{Name: "server", In: "path", Required: true, Description: "The short name.", Schema: &huma.Schema{Type: huma.TypeString}}},
		RequestBody: &huma.RequestBody{Description: "Ignored.", Content: map[string]*huma.MediaType{"*/*": {}}},
		Responses: map[string]*huma.Response{
			"202": {Description: "Accepted, also where nothing comes of it.", Content: map[string]*huma.MediaType{
				"application/json": {Schema: huma.SchemaFromType(doc.Components.Schemas, reflect.TypeFor[Hinted]())}}},
			"401": problem("There is no such server, or this is not its token."),
			"503": problem("The store cannot be read."),
		}})
}
