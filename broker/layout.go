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
	StreamDone   = "VCS_DONE"  // what was at a target before each write

	BucketConfig = "VCS_CFG"    // servers and settings
	BucketSecret = "VCS_SEC"    // sealed passwords
	BucketLease  = "VCS_LEASE"  // who writes to which target
	BucketLedger = "VCS_LEDGER" // what was last applied where, in packed pages
	BucketParked = "VCS_PARKED" // what waits for a person or another object
	BucketStatus = "VCS_STATUS" // what each process says of itself; forgotten after statusAge
	BucketPlan   = "VCS_PLAN"   // plans, how far they have come, and drift; forgotten after planAge

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
	// planAge is how long a plan and a drift list are kept.
	planAge = 7 * 24 * time.Hour
	// duplicateWindow is how long the broker remembers message ids.
	duplicateWindow = 2 * time.Minute
)

// layout returns the wanted configuration of every stream and of the streams
// behind the buckets. Roll-up is off everywhere: with it, whoever may write one
// key can empty the bucket by a header. The object store is the exception: an
// object's record replaces the one before by a roll-up, and its pieces are purged, or
// the disk would keep every body for ever. What is lost there is a body whose source
// still has it, and never in silence.
//
// Who reads what it has just written needs the leader: on a cluster any member
// answers a direct get, also one that lags. So the buckets have no direct get, and
// their values come from the leader. The exceptions: VCS_SEC, where the right to read
// one password can only be given for a direct get (a password that is read a moment
// too early is refused by its server and read again); and the two streams, for
// producers that may see only some sources (see storedMsg). Large bodies come from
// the leader, since one is asked for as soon as its event is there.
func layout(eventsMaxBytes int64, replicas int) []jetstream.StreamConfig {
	bucket := func(name string, history int64, atomic bool) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"},
			MaxMsgsPerSubject: history, Discard: jetstream.DiscardNew, DenyDelete: true, DenyPurge: true,
			AllowDirect: name == BucketSecret, AllowAtomicPublish: atomic, Duplicates: duplicateWindow}
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
		{Name: StreamDone, Subjects: []string{doneSubjects}, Discard: jetstream.DiscardOld, MaxBytes: doneMaxBytes, MaxAge: DoneAge,
			DenyDelete: true, DenyPurge: true, Compression: jetstream.S2Compression, Duplicates: duplicateWindow},
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
	plan := bucket(BucketPlan, 1, false)
	plan.MaxAge = planAge
	all = append(all, status, plan)
	for i := range all {
		all[i].Storage = jetstream.FileStorage
		all[i].Replicas = replicas
	}
	return all
}

// openLayout creates what was never there and asserts all that is. A stream that
// this installation has had before and that is gone is not made anew: an empty
// stream in its place would forget every object.
func (b *Broker) openLayout(ctx context.Context) error {
	replicas := b.cfg.Replicas
	if cluster := b.nc.ConnectedClusterName(); replicas == 0 && cluster != "" && b.srv == nil {
		replicas = clusterReplicas
	}
	replicas = max(replicas, 1)
	var other []string
	for _, want := range layout(b.cfg.EventsMaxBytes, replicas) {
		s, err := b.js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if _, known := b.mark.stream(want.Name); known && !b.cfg.AcceptLoss {
				return fmt.Errorf("%w: %s is gone, although this installation has had it: %s", ErrWentBackwards, want.Name, lossHint)
			}
			want.Metadata = map[string]string{incarnationKey: nuid.Next()}
			if _, err := b.js.CreateStream(ctx, want); err != nil {
				return fmt.Errorf("create stream %s: %w", want.Name, explainPlacement(err, replicas))
			}
		case err != nil:
			return fmt.Errorf("look up stream %s: %w", want.Name, err)
		default:
			got := s.CachedInfo().Config
			if b.cfg.Role == Control && got.AllowDirect && !want.AllowDirect && strings.HasPrefix(want.Name, "KV_") {
				// A bucket of an earlier version. The keys of the other roles may only ask its
				// leader; nothing of what it holds is touched.
				got.AllowDirect = false
				if _, err := b.js.UpdateStream(ctx, got); err != nil {
					return fmt.Errorf("turn direct get of %s off: %w", want.Name, err)
				}
				b.log.InfoContext(ctx, "direct get of a bucket of an earlier version was turned off", "stream", want.Name)
			}
			if err := assertStream(want, got); err != nil {
				return err
			}
			if got.Replicas != replicas {
				other = append(other, fmt.Sprintf("%s: %d", want.Name, got.Replicas))
			}
		}
	}
	if other != nil && b.srv == nil {
		b.log.WarnContext(ctx, "streams have another number of copies than wanted and are left as they are; change it with the nats command (nats stream edit NAME --replicas N), or set VCSYNC_REPLICAS to what is meant",
			"wanted", replicas, "streams", other)
	}
	return nil
}

