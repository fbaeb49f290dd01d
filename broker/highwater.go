package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	highWaterFile = "highwater.json"

	lossHint = "the store was damaged, restored from a backup, or is another's. Nothing was started and nothing changed. " +
		"Bring back the newest data folder; or, to go on with what is left, start once with --accept-loss: " +
		"then every source is read anew under a new epoch and compared, and nothing is deleted because of the loss"
)

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
	Version int                     `json:"version"`
	Streams map[string]streamMark   `json:"streams"`
	Epochs  map[schemas.Slug]uint64 `json:"epochs"`
}

type streamMark struct {
	Incarnation string `json:"incarnation"`
	Sequence    uint64 `json:"sequence"`
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

// checkHighWater compares every stream with its mark. Where one went backwards it
// refuses, or with accept raises the epoch of every source: all that is published
// from then on is newer than anything that may have been lost (G7, G4).
func (b *Broker) checkHighWater(ctx context.Context, accept bool) error {
	var lost []string
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	for _, want := range layout(1, 1) {
		info := infos[want.Name]
		if info == nil {
			return fmt.Errorf("look up stream %s: %w", want.Name, jetstream.ErrStreamNotFound)
		}
		m, known := b.mark.stream(want.Name)
		switch {
		case !known:
		case m.Incarnation != info.Config.Metadata[incarnationKey]:
			lost = append(lost, want.Name+" was created anew")
		case info.State.LastSeq < m.Sequence:
			lost = append(lost, fmt.Sprintf("%s stands at %d and had reached %d", want.Name, info.State.LastSeq, m.Sequence))
		}
	}
	if lost != nil && !accept {
		return fmt.Errorf("%w: %v: %s", ErrWentBackwards, lost, lossHint)
	}
	if lost != nil {
		b.log.WarnContext(ctx, "going on with a store that went backwards, as asked: every source gets a new epoch", "lost", lost)
		// The marks stay as high as they were until every epoch is raised: a start that
		// breaks off here finds the loss again.
		if err := b.raiseEpochs(ctx); err != nil {
			return err
		}
	}
	b.mark.mu.Lock()
	for name, info := range infos {
		b.mark.rec.Streams[name] = streamMark{info.Config.Metadata[incarnationKey], info.State.LastSeq}
	}
	b.mark.mu.Unlock()
	return b.mark.save()
}

// Mark records how far the streams have come. It is cheap where nothing moved.
func (b *Broker) Mark(ctx context.Context) error {
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	b.mark.mu.Lock()
	for name, m := range b.mark.rec.Streams {
		if info := infos[name]; info != nil && m.Incarnation == info.Config.Metadata[incarnationKey] {
			m.Sequence = max(m.Sequence, info.State.LastSeq)
			b.mark.rec.Streams[name] = m
		}
	}
	b.mark.mu.Unlock()
	return b.mark.save()
}

// streams returns what the broker says of all its streams, in one request.
func (b *Broker) streams(ctx context.Context) (map[string]*jetstream.StreamInfo, error) {
	l := b.js.ListStreams(ctx)
	out := map[string]*jetstream.StreamInfo{}
	for info := range l.Info() {
		out[info.Config.Name] = info
	}
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("list the broker's streams: %w", err)
	}
	return out, nil
}

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
