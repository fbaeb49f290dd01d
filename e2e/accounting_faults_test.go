package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/schemas"
)

func accountOf(t *testing.T, m *consumer.Manager, setting schemas.Slug) consumer.Accounting {
	t.Helper()
	_, ss := m.Status()
	i := slices.IndexFunc(ss, func(s consumer.SettingStatus) bool { return s.Setting == setting })
	if i < 0 || ss[i].Accounting == nil {
		t.Fatalf("setting %s has no account: %+v", setting, ss)
	}
	return *ss[i].Accounting
}

func wantBalance(t *testing.T, w *World, setting schemas.Slug) {
	t.Helper()
	if a := accountOf(t, w.Cons, setting); a.Unaccounted != 0 || a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending {
		t.Errorf("%s: nothing was lost, and the accounts do not balance: %+v", setting, a)
	}
}

// Two sources have the same object, and it cannot be brought to the target of both:
// the target refuses it, or has another one that no setting may change.
func TestTheAccountsOfTwoEqualSourcesBalance(t *testing.T) {
	for _, c := range []string{"refused", "not taken"} {
		t.Run(c, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := NewWorld(t)
				defer w.Close()
				first, second, test := w.AddHost("first"), w.AddHost("second"), w.AddHost("test")
				put := func(h *Host, name string) {
					if _, _, err := h.Server.Put(schemas.Job, []byte(fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":%q,"Stats":{"Active":true}}`, name))); err != nil {
						t.Fatal(err)
					}
				}
				for _, name := range []schemas.Slug{"first", "second"} {
					s := AllJobs(name, name, "test", schemas.Keep)
					s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: c == "refused"}}
					w.Setting(s)
				}
				if c == "refused" {
					test.SetFaults(func(next http.Handler) http.Handler {
						return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
							if r.Method == http.MethodPut {
								rw.Header().Set("Content-Type", "application/problem+json")
								rw.WriteHeader(http.StatusUnprocessableEntity)
								fmt.Fprint(rw, `{"title":"no"}`)
								return
							}
							next.ServeHTTP(rw, r)
						})
					})
				} else {
					put(test, "its own")
				}
				put(first, "the same")
				put(second, "another")
				w.StartProducer()
				time.Sleep(time.Minute)
				put(second, "the same")
				time.Sleep(time.Minute)
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				wantBalance(t, w, "first")
				wantBalance(t, w, "second")
			})
		})
	}
}

// Control is away while a setting is made to take more: its durable consumer brings
// only what it brought before, until control is back. The comparison brings the rest.
func TestTheAccountsBalanceWhileControlIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source, test := w.AddHost("production"), w.AddHost("test")
		s := AllJobs("to-test", "production", "test", schemas.Keep)
		s.Rules = map[schemas.Type]schemas.Rule{schemas.Variable: s.Rules[schemas.Job]}
		w.Setting(s)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		w.durables = stop(w.durables, nil)
		s = AllJobs("to-test", "production", "test", schemas.Keep)
		s.Rules[schemas.Variable] = s.Rules[schemas.Job]
		w.Setting(s)
		time.Sleep(time.Minute)
		if _, _, err := source.Server.Put(schemas.Job, []byte(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job","Stats":{"Active":true}}`)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for range 10 {
			time.Sleep(10 * time.Second)
			wantBalance(t, w, "to-test")
		}
		for Diverged(source, test, schemas.Keep) != nil {
			if time.Since(begun) > 20*time.Minute {
				t.Fatal("the job never comes")
			}
			time.Sleep(time.Second)
		}
		t.Logf("the job came after %s", time.Since(begun))
	})
}

// An object was missing in two listings at the begin of a pass, and is there again
// before the pass ends, because other types take long: nothing was deleted.
func TestALongPassDeletesNothingThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source, test := w.AddHost("production"), w.AddHost("test")
		w.Setting(AllObjects("to-test", "production", "test", schemas.Keep))
		variable := []byte(`{"Id":"v","Name":"v","ValueObject":"eA=="}`)
		for _, body := range [][]byte{variable, []byte(`{"Id":"w","Name":"w","ValueObject":"eA=="}`)} {
			if _, _, err := source.Server.Put(schemas.Variable, body); err != nil {
				t.Fatal(err)
			}
		}
		noFeed := func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/changes") {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusNotImplemented)
				return true
			}
			return false
		}
		source.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if !noFeed(rw, r) {
					next.ServeHTTP(rw, r)
				}
			})
		})
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(130 * time.Second)
		slow := make(chan struct{}, 100)
		source.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if noFeed(rw, r) {
					return
				}
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/Job") {
					slow <- struct{}{}
					time.Sleep(9 * time.Second)
				}
				next.ServeHTTP(rw, r)
			})
		})
		if _, err := source.Server.Delete(schemas.Variable, "v"); err != nil {
			t.Fatal(err)
		}
		<-slow // the variables were listed twice before the jobs
		if _, _, err := source.Server.Put(schemas.Variable, variable); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		key := schemas.Key{Source: "production", Type: schemas.Variable, Token: schemas.ID("v").Token()}
		w.Do(func(ctx context.Context) error {
			last, err := w.Broker.LastEvent(ctx, key)
			if err == nil && last.Head.Version.Revision != 1 {
				t.Errorf("the variable was there for all but a moment, and has %d versions now", last.Head.Version.Revision)
			}
			return err
		})
		for _, x := range test.Seen() {
			if x.Op == "delete" {
				t.Errorf("it was deleted at the target at %s", x.At)
			}
		}
	})
}

// A job that deletes itself when it has run stays at its target when its source has it
// no more; that is no loss.
func TestTheAccountsBalanceAfterAJobRemovedItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source := w.AddHost("production")
		w.AddHost("test")
		w.Setting(AllJobs("to-test", "production", "test", schemas.Keep))
		const id = "5ca1e000-1111-4222-8333-000000000001"
		for _, body := range []string{`{"Id":"` + id + `","Name":"Once","RemoveAfterExecution":true,"Stats":{"Active":true}}`,
			`{"Id":"5ca1e000-1111-4222-8333-000000000002","Name":"Stays","Stats":{"Active":true}}`} {
			if _, _, err := source.Server.Put(schemas.Job, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if _, err := source.Server.Delete(schemas.Job, id); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(2 * time.Minute)
			if wantBalance(t, w, "to-test"); accountOf(t, w.Cons, "to-test").Filtered != 1 {
				t.Errorf("%+v", accountOf(t, w.Cons, "to-test"))
			}
			w.StopConsumer(nil)
			w.StartConsumer()
		}
	})
}
