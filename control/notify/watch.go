package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/control"
)

const (
	// lookEvery is how often the status is read, and lookFor how long that takes at most.
	// A look costs a write probe of the store, as a look at the status page does.
	lookEvery = 10 * time.Second
	lookFor   = 10 * time.Second
	// repeatEvery is how often what lasts is told again.
	repeatEvery = 24 * time.Hour
	// unknownFor is how long nothing is known of a condition until that is told in place of
	// its end.
	unknownFor = time.Hour
	// stateFile holds what was told, in the data folder: no bucket, no rights at the broker.
	stateFile = "notified.json"
)

// Config says what a Notifier tells, and to whom.
type Config struct {
	// Lines are the receivers.
	Lines []Line
	// Grace is how long a condition lasts before it is told, and how long it has to be
	// over before that is told.
	Grace time.Duration
	// Dir is the folder in which what was told is kept over a restart; "" keeps nothing.
	Dir string
	// From names the installation in messages.
	From string
	// Log is where it speaks; slog.Default() where nil.
	Log *slog.Logger
}

// Notifier watches the status and tells what begins and ends. Its methods are safe for
// concurrent use; Run is called once.
type Notifier struct {
	cfg    Config
	log    *slog.Logger
	out    *outbox
	counts counts
	// by is used by look alone.
	by map[subject]*condition

	mu sync.Mutex
	// settled is what was told and dealt with, as it stands in the file; dirty tells that
	// the file has something else.
	settled map[subject]settled
	dirty   bool
}

// condition is what is known of a subject.
type condition struct {
	seen  time.Time // when it was first seen in this row
	began time.Time // the same, or what the status says
	told  time.Time // zero where it was not told
	last  reading
	off   time.Time // since when it is over; zero where it is not
	lost  time.Time // since when nothing is known of it
}

// settled is a told condition in the file.
type settled struct {
	Since time.Time `json:"since"`
	Told  time.Time `json:"told"`
	Count int       `json:"count,omitzero"`
}

// New makes a Notifier. What the file in Dir says was told already is not told again;
// where it cannot be read, what lasts is told once more.
func New(cfg Config) *Notifier {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	n := &Notifier{cfg: cfg, log: cfg.Log, counts: counts{by: map[Result]uint64{}}, by: map[subject]*condition{}, settled: map[subject]settled{}}
	n.out = newOutbox(cfg.Lines, &n.counts, cfg.Log)
	n.load()
	return n
}

// Counts returns how many messages of each kind came to what, since the start.
func (n *Notifier) Counts(put func(kind, result string, count uint64)) {
	n.counts.mu.Lock()
	by := maps.Clone(n.counts.by)
	n.counts.mu.Unlock()
	for _, k := range Kinds() {
		for _, r := range []string{ResultSent, ResultFailed, ResultDropped} {
			put(string(k), r, by[Result{string(k), r}])
		}
	}
}

// Run watches the status until ctx ends, and returns nil. A status that cannot be read
// is no change of anything.
func (n *Notifier) Run(ctx context.Context, status func(context.Context) (control.StatusReport, error)) error {
	var wg sync.WaitGroup
	wg.Go(func() { n.out.run(ctx) })
	defer n.save() // what arrived while it ended, too
	defer wg.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := false
	for {
		look, cancel := context.WithTimeout(ctx, lookFor)
		r, err := status(look)
		cancel()
		switch {
		case err == nil:
			failing = false
			n.look(read(r), time.Now())
		case ctx.Err() == nil && !failing:
			failing = true
			n.log.WarnContext(ctx, "the status cannot be read; nothing is notified until it can", "error", err)
		}
		n.save()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look compares what is with what was told.
func (n *Notifier) look(now map[subject]reading, at time.Time) {
	for s, v := range now {
		if _, ok := n.by[s]; !ok && v.on {
			began := at
			if !v.since.IsZero() && v.since.Before(at) {
				began = v.since
			}
			n.by[s] = &condition{seen: at, began: began}
		}
	}
	// In a fixed order, so that people read of a safe mode before its consequences.
	for _, s := range slices.SortedFunc(maps.Keys(n.by), func(a, b subject) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds(), b.Kind), slices.Index(Kinds(), a.Kind)), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Setting, b.Setting))
	}) {
		v, known := now[s]
		n.step(s, n.by[s], v, known, at)
	}
}

// step is the whole life of a condition.
func (n *Notifier) step(s subject, c *condition, v reading, known bool, at time.Time) {
	told := !c.told.IsZero()
	switch {
	case !known:
		if c.lost.IsZero() {
			c.lost = at
		}
		if at.Sub(c.lost) < unknownFor {
			return
		}
		if told {
			n.tell(s, Unknown, c.last, c.began, at)
		}
		delete(n.by, s)
	case v.on:
		c.lost, c.off, c.last = time.Time{}, time.Time{}, v
		switch {
		case !told && at.Sub(c.seen) >= n.cfg.Grace:
			c.told = at
			n.tell(s, Began, v, c.began, at)
		case told && at.Sub(c.told) >= repeatEvery:
			c.told = at
			n.tell(s, Lasts, v, c.began, at)
		}
	default:
		c.lost = time.Time{}
		if !told { // it has passed
			delete(n.by, s)
			return
		}
		if c.off.IsZero() {
			c.off = at
		}
		if at.Sub(c.off) >= n.cfg.Grace {
			n.tell(s, Ended, c.last, c.began, c.off)
			delete(n.by, s)
		}
	}
}

// tell hands a message over. The file says so only when it was dealt with: who is killed
// meanwhile tells it once more, not never.
func (n *Notifier) tell(s subject, state State, v reading, since, at time.Time) {
	m := message(s, state, v, since, at, n.cfg.From, newID())
	n.log.Info("notification", "kind", m.Kind, "state", m.State, "source", m.Source, "target", m.Target, "setting", m.Setting, "count", m.Count)
	n.out.put(m, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.dirty = true
		if state == Ended || state == Unknown {
			delete(n.settled, s)
			return
		}
		n.settled[s] = settled{since, at, v.count}
	})
}

// entry is one of the file.
type entry struct {
	subject
	settled
}

func (n *Notifier) load() {
	if n.cfg.Dir == "" {
		return
	}
	path := filepath.Join(n.cfg.Dir, stateFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var all []entry
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		n.log.Warn("what was notified before cannot be read; what lasts is told once more", "file", path, "error", err)
		return
	}
	for _, e := range all {
		n.settled[e.subject] = e.settled
		n.by[e.subject] = &condition{seen: e.Since, began: e.Since, told: e.Told, last: reading{on: true, count: e.Count}}
	}
}

// save writes the file where it has something else. A fault is logged and tried again at
// the next look.
func (n *Notifier) save() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.dirty || n.cfg.Dir == "" {
		return
	}
	all := []entry{}
	for s, v := range n.settled {
		all = append(all, entry{s, v})
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Setting, b.Setting))
	})
	if err := writeState(filepath.Join(n.cfg.Dir, stateFile), all); err != nil {
		n.log.Warn("what was notified cannot be kept; after a restart it is told once more", "error", err)
		return
	}
	n.dirty = false
}

// writeState writes the file so that after any crash it holds the old or the new content.
func writeState(path string, all []entry) error {
	raw, err := json.Marshal(all, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(append(raw, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
