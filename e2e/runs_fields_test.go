package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestAPlanTellsValues asks for the values of what differs: they are told to who asks,
// without secrets, and stored sealed (G6).
func TestAPlanTellsValues(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllObjects(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		long := strings.Repeat("a long text, ", 100)
		put := func(h *e2e.Host, address, password, text string) {
			t.Helper()
			if _, _, err := h.Server.Put(schemas.Connection, fmt.Appendf(nil, `{"Id":%q,"Name":"c","Address":%q,"UserName":"u","PassWord":%q,"Description":%q}`,
				jobID(5), address, password, text)); err != nil {
				t.Fatal(err)
			}
		}
		put(prod, "sftp.new.example", "hunter-new-22", "log on with hunter-new-22")
		put(test, "sftp.old.example", "hunter-old-22", long)
		w.StartProducer()
		w.StartConsumer()
		ask := func(fields bool) (out []string) {
			t.Helper()
			p, entries := w.AskFor(oneSetting, broker.RunScope{Types: []schemas.Type{schemas.Connection}}, fields)
			w.Move(oneSetting, broker.RunDropped, "")
			for _, e := range entries {
				changed, err := w.Broker.Changed(p, e)
				if err != nil {
					t.Error(err)
				}
				for _, c := range changed {
					out = append(out, fmt.Sprintf("%s %s: %.30s %d -> %s", e.ID, c.Field, c.Old, len(c.Old), c.New))
				}
				if e.Sealed != "" {
					e.Type = schemas.Job // sealed for this object and no other
					if _, err := w.Broker.Changed(p, e); !errors.Is(err, broker.ErrKeyring) {
						t.Errorf("moved to another object: %v", err)
					}
				}
			}
			return out
		}
		if got := ask(false); got != nil {
			t.Errorf("nobody asked: %v", got)
		}
		got := ask(true)
		want := []string{string(jobID(5)) + ` /Address: "sftp.old.example" 18 -> "sftp.new.example"`,
			string(jobID(5)) + ` /Description: "a long text, a long text, a l 160 -> "log on with ***"`,
			string(jobID(5)) + ` /PassWord: "***" 5 -> "***"`}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		w.Do(func(ctx context.Context) error {
			kv, err := w.Broker.JS().KeyValue(ctx, broker.BucketPlan)
			if err != nil {
				return err
			}
			keys, err := kv.Keys(ctx, jetstream.MetaOnly())
			for _, k := range keys {
				e, gerr := kv.Get(ctx, k)
				err = errors.Join(err, gerr)
				for _, text := range []string{"sftp.old", "sftp.new", "a long text", "hunter"} {
					if gerr == nil && bytes.Contains(e.Value(), []byte(text)) {
						t.Errorf("%s holds %q in clear", k, text)
					}
				}
			}
			return err
		})
	})
}

// TestAPlanTellsWhenItsWindowOpens plans outside of the sync window.
func TestAPlanTellsWhenItsWindowOpens(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		change(t, test, schemas.Job, jobID(1), func(b map[string]any) { b["Description"] = "by hand" })
		set.Windows = schemas.Windows{{Kind: schemas.AllowWindow, Schedule: "0 22 * * *", Duration: "1h"}} // the world begins at midnight
		w.Setting(set)
		time.Sleep(time.Second)
		p, entries := w.Ask(oneSetting, broker.RunScope{})
		w.Move(oneSetting, broker.RunDropped, "")
		same(t, "plan", entries, "Job 1 different: wait update (window)")
		if want := time.Date(2000, 1, 1, 22, 0, 0, 0, time.UTC); !entries[0].Opens.Equal(want) || !strings.Contains(entries[0].Why, "somebody edited") {
			t.Errorf("opens %s, want %s; %s; %+v", entries[0].Opens, want, entries[0].Why, p)
		}
	})
}
