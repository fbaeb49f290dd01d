package broker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

const (
	// streamBodies is the stream behind the object store VCS_BODY.
	streamBodies = "OBJ_" + BucketBodies
	// bodyChunks and bodyNames begin the subjects of the pieces and of the records that
	// name them, as nats.go lays an object store out.
	bodyChunks = "$O." + BucketBodies + ".C."
	bodyNames  = "$O." + BucketBodies + ".M."

	// inlineMost is the greatest data in bytes that an event carries itself.
	inlineMost = 4 << 20
	// bodyChunk is the size of a piece: a store that syncs does it once for each.
	bodyChunk = 1 << 20
	// bodyLimit bounds one upload or download.
	bodyLimit = 5 * time.Minute
	// bodyGrace is how long a body stays that no event names: its event may be about
	// to be published.
	bodyGrace = time.Hour
	// collectEvery is the time between two passes that remove bodies.
	collectEvery = 4 * time.Hour
)

// errNoRoom says that VCS_BODY takes no more. Events without a body in it are none
// the worse.
var errNoRoom = fmt.Errorf("%s has no room for the object's body: give it more with the nats command (nats stream edit %s --max-bytes), through VCSYNC_NATS_LISTEN where the broker is built in", BucketBodies, streamBodies)

func bodyName(digest schemas.Digest) string {
	return bodyNames + base64.URLEncoding.EncodeToString([]byte(digest))
}

// putBody stores the data of an event under its Ref and returns when it is on disk
// (G1: before the event is published). What is there already is not sent again, but
// counts as stored now, so that nobody removes it.
func (b *Broker) putBody(ctx context.Context, data []byte) (schemas.Ref, error) {
	b.upload.Lock() // one at a time: each may have 128 MiB
	defer b.upload.Unlock()
	ref := schemas.RefOf(data)
	ctx, cancel := context.WithTimeout(ctx, bodyLimit)
	defer cancel()
	fail := func(err error) (schemas.Ref, error) {
		if storeFull(err) {
			err = errNoRoom
		}
		return schemas.Ref{}, fmt.Errorf("store %d bytes in %s: %w", len(data), BucketBodies, err)
	}
	there, err := b.touchBody(ctx, ref)
	if err != nil {
		return fail(err)
	}
	if there {
		return ref, nil
	}
	s, err := b.js.Stream(ctx, streamBodies)
	if err != nil {
		return fail(err)
	}
	if i := s.CachedInfo(); i.Config.MaxBytes > 0 && i.State.Bytes+uint64(len(data)) > uint64(i.Config.MaxBytes) {
		return fail(errNoRoom) // nothing of it is sent in vain
	}
	store, err := b.js.ObjectStore(ctx, BucketBodies)
	if err != nil {
		return fail(err)
	}
	meta := jetstream.ObjectMeta{Name: string(ref.Digest), Opts: &jetstream.ObjectMetaOptions{ChunkSize: bodyChunk}}
	if _, err := store.Put(ctx, meta, lateEnd{bytes.NewReader(data)}); err != nil {
		return fail(err)
	}
	return ref, nil
}

// lateEnd says a moment late that nothing more comes. The client's publisher begins a
// goroutine with its first message (nats.go 1.55, jetstream/publish.go), and one that
// only runs when the publisher is cleaned up already waits for ever.
type lateEnd struct{ io.Reader }

func (r lateEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		time.Sleep(time.Millisecond)
	}
	return n, err
}

// touchBody makes a body that is there as good as new, and tells whether it is
// there.
func (b *Broker) touchBody(ctx context.Context, ref schemas.Ref) (bool, error) {
	m, info, err := b.bodyRecord(ctx, bodyName(ref.Digest))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if whole, err := b.wholeBody(ctx, ref, info); !whole || err != nil {
		return false, err
	}
	return b.renewBody(ctx, m)
}

// renewBody writes a body's record anew, under the condition that it is still the
// last, and tells whether it was: who removes a body does so under the same one, so
// one of both fails.
func (b *Broker) renewBody(ctx context.Context, record *jetstream.RawStreamMsg) (bool, error) {
	m := nats.NewMsg(record.Subject)
	m.Data = record.Data
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(record.Sequence, 10))
	_, err := b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return false, nil
	}
	return err == nil, err
}

