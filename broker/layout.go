package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/schemas"
)

// Names of the streams and buckets.
const (
	StreamEvents = "VCS_EV"    // every change: history, 20 versions per subject
	StreamState  = "VCS_STATE" // the newest event of every object
	StreamAudit  = "VCS_AUDIT" // who did what, written before the effect

	BucketConfig = "VCS_CFG"    // servers and settings
	BucketSecret = "VCS_SEC"    // sealed passwords
	BucketLease  = "VCS_LEASE"  // who writes to which target
	BucketLedger = "VCS_LEDGER" // what was last applied where, in packed pages
	BucketParked = "VCS_PARKED" // what waits for a person or another object
	BucketStatus = "VCS_STATUS" // what each process says of itself; forgotten after statusAge

	BucketBodies = "VCS_BODY" // the data of events that is too large for a message
)

const (
	auditSubjects = "vcsync.audit.>"
	// incarnationKey is the stream metadata that tells one stream from another of
	// the same name.
	incarnationKey = "vcsync.incarnation"

	// MaxPayload is the greatest message in bytes; the NATS docs advise against more.
	MaxPayload = 8 << 20
	// leastBodies is the least limit of VCS_BODY, which else has that of VCS_EV.
	leastBodies = 1 << 30
	// history is how many versions a subject of VCS_EV keeps; an object has three.
	history = 20
	// statusAge is how long the last words of a process are kept.
	statusAge = time.Hour
	// duplicateWindow is how long the broker remembers message ids.
	duplicateWindow = 2 * time.Minute
)

// layout returns the wanted configuration of every stream and of the streams
// behind the buckets. Roll-up is off everywhere: with it, whoever may write one
// key can empty the bucket by a header. The object store is the exception: an
// object's record replaces the one before by a roll-up, and its pieces are purged, or
// the disk would keep every body for ever. What is lost there is a body whose source
// still has it, and never in silence. It is read from the leader only, since a body
// is asked for as soon as its event is there.
func layout(eventsMaxBytes int64, replicas int) []jetstream.StreamConfig {
	bucket := func(name string, history int64, atomic bool) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"},
			MaxMsgsPerSubject: history, Discard: jetstream.DiscardNew, DenyDelete: true, DenyPurge: true,
			AllowDirect: true, AllowAtomicPublish: atomic, Duplicates: duplicateWindow}
	}
	all := []jetstream.StreamConfig{
		{Name: StreamEvents, Subjects: []string{schemas.EventSubjects}, MaxMsgsPerSubject: history,
			Discard: jetstream.DiscardNew, MaxBytes: eventsMaxBytes, DenyDelete: true, DenyPurge: true,
			Compression: jetstream.S2Compression, AllowAtomicPublish: true, AllowDirect: true, Duplicates: duplicateWindow},
		{Name: StreamState, MaxMsgsPerSubject: 1, DenyDelete: true, DenyPurge: true, AllowDirect: true,
			Compression: jetstream.S2Compression, Duplicates: duplicateWindow,
			Sources: []*jetstream.StreamSource{{Name: StreamEvents, SubjectTransforms: []jetstream.SubjectTransformConfig{
				{Source: schemas.EventSubjects, Destination: schemas.StateTransform}}}}},
		{Name: StreamAudit, Subjects: []string{auditSubjects}, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30,
			DenyDelete: true, DenyPurge: true, Duplicates: duplicateWindow},
		bucket(BucketConfig, 10, false),
		bucket(BucketSecret, 1, false),
		bucket(BucketLease, 1, false),
		bucket(BucketLedger, 1, true),
		bucket(BucketParked, 1, false),
		{Name: streamBodies, Subjects: []string{bodyChunks + ">", bodyNames + ">"}, Discard: jetstream.DiscardNew,
			MaxBytes: max(eventsMaxBytes, leastBodies), DenyDelete: true, AllowRollup: true, Duplicates: duplicateWindow},
	}
	status := bucket(BucketStatus, 1, false)
	status.MaxAge = statusAge
	all = append(all, status)
	for i := range all {
		all[i].Storage = jetstream.FileStorage
		all[i].Replicas = replicas
	}
	return all
}

