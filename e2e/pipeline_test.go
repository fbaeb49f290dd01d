package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"log/slog"

	_ "github.com/vcsync/vcsync/broker/brokertest" // starts the broker's clock outside of any bubble

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// jobID returns a stable GUID.
func jobID(i int) schemas.ID { return schemas.ID(fmt.Sprintf("00000000-1111-4222-8333-%012d", i)) }

// putJob creates or changes a job at a host.
func putJob(t testing.TB, h *e2e.Host, i int, description string) {
	t.Helper()
	body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Finance","Description":%q,"Stats":{"Active":true,"NoExecutes":3},
		"Variables":[{"Key":"Secret","ValueObject":"dmFsdWU="}],
		"Tasks":[{"Id":"10000000-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"x.cmd"},"Stats":{"Active":true}}]}`, jobID(i), i, description, i)
	if _, _, err := h.Server.Put(schemas.Job, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func deleteJob(t testing.TB, h *e2e.Host, i int) {
	t.Helper()
	if ok, err := h.Server.Delete(schemas.Job, jobID(i)); err != nil || !ok {
		t.Fatalf("delete: %v %v", ok, err)
	}
}

// world runs f in virtual time on a production server and the given targets, with
// one setting each.
func world(t *testing.T, targets []schemas.Slug, f func(w *e2e.World)) {
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		if os.Getenv("VCSYNC_TEST_LOG") != "" {
			w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
		w.AddHost("production")
		for _, id := range targets {
			w.AddHost(id)
			policy := schemas.Keep
			if id == "standby" {
				policy = schemas.Off
			}
			w.Setting(e2e.AllJobs("production-to-"+id, "production", id, policy))
		}
		f(w)
	})
}

// within waits in virtual time until the targets equal production, and returns how
// long that took.
func within(t *testing.T, w *e2e.World, limit time.Duration, targets ...schemas.Slug) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		var diff []string
		for _, id := range targets {
			policy := schemas.Keep
			if id == "standby" {
				policy = schemas.Off
			}
			diff = append(diff, e2e.Diverged(w.Hosts["production"], w.Hosts[id], policy)...)
		}
		took := time.Since(begun)
		if diff == nil {
			return took
		}
		if took > limit {
			t.Fatalf("after %s: %d differences, such as %s\nsources %+v\ntargets %v", took, len(diff), strings.Join(diff[:min(3, len(diff))], "; "), w.Prod.Status(), fmt.Sprint(w.Cons.Status()))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestAnEditAnAddAndADeleteArrive(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		if err := standin.Seed(prod.Server); err != nil {
			t.Fatal(err)
		}
		w.StartProducer()
		w.StartConsumer()
		t.Logf("200 seeded jobs after %s", within(t, w, 2*time.Minute, "test", "standby"))
		for _, o := range w.Hosts["test"].Server.Objects(schemas.Job) {
			if strings.Contains(string(o.Body), `"Active":true,"JobId"`) {
				t.Errorf("a new job is active: %.200s", o.Body)
			}
		}
		for _, h := range w.Hosts {
			h.Reset()
		}
		putJob(t, prod, 1, "new")
		t.Logf("add: %s", within(t, w, 3*time.Second, "test", "standby"))
		putJob(t, prod, 1, "edited")
		t.Logf("edit: %s", within(t, w, 3*time.Second, "test", "standby"))
		deleteJob(t, prod, 1)
		t.Logf("delete: %s", within(t, w, 10*time.Second, "test", "standby"))
		for _, id := range []schemas.Slug{"test", "standby"} {
			if puts, deletes := w.Hosts[id].Count(); puts != 2 || deletes != 1 {
				t.Errorf("%s: %d puts, %d deletes; want 2 and 1", id, puts, deletes)
			}
		}
		// G8: an hour of moving statistics writes nothing anywhere.
		for _, h := range w.Hosts {
			h.Reset()
		}
		time.Sleep(time.Hour)
		for id, h := range w.Hosts {
			if puts, deletes := h.Count(); puts+deletes != 0 {
				t.Errorf("%s: %d puts, %d deletes without any edit", id, puts, deletes)
			}
			if len(h.Broken) > 0 {
				t.Error(h.Broken)
			}
		}
	})
}

var _ = http.StatusOK
