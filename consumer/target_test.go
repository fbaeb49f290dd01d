package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// A write that was cut off may land for a while: a lane waits for that, and so does an
// audit that looks at the same object meanwhile (G3).
func TestEveryLookWaitsForWhatMayLand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &session{landing: map[objectKey]time.Time{}}
		key := objectKey{schemas.Job, "a"}
		begun := time.Now()
		s.mayLand(key)
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- s.waitLanded(t.Context(), key) }()
			synctest.Wait()
		}
		for range 2 {
			if err := <-done; err != nil || time.Since(begun) < lateLanding {
				t.Errorf("waited %s, %v", time.Since(begun), err)
			}
		}
		if len(s.landing) != 0 {
			t.Errorf("still landing: %v", s.landing)
		}
	})
}
