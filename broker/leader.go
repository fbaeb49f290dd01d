package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// lagLimit is how long a reader waits for a member of a cluster that is behind.
const lagLimit = 30 * time.Second

// leaderLast returns the highest sequence of the last messages under the filters, as
// the leader of the stream knows it; 0 where there are none. What reads a stream on a
// cluster reads it from any member, which may be behind what was acknowledged: it is
// done when it has seen this. On a single server it returns 0 without asking, since
// nobody is behind there; and for a key that is limited to some sources, which may not
// ask a leader about all.
func (b *Broker) leaderLast(ctx context.Context, stream string, filters ...string) (uint64, error) {
	if b.nc.ConnectedClusterName() == "" || len(b.cfg.Sources) > 0 || b.cfg.Role == Producer && stream == "KV_"+BucketLedger {
		return 0, nil
	}
	var last uint64
	for _, f := range filters {
		m, err := b.storedMsg(ctx, stream, msgGet{LastBySubject: f})
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		last = max(last, m.Sequence)
	}
	return last, nil
}

// errLags says that the member that was read stays behind its leader.
func errLags(what string, seen, want uint64) error {
	return fmt.Errorf("%s: the member of the cluster that was read stays behind: it has come to %d of %d in %s: %w", what, seen, want, lagLimit, ErrWatch)
}
