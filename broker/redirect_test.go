package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// TestAConsumerCannotForgeByDetour: the broker sends its answers wherever a request
// says, also to a subject of VCS_EV. What comes there that way must be no event.
func TestAConsumerCannotForgeByDetour(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	ctl, pro := s.open(t, "control", broker.Control), s.open(t, "producer", broker.Producer)
	put(t, pro, "a")
	if err := pro.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
	con := s.raw(t, "consumer")
	answers, err := con.nc.SubscribeSync(con.prefix + ".answers")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(subject, body string) string {
		t.Helper()
		if err := con.nc.PublishRequest(subject, con.prefix+".answers", []byte(body)); err != nil {
			t.Fatal(err)
		}
		m, err := answers.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if strings.Contains(string(m.Data), `"error"`) && !strings.Contains(string(m.Data), "no inbox of this key") {
			t.Fatalf("%s: %s", subject, m.Data)
		}
		return string(m.Data)
	}
	// A whole event of its own making, in a place where it may write.
	forged := event("forged", schemas.Added, 1)
	header, data, err := forged.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("$KV." + broker.BucketLedger + ".test.0")
	m.Header, m.Data, m.Reply = header, data, con.prefix+".answers"
	if err := con.nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	if _, err := answers.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	to := forged.Subject()
	ledger := "$KV." + broker.BucketLedger + ".>"
	ask("$JS.API.CONSUMER.CREATE.KV_VCS_LEDGER.push."+ledger, `{"stream_name":"KV_VCS_LEDGER","config":{"name":"push","filter_subject":"`+ledger+`","ack_policy":"none","deliver_policy":"all","deliver_subject":"`+to+`"}}`)
	ask("$JS.API.CONSUMER.CREATE.KV_VCS_LEDGER.pull."+ledger, `{"stream_name":"KV_VCS_LEDGER","config":{"name":"pull","filter_subject":"`+ledger+`","ack_policy":"none","deliver_policy":"all"}}`)
	ask("$JS.API.CONSUMER.CREATE.VCS_STATE.pull.vcsync.st.>", `{"stream_name":"VCS_STATE","config":{"name":"pull","filter_subject":"vcsync.st.>","ack_policy":"none","deliver_policy":"all"}}`)
	for _, r := range []struct{ subject, body string }{
		{"$JS.API.CONSUMER.MSG.NEXT.KV_VCS_LEDGER.pull", `{"batch":1,"expires":1000000000}`},
		{"$JS.API.CONSUMER.MSG.NEXT.VCS_STATE.pull", `{"batch":1,"expires":1000000000}`}, // a true event, elsewhere
		{"$JS.API.DIRECT.GET.KV_VCS_LEDGER.$KV.VCS_LEDGER.test.0", ""},
		{"$JS.API.STREAM.MSG.GET.KV_VCS_LEDGER", `{"last_by_subj":"$KV.VCS_LEDGER.test.0"}`},
		{"$JS.API.STREAM.INFO.VCS_EV", ""},
	} {
		if err := con.nc.PublishRequest(r.subject, to, []byte(r.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := con.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// All is through once the pull has been answered or has run out.
	eventually(t, "the detours are through", func() bool {
		return strings.Contains(ask("$JS.API.CONSUMER.INFO.VCS_STATE.pull", ""), `"num_waiting":0`)
	})
	if last, err := ctl.LastEvent(t.Context(), forged.Key()); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a consumer has stored something on a subject of events: %+v, %v", last, err)
	}
}
