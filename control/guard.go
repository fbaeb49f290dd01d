package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// guard wraps everything: what is not plainly meant for this API from this machine
// is refused before anything reads it.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	hosts := map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}
	if host, _, err := net.SplitHostPort(s.cfg.Addr); err == nil {
		hosts[strings.ToLower(host)] = true
	}
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.refused.add(refusedOrigin)
		writeProblem(w, http.StatusForbidden, "The request comes from a page of another origin.")
	}))
	// Reading is refused to other origins too: the answers are nobody's business, and
	// an event stream takes up a place. Following a link to the status page is fine.
	foreign := func(r *http.Request) bool {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return false // CrossOriginProtection has the say
		}
		if o := r.Header.Get("Origin"); o != "" {
			u, err := url.Parse(o)
			return err != nil || !strings.EqualFold(u.Host, r.Host)
		}
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "same-origin", "none":
			return false
		}
		return r.URL.Path != "/" && r.URL.Path != oidcCallback || r.Header.Get("Sec-Fetch-Mode") != "navigate"
	}
	inner := origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if foreign(r) {
			s.refused.add(refusedOrigin)
			writeProblem(w, http.StatusForbidden, "The request comes from a page of another origin.")
			return
		}
		h, pattern := mux.Handler(r)
		if pattern == "" {
			s.serveUnknown(h, w, r)
			return
		}
		if anonymous(pattern) {
			mux.ServeHTTP(w, r)
			return
		}
		p, status, words := s.identify(r)
		if status == http.StatusUnauthorized && pattern == pagePattern {
			s.serveSignIn(w, status, "")
			return
		}
		if status != 0 {
			switch status {
			case http.StatusForbidden:
				s.refused.add(refusedForbidden)
			case http.StatusUnauthorized:
				s.refused.add(refusedUnauthorized)
				w.Header().Set("WWW-Authenticate", `Bearer realm="vcsync"`)
			}
			writeProblem(w, status, words)
			return
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, p)))
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == http.ErrAbortHandler {
				panic(v) // so that the connection is cut, and what was sent looks not whole
			}
			if v != nil {
				s.log.Error("a request panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				writeProblem(w, http.StatusInternalServerError, "An error inside of vcsync; the log has the details.")
			}
		}()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if s.cfg.Certificate != nil && !isLoopback(s.cfg.Addr) {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if host := hostOf(r.Host); !hosts[host] && (s.cfg.Certificate == nil || !s.cfg.Certificate.names(host)) {
			// A page whose name was rebound to this machine says its own name here.
			s.refused.add(refusedHost)
			writeProblem(w, http.StatusMisdirectedRequest, "The Host header names another host; use the address that vcsync printed.")
			return
		}
		if _, pattern := mux.Handler(r); r.ContentLength != 0 && pattern != hintPattern && pattern != signInPattern { // a hint's body is not read
			t, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
			charset := strings.ToLower(params["charset"])
			if err != nil || t != "application/json" || charset != "" && charset != "utf-8" {
				writeProblem(w, http.StatusUnsupportedMediaType, "A body must be application/json.")
				return
			}
			if r.ContentLength > maxBody {
				writeProblem(w, http.StatusRequestEntityTooLarge, "A body may hold 1 MiB.")
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), remoteKey{}, r.RemoteAddr)))
	})
}

// anonymous tells whether a route is there for who has not signed in.
func anonymous(pattern string) bool {
	switch pattern {
	case "GET /livez", "GET /readyz", hintPattern, signInPattern, "GET " + oidcBegin, "GET " + oidcCallback, "POST " + apiPrefix + "/session", "POST " + apiPrefix + "/first-admin":
		return true
	}
	return false
}

// hostOf returns the host of a Host header in lower case, without port and
// brackets.
func hostOf(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(host)
}

// serveUnknown answers for a path or a method that there is not, as a problem.
func (s *Server) serveUnknown(h http.Handler, w http.ResponseWriter, r *http.Request) {
	rec := &statusRecorder{header: http.Header{}}
	h.ServeHTTP(rec, r)
	if rec.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", rec.header.Get("Allow"))
		writeProblem(w, rec.status, fmt.Sprintf("%s is not possible here, only %s.", r.Method, rec.header.Get("Allow")))
		return
	}
	writeProblem(w, http.StatusNotFound, "There is nothing at this path. The API is described at "+apiPrefix+"/openapi.yaml.")
}

// statusRecorder keeps what the mux would answer.
type statusRecorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *statusRecorder) Header() http.Header         { return r.header }
func (r *statusRecorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *statusRecorder) WriteHeader(status int)      { r.status = status }

// writeProblem answers with problem details outside of huma's reach.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	b, err := json.Marshal(huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
	if err != nil {
		b = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}
