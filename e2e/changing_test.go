package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// What a server does to its secrets, its types and its jobs may change while vcsync
// works with it: an upgrade, another account, a job that runs in between.

const someCredential = schemas.ID("ab12cd34-ef56-4a78-9b01-c23d45e67f89")

func credentialOf(domain string) string {
	return fmt.Sprintf(`{"Id":%q,"Username":"u","Password":"true-secret-1","Domain":%q}`, someCredential, domain)
}

func putText(t testing.TB, h *e2e.Host, x schemas.Type, body string) {
	t.Helper()
	if _, _, err := h.Server.Put(x, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

// pairWorld is a production and a test that takes everything.
func pairWorld(t *testing.T, policy schemas.ActivePolicy, f func(w *e2e.World, prod, test *e2e.Host)) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		w.Setting(e2e.AllObjects("production-to-test", "production", "test", policy))
		f(w, prod, test)
	})
}

func TestATargetThatBeginsToMaskKeepsItsSecrets(t *testing.T) {
	for _, src := range []visualcron.SecretMode{visualcron.SecretsEqual, visualcron.SecretsMasked} {
		t.Run(string(src), func(t *testing.T) {
			pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
				treat(t, prod, src)
				putText(t, prod, schemas.Credential, credentialOf("d1"))
				putText(t, test, schemas.Credential, credentialOf("d1"))
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				treat(t, test, visualcron.SecretsMasked)
				time.Sleep(30 * time.Minute)
				putText(t, prod, schemas.Credential, credentialOf("d2"))
				time.Sleep(5 * time.Minute)
				body, _ := test.Server.Get(schemas.Credential, someCredential)
				t.Logf("target: %s  secrets %v", body, test.Server.Secrets(schemas.Credential, someCredential))
				if !bytes.Contains(body, []byte("true-secret-1")) {
					t.Errorf("secret destroyed")
				}
				for _, p := range listParked(t, w) {
					t.Log(p.Class, p.Reason)
				}
			})
		})
	}
}

func TestATargetThatStopsMaskingKeepsItsSecrets(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		treat(t, test, visualcron.SecretsMasked)
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		putText(t, test, schemas.Credential, credentialOf("d1"))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		treat(t, test, visualcron.SecretsEqual)
		time.Sleep(30 * time.Minute)
		putText(t, prod, schemas.Credential, credentialOf("d2"))
		time.Sleep(5 * time.Minute)
		body, _ := test.Server.Get(schemas.Credential, someCredential)
		if !bytes.Contains(body, []byte("true-secret-1")) {
			t.Errorf("secret destroyed: %s", body)
		}
	})
}

// It does so between the question who it is and its listing.
// Its answers say so, or only whoever asks it again learns of it.
func TestASourceThatBeginsToMaskInAPoll(t *testing.T) {
	for _, says := range []bool{true, false} {
		t.Run(fmt.Sprintf("says so %v", says), func(t *testing.T) { beginsToMaskInAPoll(t, says) })
	}
}

func beginsToMaskInAPoll(t *testing.T, says bool) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		var done atomic.Bool
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/v1/objects/UserGroup" && done.CompareAndSwap(false, true) { // the first listing of a poll
					if err := prod.Server.Misbehave(standin.Misbehaviour{Mode: "secrets", Arg: "masked"}); err != nil {
						t.Error(err)
					}
				}
				if !says {
					rw = withoutMode{rw}
				}
				next.ServeHTTP(rw, r)
			})
		})
		time.Sleep(10 * time.Minute)
		body, _ := test.Server.Get(schemas.Credential, someCredential)
		t.Logf("switched %v target: %s", done.Load(), body)
		if !bytes.Contains(body, []byte("true-secret-1")) {
			t.Errorf("secret destroyed at the target")
		}
		for _, x := range test.Seen() {
			if x.Type == schemas.Credential {
				t.Logf("%s %d %s", x.Op, x.Status, x.Body)
			}
		}
	})
}

func TestANullIsNoRemoval(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, test, schemas.Credential, credentialOf("d1"))
		putText(t, prod, schemas.Credential, strings.Replace(credentialOf("d2"), `"true-secret-1"`, "null", 1))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		body, _ := test.Server.Get(schemas.Credential, someCredential)
		if !bytes.Contains(body, []byte("true-secret-1")) {
			t.Errorf("secret destroyed at the target: %s", body)
		}
	})
}

