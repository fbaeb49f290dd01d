package consumer_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	_ "github.com/vcsync/vcsync/broker/brokertest" // registers the server's clock
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestMessagesThatCameToNobody: what was on its way while the connection broke is not
// waited for until it comes again a minute later.
func TestMessagesThatCameToNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		prod, test := w.AddHost("production"), w.AddHost("test")
		const n = 8
		put := func(text string) {
			for i := range n {
				body := fmt.Sprintf(`{"Id":"c4a05000-1111-4222-8333-%012d","Name":"Job %d","Description":%q,"Stats":{"Active":true},"Tasks":[]}`, i, i, text)
				if _, _, err := prod.Server.Put(schemas.Job, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
		}
		equal := func() bool { return e2e.Diverged(prod, test, schemas.Keep) == nil }
		put("one")
		w.Setting(e2e.AllJobs("s", "production", "test", schemas.Keep))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if !equal() {
			t.Fatal("not equal at the start")
		}
		// Another one asks for some of the messages, and is gone before it has them.
		nc, err := w.Broker.Connect("dead")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := w.Broker.JetStreamOn(nc)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cons, err := js.Consumer(ctx, broker.StreamState, "set-s")
		if err != nil {
			t.Fatal(err)
		}
		dead, err := cons.Fetch(n, jetstream.FetchMaxWait(40*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		put("two")
		lost := 0
		for range dead.Messages() {
			lost++
		}
		if lost == 0 || equal() {
			t.Fatalf("%d messages came to nobody", lost)
		}
		if err := w.Cons.Reconnect(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if !equal() {
			t.Error("what came to nobody is not there 5 s later")
		}
	})
}
