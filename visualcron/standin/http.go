package standin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const apiPrefix = "/api/v1/"

// Handler serves the bridge contract. It reads the escaped path itself, so it must
// not stand behind a mux that cleans paths: the object "." has a path of its own.
func (s *Server) Handler() http.Handler {
	var h http.Handler = http.HandlerFunc(s.serve)
	if s.cfg.Intercept != nil {
		h = s.cfg.Intercept(h)
	}
	return h
}

// problem is an RFC 9457 problem.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitzero"`
}

func refuse(w http.ResponseWriter, status int, format string, a ...any) {
	b, err := json.Marshal(problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, a...)},
		jsontext.AllowInvalidUTF8(true))
	if err != nil {
		b = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone needs no answer
}

func answer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}

func answerValue(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		refuse(w, http.StatusInternalServerError, "encode the answer: %v", err)
		return
	}
	answer(w, http.StatusOK, b)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("VisualCron-Server-Id", s.identity())
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		refuse(w, http.StatusServiceUnavailable, "the stand-in is closing")
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), adminPrefix); ok {
		s.serveAdmin(w, r, rest)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), apiPrefix)
	if !ok {
		refuse(w, http.StatusNotFound, "the stand-in serves %s and %s only", apiPrefix, adminPrefix)
		return
	}
	if s.misbehavesAtAll() {
		s.misbehaving(w, r, rest)
		return
	}
	s.serveContract(w, r, rest)
}

