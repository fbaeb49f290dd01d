package control

import (
	"context"
	"time"

	"github.com/vcsync/vcsync/broker"
)

// Metrics returns all metrics that vcsync makes.
func Metrics() []*metric { return metrics }

// Hear takes in what a process said.
var Hear = (*Reports).hear

// NextPhase says in which phase a run has to be after it was so long in its own.
func (s *Server) NextPhase(ctx context.Context, r broker.StoredRun, v broker.StoredSetting, known bool, since time.Duration) (broker.RunPhase, string) {
	return (&tender{s: s}).next(ctx, r, v, known, stands{since, since})
}

// PhaseAfterFlapping says in which phase a run has to be whose server turns every
// minute, for so long.
func (s *Server) PhaseAfterFlapping(ctx context.Context, r broker.StoredRun, v broker.StoredSetting, got func(time.Duration) int, long time.Duration) (broker.RunPhase, string) {
	var since phaseSince
	begin := time.Now()
	for at := time.Duration(0); at <= long; at += time.Minute {
		since = since.seen(r.Phase, got(at), int(at/time.Minute)%2 == 0, begin.Add(at))
	}
	return (&tender{s: s}).next(ctx, r, v, true, stands{long - since.at.Sub(begin), long - since.turned.Sub(begin)})
}

// LookAtCertificate makes the next use of a certificate look at its files.
func LookAtCertificate(c *Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Time{}
}

// Collected returns a metric of the process itself, 0 where it is not there.
func Collected(s *Server, name string) (out float64) {
	s.ownMetrics(context.Background(), func(m *metric, v float64, _ ...string) {
		if m.Name == name {
			out = v
		}
	})
	return out
}
