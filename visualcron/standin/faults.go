package standin

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// identity is the server's id as it gives it.
func (s *Server) identity() string {
	if id, on := s.mode("another-server", ""); on {
		return cmp.Or(id, seedGUID("another server", 0))
	}
	return s.id
}

func (s *Server) hasChanges() bool {
	_, off := s.mode("no-changes-feed", "")
	return !s.cfg.NoChanges && !off
}

// offers tells what the server can do with a type.
func (s *Server) offers(t schemas.Type) (reads, writes bool) {
	if _, on := s.mode("reads-jobs-only", ""); on {
		return t == schemas.Job, false
	}
	_, on := s.mode("reads-only", t)
	return true, !on
}

// forbidden returns how the account's lack of rights to a type shows: empty, 403,
// or "" where it has them.
func (s *Server) forbidden(t schemas.Type) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.modes {
		if m.Mode == "forbidden-types" && (m.Type == t || m.Type == "" && t != schemas.Job) {
			return m.Arg
		}
	}
	return ""
}

// may answers and returns false where the server does not offer the act, or the
// account is not let.
func (s *Server) may(w http.ResponseWriter, t schemas.Type, op string) bool {
	writing := op == "put" || op == "delete"
	reads, writes := s.offers(t)
	if writing && !writes || !writing && !reads {
		refuse(w, http.StatusMethodNotAllowed, "the server does not offer to %s objects of type %s", op, t)
		return false
	}
	if how := s.forbidden(t); how == "403" || how != "" && writing {
		refuse(w, http.StatusForbidden, "the account may not %s objects of type %s", op, t)
		return false
	}
	return true
}

// wait returns false where the client has gone or the stand-in closes before.
func (s *Server) wait(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.done:
	}
	return false
}

// misbehaving answers a request to the contract as the modes of the connection say,
// before the contract itself is asked or after.
func (s *Server) misbehaving(w http.ResponseWriter, r *http.Request, rest string) {
	var t schemas.Type
	if word, ok := strings.CutPrefix(rest, "objects/"); ok {
		word, _, _ = strings.Cut(word, "/")
		word, _ = url.PathUnescape(word) // what is none is no type
		t, _ = schemas.ParseType(word)
	}
	if d, on := s.modeTime("slow", t, 0); on && !s.wait(r, d) {
		panic(http.ErrAbortHandler)
	}
	if _, on := s.mode("hangs", t); on {
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		panic(http.ErrAbortHandler)
	}
	if status, after := s.throttled(); status != 0 {
		w.Header().Set("Retry-After", strconv.Itoa(after))
		refuse(w, status, "too many requests")
		return
	}
	if arg, on := s.mode("error", t); on {
		serveError(w, arg)
		return
	}
	if _, on := s.mode("cuts", t); on && rest != "logon" && rest != "changes" {
		held := &held{header: w.Header(), status: http.StatusOK}
		s.serveContract(held, r, rest)
		w.WriteHeader(held.status)
		if len(held.body) == 0 {
			return // there is nothing to cut
		}
		_, _ = w.Write(held.body[:len(held.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if pause, on := s.modeTime("tarpit", t, time.Second); on {
		w = &trickle{w, s, r, pause}
	}
	s.serveContract(w, r, rest)
}

// throttled counts a request, and returns the status to send it away with, 0 where
// it may pass, and the seconds after which to come back.
func (s *Server) throttled() (status, after int) {
	arg, on := s.mode("throttles", "")
	if !on {
		return 0, 0
	}
	text, code, _ := strings.Cut(arg, ",")
	n, _ := strconv.Atoi(text) // checked
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.second) >= time.Second {
		s.second, s.asked = now, 0
	}
	if s.asked++; s.asked <= n {
		return 0, 0
	}
	if code == "503" {
		return http.StatusServiceUnavailable, 1
	}
	return http.StatusTooManyRequests, 1
}

// serveError answers with an error in one of the forms in which servers and what
// stands before them put it.
func serveError(w http.ResponseWriter, arg string) {
	code, form, _ := strings.Cut(arg, ",")
	status, _ := strconv.Atoi(code) // checked
	media, body := "application/problem+json", ""
	switch form {
	case "html":
		media, body = "text/html; charset=utf-8", "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>"+http.StatusText(status)+"</h1></body></html>"
	case "text":
		media, body = "text/plain", "Error "+code+": "+http.StatusText(status)+"\r\n"
	case "json":
		media, body = "application/json", `{"Message":"An error has occurred.","Code":`+code+`}`
	default:
		refuse(w, status, "the stand-in answers everything so")
		return
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // a client that is gone needs no answer
}

// landLate answers a write as if it had failed and does it later, but not after
// Close.
func (s *Server) landLate(w http.ResponseWriter, r *http.Request, t schemas.Type, after time.Duration, do func()) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.late.Add(1)
	}
	s.mu.Unlock()
	if !closed {
		go func() {
			defer s.late.Done()
			timer := time.NewTimer(after)
			defer timer.Stop()
			select {
			case <-timer.C:
				do()
			case <-s.done:
			}
		}()
	}
	if arg, _ := s.mode("lands-late", t); strings.HasSuffix(arg, ",silent") {
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		panic(http.ErrAbortHandler)
	}
	refuse(w, http.StatusInternalServerError, "something went wrong")
}

// held keeps an answer back.
type held struct {
	header http.Header
	status int
	body   []byte
}

// Header is of http.ResponseWriter.
func (h *held) Header() http.Header { return h.header }

// WriteHeader is of http.ResponseWriter.
func (h *held) WriteHeader(status int) { h.status = status }

// Write is of io.Writer.
func (h *held) Write(p []byte) (int, error) {
	h.body = append(h.body, p...)
	return len(p), nil
}

// trickle writes 16 bytes at a time.
type trickle struct {
	http.ResponseWriter
	s     *Server
	r     *http.Request
	pause time.Duration
}

// Unwrap is of http.ResponseController.
func (t *trickle) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Write is of io.Writer.
func (t *trickle) Write(p []byte) (n int, err error) {
	rc := http.NewResponseController(t.ResponseWriter)
	for len(p) > 0 {
		k, err := t.ResponseWriter.Write(p[:min(16, len(p))])
		n += k
		if err != nil {
			return n, err
		}
		if p = p[k:]; len(p) == 0 {
			break
		}
		if err := rc.Flush(); err != nil {
			return n, err
		}
		if !t.s.wait(t.r, t.pause) {
			panic(http.ErrAbortHandler)
		}
	}
	return n, nil
}