// bodyRecord returns the record that names a body's pieces, and its message.
func (b *Broker) bodyRecord(ctx context.Context, subject string) (*jetstream.RawStreamMsg, jetstream.ObjectInfo, error) {
	var info jetstream.ObjectInfo
	m, err := b.storedMsg(ctx, streamBodies, msgGet{LastBySubject: subject})
	if err == nil {
		if jerr := json.Unmarshal(m.Data, &info); jerr != nil || info.NUID == "" {
			err = fmt.Errorf("%w: %s in %s", ErrRecord, subject, BucketBodies)
		}
	}
	return m, info, err
}

// wholeBody tells whether all pieces of a body are there.
func (b *Broker) wholeBody(ctx context.Context, ref schemas.Ref, info jetstream.ObjectInfo) (bool, error) {
	if info.Deleted || info.Size != uint64(ref.Size) {
		return false, nil
	}
	now, err := b.bodySubjects(ctx, bodyChunks+info.NUID)
	if err != nil {
		return false, err
	}
	return now.State.Subjects[bodyChunks+info.NUID] == uint64(info.Chunks), nil
}

// bodySubjects returns how many messages there are per subject under the filter.
func (b *Broker) bodySubjects(ctx context.Context, filter string) (*jetstream.StreamInfo, error) {
	s, err := b.js.Stream(ctx, streamBodies)
	if err != nil {
		return nil, err
	}
	return s.Info(ctx, jetstream.WithSubjectFilter(filter))
}

// body returns the data that a Ref stands for, checked. The error wraps ErrLostBody
// and schemas.ErrEvent where it is not there, or not what it was.
func (b *Broker) body(ctx context.Context, ref schemas.Ref) ([]byte, error) {
	lost := func(what string) ([]byte, error) {
		return nil, fmt.Errorf("%w: %s %s in %s: %w", ErrLostBody, ref.Digest, what, BucketBodies, schemas.ErrEvent)
	}
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("read %s from %s: %w", ref.Digest, BucketBodies, err)
	}
	ctx, cancel := context.WithTimeout(ctx, bodyLimit)
	defer cancel()
	_, info, err := b.bodyRecord(ctx, bodyName(ref.Digest))
	switch {
	case errors.Is(err, ErrNotFound):
		return lost("is not there")
	case errors.Is(err, ErrRecord):
		return lost("has a record that cannot be read")
	case err != nil:
		return fail(err)
	}
	switch whole, err := b.wholeBody(ctx, ref, info); {
	case err != nil:
		return fail(err)
	case !whole:
		return lost("is not whole") // and a reader would wait for the rest
	}
	store, err := b.js.ObjectStore(ctx, BucketBodies)
	if err != nil {
		return fail(err)
	}
	r, err := store.Get(ctx, string(ref.Digest))
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	data := make([]byte, ref.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		if ctx.Err() == nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, jetstream.ErrDigestMismatch)) {
			return lost("is not what it was")
		}
		return fail(err)
	}
	if ref.Check(data) != nil {
		return lost("is not what it was")
	}
	return data, nil
}

// CollectBodies removes the bodies that nothing in VCS_EV, VCS_STATE or VCS_DONE names any
// more and that were stored more than an hour ago, and what uploads left that broke
// off, and returns how many. It removes no body where the events cannot all be read,
// or where VCS_STATE is behind. Several passes may run at once, and events may be
// published meanwhile: a body that is stored again while a pass runs stays.
func (b *Broker) CollectBodies(ctx context.Context) (int, error) {
	fail := func(removed int, err error) (int, error) {
		return removed, fmt.Errorf("remove bodies that no event names: %w", err)
	}
	old, left, err := b.oldBodies(ctx)
	if err != nil {
		return fail(0, err)
	}
	removed := 0
	for subject, last := range left {
		if _, err := b.purgeBodies(ctx, subject, last); err != nil {
			return fail(removed, err)
		}
		removed++
	}
	if len(old) > 0 {
		if err := b.dropNamed(ctx, old); err != nil {
			return fail(removed, err)
		}
	}
	n, err := b.removeBodies(ctx, old)
	if removed += n; err != nil {
		return fail(removed, err)
	}
	return removed, nil
}

// storedBody is one that may have to go.
type storedBody struct {
	seq    uint64 // of its record
	chunks string
}

