package decide_test

import (
	"testing"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// What settings of a stricter mode would do is held, whatever the occasion, and only
// where the freer ones lack the right to it.
func TestAmong(t *testing.T) {
	t.Parallel()
	base := decide.Situation{Occasion: decide.SyncNow, Source: decide.Present, Target: decide.Different}
	with := func(m schemas.Mode, r schemas.Rights) decide.Situation {
		s := base
		s.Mode, s.Rights = m, r
		return s
	}
	none, updated := schemas.Rights{New: true}, schemas.Rights{Updated: true}
	for _, c := range []struct {
		all  []decide.Situation
		want decide.Decision
		by   int
	}{
		{[]decide.Situation{with(schemas.Automatic, updated), with(schemas.ReportOnly, updated)}, decide.Decision{Act: decide.Update, Reason: decide.Differs}, 0},
		{[]decide.Situation{with(schemas.Automatic, none), with(schemas.Approve, updated)}, decide.Decision{Act: decide.Hold, Reason: decide.NeedsApproval, Would: decide.Update}, 1},
		{[]decide.Situation{with(schemas.Automatic, none), with(schemas.Approve, none), with(schemas.ReportOnly, updated)}, decide.Decision{Act: decide.Hold, Reason: decide.OnlyReports, Would: decide.Update}, 2},
		{[]decide.Situation{with(schemas.Automatic, none), with(schemas.Approve, none)}, decide.Decision{Act: decide.Nothing, Reason: decide.UpdatedOff}, 0},
	} {
		if got, by := decide.Among(c.all); got != c.want || by != c.by {
			t.Errorf("%+v by %d, want %+v by %d", got, by, c.want, c.by)
		}
	}
}
