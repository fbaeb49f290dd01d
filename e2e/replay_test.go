package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// replayBody is a job as putJob makes it.
func replayBody(i int, description string) string {
	return fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Finance","Description":%q,"Stats":{"Active":true},
		"Tasks":[{"Id":"10000000-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"x.cmd"},"Stats":{"Active":true}}]}`, jobID(i), i, description, i)
}

// captureAll publishes versions of jobs as a producer does, without a server.
func captureAll(t *testing.T, w *e2e.World, jobs, versions int, text func(job, version int) string) {
	t.Helper()
	last := make([]uint64, jobs)
	before := make([]schemas.Digest, jobs)
	for v := 1; v <= versions; v++ {
		var changes []broker.Change
		for i := range jobs {
			body := replayBody(i, text(i, v))
			n, err := visualcron.Normalize(schemas.Job, []byte(body), w.Broker.Keys.Digest)
			if err != nil {
				t.Fatal(err)
			}
			e := schemas.Event{Source: "production", Kind: schemas.Updated, Version: schemas.Version{Epoch: 1, Revision: uint64(v)}, Digest: n.Digest, BaseDigest: before[i], Time: time.Now().UTC(),
				Object: schemas.Object{Type: schemas.Job, ID: jobID(i), Name: fmt.Sprint("Job ", i), Group: "Finance", Body: jsontext.Value(body)}}
			if v == 1 {
				e.Kind = schemas.Added
			}
			before[i] = n.Digest
			changes = append(changes, broker.Change{Event: e, After: last[i]})
		}
		w.Do(func(ctx context.Context) error {
			stored, err := w.Broker.Publish(ctx, changes)
			for i, s := range stored {
				if last[i] = s.Seq; err == nil {
					err = s.Err
				}
			}
			return err
		})
	}
}

// TestAReplayWritesWhatDiffersOnce replays 10,000 events of 500 jobs: each is looked at
// once, in its newest state, and where the target holds that nothing is written. The
// source is never asked.
func TestAReplayWritesWhatDiffersOnce(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const jobs, versions, equal = 500, 20, 200
		prod, test := w.Hosts["production"], w.Hosts["test"]
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			t.Errorf("the source was asked: %s %s", r.Method, r.URL.Path)
			return false
		}))
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		set.Active = false
		w.Setting(set)
		captureAll(t, w, jobs, versions, func(_, v int) string { return fmt.Sprint("version ", v) })
		for i := range equal {
			if _, _, err := test.Server.Put(schemas.Job, []byte(replayBody(i, "version 20"))); err != nil {
				t.Fatal(err)
			}
		}
		w.StartProducer()
		w.StartConsumer()
		all := broker.RunScope{Replay: broker.RunReplay{FromSeq: 1}}
		p, _ := w.Ask(oneSetting, all)
		wrote(t, test, "a plan", 0, 0)
		if p.Newest.IsZero() || p.Failed != "" {
			t.Errorf("plan %+v", p)
		}
		end, entries := w.Approve(p)
		if end.Result != broker.RunDone || end.Done != jobs || end.Outcomes[broker.OutcomeDone] != jobs {
			t.Errorf("progress %+v", end)
		}
		if puts, deletes := test.Count(); puts != jobs-equal || deletes != 0 {
			t.Errorf("%d puts and %d deletes of 10,000 events on %d objects of which %d are equal", puts, deletes, jobs, equal)
		}
		for i := range jobs {
			if !holdsJob(test, i, "version 20") {
				t.Fatalf("job %d is not in its newest state", i)
			}
		}
		if n := len(entries); n != jobs {
			t.Errorf("%d entries", n)
		}

		// The same again: nothing is written. Then from an event on, with edits at the
		// target in and out of the range.
		test.Reset()
		p, entries = w.Ask(oneSetting, all)
		same(t, "a second replay", entries)
		w.Approve(p)
		wrote(t, test, "a second replay", 0, 0)
		var from uint64
		time.Sleep(time.Hour)
		since := time.Now()
		time.Sleep(time.Hour)
		w.Do(func(ctx context.Context) (err error) {
			n, err := w.Broker.HeadOf(ctx, schemas.Key{Source: "production", Type: schemas.Job, Token: jobID(3).Token()})
			if err != nil {
				return err
			}
			body := replayBody(3, "version 21")
			norm, err := visualcron.Normalize(schemas.Job, []byte(body), w.Broker.Keys.Digest)
			if err != nil {
				return err
			}
			if _, err = w.Broker.Publish(ctx, []broker.Change{{After: n.EventSeq, Event: schemas.Event{Source: "production", Kind: schemas.Updated, Version: schemas.Version{Epoch: 1, Revision: 21},
				Digest: norm.Digest, BaseDigest: n.Digest, Time: time.Now().UTC(), Object: schemas.Object{Type: schemas.Job, ID: jobID(3), Name: "Job 3", Group: "Finance", Body: jsontext.Value(body)}}}}); err != nil {
				return err
			}
			if from, err = w.Broker.SeqSince(ctx, since); err == nil && from != jobs*versions+1 {
				err = fmt.Errorf("the first event since then is %d", from)
			}
			if next, serr := w.Broker.SeqSince(ctx, time.Now().Add(time.Second)); err == nil && (serr != nil || next != from+1) {
				err = fmt.Errorf("the first event to come is %d, error %w", next, serr)
			}
			return err
		})
		putJob(t, test, 7, "edited there")
		putJob(t, test, 9, "the target's own")
		_, entries = w.Ask(oneSetting, broker.RunScope{Replay: broker.RunReplay{FromSeq: from}})
		same(t, "from an event on", entries, "Job 3 different: update (differs)")
		w.Move(oneSetting, broker.RunDropped, "")
		p, entries = w.Ask(oneSetting, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(7)}}, Replay: broker.RunReplay{FromSeq: 1}})
		if got := strings.Join(lines(entries), "\n"); !strings.HasPrefix(got, "Job 7 different: update (differs)") || len(entries) != 1 {
			t.Errorf("of one object: %s", got)
		}
		if i := slices.IndexFunc(entries, func(e broker.PlanEntry) bool { return strings.Contains(e.Why, "somebody edited") }); i < 0 {
			t.Errorf("whose work it throws away is not said: %+v", entries)
		}
		w.Approve(p)
		wrote(t, test, "of one object", 1, 0)
		_, entries = w.Ask(oneSetting, broker.RunScope{Replay: broker.RunReplay{FromSeq: from + 1}})
		same(t, "nothing was captured since", entries)
	})
}