// oldBodies returns the bodies that were stored more than an hour ago, by name, and
// of pieces as old that no record names the last sequences, by subject.
func (b *Broker) oldBodies(ctx context.Context) (old map[string]storedBody, left map[string]uint64, err error) {
	info, err := b.bodySubjects(ctx, "$O."+BucketBodies+".>")
	if err != nil {
		return nil, nil, err
	}
	before := info.TimeStamp.Add(-bodyGrace) // by the clock that stamps the messages
	old, left = map[string]storedBody{}, map[string]uint64{}
	named := map[string]bool{}
	for subject := range info.State.Subjects {
		if !strings.HasPrefix(subject, bodyNames) {
			continue
		}
		m, o, err := b.bodyRecord(ctx, subject)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err // it may name any pieces
		}
		named[bodyChunks+o.NUID] = true
		if d, err := schemas.ParseDigest(o.Name); err == nil && d != "" && !o.Deleted && m.Time.Before(before) {
			old[o.Name] = storedBody{m.Sequence, bodyChunks + o.NUID}
		}
	}
	for subject := range info.State.Subjects {
		if !strings.HasPrefix(subject, bodyChunks) || named[subject] {
			continue
		}
		m, err := b.storedMsg(ctx, streamBodies, msgGet{LastBySubject: subject})
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return nil, nil, err
		case m.Time.Before(before): // else an upload is under way
			left[subject] = m.Sequence
		}
	}
	return old, left, nil
}

// dropNamed takes out what any event names. Every message counts, also one that is
// no event to this version: a later one may know it.
func (b *Broker) dropNamed(ctx context.Context, bodies map[string]storedBody) error {
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// VCS_STATE may name what VCS_EV has forgotten only as long as it is behind.
	if err := b.WaitState(wait); err != nil {
		return err
	}
	infos, err := b.streams(ctx)
	if err != nil {
		return err
	}
	for stream, filter := range map[string]string{StreamEvents: schemas.EventSubjects, StreamState: schemas.StateSubjects, StreamDone: doneSubjects} {
		info := infos[stream]
		if m, known := b.mark.stream(stream); !known || info == nil || m.Incarnation != info.Config.Metadata[incarnationKey] || info.State.LastSeq < m.Sequence {
			return fmt.Errorf("%w: %s", ErrWentBackwards, stream)
		}
		err := b.scan(ctx, stream, []string{filter}, func(m jetstream.Msg, _ uint64) {
			for _, name := range m.Headers()[schemas.HeaderDataDigest] {
				delete(bodies, name)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// removeBodies removes bodies whose record is still the one that was seen: where it
// was written anew since, an event is about to name it.
func (b *Broker) removeBodies(ctx context.Context, bodies map[string]storedBody) (removed int, err error) {
	for name, o := range bodies {
		switch n, err := b.purgeBodies(ctx, bodyName(schemas.Digest(name)), o.seq); {
		case err != nil:
			return removed, err
		case n == 0:
			continue
		}
		if _, err := b.purgeBodies(ctx, o.chunks, 0); err != nil {
			return removed, err // the next pass finds them without a record
		}
		removed++
	}
	return removed, nil
}

// purgeBodies removes the messages of a subject up to a sequence, all where it is 0,
// and returns how many they were.
func (b *Broker) purgeBodies(ctx context.Context, subject string, upTo uint64) (uint64, error) {
	req := struct {
		Filter string `json:"filter"`
		Seq    uint64 `json:"seq,omitzero"` // this one stays
	}{Filter: subject}
	if upTo > 0 {
		req.Seq = upTo + 1
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	reply, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+streamBodies, raw)
	if err != nil {
		return 0, fmt.Errorf("purge %s: %w", streamBodies, err)
	}
	var resp struct {
		Error  *jetstream.APIError `json:"error"`
		Purged uint64              `json:"purged"`
	}
	if err := json.Unmarshal(reply.Data, &resp); err != nil {
		return 0, fmt.Errorf("purge %s: %w", streamBodies, err)
	}
	if resp.Error != nil {
		return 0, fmt.Errorf("purge %s: %w", streamBodies, resp.Error)
	}
	return resp.Purged, nil
}

// keepBodies removes what nobody needs, at once and then from time to time, until
// ctx ends.
func (b *Broker) keepBodies(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		switch n, err := b.CollectBodies(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.log.WarnContext(ctx, "large bodies that no event names any more stay where they are; trying again later", "error", err)
		case n > 0:
			b.log.InfoContext(ctx, "large bodies that no event names any more were removed", "bodies", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