const (
	// lookLimit bounds one look at a stream while it may be that nobody answers: a
	// cluster without a leader does not.
	lookLimit = 5 * time.Second
	// storeWait is how long vcsync up waits for an external store. A role that runs
	// apart waits until it is stopped.
	storeWait = time.Minute
)

// waitStore waits until the store answers: a cluster needs a moment, and most of its
// members, to choose a leader.
func (b *Broker) waitStore(ctx context.Context) error {
	if b.srv != nil {
		return nil
	}
	if b.cfg.Role == All {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, storeWait)
		defer cancel()
	}
	said := false
	for {
		look, cancel := context.WithTimeout(ctx, lookLimit)
		_, err := b.js.Stream(look, StreamEvents)
		cancel()
		var api *jetstream.APIError
		if err == nil || errors.As(err, &api) && api.Code < 500 {
			return nil
		}
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fmt.Errorf("%w: JetStream is off there, or off for this account: %w", ErrBroker, err)
		}
		if !said && ctx.Err() == nil {
			said = true
			b.log.WarnContext(ctx, "waiting for the broker's store: a cluster needs most of its members", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the broker's store: %w", errors.Join(err, ctx.Err()))
		case <-time.After(retryConnect):
		}
	}
}

// clusterReplicas is how many copies a cluster keeps unless told otherwise.
const clusterReplicas = 3

// explainPlacement says what to do where the broker cannot keep that many copies.
func explainPlacement(err error, replicas int) error {
	var api *jetstream.APIError
	if replicas > 1 && errors.As(err, &api) && slices.Contains([]jetstream.ErrorCode{10005, 10023, 10074}, api.ErrorCode) {
		return fmt.Errorf("%w: the broker cannot keep %d copies: start more of its servers, with JetStream and room on each, or set VCSYNC_REPLICAS to what it can keep (with 1 copy the loss of one disk loses data)", err, replicas)
	}
	return err
}

// waitLayout waits until Control has made all streams and asserts them.
func (b *Broker) waitLayout(ctx context.Context) error {
	said := ""
	for {
		missing, err := b.seeLayout(ctx)
		if missing == "" && err == nil {
			if said != "" {
				b.log.InfoContext(ctx, "the streams and buckets are there")
			}
			return nil
		}
		if errors.Is(err, ErrLayout) || errors.Is(err, ErrWentBackwards) {
			return err
		}
		if now := fmt.Sprint(missing, err); now != said && ctx.Err() == nil {
			said = now
			if err != nil {
				b.log.WarnContext(ctx, "waiting for the broker's streams and buckets", "error", err)
			} else {
				b.log.InfoContext(ctx, "waiting for vcsync control to make the streams and buckets: start it if it does not run", "first missing", missing)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the streams and buckets: %w", errors.Join(err, ctx.Err()))
		case <-time.After(retryConnect):
		}
	}
}

// seeLayout asserts all streams. It names the first that is missing and was never
// there.
func (b *Broker) seeLayout(ctx context.Context) (missing string, err error) {
	for _, want := range layout(b.cfg.EventsMaxBytes, 1) {
		look, cancel := context.WithTimeout(ctx, lookLimit)
		s, err := b.js.Stream(look, want.Name)
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if _, known := b.mark.stream(want.Name); known {
				return "", fmt.Errorf("%w: %s is gone, although this process has seen it: %s", ErrWentBackwards, want.Name, lossHintApart)
			}
			return want.Name, nil
		case err != nil:
			return "", fmt.Errorf("look up stream %s: %w", want.Name, err)
		}
		if err := assertStream(want, s.CachedInfo().Config); err != nil {
			return "", err
		}
	}
	return "", nil
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
	// Earlier versions made every bucket with direct get. With one copy it is no fault.
	check("direct get", want.AllowDirect == got.AllowDirect || strings.HasPrefix(want.Name, "KV_") && !want.AllowDirect && got.Replicas <= 1, want.AllowDirect, got.AllowDirect)
	check("direct get from mirrors", !got.MirrorDirect, false, got.MirrorDirect)
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
