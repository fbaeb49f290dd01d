package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	highWaterFile = "highwater.json"

	lossHint = "the store was damaged, restored from a backup, or is another's. Nothing was started and nothing changed. " +
		"Bring back the newest data folder; or, to go on with what is left, start once with --accept-loss: " +
		"then every source is read anew under a new epoch and compared, vcsync is in safe mode, and nothing is deleted because of the loss"
	lossHintApart = "the store was damaged, restored from a backup, or is another's. Nothing was started and nothing changed. " +
		"Bring back the newest store; or, to go on with what is left, start vcsync control once with --accept-loss: " +
		"this process then takes it as it is"

	// generationKey is the key in VCS_CFG of how often a loss was accepted.
	generationKey = "generation"
)

// backwardsFor is how long a stream has to stay behind its mark while it is in use,
// before that counts as a loss: a new leader of a cluster may lag for a moment.
var backwardsFor = 30 * time.Second

// highWater is the small file outside of the broker that remembers how far each
// stream had come and the epoch of each source, so that a store that comes back
// with less is noticed: the broker itself would hand out the lost numbers again.
type highWater struct {
	path string
	mu   sync.Mutex
	rec  highWaterRecord
	// saved is what lies on disk.
	saved string
}

type highWaterRecord struct {
	Version int `json:"version"`
	// Generation is how often a loss had been accepted in the store when the marks were
	// taken. Each process has its own file, and one of them alone accepts a loss: the
	// others know by this number that their marks are of the time before.
	Generation uint64                  `json:"generation,omitzero"`
	Streams    map[string]streamMark   `json:"streams"`
	Epochs     map[schemas.Slug]uint64 `json:"epochs"`
}

type streamMark struct {
	Incarnation string `json:"incarnation"`
	Sequence    uint64 `json:"sequence"`
	// Subjects is how many subjects the stream held, which in a stream that forgets
	// nothing never gets less. A purge leaves the sequence as it was. 0 is not known.
	Subjects uint64 `json:"subjects,omitzero"`
}

// markOf is the mark of a stream as it stands.
func markOf(name string, info *jetstream.StreamInfo) streamMark {
	m := streamMark{Incarnation: info.Config.Metadata[incarnationKey], Sequence: info.State.LastSeq}
	if info.Config.MaxAge == 0 && name != streamBodies { // the bodies are purged by control
		m.Subjects = info.State.NumSubjects
	}
	return m
}

func openHighWater(dir string) (*highWater, error) {
	h := &highWater{path: filepath.Join(dir, highWaterFile), rec: highWaterRecord{Version: 1}}
	raw, err := os.ReadFile(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the high-water file: %w", err)
	default:
		if err := json.Unmarshal(raw, &h.rec); err != nil || h.rec.Version != 1 {
			return nil, fmt.Errorf("%w: the high-water file %s is damaged; if the store beside it is whole, move the file away and start again", ErrRecord, h.path)
		}
	}
	if h.rec.Streams == nil {
		h.rec.Streams = map[string]streamMark{}
	}
	if h.rec.Epochs == nil {
		h.rec.Epochs = map[schemas.Slug]uint64{}
	}
	h.saved = string(raw)
	return h, nil
}

// stream returns the mark of a stream, and whether there is one.
func (h *highWater) stream(name string) (streamMark, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.rec.Streams[name]
	return m, ok
}

// sequence is how far a stream is known to have come, 0 where that is not known.
func (h *highWater) sequence(name string) uint64 {
	m, _ := h.stream(name)
	return m.Sequence
}

// save writes the file where it changed.
func (h *highWater) save() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	raw, err := json.MarshalIndent(h.rec, "", "  ")
	if err != nil || string(raw) == h.saved {
		return err
	}
	if err := writeFile(h.path, raw); err != nil {
		return fmt.Errorf("write the high-water file: %w", err)
	}
	h.saved = string(raw)
	return nil
}

// behind says of each stream of the layout that went backwards how.
func (b *Broker) behind(infos map[string]*jetstream.StreamInfo) (lost []string) {
	for _, name := range layoutNames() {
		m, known := b.mark.stream(name)
		info := infos[name]
		switch {
		case !known || info == nil:
		case m.Incarnation != info.Config.Metadata[incarnationKey]:
			lost = append(lost, name+" was created anew")
		case info.State.LastSeq < m.Sequence:
			lost = append(lost, fmt.Sprintf("%s stands at %d and had reached %d", name, info.State.LastSeq, m.Sequence))
		case markOf(name, info).Subjects < m.Subjects:
			lost = append(lost, fmt.Sprintf("%s holds %d subjects and had %d: it was purged, or lost messages", name, info.State.NumSubjects, m.Subjects))
		}
	}
	return lost
}

