package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func problem(rw http.ResponseWriter, code int) {
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(code)
	_, _ = rw.Write([]byte(`{"title":"x"}`))
}

// Every write of one object is answered with 412.
func TestAServerThatContradictsItselfIsNotFlooded(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		var n atomic.Int32
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			time.Sleep(5 * time.Millisecond)
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/Credential/") {
				n.Add(1)
				problem(rw, 412)
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(20 * time.Second)
		a := n.Load()
		time.Sleep(60 * time.Second)
		t.Logf("PUTs in a minute: %d", n.Load()-a)
		t.Logf("parked %v", listParked(t, w))
		_, ss := w.Cons.Status()
		t.Logf("status %+v", ss)
		begun := time.Now()
		w.StopConsumer(nil)
		t.Logf("stop took %s", time.Since(begun))
		if n.Load()-a > 100 {
			t.Error("hot loop")
		}
	})
}

// The first write of a job that removes itself fails without effect.
func TestAJobWhoseWriteHadNoEffectIsMade(t *testing.T) {
	for _, c := range []string{"busy", "changed", "unavailable"} {
		t.Run(c, func(t *testing.T) {
			selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
				var n atomic.Int32
				test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut {
						if n.Add(1) == 1 {
							switch c {
							case "busy":
								rw.Header().Set("Retry-After", "5")
								problem(rw, 429)
							case "changed":
								problem(rw, 412)
							case "unavailable":
								problem(rw, 503)
							}
							return true
						}
					}
					return false
				}))
				selfJob(t, prod, 1, true, "runs and goes", removes)
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(20 * time.Minute)
				_, _, there := jobAt(t, test, 1)
				for _, p := range listParked(t, w) {
					t.Log("v1", p.Class, p.Reason)
				}
				selfJob(t, prod, 1, true, "a newer version", removes)
				time.Sleep(10 * time.Minute)
				_, _, there2 := jobAt(t, test, 1)
				for _, p := range listParked(t, w) {
					t.Log("v2", p.Class)
				}
				if !there || !there2 {
					t.Errorf("there %v, after newer version %v, PUTs %d", there, there2, n.Load())
				}
			})
		})
	}
}

// The server does every write and answers 500, and the job is due at once and goes.
func TestARetryOfAJobThatMayHaveRunIsOneTry(t *testing.T) {
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		if err := test.Server.Misbehave(standin.Misbehaviour{Mode: "answers-500-but-applies"}); err != nil {
			t.Fatal(err)
		}
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		runs, asked := 0, 0
		for i := range 3000 {
			time.Sleep(200 * time.Millisecond)
			if _, _, there := jobAt(t, test, 1); there {
				runs++
				_, _ = test.Server.Delete(schemas.Job, jobID(1))
			}
			if i == 600 {
				for _, p := range listParked(t, w) {
					t.Log(p.Class, "runs so far", runs)
					p.RetryAsked = p.RetryDone + 1
					asked++
					w.Do(func(ctx context.Context) error {
						_, err := w.Broker.PutParked(ctx, p)
						if errors.Is(err, broker.ErrConflict) {
							return nil // looked at meanwhile
						}
						return err
					})
				}
			}
		}
		t.Logf("runs %d, retries asked %d", runs, asked)
		if runs > 1+asked {
			t.Error("one retry ran it many times")
		}
	})
}

// A listing that was quick takes a minute and a half from then on.
func TestAListingThatGrowsSlowGetsItsTime(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/objects/Credential" {
					next.ServeHTTP(rw, r)
					return
				}
				rec := &slow{ResponseWriter: rw, h: rw.Header()}
				next.ServeHTTP(rec, r)
				// 90 s for the whole listing, steadily
				b := rec.b.Bytes()
				for i := range 90 {
					time.Sleep(time.Second)
					if _, err := rw.Write(b[len(b)*i/90 : len(b)*(i+1)/90]); err != nil {
						return
					}
					_ = http.NewResponseController(rw).Flush()
				}
			})
		})
		putText(t, prod, schemas.Credential, credentialOf("d2"))
		for h := range 24 {
			time.Sleep(time.Hour)
			if b, _ := test.Server.Get(schemas.Credential, someCredential); bytes.Contains(b, []byte(`"d2"`)) {
				t.Logf("there after %d h", h+1)
				return
			}
		}
		t.Errorf("after 24 h the edit is not there: %+v", w.Prod.Status()[0].Types[schemas.Credential])
	})
}

