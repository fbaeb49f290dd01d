package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

func TestASettingThatIsOffForATimeGoesOnByItself(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		w.Poll = 2 * time.Minute
		prod, test := w.Hosts["production"], w.Hosts["test"]
		var c *control.Server
		run := func() (stop func()) {
			var err error
			if c, err = control.New(control.Config{Broker: w.Broker, Open: w.Open, Addr: "127.0.0.1:7780", Log: w.Log}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); _ = c.TendRuns(ctx) }()
			return func() { cancel(); <-done }
		}
		post := func(verb, body string) {
			t.Helper()
			req := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:7780/api/v1/settings/"+setting+"/"+verb, strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("If-Match", "*")
			rec := httptest.NewRecorder()
			if c.Handler().ServeHTTP(rec, req); rec.Code != 200 {
				t.Fatalf("%s: %d %s", verb, rec.Code, rec.Body)
			}
		}
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		stop := run()
		time.Sleep(time.Minute)
		post("deactivate", `{"reason":"month end","for":"1h"}`)
		off := time.Now()
		test.Reset()
		for i := range 3 {
			putJob(t, prod, 1, fmt.Sprint("edit ", i))
			time.Sleep(15 * time.Minute)
			if i == 0 { // the process dies, and another one knows nothing but what is stored
				stop()
				w.Crash()
				w.StartProducer()
				w.StartConsumer()
				stop = run()
			}
		}
		time.Sleep(time.Until(off.Add(59 * time.Minute)))
		if puts, _ := test.Count(); puts != 0 {
			t.Errorf("%d writes while it was off", puts)
		}
		time.Sleep(4 * time.Minute)
		if puts, _ := test.Count(); puts != 1 || !holdsJob(test, 1, "edit 2") {
			t.Errorf("%d writes after its time was over, want one of the newest", puts)
		}

		// And the other way: on for a time, and off by itself.
		post("deactivate", `{}`)
		post("activate", `{"for":"10m"}`)
		putJob(t, prod, 1, "in time")
		time.Sleep(9 * time.Minute)
		if !holdsJob(test, 1, "in time") {
			t.Error("it did not follow while it was on")
		}
		time.Sleep(2 * time.Minute)
		putJob(t, prod, 1, "too late")
		time.Sleep(10 * time.Minute)
		if !holdsJob(test, 1, "in time") {
			t.Error("it goes on after its time")
		}
		stop()
	})
}
