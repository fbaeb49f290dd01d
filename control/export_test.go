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
	return (&tender{s: s}).next(ctx, r, v, known, since)
}