type slow struct {
	http.ResponseWriter
	h http.Header
	b bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) { return s.b.Write(p) }
func (s *slow) Flush()                      {}
func (s *slow) FlushError() error           { return nil }
func (s *slow) Unwrap() http.ResponseWriter { return nil }

// Two jobs that refer to each other, or one to itself, lack the same credential.
func TestWaitingForASecretKnowsNoCycle(t *testing.T) {
	const cert, conn1, conn2 = "8899aabb-ccdd-4eef-8011-223344556677", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9a", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9b"
	for _, kind := range []string{"connections", "jobs", "self"} {
		t.Run(kind, func(t *testing.T) {
			pairWorld(t, schemas.Follow, func(w *e2e.World, prod, test *e2e.Host) {
				treat(t, prod, visualcron.SecretsMasked)
				putText(t, prod, schemas.Credential, credentialOf("d1"))
				c := string(someCredential)
				switch kind {
				case "connections":
					putText(t, prod, schemas.Connection, `{"Id":"`+conn1+`","Name":"c1","Group":"g","ProtocolType":"FTP","CredentialId":"`+c+`","ProxyConnectionId":"`+conn2+`"}`)
					putText(t, prod, schemas.Connection, `{"Id":"`+conn2+`","Name":"c2","Group":"g","ProtocolType":"FTP","ProxyConnectionId":"`+conn1+`"}`)
					selfJob(t, prod, 1, true, "j", `,"X":{"ConnectionId":"`+conn1+`"}`)
				case "jobs":
					selfJob(t, prod, 1, true, "j", `,"X":{"Credential":"`+c+`","Text":"{JOB(`+string(jobID(2))+`|Name)}"}`)
					selfJob(t, prod, 2, true, "j", `,"X":{"Text":"{JOB(`+string(jobID(1))+`|Name)}"}`)
				case "self":
					selfJob(t, prod, 1, true, "j", `,"X":{"Credential":"`+c+`","Text":"{JOB(`+string(jobID(1))+`|Name)}"}`)
				}
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(5 * time.Minute)
				for _, p := range listParked(t, w) {
					t.Log("before", p.Type, p.Class, p.Reason)
				}
				putText(t, test, schemas.Credential, credentialOf("d1")) // entered
				for range 5 {
					for _, p := range listParked(t, w) {
						p.RetryAsked = p.RetryDone + 1
						w.Do(func(ctx context.Context) error {
							_, err := w.Broker.PutParked(ctx, p)
							if errors.Is(err, broker.ErrConflict) {
								return nil // looked at meanwhile
							}
							return err
						})
					}
					time.Sleep(5 * time.Minute)
				}
				for _, p := range listParked(t, w) {
					t.Log("after", p.Type, p.Class, p.Reason)
				}
				if _, active, _ := jobAt(t, test, 1); !active {
					t.Error("job 1 is inactive for ever although the secret is there and everything was retried 5 times")
				}
			})
		})
	}
}

// Two servers behind one address: one masks what is read, the other takes what is
// written.
func TestAMaskReadInBetweenIsNotWrittenBack(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		putText(t, test, schemas.Credential, credentialOf("d1"))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/Credential/") {
					_ = test.Server.Misbehave(standin.Misbehaviour{Mode: "secrets", Arg: "masked"})
					next.ServeHTTP(rw, r)
					test.Server.Behave("secrets")
					return
				}
				next.ServeHTTP(rw, r)
			})
		})
		putText(t, prod, schemas.Credential, credentialOf("d2"))
		time.Sleep(5 * time.Minute)
		body, _ := test.Server.Get(schemas.Credential, someCredential)
		if !bytes.Contains(body, []byte("true-secret-1")) {
			t.Errorf("destroyed: %s %v", body, test.Server.Secrets(schemas.Credential, someCredential))
		}
	})
}

