package decide_test

import (
	"testing"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

func TestUndo(t *testing.T) {
	t.Parallel()
	hold := func(r decide.Reason, would decide.Act) decide.Decision {
		return decide.Decision{Act: decide.Hold, Reason: r, Would: would}
	}
	for name, c := range map[string]struct {
		s    decide.Undoing
		want decide.Decision
	}{
		"put back":                   {decide.Undoing{Target: decide.Different, AsLeft: true}, decide.Decision{Act: decide.Update, Reason: decide.PutBack}},
		"create again":               {decide.Undoing{Target: decide.Absent, AsLeft: true}, decide.Decision{Act: decide.Add, Reason: decide.PutBack}},
		"delete":                     {decide.Undoing{Target: decide.Different, Gone: true, AsLeft: true}, decide.Decision{Act: decide.Delete, Reason: decide.PutBack}},
		"as before":                  {decide.Undoing{Target: decide.Equal}, decide.Decision{Act: decide.Adopt, Reason: decide.AsBefore}},
		"gone as before":             {decide.Undoing{Target: decide.Absent, Gone: true}, decide.Decision{Act: decide.Adopt, Reason: decide.AsBefore}},
		"edited since":               {decide.Undoing{Target: decide.Different}, hold(decide.MovedOn, decide.Update)},
		"deleted since":              {decide.Undoing{Target: decide.Absent}, hold(decide.MovedOn, decide.Add)},
		"created by us and edited":   {decide.Undoing{Target: decide.Different, Gone: true}, hold(decide.MovedOn, decide.Delete)},
		"in use":                     {decide.Undoing{Target: decide.Different, Gone: true, AsLeft: true, Used: true}, hold(decide.InUse, decide.Delete)},
		"no deletion in safe mode":   {decide.Undoing{Target: decide.Different, Gone: true, AsLeft: true, SafeMode: true}, hold(decide.SafeMode, decide.Delete)},
		"approved in safe mode":      {decide.Undoing{Target: decide.Different, AsLeft: true, SafeMode: true}, decide.Decision{Act: decide.Update, Reason: decide.PutBack}},
		"built in":                   {decide.Undoing{Target: decide.Different, AsLeft: true, BuiltIn: true}, hold(decide.BuiltIn, decide.Update)},
		"may run twice":              {decide.Undoing{Target: decide.Absent, AsLeft: true, RemovesItself: true}, hold(decide.HasRun, decide.Add)},
		"secrets in another way":     {decide.Undoing{Target: decide.Different, AsLeft: true, OtherSecrets: true}, hold(decide.HidesSecrets, decide.Update)},
		"refers to what is not here": {decide.Undoing{Target: decide.Absent, AsLeft: true, Dangles: true}, hold(decide.Dangles, decide.Add)},
		"an older version":           {decide.Undoing{Target: decide.Different, Anything: true}, decide.Decision{Act: decide.Update, Reason: decide.PutBack}},
	} {
		if got := decide.Undo(c.s); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What is paused stays as it is, whatever the occasion, the version and the rules say.
func TestPausedIsLeftAlone(t *testing.T) {
	t.Parallel()
	all := schemas.Rights{New: true, Updated: true, Deleted: true}
	for _, o := range []decide.Occasion{decide.Live, decide.Audit, decide.SyncNow, decide.Replay} {
		for _, src := range []decide.Source{decide.Present, decide.Deleted} {
			for _, age := range []decide.Age{decide.Older, decide.Same, decide.Newer} {
				s := decide.Situation{Occasion: o, Rights: all, Source: src, Target: decide.Different, Record: decide.Brought, Ours: true, Age: age, Parked: decide.Paused, Approved: true, Asked: true}
				if d := decide.Decide(s); d.Act != decide.Nothing || d.Reason != decide.Undone {
					t.Errorf("occasion %d, source %d, age %d: %+v", o, src, age, d)
				}
			}
		}
	}
}
