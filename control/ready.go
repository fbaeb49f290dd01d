package control

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// readyFor is how long an answer of the readiness check is given again, so that
// checks cannot load the store.
const readyFor = time.Second

// readiness remembers the last check.
type readiness struct {
	mu   sync.Mutex
	at   time.Time
	last readyAnswer
}

type readyAnswer struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// checkReady proves that the store takes writes and that VCS_STATE holds what
// VCS_EV does.
func (s *Server) checkReady(ctx context.Context) readyAnswer {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if !s.ready.at.IsZero() && time.Since(s.ready.at) < readyFor {
		return s.ready.last
	}
	// One caller that goes away must not make the answer of all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	a := readyAnswer{Ready: true}
	if err := s.broker.Probe(ctx); err != nil {
		a = readyAnswer{Reason: err.Error()}
	} else {
		// While events flow, the state stream is a few of them behind at most moments:
		// lagging means that it does not catch up.
		wait, stop := context.WithTimeout(ctx, 500*time.Millisecond)
		if err := s.broker.WaitState(wait); err != nil {
			a = readyAnswer{Reason: err.Error()}
		}
		stop()
	}
	if a.Ready != s.ready.last.Ready || s.ready.at.IsZero() {
		if a.Ready {
			s.log.InfoContext(ctx, "ready")
		} else {
			s.log.WarnContext(ctx, "not ready", "reason", a.Reason)
		}
	}
	s.ready.at, s.ready.last = time.Now(), a
	return a
}

func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	a := s.checkReady(r.Context())
	status := http.StatusOK
	if !a.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, a)
}

// serveLive says that the process answers, and nothing more.
func (s *Server) serveLive(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]bool{"live": true})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		writeProblem(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}