func TestAJobWaitsForASecretBehindAConnection(t *testing.T) {
	pairWorld(t, schemas.Follow, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		const cert, conn = "8899aabb-ccdd-4eef-8011-223344556677", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9a"
		putText(t, prod, schemas.Certificate, `{"Id":"`+cert+`","Name":"c","Data":"private-key-bytes"}`)
		putText(t, prod, schemas.Connection, `{"Id":"`+conn+`","Name":"c","Group":"g","ProtocolType":"FTP","ClientCertificate":"`+cert+`"}`)
		selfJob(t, prod, 1, true, "direct", `,"X":{"Certificate":"`+cert+`"}`)
		selfJob(t, prod, 2, true, "by way of a connection", `,"X":{"ConnectionId":"`+conn+`"}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		for i := 1; i <= 2; i++ {
			if _, active, there := jobAt(t, test, i); !there || active {
				t.Errorf("job %d: there %v active %v", i, there, active)
			}
		}
		for _, p := range listParked(t, w) {
			if p.Type == schemas.Connection {
				t.Errorf("a connection has no Active flag, and lacks nothing itself: %s", p.Reason)
			}
		}
	})
}

func TestADiscardedFlagStaysAtATargetThatTellsNothing(t *testing.T) {
	pairWorld(t, schemas.Follow, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		treat(t, test, visualcron.SecretsNull)
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		selfJob(t, prod, 1, true, "first", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		dump := func(when string) (n int) {
			_, active, _ := jobAt(t, test, 1)
			t.Logf("%s: job active %v", when, active)
			for _, p := range listParked(t, w) {
				t.Logf("   %s %s discarded %q: %s", p.Type, p.Class, p.Discarded, p.Reason)
				if p.Discarded == "" {
					n++
				}
			}
			return
		}
		dump("at first")
		putText(t, test, schemas.Credential, credentialOf("d1")) // entered by a person
		for _, p := range listParked(t, w) {
			w.Do(func(ctx context.Context) error {
				for { // what a discarded object lets go changes in the same moment
					p.Discarded = "entered"
					_, err := w.Broker.PutParked(ctx, p)
					if !errors.Is(err, broker.ErrConflict) {
						return err
					}
					all, err := w.Broker.ListParked(ctx, "test")
					if err != nil {
						return err
					}
					i := slices.IndexFunc(all, func(x broker.Parked) bool { return x.Type == p.Type && x.ID == p.ID })
					if i < 0 {
						return nil
					}
					p = all[i]
				}
			})
		}
		time.Sleep(10 * time.Minute)
		dump("entered and discarded")
		putText(t, prod, schemas.Credential, credentialOf("d2"))
		selfJob(t, prod, 1, true, "second", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		selfJob(t, prod, 2, true, "new", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		time.Sleep(10 * time.Minute)
		n := dump("after an edit of both and a new job")
		if _, active, _ := jobAt(t, test, 1); n > 0 || !active {
			t.Errorf("%d flags are back, job follows %v", n, active)
		}
	})
}

func TestANewUserWithoutItsPasswordIsInactive(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		putText(t, prod, schemas.User, `{"Id":"1e2d3c4b-5a69-4788-96a5-b4c3d2e1f001","Name":"Ann","UserName":"ann","PassWord":"secret-of-ann","Active":true,"Groups":[]}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		body, _ := test.Server.Get(schemas.User, "1e2d3c4b-5a69-4788-96a5-b4c3d2e1f001")
		t.Logf("%s", body)
		if bytes.Contains(body, []byte(`"Active":true`)) {
			t.Error("an active user without a password")
		}
	})
}

// Every write is done and answered with 500, and the job is due at once and goes.
func TestAJobThatRemovesItselfRunsOnce(t *testing.T) {
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		if err := test.Server.Misbehave(standin.Misbehaviour{Mode: "answers-500-but-applies"}); err != nil {
			t.Fatal(err)
		}
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		runs := 0
		for range 3000 { // it is due at once and goes
			time.Sleep(200 * time.Millisecond)
			if _, _, there := jobAt(t, test, 1); there {
				runs++
				if _, err := test.Server.Delete(schemas.Job, jobID(1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if runs != 1 {
			t.Errorf("the job ran %d times", runs)
		}
	})
}

func TestAJobWhoseWriteIsOpenIsNotMadeAgain(t *testing.T) {
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		var n atomic.Int32
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					if n.Add(1) == 1 { // done, it runs at once and goes, and the answer is lost
						next.ServeHTTP(&nowhere{h: http.Header{}}, r)
						_, _ = test.Server.Delete(schemas.Job, jobID(1))
						panic(http.ErrAbortHandler)
					}
				}
				next.ServeHTTP(rw, r)
			})
		})
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		if _, active, there := jobAt(t, test, 1); there {
			t.Errorf("it was made again, active %v: it runs twice", active)
		}
	})
}

func TestAJobThatHasRunIsNotMadeAgainForAnotherSource(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, b, test := w.Hosts["production"], w.AddHost("other"), w.AddHost("test")
		w.Setting(e2e.AllJobs("p", "production", "test", schemas.Follow))
		w.Setting(e2e.AllJobs("o", "other", "test", schemas.Follow))
		selfJob(t, prod, 1, true, "runs and goes", removes)
		selfJob(t, b, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		act(t, test, "removed", 1)
		test.Reset()
		l, err := w.Broker.OpenLedger(context.Background(), "test")
		if err != nil {
			t.Fatal(err)
		}
		e, _ := l.Get(schemas.Job, jobID(1))
		l.Close()
		t.Log("owner", e.Source)
		act(t, w.Hosts[e.Source], "removed", 1)
		time.Sleep(10 * time.Minute)
		if puts, _ := test.Count(); puts != 0 {
			t.Errorf("%d writes of a job that has run", puts)
		}
	})
}

