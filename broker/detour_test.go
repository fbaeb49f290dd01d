package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// The broker sends its answers wherever a request says, and a consumer delivers to
// wherever it was told to. By neither may a key reach what it may not write.

// elsewhere are subjects of which nothing may come where a role names them.
var elsewhere = []string{"$KV.VCS_CFG.server.other", "$KV.VCS_SEC.password.other", "$KV.VCS_LEASE.target.test", "$KV.VCS_LEDGER.test.0", "$KV.VCS_CFG.generation",
	"vcsync.audit.setting.update", "vcsync.ev.other.Job.updated.x",
	"$JS.API.STREAM.DELETE.VCS_AUDIT", "$JS.API.STREAM.PURGE.OBJ_VCS_BODY", "$JS.API.CONSUMER.DELETE.VCS_STATE.set-a"}

// standing makes what a detour could spoil, and returns a check that it is as it was.
func standing(t *testing.T, ctl *broker.Broker) (unspoiled func()) {
	t.Helper()
	if _, err := ctl.PutServer(t.Context(), schemas.Server{ID: "other", Connector: "bridge", Address: "https://its-own.example", User: "u"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := ctl.SetPassword(t.Context(), "other", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := ctl.JS().CreateConsumer(t.Context(), broker.StreamState, jetstream.ConsumerConfig{Durable: "set-a", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	lasts := func() map[string]uint64 {
		out := map[string]uint64{}
		for _, name := range []string{"KV_" + broker.BucketConfig, "KV_" + broker.BucketSecret, "KV_" + broker.BucketLease, broker.StreamAudit} {
			s, err := ctl.JS().Stream(t.Context(), name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			out[name] = s.CachedInfo().State.LastSeq
		}
		return out
	}
	before := lasts()
	return func() {
		t.Helper()
		if _, err := ctl.JS().Consumer(t.Context(), broker.StreamState, "set-a"); err != nil {
			t.Errorf("the durable consumer of a setting: %v", err)
		}
		for name, last := range lasts() {
			if last != before[name] {
				t.Errorf("%s: %d messages were stored by a detour", name, last-before[name])
			}
		}
		snap, err := ctl.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a := snap.Servers["other"].Address; a != "https://its-own.example" {
			t.Errorf("the server's address is %q now: its password goes there next; unreadable: %v", a, snap.Unreadable)
		}
		if _, err := ctl.Password(t.Context(), "other"); err != nil {
			t.Errorf("a password was spoiled: %v", err)
		}
		l, err := ctl.OpenLedger(t.Context(), "test")
		if err != nil {
			t.Errorf("a ledger was spoiled: %v", err)
		} else {
			l.Close()
		}
		if _, err := ctl.LastEvent(t.Context(), of("other", event("x", schemas.Updated, 1)).Key()); err == nil {
			t.Error("an event of another source was stored")
		}
	}
}

// request sends one with a reply of its choice.
func (r *raw) request(t *testing.T, subject, reply, body string) {
	t.Helper()
	if err := r.nc.PublishRequest(subject, reply, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request and returns its answer.
func (r *raw) ask(t *testing.T, subject, body string) string {
	t.Helper()
	m, err := r.nc.Request(subject, []byte(body), 10*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return string(m.Data)
}

// through returns once all that the connection asked for has been done: the broker
// does it in order, but for requests that wait for something.
func (r *raw) through(t *testing.T) {
	t.Helper()
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, stream := range []string{broker.StreamEvents, "KV_" + broker.BucketConfig, "KV_" + broker.BucketSecret} {
			r.ask(t, "$JS.API.STREAM.INFO."+stream, "")
		}
	}
	time.Sleep(500 * time.Millisecond) // what must not come can only be waited for
}

// An unreadable generation keeps every process from starting, and nothing writes these
// records anew by itself.
func TestAnAnswerIsNoRecord(t *testing.T) {
	s := newSite(t, broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"production"}}})
	cfg := s.config(t, "control", broker.Control)
	ctl := openConfig(t, cfg)
	unspoiled := standing(t, ctl)
	pro := s.raw(t, "producer-east")
	for _, to := range elsewhere {
		pro.request(t, "$JS.API.STREAM.INFO.VCS_EV", to, "")
	}
	pro.through(t)
	unspoiled()
	ctl.Close()
	b, err := broker.Open(short(t, 20*time.Second), cfg)
	if err != nil {
		t.Fatalf("a producer's key keeps control from starting: %v", err)
	}
	b.Close()
}

// A stored message of a producer's own choice, or an empty one, has answers of its own.
func TestAProducerCannotRedirectAServer(t *testing.T) {
	s := newSite(t, broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"production"}}})
	ctl := s.open(t, "control", broker.Control)
	unspoiled := standing(t, ctl)
	pro := s.raw(t, "producer-east")
	for i, body := range []string{redirection(t), ""} {
		own := fmt.Sprintf("vcsync.ev.production.Job.updated.x%d", i)
		if answer := pro.ask(t, own, body); !strings.Contains(answer, `"seq"`) {
			t.Fatal(answer)
		}
		pro.ask(t, "$JS.API.CONSUMER.CREATE.VCS_EV.pull."+own, `{"stream_name":"VCS_EV","config":{"name":"pull","filter_subject":"`+own+`","ack_policy":"none"}}`)
		for _, to := range elsewhere {
			pro.request(t, "$JS.API.DIRECT.GET.VCS_EV."+own, to, "")
			pro.request(t, "$JS.API.CONSUMER.MSG.NEXT.VCS_EV.pull", to, `{"batch":1,"expires":200000000}`)
		}
	}
	pro.through(t)
	unspoiled()
}

func redirection(t *testing.T) string {
	t.Helper()
	raw, err := schemas.Server{ID: "other", Connector: "bridge", Address: "http://127.0.0.1:6666", User: "u"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// An acknowledgement of an acknowledgement is empty: what the store's API takes for a
// request to delete.
func TestAConsumerCannotRedirectAServer(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	ctl := s.open(t, "control", broker.Control)
	unspoiled := standing(t, ctl)
	detours(t, s.raw(t, "consumer"))
	unspoiled()
}

func TestAConsumerCannotRedirectAServerOfACluster(t *testing.T) {
	c := newCluster(t)
	ctl := c.open(t, "control", broker.Control)
	unspoiled := standing(t, ctl)
	for _, url := range c.urls { // whichever of them hears it
		c.url = url
		detours(t, c.raw(t, "consumer"))
	}
	unspoiled()
}

// detours tries what a consumer's key could do.
func detours(t *testing.T, con *raw) {
	t.Helper()
	const own = "$KV.VCS_LEDGER.zz.0"
	made := 0
	for _, body := range []string{redirection(t), ""} {
		if answer := con.ask(t, own, body); !strings.Contains(answer, `"seq"`) {
			t.Fatal(answer)
		}
		for i, to := range elsewhere {
			for _, field := range []string{"deliver_subject", "Deliver_Subject"} {
				made++
				answer := con.ask(t, fmt.Sprintf("$JS.API.CONSUMER.CREATE.KV_VCS_LEDGER.push%d.%s", made, own),
					fmt.Sprintf(`{"stream_name":"KV_VCS_LEDGER","config":{"name":"push%d","filter_subject":%q,"ack_policy":"none","deliver_policy":"all","deliver_subject":%q,%q:%q}}`, made, own, con.prefix+".x", field, to))
				if !strings.Contains(answer, "no inbox of this key") {
					t.Errorf("a consumer that delivers to %s: %s", to, answer)
				}
			}
			con.request(t, "$JS.API.STREAM.MSG.GET.KV_VCS_LEDGER", to, `{"last_by_subj":"`+own+`"}`)
			con.request(t, fmt.Sprintf("$JS.ACK.VCS_STATE.set-a.1.%d.1.0.0", i+1), to, "")
		}
	}
	con.through(t)
}

// TestTheGateRefuses what a role must not have made, each under the key's own rights.
func TestTheGateRefuses(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	ctl := s.open(t, "control", broker.Control)
	standing(t, ctl)
	con := s.raw(t, "consumer")
	const subject = "$JS.API.CONSUMER.CREATE.VCS_STATE."
	for name, c := range map[string]struct{ name, config, says string }{
		"a pull consumer":             {"a", `"name":"a","ack_policy":"none","inactive_threshold":1000000000`, `"num_pending"`},
		"one that delivers to itself": {"b", `"name":"b","ack_policy":"none","deliver_subject":"` + con.prefix + `.x"`, `"num_pending"`},
		"one of another's inbox":      {"c", `"name":"c","ack_policy":"none","deliver_subject":"_INBOX_UOTHER.x"`, "no inbox of this key"},
		"a durable one":               {"d", `"durable_name":"d","ack_policy":"explicit"`, "only control"},
		"a change of a durable one":   {"set-a", `"name":"set-a","ack_policy":"explicit","inactive_threshold":1000000000`, `"error"`},
		"one of the store itself":     {"e", `"name":"e","ack_policy":"none","sourcing":true`, "only the store"},
		"no request":                  {"f", `"name":[]`, "no request"},
	} {
		answer := con.ask(t, subject+c.name, `{"stream_name":"VCS_STATE","config":{`+c.config+`}}`)
		if !strings.Contains(answer, c.says) {
			t.Errorf("%s: %s, want %s", name, answer, c.says)
		}
	}
	info, err := ctl.JS().Consumer(t.Context(), broker.StreamState, "set-a")
	if err != nil {
		t.Fatal(err)
	}
	if th := info.CachedInfo().Config.InactiveThreshold; th != 0 {
		t.Errorf("a consumer's key lets the durable consumer of a setting end after %v", th)
	}
	// Past the gate there is nothing.
	for _, subject := range []string{"vcsync.gate.x.$JS.API.CONSUMER.CREATE.VCS_STATE.x", "_R_.x"} {
		if !con.refused(t, subject, func(nc *nats.Conn) error { return nc.Publish(subject, nil) }) {
			t.Errorf("it may publish to %s", subject)
		}
	}
}