// openLayout creates what was never there and asserts all that is. A stream that
// this installation has had before and that is gone is not made anew: an empty
// stream in its place would forget every object.
func (b *Broker) openLayout(ctx context.Context, cfg Config) error {
	for _, want := range layout(cfg.EventsMaxBytes, cfg.Replicas) {
		s, err := b.js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if _, known := b.mark.stream(want.Name); known && !cfg.AcceptLoss {
				return fmt.Errorf("%w: %s is gone, although this installation has had it: %s", ErrWentBackwards, want.Name, lossHint)
			}
			want.Metadata = map[string]string{incarnationKey: nuid.Next()}
			if _, err := b.js.CreateStream(ctx, want); err != nil {
				return fmt.Errorf("create stream %s: %w", want.Name, err)
			}
		case err != nil:
			return fmt.Errorf("look up stream %s: %w", want.Name, err)
		default:
			if err := assertStream(want, s.CachedInfo().Config); err != nil {
				return err
			}
		}
	}
	return nil
}

// assertStream compares what vcsync relies on; what an operator may choose
// (replicas, placement, sizes) is left alone.
func assertStream(want, got jetstream.StreamConfig) error {
	var diffs []string
	check := func(what string, ok bool, w, g any) {
		if !ok {
			diffs = append(diffs, fmt.Sprintf("%s is %v, want %v", what, g, w))
		}
	}
	check("subjects", slices.Equal(want.Subjects, got.Subjects), want.Subjects, got.Subjects)
	check("retention", want.Retention == got.Retention, want.Retention, got.Retention)
	check("storage", want.Storage == got.Storage, want.Storage, got.Storage)
	check("messages per subject", max(want.MaxMsgsPerSubject, 0) == max(got.MaxMsgsPerSubject, 0), want.MaxMsgsPerSubject, got.MaxMsgsPerSubject)
	check("maximum age", want.MaxAge == got.MaxAge, want.MaxAge, got.MaxAge)
	check("maximum messages", got.MaxMsgs <= 0, "none", got.MaxMsgs)
	if want.MaxBytes > 0 {
		check("maximum bytes", got.MaxBytes > 0, "a limit", got.MaxBytes)
	} else {
		check("maximum bytes", got.MaxBytes <= 0 || got.Discard == jetstream.DiscardNew, "none", got.MaxBytes)
	}
	if len(want.Sources) == 0 {
		check("discard policy", want.Discard == got.Discard, want.Discard, got.Discard)
	}
	check("discard new per subject", !got.DiscardNewPerSubject, false, got.DiscardNewPerSubject)
	check("deny delete", want.DenyDelete == got.DenyDelete, want.DenyDelete, got.DenyDelete)
	check("deny purge", want.DenyPurge == got.DenyPurge, want.DenyPurge, got.DenyPurge)
	check("roll-up", want.AllowRollup == got.AllowRollup, want.AllowRollup, got.AllowRollup)
	check("message TTL", !got.AllowMsgTTL, false, got.AllowMsgTTL)
	check("direct get", want.AllowDirect == got.AllowDirect, want.AllowDirect, got.AllowDirect)
	check("atomic publish", want.AllowAtomicPublish == got.AllowAtomicPublish, want.AllowAtomicPublish, got.AllowAtomicPublish)
	check("compression", want.Compression == got.Compression, want.Compression, got.Compression)
	check("sealed", !got.Sealed, false, got.Sealed)
	check("mirror", got.Mirror == nil, "none", got.Mirror)
	check("republish", got.RePublish == nil, "none", got.RePublish)
	check("subject transform", got.SubjectTransform == nil, "none", got.SubjectTransform)
	check("sources", describeSources(want.Sources) == describeSources(got.Sources), describeSources(want.Sources), describeSources(got.Sources))
	if len(diffs) > 0 {
		return fmt.Errorf("%w: %s: %s; vcsync never rewrites it: correct it with the nats command (nats stream edit %s), or restore the data folder", ErrLayout, want.Name, strings.Join(diffs, ", "), want.Name)
	}
	return nil
}

func describeSources(ss []*jetstream.StreamSource) string {
	var out []string
	for _, s := range ss {
		d := s.Name + s.FilterSubject
		for _, t := range s.SubjectTransforms {
			d += "(" + t.Source + " to " + t.Destination + ")"
		}
		out = append(out, d)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return strings.Join(out, ", ")
}