// serveContract answers a request to the contract's resource at rest.
func (s *Server) serveContract(w http.ResponseWriter, r *http.Request, rest string) {
	if rest == "logon" {
		if allow(w, r, http.MethodPost) {
			s.logon(w, r, false)
		}
		return
	}
	if !s.authorized(r, false) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="stand-in"`)
		refuse(w, http.StatusUnauthorized, "log on first: the token is absent, unknown or expired")
		return
	}
	segments := strings.Split(rest, "/")
	switch {
	case rest == "server":
		if allow(w, r, http.MethodGet) {
			answerValue(w, s.info())
		}
	case rest == "changes" && s.hasChanges():
		if allow(w, r, http.MethodGet) {
			s.changes(w, r)
		}
	case segments[0] == "objects" && (len(segments) == 2 || len(segments) == 3):
		word, err := url.PathUnescape(segments[1])
		t, terr := schemas.ParseType(word)
		if err != nil || terr != nil {
			refuse(w, http.StatusNotFound, "%v", errors.Join(err, terr))
			return
		}
		if len(segments) == 2 {
			if allow(w, r, http.MethodGet) && s.may(w, t, "list") {
				s.list(w, r, t)
			}
			return
		}
		raw, err := url.PathUnescape(segments[2])
		id, ierr := schemas.ParseID(raw)
		if err != nil || ierr != nil {
			refuse(w, http.StatusBadRequest, "%v", errors.Join(err, ierr))
			return
		}
		switch r.Method {
		case http.MethodGet:
			if s.may(w, t, "get") {
				s.serveGet(w, t, id)
			}
		case http.MethodPut:
			if s.may(w, t, "put") {
				s.servePut(w, r, t, id)
			}
		case http.MethodDelete:
			if s.may(w, t, "delete") {
				s.serveDelete(w, r, t, id)
			}
		default:
			allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete)
		}
	default:
		refuse(w, http.StatusNotFound, "no such resource")
	}
}

// allow answers 405 and false where the method is none of those given.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	refuse(w, http.StatusMethodNotAllowed, "%s is not offered here", r.Method)
	return false
}

// logon gives out a token for the contract, or a key for what is beside it.
func (s *Server) logon(w http.ResponseWriter, r *http.Request, beside bool) {
	var in struct {
		User     string `json:"user"`
		Password string `json:"password"`
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "want a JSON object with user and password") // the cause might quote the password
		return
	}
	// Hashes of both are compared, always both, so that time tells nothing.
	same := func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return subtle.ConstantTimeCompare(x[:], y[:])
	}
	if same(in.User, s.cfg.User)&same(in.Password, s.cfg.Password) != 1 {
		refuse(w, http.StatusUnauthorized, "unknown user or wrong password")
		return
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	life, tokens := s.cfg.TokenLife, s.tokens
	if beside {
		tokens = s.keys
	} else {
		if _, on := s.mode("empty-token", ""); on {
			token = ""
		}
		if short, on := s.modeTime("token-short", "", life); on {
			life = short
		}
	}
	now := time.Now()
	until := now.Add(life)
	s.mu.Lock()
	for t, end := range tokens {
		if !now.Before(end) {
			delete(tokens, t)
		}
	}
	if token != "" {
		tokens[sha256.Sum256([]byte(token))] = until
	}
	s.mu.Unlock()
	answerValue(w, map[string]any{"token": token, "expiresAt": until.UTC().Format(time.RFC3339)})
}

// authorized tells whether the request carries a token; what is beside the contract
// takes a key as well.
func (s *Server) authorized(r *http.Request, beside bool) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sum := sha256.Sum256([]byte(token))
	end, ok := s.tokens[sum]
	if !ok && beside {
		end, ok = s.keys[sum]
	}
	return ok && time.Now().Before(end)
}

// ExpireTokens makes every token that was given out bad, as a restart does.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

func (s *Server) info() any {
	type capability struct {
		List    bool                  `json:"list"`
		Get     bool                  `json:"get"`
		Put     bool                  `json:"put"`
		Delete  bool                  `json:"delete"`
		Secrets visualcron.SecretMode `json:"secrets"`
	}
	caps := map[schemas.Type]capability{}
	for _, t := range schemas.Types() {
		if reads, writes := s.offers(t); reads || writes {
			caps[t] = capability{List: reads, Get: reads, Put: writes, Delete: writes, Secrets: s.SecretMode(t)}
		}
	}
	version := Version
	if text, on := s.mode("version", ""); on {
		version = text + " stand-in (not VisualCron)"
	}
	return struct {
		ID           string                      `json:"id"`
		Name         string                      `json:"name"`
		Version      string                      `json:"version"`
		Capabilities map[schemas.Type]capability `json:"capabilities"`
		Changes      bool                        `json:"changes"`
		Account      *account                    `json:"account,omitzero"`
	}{s.identity(), s.cfg.Name, version, caps, s.hasChanges(), s.account()}
}

// account is what a stand-in says of the one that asks.
type account struct {
	Name   string   `json:"name"`
	Rights []string `json:"rights"`
}

// rights are what the account may unless mode lower-account takes some of it away; the
// words are the stand-in's own.
var rights = []string{"see all", "edit"}

func (s *Server) account() *account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := &account{s.cfg.User, rights}
	for _, m := range s.modes {
		switch m.Mode {
		case "no-account":
			return nil
		case "lower-account":
			if !strings.HasSuffix(m.Arg, ",silent") {
				a.Rights = []string{"see some"}
			}
		}
	}
	return a
}

// unseen tells whether mode lower-account keeps an object from the account.
func (s *Server) unseen(t schemas.Type, id schemas.ID) bool {
	return s.seesOf(t, []visualcron.Row{{ID: id}}) == nil
}

// seesOf returns those of the rows that the account may see. Which it may not does not
// depend on what else there is.
func (s *Server) seesOf(t schemas.Type, rows []visualcron.Row) []visualcron.Row {
	arg, on := s.mode("lower-account", t)
	if !on {
		return rows
	}
	text, _, _ := strings.Cut(arg, ",")
	share, _ := strconv.Atoi(text) // checked
	var out []visualcron.Row
	for _, r := range rows {
		if sum := sha256.Sum256([]byte(r.ID)); int(sum[0])*100 >= share*256 {
			out = append(out, r)
		}
	}
	return out
}

// list streams the objects as they were when the request came.
func (s *Server) list(w http.ResponseWriter, r *http.Request, t schemas.Type) {
	cutAt := -1
	rows := s.Objects(t)
	if s.misbehavesAtAll() {
		if _, on := s.mode("statistics-move", ""); on && t == schemas.Job {
			s.MoveStatistics(len(rows))
			rows = s.Objects(t)
		}
		for i := range rows {
			rows[i].Body = s.shown(t, rows[i].Body)
		}
		if s.forbidden(t) != "" {
			rows = nil
		}
		rows = s.seesOf(t, rows)
		if f, ok := s.listingFault(t); ok {
			f.serve(s, w, r, t, rows)
			return
		}
		if _, on := s.mode("token-expires-mid-list", t); on {
			cutAt = len(rows) / 2
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("VisualCron-Secrets", string(s.SecretMode(t)))
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	lead := "["
	for i, row := range rows {
		if i == cutAt {
			s.ExpireTokens()
			panic(http.ErrAbortHandler) // nothing tells the client more
		}
		if _, err := io.WriteString(w, lead); err != nil {
			return
		}
		if _, err := w.Write(row.Body); err != nil {
			return
		}
		if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		lead = ","
	}
	if len(rows) == 0 {
		lead = "[]"
	} else {
		lead = "]"
	}
	_, _ = io.WriteString(w, lead) // a client that is gone needs no answer
}

func (s *Server) serveGet(w http.ResponseWriter, t schemas.Type, id schemas.ID) {
	body, ok := s.Shown(t, id)
	if !ok || s.forbidden(t) == "empty" || s.unseen(t, id) {
		refuse(w, http.StatusNotFound, "there is no %s with this id", t)
		return
	}
	w.Header().Set("VisualCron-Secrets", string(s.SecretMode(t)))
	answer(w, http.StatusOK, body)
}

func (s *Server) servePut(w http.ResponseWriter, r *http.Request, t schemas.Type, id schemas.ID) {
	if made := r.Header.Get("VisualCron-Secrets"); made != "" && made != string(s.SecretMode(t)) {
		refuse(w, http.StatusPreconditionFailed, "the body was made for secrets that are %.16q here, and they are %q now", made, s.SecretMode(t))
		return
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "want application/json")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, visualcron.MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		refuse(w, http.StatusRequestEntityTooLarge, "more than %d bytes", visualcron.MaxBody)
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body broke off")
		return
	}
	ended := s.observe(Write{Op: "put", Type: t, ID: id, Body: body})
	if !jsontext.Value(body).IsValid() || jsontext.Value(body).Kind() != '{' {
		ended(http.StatusBadRequest, nil)
		refuse(w, http.StatusBadRequest, "the body is not one JSON object with each name once")
		return
	}
	switch own, err := visualcron.BodyID(t, body); {
	case err != nil:
		ended(http.StatusBadRequest, nil)
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	case own != id:
		ended(http.StatusConflict, nil)
		refuse(w, http.StatusConflict, "the body carries another id than the path")
		return
	}
	s.write(w, r, t, ended, func() (int, []byte, error) {
		stored, created, err := s.put(t, id, body, true)
		switch {
		case errors.Is(err, ErrBody):
			return http.StatusBadRequest, nil, err
		case err != nil:
			return http.StatusInternalServerError, nil, err
		case created:
			return http.StatusCreated, stored, nil
		}
		return http.StatusOK, stored, nil
	})
}

func (s *Server) serveDelete(w http.ResponseWriter, r *http.Request, t schemas.Type, id schemas.ID) {
	ended := s.observe(Write{Op: "delete", Type: t, ID: id})
	s.write(w, r, t, ended, func() (int, []byte, error) {
		switch ok, err := s.Delete(t, id); {
		case err != nil:
			return http.StatusInternalServerError, nil, err
		case !ok:
			return http.StatusNotFound, nil, fmt.Errorf("there is no %s with this id", t)
		}
		return http.StatusNoContent, nil, nil
	})
}

// write does a write and answers it, as far as the modes let it.
func (s *Server) write(w http.ResponseWriter, r *http.Request, t schemas.Type, ended func(int, []byte), do func() (status int, stored []byte, err error)) {
	if _, on := s.mode("writes-refused", t); on {
		ended(http.StatusUnprocessableEntity, nil)
		refuse(w, http.StatusUnprocessableEntity, "the stand-in takes no writes now")
		return
	}
	if after, on := s.modeTime("lands-late", t, 0); on {
		s.landLate(w, r, t, after, func() {
			status, stored, _ := do() // nobody waits for the error
			ended(status, stored)
		})
		return
	}
	status, stored, err := do()
	ended(status, stored)
	_, fails := s.mode("answers-500-but-applies", t)
	switch {
	case err != nil:
		refuse(w, status, "%v", err)
	case fails:
		refuse(w, http.StatusInternalServerError, "something went wrong")
	case stored == nil:
		w.WriteHeader(status)
	default:
		answer(w, status, s.shown(t, stored))
	}
}

func (s *Server) observe(wr Write) func(status int, body []byte) {
	if s.cfg.Observe != nil {
		if ended := s.cfg.Observe(wr); ended != nil {
			return func(status int, body []byte) { ended(Result{status, body}) }
		}
	}
	return func(int, []byte) {}
}

// changes streams hints until the client goes, the stand-in closes or the client
// does not keep up.
func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	feed := make(chan hint, 4096)
	s.mu.Lock()
	s.feeds[feed] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.feeds, feed)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	send := func(text string) bool {
		if _, err := io.WriteString(w, text); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	if !send(": " + Version + "\n\n") {
		return
	}
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case h, ok := <-feed:
			if !ok {
				return
			}
			b, err := json.Marshal(h)
			if err != nil || !send("event: change\ndata: "+string(b)+"\n\n") {
				return
			}
		case <-beat.C:
			if !send(": alive\n\n") {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	}
}