func TestConnectionsInACycleWaitForNoSecret(t *testing.T) {
	const cert, conn1, conn2 = "8899aabb-ccdd-4eef-8011-223344556677", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9a", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9b"
	pairWorld(t, schemas.Follow, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, prod, visualcron.SecretsMasked)
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		c := string(someCredential)
		putText(t, prod, schemas.Connection, `{"Id":"`+conn1+`","Name":"c1","Group":"g","ProtocolType":"FTP","CredentialId":"`+c+`","ConnectionId":"`+conn2+`"}`)
		putText(t, prod, schemas.Connection, `{"Id":"`+conn2+`","Name":"c2","Group":"g","ProtocolType":"FTP","ConnectionId":"`+conn1+`"}`)
		selfJob(t, prod, 1, true, "j", `,"X":{"ConnectionId":"`+conn1+`"}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		putText(t, test, schemas.Credential, credentialOf("d1"))
		for range 5 {
			for _, p := range listParked(t, w) {
				p.RetryAsked = p.RetryDone + 1
				w.Do(func(ctx context.Context) error {
					_, err := w.Broker.PutParked(ctx, p)
					if errors.Is(err, broker.ErrConflict) {
						return nil // looked at meanwhile
					}
					return err
				})
			}
			time.Sleep(5 * time.Minute)
		}
		for _, p := range listParked(t, w) {
			t.Log("after", p.Type, p.Class, p.Reason)
			p.Discarded = "done"
			w.Do(func(ctx context.Context) error {
				_, err := w.Broker.PutParked(ctx, p)
				if errors.Is(err, broker.ErrConflict) {
					return nil // looked at meanwhile
				}
				return err
			})
		}
		time.Sleep(5 * time.Minute)
		selfJob(t, prod, 1, true, "edited", `,"X":{"ConnectionId":"`+conn1+`"}`)
		time.Sleep(5 * time.Minute)
		for _, p := range listParked(t, w) {
			t.Log("after discard and edit", p.Type, p.Class, p.Reason)
		}
		if _, active, _ := jobAt(t, test, 1); !active {
			t.Error("inactive for ever")
		}
	})
}

func TestHeldDeletionsStayHeldWhileTheirTypeFails(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 20 {
			putJob(t, prod, i, "x")
		}
		w.StartProducer()
		time.Sleep(2 * time.Minute)
		for i := range 10 {
			_, _ = prod.Server.Delete(schemas.Job, jobID(i))
		}
		time.Sleep(2 * time.Minute)
		t.Log("held", w.Prod.Status()[0].Types[schemas.Job].Held)
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				rw.WriteHeader(403)
				return true
			}
			return false
		}))
		time.Sleep(2 * time.Minute)
		ts := w.Prod.Status()[0].Types[schemas.Job]
		t.Logf("held %d class %s", ts.Held, ts.Class)
		if ts.Held != 10 {
			t.Error("held forgotten while the type cannot be listed")
		}
	})
}

func TestObjectsThatAreRefusedForTheirModeDelayNoOther(t *testing.T) {
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		for i := range 20 {
			putText(t, prod, schemas.Credential, strings.Replace(credentialOf("d1"), "ab12cd34", fmt.Sprintf("ab12cd%02d", i+10), 1))
		}
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			time.Sleep(20 * time.Millisecond)
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/Credential/") {
				problem(rw, 412)
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "first")
		begun := time.Now()
		for range 120 {
			time.Sleep(time.Second)
			if _, _, there := jobAt(t, test, 1); there {
				t.Logf("job took %s", time.Since(begun))
				return
			}
		}
		shut, _ := w.Cons.Status()
		t.Errorf("after 2 min no other object is applied: every lane spins; status %+v parked %d", shut, len(listParked(t, w)))
	})
}

// Objects are taken by one setting and jobs by another, with another policy.
func TestAJobWaitsForASecretWhateverThePolicyOfTheOthers(t *testing.T) {
	const cert, conn = "8899aabb-ccdd-4eef-8011-223344556677", "27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9a"
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		a := e2e.AllObjects("objects", "production", "test", schemas.Keep)
		delete(a.Rules, schemas.Job)
		w.Setting(a)
		w.Setting(e2e.AllJobs("jobs", "production", "test", schemas.Follow))
		treat(t, prod, visualcron.SecretsMasked)
		putText(t, prod, schemas.Certificate, `{"Id":"`+cert+`","Name":"c","Data":"private-key-bytes"}`)
		putText(t, prod, schemas.Connection, `{"Id":"`+conn+`","Name":"c","Group":"g","ProtocolType":"FTP","ClientCertificate":"`+cert+`"}`)
		selfJob(t, prod, 2, true, "by way of a connection", `,"X":{"ConnectionId":"`+conn+`"}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		b, active, there := jobAt(t, test, 2)
		if !there || active {
			t.Errorf("there %v active %v although the certificate has no key: %s", there, active, bytes.TrimSpace(b))
		}
	})
}
