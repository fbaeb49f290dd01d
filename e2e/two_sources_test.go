package e2e_test

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestTheFreestModeCountsAcrossSources: two sources have the same job, and the setting of
// the second one needs no approval. It goes, unless the first one would make something
// else of it at the target.
func TestTheFreestModeCountsAcrossSources(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		own  []schemas.Override
		puts int
	}{
		{"alike", nil, 1},
		{"another at the target", []schemas.Override{{Type: schemas.Job, Patch: jsontext.Value(`{"Description":"another"}`)}}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				w.AddHost("alpha")
				first := e2e.AllJobs("first", "alpha", "test", schemas.Keep)
				first.Mode, first.Overrides = schemas.Approve, c.own
				w.Setting(first)
				for _, id := range []schemas.Slug{"alpha", "production"} {
					putJob(t, w.Hosts[id], 1, "same")
				}
				w.StartProducer()
				time.Sleep(time.Minute)
				w.StartConsumer()
				time.Sleep(time.Minute)
				wrote(t, w.Hosts["test"], "to the target", c.puts, 0)
				for _, id := range []schemas.Slug{"first", oneSetting} {
					if a := account(t, w, w.Cons, id); a.Unaccounted != 0 || a.Open != 0 {
						t.Errorf("%s: %+v", id, a)
					}
				}
			})
		})
	}
}
