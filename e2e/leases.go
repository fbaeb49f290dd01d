package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// Connect opens a connection to the broker with the key of control, which may see
// everything.
func (r *Roles) Connect(name string) (*nats.Conn, jetstream.JetStream, error) {
	keys := filepath.Join(r.Keys, "control")
	raw, err := os.ReadFile(filepath.Join(keys, broker.SeedFile))
	if err != nil {
		return nil, nil, err
	}
	kp, err := nkeys.ParseDecoratedUserNKey(raw)
	if err != nil {
		return nil, nil, err
	}
	public, err := kp.PublicKey()
	if err != nil {
		return nil, nil, err
	}
	nc, err := nats.Connect(brokerURL(r.Address), nats.Name(name), nats.Nkey(public, kp.Sign), nats.RootCAs(filepath.Join(keys, broker.CAFile)),
		nats.CustomInboxPrefix(broker.InboxPrefix(public)), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
	}
	return nc, js, err
}

// Holders returns which consumer holds the lease of which target.
func (r *Roles) Holders(ctx context.Context) (map[schemas.Slug]string, error) {
	nc, js, err := r.Connect("holders")
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	kv, err := js.KeyValue(ctx, broker.BucketLease)
	if err != nil {
		return nil, err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	out := map[schemas.Slug]string{}
	for e := range w.Updates() {
		if e == nil {
			return out, nil
		}
		if name, holder, ok := targetLease(e); ok {
			out[name] = holder
		}
	}
	return nil, errors.Join(errors.New("the leases could not be read"), ctx.Err())
}

// targetLease reads the record of a target's lease; the holder is empty where it was
// given back.
func targetLease(e jetstream.KeyValueEntry) (target schemas.Slug, holder string, ok bool) {
	name, ok := strings.CutPrefix(e.Key(), "target.")
	if !ok {
		return "", "", false
	}
	var rec struct{ Holder string }
	if e.Operation() == jetstream.KeyValuePut {
		_ = json.Unmarshal(e.Value(), &rec) // unreadable: nobody's
	}
	return schemas.Slug(name), rec.Holder, true
}

// Witness watches the leases of all targets straight at the broker, and says of a
// write afterwards whether who made it might. It goes by when the broker stored a
// record, so that it may learn of it late: the member that it is connected to may
// stand still.
type Witness struct {
	mu   sync.Mutex
	held map[schemas.Slug][]holding
	// seen is when the last record that it saw was stored, and revision the bucket's
	// then. A record that another replaced before it came leaves a gap.
	seen     time.Time
	revision uint64
	stop     context.CancelFunc
	done     chan struct{}
}

// holding is who has a lease from a moment on; "?" while the witness knows nothing.
type holding struct {
	holder string
	since  time.Time
}

// Witness starts a witness; Close ends it.
func (r *Roles) Witness() (*Witness, error) {
	nc, js, err := r.Connect("witness")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Witness{held: map[schemas.Slug][]holding{}, stop: stop, done: make(chan struct{})}
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { w.forget() })
	go func() {
		defer close(w.done)
		defer nc.Close()
		for ctx.Err() == nil {
			w.forget()
			_ = w.follow(ctx, nc, js) // begun anew
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return w, nil
}

// Close ends the witness.
func (w *Witness) Close() { w.stop(); <-w.done }

// Held returns who holds the lease of each target now, "" for nobody and "?" where that
// is not known.
func (w *Witness) Held() map[schemas.Slug]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[schemas.Slug]string{}
	for target, h := range w.held {
		out[target] = h[len(h)-1].holder
	}
	return out
}

// forget notes that nothing is known from the last record on.
func (w *Witness) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blind()
	w.revision = 0
}

// blind needs the lock.
func (w *Witness) blind() {
	for target, h := range w.held {
		if h[len(h)-1].holder != "?" {
			w.held[target] = append(h, holding{"?", w.seen})
		}
	}
}

// learn takes in a record of the bucket.
func (w *Witness) learn(e jetstream.KeyValueEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.revision > 0 && e.Revision() != w.revision+1 {
		w.blind()
	}
	w.revision = e.Revision()
	if w.seen.Before(e.Created()) {
		w.seen = e.Created()
	}
	target, holder, ok := targetLease(e)
	if h := w.held[target]; ok && (len(h) == 0 || h[len(h)-1].holder != holder) {
		w.held[target] = append(h, holding{holder, e.Created()})
	}
}

// follow watches until the connection breaks.
func (w *Witness) follow(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, err := js.KeyValue(ctx, broker.BucketLease)
	if err != nil {
		return err
	}
	kw, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer kw.Stop()
	before := nc.Stats().Reconnects
	check := time.NewTicker(50 * time.Millisecond)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-check.C:
			if !nc.IsConnected() || nc.Stats().Reconnects != before {
				return nats.ErrDisconnected
			}
		case e, ok := <-kw.Updates():
			switch {
			case !ok:
				return errors.New("the watch ended")
			case e != nil:
				w.learn(e)
			}
		}
	}
}

// slack is how long a request may be under way before it is seen, and what the time of a
// record may be wrong by.
const slack = time.Second

// Judge returns what is wrong with a write that somebody began at that moment, "" where
// nothing is, and whether the witness can tell. It is asked when all is over.
func (w *Witness) Judge(target schemas.Slug, writer string, at time.Time) (wrong string, knows bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.held[target]
	if len(h) == 0 || at.Before(h[0].since) || writer == "" {
		return "", false
	}
	var around []string
	for i, x := range h {
		begins, ends := x.since.Add(-slack), time.Now()
		if i+1 < len(h) {
			ends = h[i+1].since.Add(slack)
		}
		if at.Before(begins) || at.After(ends) {
			continue
		}
		switch x.holder {
		case writer:
			return "", true
		case "?":
			return "", false
		}
		around = append(around, fmt.Sprintf("%q since %s", x.holder, x.since.Format("15:04:05.000")))
	}
	return fmt.Sprintf("G3: %s wrote to %s at %s, held by %s", writer, target, at.Format("15:04:05.000"), strings.Join(around, ", ")), true
}
