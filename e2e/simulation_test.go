package e2e_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

var (
	seeds = flag.Int("seeds", 20, "how many simulated fleets TestSimulation runs")
	first = flag.Int("first", 1, "the seed of the first one")
)

// TestSimulation runs whole fleets in virtual time: a source that is edited and
// lists dishonestly, two targets that are slow, fail, fail after the effect and
// land late, and roles and broker that are killed and started again. While it runs,
// no write may overlap with another of its object, go back to an older version, or
// delete what its source has not deleted; when the faults end, all are equal. A
// failing seed fails again with -run TestSimulation -first SEED -seeds 1.
func TestSimulation(t *testing.T) {
	for seed := *first; seed < *first+*seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &simulation{t: t, seed: uint64(seed), rng: rand.New(rand.NewPCG(uint64(seed), 1)), deleted: map[schemas.ID]bool{}, highest: map[string]int{}, on: true, fired: map[string]int{}}
				s.run()
			})
		})
	}
}

type simulation struct {
	t    *testing.T
	seed uint64
	w    *e2e.World
	rng  *rand.Rand // of the workload alone

	mu      sync.Mutex
	on      bool
	deleted map[schemas.ID]bool // ever, at the source
	highest map[string]int      // target/id to the newest version that a write started with
	broken  []string
	fired   map[string]int
	version int
}

const simulatedJobs = 12

