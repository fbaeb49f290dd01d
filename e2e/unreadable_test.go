package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestWhatCannotBeReadIsNotDeleted: what the target has in an object's place cannot be
// understood, so nobody can tell whether it was edited there or is built in. It is not
// deleted with its source's; that is parked, and done by a retry once it can be read.
func TestWhatCannotBeReadIsNotDeleted(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.TargetEdits = schemas.KeepEdits
		w.Setting(set)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		as, _ := test.Server.Get(schemas.Job, jobID(1))
		deep := fmt.Sprintf(`{"Id":%q,"Name":"Job 1","Description":"somebody's work","X":%s1%s}`, jobID(1), strings.Repeat("[", 300), strings.Repeat("]", 300))
		if _, _, err := test.Server.Put(schemas.Job, []byte(deep)); err != nil {
			t.Fatal(err)
		}
		deleteJob(t, prod, 1)
		time.Sleep(2 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); !there {
			t.Fatal("it was deleted")
		}
		parked := listParked(t, w)
		if len(parked) != 1 || parked[0].Class != "unreadable body" {
			t.Fatalf("parked: %+v", parked)
		}
		if _, _, err := test.Server.Put(schemas.Job, as); err != nil { // as vcsync left it
			t.Fatal(err)
		}
		w.Do(func(ctx context.Context) error { // and retries
			parked[0].RetryAsked++
			_, err := w.Broker.PutParked(ctx, parked[0])
			return err
		})
		time.Sleep(time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); there {
			t.Error("it is still there although it can be read")
		}
	})
}