// checkHighWater compares every stream with its mark. Where one went backwards it
// refuses, or with accept raises the epoch of every source: all that is published
// from then on is newer than anything that may have been lost (G7, G4). Marks of an
// older generation than the store's are no longer true: another process has accepted
// a loss since.
func (b *Broker) checkHighWater(ctx context.Context, accept bool) error {
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	for _, name := range layoutNames() {
		if infos[name] == nil {
			return fmt.Errorf("look up stream %s: %w", name, jetstream.ErrStreamNotFound)
		}
	}
	stored, err := b.generation(ctx)
	if err != nil {
		return err
	}
	b.mark.mu.Lock()
	mine := b.mark.rec.Generation
	b.mark.mu.Unlock()
	lost := b.behind(infos)
	if b.srv != nil {
		lost = append(lost, b.srv.damage...)
	}
	if mine > stored {
		lost = append(lost, fmt.Sprintf("%s is of a time before a loss that was accepted since", BucketConfig))
	}
	switch {
	case lost != nil && mine < stored:
		b.log.WarnContext(ctx, "another process has accepted that the store went backwards: this one takes the store as it is", "lost", lost)
		b.mark.outliveEpochs()
	case lost != nil && !accept:
		hint := lossHint
		if !b.cfg.Role.owns() {
			hint = lossHintApart
		}
		return fmt.Errorf("%w: %s: %s", ErrWentBackwards, strings.Join(lost, ", "), hint)
	case lost != nil:
		b.log.WarnContext(ctx, "going on with a store that went backwards: every source gets a new epoch, and nothing is written without a person's approval", "lost", lost)
		if err := b.enterByItself(ctx, "the store went backwards: "+strings.Join(lost, ", ")); err != nil {
			return err
		}
		// The marks stay as high as they were until every epoch is raised: a start that
		// breaks off here finds the loss again.
		if err := b.renewState(ctx, infos); err != nil {
			return err
		}
		if err := b.raiseEpochs(ctx); err != nil {
			return err
		}
		stored = max(stored, mine) + 1
		if err := b.putGeneration(ctx, stored); err != nil {
			return err
		}
		if infos, err = b.streams(ctx); err != nil {
			return err
		}
	case mine < stored:
		b.mark.outliveEpochs() // the lost numbers may be given out again by now
	}
	b.mark.mu.Lock()
	b.mark.rec.Generation = stored
	for name, info := range infos {
		b.mark.rec.Streams[name] = markOf(name, info)
	}
	b.mark.mu.Unlock()
	return b.mark.save()
}

// renewState makes VCS_STATE anew where it lost messages, or VCS_EV lost numbers: the broker
// goes on to copy behind the newest number that it remembers, so what is missing before
// would never come, and what is published under a lost number neither. VCS_STATE is a copy
// of VCS_EV, which keeps the newest event of every object too.
func (b *Broker) renewState(ctx context.Context, infos map[string]*jetstream.StreamInfo) error {
	backwards := func(name string) (numbers, subjects bool) {
		m, known := b.mark.stream(name)
		now := markOf(name, infos[name])
		return known && (m.Incarnation != now.Incarnation || now.Sequence < m.Sequence), known && now.Subjects < m.Subjects
	}
	events, _ := backwards(StreamEvents)
	numbers, subjects := backwards(StreamState)
	if info := infos[StreamState]; !events && !numbers && !subjects || info.State.LastSeq == 0 { // the last: it was just made
		return nil
	}
	b.log.WarnContext(ctx, "the copy of the newest events is made anew from the events that are left", "stream", StreamState)
	if err := b.js.DeleteStream(ctx, StreamState); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove stream %s, to make it anew: %w", StreamState, err)
	}
	return b.openLayout(ctx)
}

// outliveEpochs makes the next epoch of every source higher than any that this
// process has used: the store may have lost it.
func (h *highWater) outliveEpochs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.rec.Epochs {
		h.rec.Epochs[s]++
	}
}

// generation returns how often a loss was accepted in the store.
func (b *Broker) generation(ctx context.Context) (uint64, error) {
	m, err := b.storedMsg(ctx, "KV_"+BucketConfig, msgGet{LastBySubject: "$KV." + BucketConfig + "." + generationKey})
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("generation of the store: %w", err)
	}
	n, err := strconv.ParseUint(string(m.Data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: generation of the store: %.32q", ErrRecord, m.Data)
	}
	return n, nil
}

func (b *Broker) putGeneration(ctx context.Context, n uint64) error {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err == nil {
		_, err = kv.Put(ctx, generationKey, []byte(strconv.FormatUint(n, 10)))
	}
	if err != nil {
		return fmt.Errorf("store that a loss was accepted: %w", err)
	}
	return nil
}

// Mark records how far the streams have come. It is cheap where nothing moved.
func (b *Broker) Mark(ctx context.Context) error {
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	b.takeMarks(infos)
	return b.mark.save()
}

// takeMarks notes how far the streams have come, and tells whether one has moved of
// which a loss would matter: leases and what processes say of themselves move all the
// time.
func (b *Broker) takeMarks(infos map[string]*jetstream.StreamInfo) (moved bool) {
	b.mark.mu.Lock()
	defer b.mark.mu.Unlock()
	for name, m := range b.mark.rec.Streams {
		if info := infos[name]; info != nil && m.Incarnation == info.Config.Metadata[incarnationKey] && info.State.LastSeq > m.Sequence {
			moved = moved || name != "KV_"+BucketLease && name != "KV_"+BucketStatus
			now := markOf(name, info)
			now.Subjects = max(now.Subjects, m.Subjects)
			b.mark.rec.Streams[name] = now
		}
	}
	return moved
}