func (s *simulation) run() {
	s.w = e2e.NewWorld(s.t)
	defer time.Sleep(time.Minute) // until the last write has landed
	defer s.w.Close()
	if os.Getenv("VCSYNC_TEST_LOG") != "" {
		s.w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	prod := s.w.AddHost("production")
	prod.SetFaults(s.badSource(rand.New(rand.NewPCG(s.seed, 2))))
	settings := []schemas.Setting{AllOf("test", schemas.Keep), AllOf("standby", schemas.Off)}
	for i, set := range settings {
		h := s.w.AddHost(set.Target)
		h.SetFaults(s.badTarget(set.Target, rand.New(rand.NewPCG(s.seed, 10+uint64(i)))))
		s.w.Setting(set)
	}
	s.w.StartProducer()
	s.w.StartConsumer()
	for range 100 {
		s.edit(prod)
		s.kill()
		if s.rng.IntN(12) == 0 { // a setting is switched off for a while, or narrowed
			set := settings[s.rng.IntN(len(settings))].Clone()
			if s.rng.IntN(2) == 0 {
				set.Active = false
			} else {
				set.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
			}
			s.w.Setting(set)
			time.Sleep(time.Duration(s.rng.IntN(20)) * time.Second)
			for _, set := range settings {
				s.w.Setting(set)
			}
		}
		time.Sleep(time.Duration(s.rng.IntN(8000)) * time.Millisecond)
	}
	s.mu.Lock()
	s.on = false
	s.mu.Unlock()
	begun := time.Now()
	for {
		diff := append(e2e.Diverged(prod, s.w.Hosts["test"], schemas.Keep), e2e.Diverged(prod, s.w.Hosts["standby"], schemas.Off)...)
		if diff == nil {
			break
		}
		if time.Since(begun) > 15*time.Minute {
			s.t.Errorf("G2: seed %d: still not equal 15 minutes after the last fault: %v\nsources %+v\ntargets %v", s.seed, diff, s.w.Prod.Status(), fmt.Sprint(s.w.Cons.Status()))
			break
		}
		time.Sleep(5 * time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range []schemas.Slug{"test", "standby"} {
		s.broken = append(s.broken, s.w.Hosts[id].Broken...)
	}
	for _, b := range s.broken {
		s.t.Errorf("seed %d: %s", s.seed, b)
	}
	writes, _ := s.w.Hosts["test"].Count()
	if writes < 20 || s.fired["kill"] < 3 || s.fired["listing"] < 5 || s.fired["target"] < 10 {
		s.t.Errorf("seed %d proves nothing: %d writes, faults %v", s.seed, writes, s.fired)
	}
}

// AllOf takes all jobs of production to a target.
func AllOf(target schemas.Slug, policy schemas.ActivePolicy) schemas.Setting {
	s := e2e.AllJobs("to-"+target, "production", target, policy)
	s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Share: 100}} // nobody approves anything here
	return s
}

// edit changes a few jobs at the source. Every version has a number of its own.
func (s *simulation) edit(prod *e2e.Host) {
	for range s.rng.IntN(4) {
		i := s.rng.IntN(simulatedJobs)
		_, exists := prod.Server.Get(schemas.Job, jobID(i))
		if exists && s.rng.IntN(10) < 2 {
			s.mu.Lock()
			s.deleted[jobID(i)] = true
			s.mu.Unlock()
			deleteJob(s.t, prod, i)
			continue
		}
		s.version++
		putJob(s.t, prod, i, fmt.Sprintf("version=%d", s.version))
	}
}

// kill ends and restarts a role or the broker, as a crash or as a stop.
func (s *simulation) kill() {
	if s.rng.IntN(10) > 1 {
		return
	}
	s.mu.Lock()
	s.fired["kill"]++
	s.mu.Unlock()
	cause := consumer.ErrCrash
	if s.rng.IntN(4) == 0 {
		cause = context.Canceled
	}
	pause := time.Duration(s.rng.IntN(20)) * time.Second
	switch s.rng.IntN(3) {
	case 0:
		s.w.StopProducer(cause)
		time.Sleep(pause)
		s.w.StartProducer()
	case 1:
		s.w.StopConsumer(cause)
		time.Sleep(pause)
		s.w.StartConsumer()
	default:
		s.w.StopProducer(cause)
		s.w.StopConsumer(cause)
		if err := s.w.Broker.Close(); err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(pause)
		s.w.OpenBroker()
		s.w.StartProducer()
		s.w.StartConsumer()
	}
}

// roll returns what a fault handler does with a request: a number below n, or -1
// for nothing. Faults come in phases, so that a back-off has something to wait for.
func (s *simulation) roll(what string, rng *rand.Rand, n, outOf int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := rng.IntN(outOf)
	if !s.on || x >= n {
		return -1
	}
	s.fired[what]++
	return x
}

// random returns a duration below most. Handlers run side by side.
func (s *simulation) random(rng *rand.Rand, most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(rng.Int64N(int64(most)))
}

func (s *simulation) badSource(rng *rand.Rand) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isList(r) {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			switch s.roll("listing", rng, 7, 16) {
			case 0:
				io.WriteString(w, "null")
			case 1:
				io.WriteString(w, "[]")
			case 2:
				w.WriteHeader(http.StatusInternalServerError)
			case 3:
				w.WriteHeader(http.StatusUnauthorized)
			case 4: // the answer is cut
				next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 9000}, r)
				panic(http.ErrAbortHandler)
			case 5: // only half of the objects, and no fault to be seen before the end
				io.WriteString(w, "[")
				panic(http.ErrAbortHandler)
			case 6:
				select {
				case <-r.Context().Done():
				case <-time.After(20 * time.Second):
				}
				next.ServeHTTP(w, r)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// cutWriter lets a number of bytes through.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.left = 0
		return len(p), nil
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// FlushError makes the writer one that http.ResponseController can flush.
func (c *cutWriter) FlushError() error { return http.NewResponseController(c.ResponseWriter).Flush() }

func (s *simulation) badTarget(name schemas.Slug, rng *rand.Rand) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			write := r.Method == http.MethodPut || r.Method == http.MethodDelete
			if write {
				s.check(name, r)
			}
			pause := func(most time.Duration) {
				select {
				case <-r.Context().Done():
				case <-time.After(s.random(rng, most)):
				}
			}
			switch s.roll("target", rng, 8, 40) {
			case 0:
				w.WriteHeader(http.StatusInternalServerError)
			case 1: // applied, and says it failed
				next.ServeHTTP(&cutWriter{ResponseWriter: discard{}}, r)
				w.WriteHeader(http.StatusInternalServerError)
			case 2:
				w.Header().Set("Retry-After", fmt.Sprint(1+int(s.random(rng, 20))))
				w.WriteHeader(http.StatusServiceUnavailable)
			case 3:
				panic(http.ErrAbortHandler)
			case 4: // slow
				pause(8 * time.Second)
				if r.Context().Err() == nil {
					next.ServeHTTP(w, r)
				}
			case 5: // the client gives up, and it lands all the same
				body, _ := io.ReadAll(r.Body)
				<-r.Context().Done()
				time.Sleep(s.random(rng, 2500*time.Millisecond))
				late := r.Clone(context.WithoutCancel(r.Context()))
				late.Body = io.NopCloser(bytes.NewReader(body))
				next.ServeHTTP(discard{}, late)
			case 6:
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, "<html>sorry</html>")
			case 7: // applied, and the answer is lost
				next.ServeHTTP(discard{}, r)
				panic(http.ErrAbortHandler)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// discard is an answer that nobody gets.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
func (discard) FlushError() error           { return nil }

// check looks at a write when it starts: G3 and G4.
func (s *simulation) check(target schemas.Slug, r *http.Request) {
	id := schemas.ID(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	var body []byte
	if r.Method == http.MethodPut {
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodDelete {
		if !s.deleted[id] {
			s.broken = append(s.broken, fmt.Sprintf("G4: %s was told to delete %s, which was never deleted", target, id))
		}
		return
	}
	var version int
	if i := bytes.Index(body, []byte("version=")); i >= 0 {
		fmt.Sscanf(string(body[i:min(i+30, len(body))]), "version=%d", &version)
	}
	key := string(target) + "/" + string(id)
	if version < s.highest[key] {
		s.broken = append(s.broken, fmt.Sprintf("G3: %s got version %d of %s after version %d", target, version, id, s.highest[key]))
	}
	s.highest[key] = max(s.highest[key], version)
}
