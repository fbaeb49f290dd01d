package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// flow changes jobs at sources, keeps the history of each, and holds every write at a
// target against it.
type flow struct {
	fleet *e2e.Fleet
	// from is the source of each target.
	from map[schemas.Slug]schemas.Slug
	// slow is how long a target at most takes for a write, before it takes it up.
	slow    time.Duration
	witness *e2e.Witness

	mu      sync.Mutex
	rng     *rand.Rand
	version int
	done    int
	history map[string][]event // by source and id
	at      map[int]time.Time  // of each version
	late    time.Duration      // the longest time from a change to its write at a target
	highest map[string]int     // by target and id: what was written there, put or delete
	broken  []string
	deletes int // that were asked for at targets
	asked   []asked
	under   map[string]int // writes under way, by writer
	notes   []note
	selfs   selfs
}

// asked is a write that a process began at a target.
type asked struct {
	target schemas.Slug
	writer string
	at     time.Time
	what   string
}

// event is a version that an object got, or in which it was deleted.
type event struct {
	version int
	deleted bool
}

func id(i int) schemas.ID { return schemas.ID(fmt.Sprintf("c4a05000-1111-4222-8333-%012d", i)) }

// put gives a job a new version.
func (f *flow) put(source schemas.Slug, i int) {
	f.mu.Lock()
	f.version++
	version := f.version
	key := string(source) + "/" + string(id(i))
	f.history[key] = append(f.history[key], event{version, false})
	if f.at == nil {
		f.at = map[int]time.Time{}
	}
	f.at[version] = time.Now()
	f.note(source, id(i), fmt.Sprintf("the source has version %d", version))
	f.mu.Unlock()
	body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Group %d","Description":"version=%d","Stats":{"Active":true},
		"Variables":[{"Key":"Secret","ValueObject":"dmFsdWU="}],
		"Tasks":[{"Id":"c4a05001-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"run.cmd %d"},"Stats":{"Active":true}}]}`,
		id(i), i, i%12, version, i, version)
	if _, _, err := f.fleet.Hosts[source].Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // a stand-in in memory takes every job
	}
}

// change edits, deletes or adds one of n jobs.
func (f *flow) change(source schemas.Slug, n int) {
	f.mu.Lock()
	f.done++
	i, kill := f.rng.IntN(n), f.rng.IntN(25) == 0
	f.mu.Unlock()
	if _, exists := f.fleet.Hosts[source].Server.Get(schemas.Job, id(i)); exists && kill {
		f.mu.Lock()
		f.version++
		key := string(source) + "/" + string(id(i))
		f.history[key] = append(f.history[key], event{f.version, true})
		f.note(source, id(i), fmt.Sprintf("deleted at the source as of version %d", f.version))
		f.mu.Unlock()
		if _, err := f.fleet.Hosts[source].Server.Delete(schemas.Job, id(i)); err != nil {
			panic(err) // see put
		}
		return
	}
	f.put(source, i)
}

// watch looks at every write at a target when it starts.
func (f *flow) watch(target schemas.Slug) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut && r.Method != http.MethodDelete {
				next.ServeHTTP(w, r)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the writer ended before it had said what to write
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			f.judge(target, r, body)
			writer := f.fleet.Writer(r)
			object := string(target) + "/" + string(originOf(idOf(r)))
			f.way(writer, 1)
			defer f.way(writer, -1)
			f.way(object, 1)
			defer f.way(object, -1)
			if f.slow > 0 {
				f.mu.Lock()
				wait := f.slow/6 + time.Duration(f.rng.Int64N(int64(f.slow*5/6)))
				f.mu.Unlock()
				time.Sleep(wait)
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (f *flow) way(writer string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.under == nil {
		f.under = map[string]int{}
	}
	f.under[writer] += n
}

// judge holds a write against what was before.
func (f *flow) judge(target schemas.Slug, r *http.Request, body []byte) {
	id := idOf(r)
	key := string(target) + "/" + string(id)
	var wrong []string
	writer := f.fleet.Writer(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(target, originOf(id), fmt.Sprintf("%s asks to %s %s version %d", writer, r.Method, id, versionOf(body)))
	if r.Method == http.MethodPut {
		wrong = append(wrong, f.elsewhere(target, id)...)
	}
	f.asked = append(f.asked, asked{target, writer, time.Now(), r.Method + " " + string(id)})
	have := f.highest[key]
	switch r.Method {
	case http.MethodPut:
		version := versionOf(body)
		if version < have {
			wrong = append(wrong, fmt.Sprintf("G3: %s got version %d of %s from %s after version %d", target, version, id, writer, have))
		}
		if version > have {
			f.late = max(f.late, time.Since(f.at[version]))
		}
		f.highest[key] = max(have, version)
	case http.MethodDelete:
		f.deletes++
		// Deleted at the source at some moment after it had the version that the target has.
		gone := 0
		for _, e := range f.history[string(f.from[target])+"/"+string(originOf(id))] {
			if e.deleted && e.version > have {
				gone = e.version
				break
			}
		}
		if gone == 0 {
			if body, ok := f.fleet.Hosts[target].Server.Get(schemas.Job, id); ok {
				wrong = append(wrong, fmt.Sprintf("G4: %s was told by %s to delete %s of version %d, which was not deleted since then", target, writer, id, versionOf(body)))
			}
		} else {
			f.highest[key] = gone
		}
	}
	for _, x := range wrong {
		f.broken = append(f.broken, time.Now().Format("15:04:05.000 ")+x)
	}
}

func idOf(r *http.Request) schemas.ID {
	return schemas.ID(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
}

func versionOf(body []byte) (version int) {
	if at := bytes.Index(body, []byte("version=")); at >= 0 {
		_, _ = fmt.Sscanf(string(body[at:min(at+30, len(body))]), "version=%d", &version)
	}
	return version
}

// strangers returns the writes of who did not hold the target's lease, and how many
// writes could be judged.
func (f *flow) strangers() (wrong []string, judged int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		why, knows := f.witness.Judge(a.target, a.writer, a.at)
		if knows {
			judged++
		}
		if why != "" {
			wrong = append(wrong, why+" ("+a.what+")")
		}
	}
	return wrong, judged
}

// heldUp returns the longest time from a change to its write since it was last asked.
func (f *flow) heldUp() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	late := f.late
	f.late = 0
	return late
}

func (f *flow) writes() int {
	n := 0
	for target := range f.from {
		puts, deletes := f.fleet.Hosts[target].Count()
		n += puts + deletes
	}
	return n
}