// Jobs that remove themselves do not count towards the hold of deletions, so no
// target may delete one because of it, whatever its own copy says.
func TestTheSwitchAtTheSourceOpensNoAirlock(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		s := e2e.AllJobs("p", "production", "test", schemas.Follow)
		s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Deleted: true}}
		w.Setting(s)
		for i := range 40 {
			selfJob(t, prod, i, true, "plain", "")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		for i := range 40 {
			selfJob(t, prod, i, true, "plain", removes)
		}
		time.Sleep(2 * time.Minute)
		test.Reset()
		for i := range 39 {
			if _, err := prod.Server.Delete(schemas.Job, jobID(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		if _, deletes := test.Count(); deletes != 0 {
			t.Errorf("%d of 40 jobs deleted at the target in one pass; the limit is 5, and none of the target's removes itself", deletes)
		}
	})
}

func TestATypeThatDripsDelaysNoOther(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/api/v1/objects/Credential" {
				return false
			}
			rw.Header().Set("Content-Type", "application/json")
			_, _ = rw.Write([]byte("["))
			for r.Context().Err() == nil {
				if _, err := rw.Write([]byte(" ")); err != nil {
					return true
				}
				_ = http.NewResponseController(rw).Flush()
				time.Sleep(5 * time.Second)
			}
			return true
		}))
		time.Sleep(31 * time.Second)
		putJob(t, prod, 1, "second")
		begun := time.Now()
		for {
			time.Sleep(time.Second)
			if b, _ := test.Server.Get(schemas.Job, jobID(1)); bytes.Contains(b, []byte("second")) || time.Since(begun) > time.Hour {
				break
			}
		}
		t.Logf("a job's edit took %s", time.Since(begun))
		if time.Since(begun) > 2*time.Minute {
			t.Error("not isolated")
		}
	})
}

// The feed tells of jobs every ten seconds and not of credentials.
func TestAFeedOfOneTypePutsOffNoOther(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		putJob(t, prod, 1, "first")
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/changes") {
					rw = deaf{rw}
				}
				next.ServeHTTP(rw, r)
			})
		})
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		t.Log("feed", w.Prod.Status()[0].Feed)
		putText(t, prod, schemas.Credential, credentialOf("d2"))
		for i := range 180 {
			putJob(t, prod, 1, fmt.Sprint("edit", i))
			time.Sleep(10 * time.Second)
		}
		if b, _ := test.Server.Get(schemas.Credential, someCredential); !bytes.Contains(b, []byte(`"d2"`)) {
			t.Errorf("after half an hour of polls every 30 s the credential's edit is not there: %s", b)
		}
	})
}

func TestAForbiddenTypeKeepsNoHintAway(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putJob(t, prod, 1, "first")
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/changes") || r.URL.Path == "/api/v1/objects/Credential" {
				rw.WriteHeader(403)
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		w.Do(func(ctx context.Context) error {
			return w.Broker.SetHintToken(ctx, "production", sha256.Sum256([]byte("tok")))
		})
		s, err := control.New(control.Config{Broker: w.Broker, Sources: w.Prod, Targets: w.Cons, Open: w.Open, Addr: "127.0.0.1:7780", Log: w.Log})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:7780/api/v1/hints/production", strings.NewReader("x"))
		r.Header.Set("Authorization", "Bearer tok")
		s.Handler().ServeHTTP(rec, r)
		t.Log(rec.Code, rec.Body.String(), w.Prod.Status()[0].State, w.Prod.Status()[0].Class, w.Prod.Status()[0].Types[schemas.Job])
		if !strings.Contains(rec.Body.String(), `"poll":true`) {
			t.Error("hints are refused because of one type")
		}
	})
}

type deaf struct{ http.ResponseWriter }

func (d deaf) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("Credential")) {
		return len(p), nil
	}
	return d.ResponseWriter.Write(p)
}
func (d deaf) Unwrap() http.ResponseWriter { return d.ResponseWriter }

type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// A refused parent that a person discards: its child goes without it.
func TestADiscardedParentIsNotWaitedFor(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		selfJob(t, prod, 1, true, "child", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/Credential/") {
				return false
			}
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusUnprocessableEntity)
			return true
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		parked := map[schemas.Type]string{}
		for _, p := range listParked(t, w) {
			parked[p.Type] = p.Class + ": " + p.Reason
			if p.Type == schemas.Credential {
				p.Discarded = "not there"
				w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
			}
		}
		if !strings.Contains(parked[schemas.Job], "(parked: refused)") {
			t.Errorf("the job: %q", parked[schemas.Job])
		}
		time.Sleep(30 * time.Second)
		if _, _, there := jobAt(t, test, 1); !there {
			t.Error("the job still waits for what a person has discarded")
		}
	})
}