// saveLeast is how often the high-water file is written where only leases moved.
const saveLeast = time.Minute

func wentBackwardsInUse(lost []string) error {
	return fmt.Errorf("%w while it was in use: %s: this process ends, since what it remembers is of the time before; its next start says what to do", ErrWentBackwards, strings.Join(lost, ", "))
}

// keepMark writes the high-water file every second in which something moved. It also
// looks whether the store went backwards while it was in use, which nobody would notice
// at its next start: by then the lost numbers may be given out again.
func (b *Broker) keepMark(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failed := false
	var since, saved time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		infos, err := b.streams(ctx)
		if err == nil && b.srv != nil {
			// Nobody takes over here, so nothing lags or is offline.
			lost := b.behind(infos)
			for _, name := range layoutNames() {
				if infos[name] == nil {
					lost = append(lost, name+" is gone")
				}
			}
			if lost != nil {
				b.lost <- wentBackwardsInUse(lost)
				return
			}
		}
		if err == nil && b.srv == nil {
			lost := b.behind(infos)
			switch {
			case lost == nil:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
			}
			over := lost != nil && time.Since(since) >= backwardsFor
			var now uint64
			if now, err = b.generation(ctx); err == nil && now != b.mark.generation() {
				lost, over = append(lost, fmt.Sprintf("the store was exchanged, or a loss was accepted in it: generation %d in place of %d", now, b.mark.generation())), true
			}
			if over {
				b.lost <- wentBackwardsInUse(lost)
				return
			}
		}
		if err == nil {
			if b.takeMarks(infos) || failed || time.Since(saved) >= saveLeast {
				if err = b.mark.save(); err == nil {
					saved = time.Now()
				}
			}
		}
		switch {
		case err != nil && !failed && ctx.Err() == nil:
			failed = true
			b.log.WarnContext(ctx, "the high-water mark cannot be kept; a store that goes backwards now may go unnoticed", "error", err)
		case err == nil && failed:
			failed = false
			b.log.InfoContext(ctx, "the high-water mark is kept again")
		}
	}
}

func (h *highWater) generation() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec.Generation
}

// streams returns what the broker says of vcsync's streams, in one request. One that
// is offline is missing.
func (b *Broker) streams(ctx context.Context) (map[string]*jetstream.StreamInfo, error) {
	l := b.js.ListStreams(ctx)
	out := map[string]*jetstream.StreamInfo{}
	for info := range l.Info() {
		if slices.Contains(layoutNames(), info.Config.Name) {
			out[info.Config.Name] = info
		}
	}
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("list the broker's streams: %w", err)
	}
	return out, nil
}

// layoutNames are the names of all streams, those behind the buckets too.
var layoutNames = sync.OnceValue(func() (out []string) {
	for _, s := range layout(1, 1) {
		out = append(out, s.Name)
	}
	return out
})

func epochKey(source schemas.Slug) string { return "epoch." + string(source) }

// Epoch returns the epoch of a source: the higher one of what the file and the
// bucket hold, and 1 for a source that has none. Both hold it afterwards.
func (b *Broker) Epoch(ctx context.Context, source schemas.Slug) (uint64, error) {
	return b.EpochAtLeast(ctx, source, 1)
}

// EpochAtLeast is Epoch, raised to least where it is lower.
func (b *Broker) EpochAtLeast(ctx context.Context, source schemas.Slug, least uint64) (uint64, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return 0, fmt.Errorf("epoch of %s: %w", source, err)
	}
	var stored uint64
	e, err := kv.Get(ctx, epochKey(source))
	switch {
	case err == nil:
		if stored, err = strconv.ParseUint(string(e.Value()), 10, 64); err != nil {
			return 0, fmt.Errorf("%w: epoch of %s: %.32q", ErrRecord, source, e.Value())
		}
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return 0, fmt.Errorf("epoch of %s: %w", source, err)
	}
	b.mark.mu.Lock()
	epoch := max(b.mark.rec.Epochs[source], stored, least)
	b.mark.rec.Epochs[source] = epoch
	b.mark.mu.Unlock()
	if stored != epoch {
		if _, err := kv.Put(ctx, epochKey(source), []byte(strconv.FormatUint(epoch, 10))); err != nil {
			return 0, fmt.Errorf("epoch of %s: %w", source, err)
		}
	}
	return epoch, b.mark.save()
}

// raiseEpochs raises the epoch of every source that the file or the bucket knows.
func (b *Broker) raiseEpochs(ctx context.Context) error {
	sources := map[schemas.Slug]bool{}
	b.mark.mu.Lock()
	for s := range b.mark.rec.Epochs {
		sources[s] = true
	}
	b.mark.mu.Unlock()
	snap, err := b.Snapshot(ctx)
	if err != nil {
		return err
	}
	for s := range snap.Servers {
		sources[s] = true
	}
	for s := range sources {
		now, err := b.Epoch(ctx, s)
		if err == nil {
			_, err = b.EpochAtLeast(ctx, s, now+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
