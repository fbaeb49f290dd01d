package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// The roles of processes that say how they do.
const (
	RoleNameProducer = "producer"
	RoleNameConsumer = "consumer"
)

const (
	// statusChanged and statusSame are how often a process says how it does: when that
	// changed, and when only to be heard.
	statusChanged = 2 * time.Second
	statusSame    = 10 * time.Second
	// maxStatus bounds the words of one process in bytes. A target or setting takes
	// some hundred.
	maxStatus = 512 << 10
)

// ProcessStatus is what a process says of itself.
type ProcessStatus struct {
	// Role is RoleNameProducer or RoleNameConsumer, Instance the process's name.
	Role     string `json:"role"`
	Instance string `json:"instance"`
	// Boot tells one run of the process from the next.
	Boot    string `json:"boot"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
	// Started is by the process's own clock; nothing rests on it.
	Started time.Time `json:"started"`
	// Memory is what the process holds from the operating system, in bytes.
	Memory     uint64 `json:"memory"`
	Goroutines int    `json:"goroutines"`
	// Words is what it says of its role. Cut tells that they were too many and were
	// left out.
	Words jsontext.Value `json:"words,omitzero"`
	Cut   bool           `json:"cut,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
	// Revision rises with everything that the process says.
	Revision uint64 `json:"-"`
}

func (s ProcessStatus) key() string { return s.Role + "." + s.Instance }

// PutStatus stores what a process says of itself, over what it said before. It is
// kept for an hour.
func (b *Broker) PutStatus(ctx context.Context, s ProcessStatus) error {
	raw, err := json.Marshal(s)
	if err == nil {
		// Not through the bucket: a role needs no other right than to this subject.
		_, err = b.js.Publish(ctx, "$KV."+BucketStatus+"."+s.key(), raw)
	}
	if err != nil {
		return fmt.Errorf("store the status of %s: %w", s.key(), err)
	}
	return nil
}

// WatchStatus calls each for what every process said last, and for everything that
// one says from then on, until ctx ends. Gone tells that the process has ended in
// order: then only role, instance and revision are set. How old the first words are nobody
// can tell without comparing clocks; who lives speaks again within 10 seconds.
func (b *Broker) WatchStatus(ctx context.Context, each func(s ProcessStatus, gone bool)) error {
	return b.watch(ctx, BucketStatus, ">", func(e jetstream.KeyValueEntry) error {
		role, instance, ok := strings.Cut(e.Key(), ".")
		if !ok {
			return nil
		}
		if e.Operation() != jetstream.KeyValuePut {
			each(ProcessStatus{Role: role, Instance: instance, Revision: e.Revision()}, true)
			return nil
		}
		var s ProcessStatus
		if err := json.Unmarshal(e.Value(), &s); err != nil || s.key() != e.Key() {
			b.log.Warn("what a process says of itself is not understood and left alone", "key", e.Key(), "error", err)
			return nil
		}
		s.Revision = e.Revision()
		each(s, false)
		return nil
	}, func() bool { return false })
}

// Reporter says in the store how a process does.
type Reporter struct {
	Broker *Broker
	// Role is RoleNameProducer or RoleNameConsumer.
	Role string
	// Instance is the process's name (VCSYNC_INSTANCE); letters, digits, "-" and "_".
	Instance string
	// Version is that of the program.
	Version string
	// Words returns what the role says of itself, for JSON: a producer.Report or a
	// consumer.Report.
	Words func() any
	// Log is where a fault is told; slog.Default() where nil.
	Log *slog.Logger
}

// Run reports every 2 seconds where the words have changed, else every 10, until
// ctx ends; then it takes the report back, so that nobody waits for this process.
// A report that cannot be stored is logged and tried again: the role's work does not
// depend on it.
func (r Reporter) Run(ctx context.Context) error {
	log := r.Log
	if log == nil {
		log = slog.Default()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	s := ProcessStatus{Role: r.Role, Instance: r.Instance, Boot: r.Broker.boot, Host: host, PID: os.Getpid(), Version: r.Version, Started: time.Now().UTC()}
	tick := time.NewTicker(statusChanged)
	defer tick.Stop()
	var said time.Time
	var words jsontext.Value
	failing := false
	for ctx.Err() == nil {
		now, err := r.words()
		if err != nil {
			return fmt.Errorf("report the status of %s: %w", s.key(), err)
		}
		if s.Cut = len(now) > maxStatus; s.Cut {
			now = nil
		}
		if said.IsZero() || time.Since(said) >= statusSame || !bytes.Equal(now, words) {
			s.Words = now
			s.Memory, s.Goroutines = ProcessFigures()
			put, cancel := context.WithTimeout(ctx, statusSame)
			err := r.Broker.PutStatus(put, s)
			cancel()
			switch {
			case err == nil:
				said, words = time.Now(), now
				if failing {
					log.InfoContext(ctx, "this process can say again how it does")
				}
			case !failing && ctx.Err() == nil:
				log.WarnContext(ctx, "this process cannot say how it does; vcsync status will show it as gone", "error", err)
			}
			failing = err != nil
			if s.Cut {
				log.WarnContext(ctx, "this process has more to say of itself than a report takes; its sources and targets are missing in the status", "instance", r.Instance, "bytes_at_most", maxStatus)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	m := deleteMarker("$KV." + BucketStatus + "." + s.key())
	if _, err := r.Broker.js.PublishMsg(back, m, jetstream.WithRetryAttempts(0)); err != nil {
		log.DebugContext(ctx, "the last report of this process stays for a while", "error", err)
	}
	return nil
}

// words returns the JSON of the words, without what is empty.
func (r Reporter) words() (jsontext.Value, error) {
	return json.Marshal(r.Words(), json.Deterministic(true), json.OmitZeroStructFields(true))
}

// ProcessFigures returns the memory that the process holds, in bytes, and how many
// goroutines run.
func ProcessFigures() (memory uint64, goroutines int) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys - m.HeapReleased, runtime.NumGoroutine()
}

// PokeSubject is where control asks producers to list a source at once. It is no
// subject of a stream: who does not listen polls anyway.
func PokeSubject(source schemas.Slug) string { return "vcsync.poke." + string(source) }

// Poke asks whoever captures a source to list it at once.
func (b *Broker) Poke(source schemas.Slug) error {
	if err := b.nc.Publish(PokeSubject(source), nil); err != nil {
		return fmt.Errorf("ask for a listing of %s: %w", source, err)
	}
	return nil
}

// deleteMarker is the message with which a key of a bucket is removed.
func deleteMarker(subject string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set("KV-Operation", "DEL")
	return m
}
