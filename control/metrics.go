package control

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
)

// metric is one metric of vcsync. No label holds the name or id of an object, an
// address or an account: their number is bounded by that of servers, settings, types
// and processes.
type metric struct {
	Name   string
	Kind   prometheus.ValueType
	Labels []string
	Help   string
	desc   *prometheus.Desc
}

// metrics are all metrics that vcsync itself makes; docs/metrics.md is made from
// them.
var metrics []*metric

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) *metric {
	m := &metric{name, kind, labels, help, prometheus.NewDesc(name, help, labels, nil)}
	metrics = append(metrics, m)
	return m
}

func gauge(name, help string, labels ...string) *metric {
	return newMetric(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) *metric {
	return newMetric(prometheus.CounterValue, name, help, labels...)
}

var (
	mBuild  = gauge("vcsync_build_info", "1; the version that answers.", "version", "go")
	mStatus = gauge("vcsync_status_known", "1 where the store could be read for this answer; 0 where not, and then what is in the store is missing.")

	mSafe     = gauge("vcsync_safe_mode", "1 while vcsync is in safe mode: it deletes nothing, and writes nothing but approved plans.")
	mWrites   = gauge("vcsync_broker_write_probe_success", "1 where the store takes writes and VCS_STATE has what VCS_EV has, as in /readyz.")
	mEvents   = gauge("vcsync_store_events", "Messages in the event stream.")
	mLastSeq  = gauge("vcsync_store_last_sequence", "Sequence of the newest event.")
	mBytes    = gauge("vcsync_store_bytes", "Size of the event stream.")
	mMaxBytes = gauge("vcsync_store_max_bytes", "Size at which the event stream refuses new events.")
	mNotified = counter("vcsync_notifications_total", "Messages to people, once for each receiver: sent, failed (after 5 minutes of tries) or dropped (too many waited). Missing where VCSYNC_NOTIFY_FILE is empty.", "kind", "result")
	mFaulty   = gauge("vcsync_unreadable_records", "Stored servers and settings that this version does not understand.")

	mFree      = gauge("vcsync_disk_free_bytes", "What the file system of this process's data folder has left for it. The store lies there where the broker is built in.")
	mSize      = gauge("vcsync_disk_size_bytes", "How large that file system is.")
	mBackup    = gauge("vcsync_backup_timestamp_seconds", "When the last backup that was sent in whole was begun, by the audit; missing where there is none.")
	mNoRecord  = counter("vcsync_audit_write_failures_total", "Audit records that could not be written since the start of this process. Without that of an act there is no act; without that of its result, its result is not known.")
	mSignIns   = counter("vcsync_api_signins_total", "Attempts to sign in since the start of this process: ok; wrong account or password; busy, too many at once; waiting, after wrong passwords; failed, the store was not there.", "result")
	mRefusedAt = counter("vcsync_api_refused_total", "Requests that were refused since the start of this process: unauthorized, without a session or token that is good; forbidden, without the permission; origin, of another page; host, to another host name. Who is shown the form for signing in does not count.", "reason")

	mCertEnds   = gauge("vcsync_api_certificate_expiry_timestamp_seconds", "When the certificate of the API ends; missing where it speaks no TLS.")
	mServerEnds = gauge("vcsync_server_certificate_expiry_timestamp_seconds", "When the certificate of a source or target ends, as it was last seen; missing where the connection is not encrypted.", "server")

	mProcess    = gauge("vcsync_process_up", "1 where the process spoke within the last 30 s, 0 where it has been silent for longer. One that ends in order is taken out.", "role", "process", "host")
	mProcMemory = gauge("vcsync_process_memory_bytes", "What the process holds from the operating system.", "role", "process")
	mProcGo     = gauge("vcsync_process_goroutines", "Goroutines of the process.", "role", "process")
	mProcStart  = gauge("vcsync_process_started_timestamp_seconds", "When the process started, by its own clock.", "role", "process")
	mProcHolds  = gauge("vcsync_process_servers", "How many sources a producer captures, or targets a consumer writes to.", "role", "process")
	mProcTwice  = gauge("vcsync_process_name_taken", "1 where two running processes have this role and name.", "role", "process")

	mDegraded  = gauge("vcsync_source_degraded", "1 where the last listing failed or was not complete.", "source")
	mNoProd    = gauge("vcsync_source_unattended", "1 where no living producer speaks of the source of an active setting.", "source")
	mFeed      = gauge("vcsync_source_hints", "1 where the server's own hints of changes arrive.", "source")
	mEpoch     = gauge("vcsync_source_epoch", "The source's epoch; it rises when a stream was lost.", "source")
	mComplete  = gauge("vcsync_source_last_complete_scan_timestamp_seconds", "End of the last complete listing; missing where there was none.", "source", "type")
	mObjects   = gauge("vcsync_source_objects", "Objects of the last complete listing, without built-in ones.", "source", "type")
	mPublished = counter("vcsync_source_events_published_total", "Events stored since the producer's start.", "source", "type")
	mRefused   = gauge("vcsync_source_objects_refused", "Objects of the last listing that could not be captured.", "source", "type")
	mHeld      = gauge("vcsync_deletes_held", "Deletions that wait for a person.", "source", "type")

	mBreaker = gauge("vcsync_target_breaker_open", "1 where the target does not answer or refuses the account.", "target")
	mNoCons  = gauge("vcsync_target_unattended", "1 where no living consumer writes to the target of an active setting.", "target")
	mLanes   = gauge("vcsync_target_lanes", "Objects that are being worked on or wait for it.", "target")
	mApplied = counter("vcsync_target_writes_total", "Writes that were confirmed since the consumer's start.", "target")
	mEqual   = counter("vcsync_target_equal_total", "Looks that found nothing to do since the consumer's start.", "target")
	mParked  = gauge("vcsync_parked_objects", "Parked records without the discarded ones, by kind of reason.", "target", "class")

	mActive  = gauge("vcsync_setting_active", "1 where the sync setting is on.", "setting", "source", "target")
	mPending = gauge("vcsync_setting_pending_objects", "Messages of the setting that are not acknowledged.", "setting", "target")
	mOldest  = gauge("vcsync_target_oldest_pending_seconds", "Age of the oldest captured version that waits; 0 where none does. As old as the account.", "setting", "target")
	mPass    = gauge("vcsync_setting_last_pass_timestamp_seconds", "End of the last pass over all objects; missing where there was none.", "setting", "target")
	mOK      = gauge("vcsync_setting_ok", "1 where the last pass parked nothing and nothing is wrong.", "setting", "target")

	mTargetHeld = gauge("vcsync_setting_deletes_held", "Deletions that wait in the airlock at the target.", "setting", "target")
	mGrace      = gauge("vcsync_setting_jobs_in_grace", "Jobs that are gone at the source and only switched off at the target so far.", "setting", "target")
	mOrphans    = gauge("vcsync_setting_orphans", "Objects at the target of which nobody can tell whether their source still has them.", "setting", "target")

	mAudited    = gauge("vcsync_setting_last_audit_timestamp_seconds", "When the last audit of the target that ended well began; missing where there was none.", "setting", "target")
	mDiffers    = gauge("vcsync_setting_different_objects", "Objects that this audit found different, or at one side only, of what the setting takes.", "setting", "target")
	mDiffersOn  = gauge("vcsync_setting_different_held_objects", "Of these, those that are kept back until a person does something.", "setting", "target")
	mAuditFails = gauge("vcsync_setting_audit_failed", "1 where the last audit could not be made.", "setting", "target")

	mVersions    = gauge("vcsync_accounting_versions", "What became of every captured version of every object. Term captured = applied + superseded + filtered + parked + held + pending.", "setting", "target", "term")
	mUnaccounted = gauge("vcsync_accounting_unaccounted", "Versions that are in none of the accounts, or in two, for some seconds. Anything but 0 is a loss or an error of vcsync (G7).", "setting", "target")
	mAccountAt   = gauge("vcsync_accounting_timestamp_seconds", "When the account was drawn up.", "setting", "target")
)

// newMetrics returns the handler of GET /metrics: a registry of its own, so that no
// library adds to it unseen.
func (s *Server) newMetrics() http.Handler {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(), statusCollector{s})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4, Timeout: 15 * time.Second, DisableCompression: true})
}

// statusCollector makes metrics of the status at every request.
type statusCollector struct{ s *Server }

// Describe implements prometheus.Collector.
func (statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	put := func(m *metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.Kind, v, labels...)
	}
	put(mBuild, 1, c.s.cfg.Version, runtime.Version())
	c.s.ownMetrics(ctx, put)
	if c.s.cfg.Notifications != nil {
		c.s.cfg.Notifications.Counts(func(kind, result string, n uint64) { put(mNotified, float64(n), kind, result) })
	}
	r, err := c.s.status(ctx)
	if err != nil {
		c.s.log.WarnContext(ctx, "the metrics lack everything that is in the store", "error", err)
		put(mStatus, 0)
		return
	}
	put(mStatus, 1)
	r.metrics(put)
	if at, err := c.s.lastBackup(ctx); err != nil {
		c.s.log.WarnContext(ctx, "the metrics lack the last backup", "error", err)
	} else if !at.IsZero() {
		put(mBackup, seconds(at))
	}
}

// ownMetrics puts what this process knows without the store.
func (s *Server) ownMetrics(ctx context.Context, put func(m *metric, v float64, labels ...string)) {
	if s.cfg.Data != "" {
		if free, size, err := broker.DiskSpace(s.cfg.Data); err != nil {
			s.log.WarnContext(ctx, "the metrics lack the disk", "error", err)
		} else {
			put(mFree, float64(free))
			put(mSize, float64(size))
		}
	}
	if s.cfg.Certificate != nil {
		put(mCertEnds, seconds(s.cfg.Certificate.ends()))
	}
	put(mNoRecord, float64(s.unrecorded.Load()))
	s.signIns.each(func(result string, n float64) { put(mSignIns, n, result) })
	s.refused.each(func(reason string, n float64) { put(mRefusedAt, n, reason) })
}

// Results of signing in, and reasons for which the door refuses a request.
const (
	signInOK      = "ok"
	signInWrong   = "wrong"
	signInBusy    = "busy"
	signInWaiting = "waiting"
	signInFailed  = "failed"

	refusedUnauthorized = "unauthorized"
	refusedForbidden    = "forbidden"
	refusedOrigin       = "origin"
	refusedHost         = "host"
)

// tally counts by word. All words are there from the start, so that a first one is seen
// as a rise.
type tally struct {
	words []string
	n     []atomic.Uint64
}

func newTally(words ...string) *tally { return &tally{words, make([]atomic.Uint64, len(words))} }

func (t *tally) add(word string) { t.n[slices.Index(t.words, word)].Add(1) }

func (t *tally) each(f func(word string, n float64)) {
	for i, w := range t.words {
		f(w, float64(t.n[i].Load()))
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metrics puts everything that the report says.
func (r StatusReport) metrics(put func(m *metric, v float64, labels ...string)) {
	at := func(m *metric, t time.Time, labels ...string) {
		if !t.IsZero() {
			put(m, seconds(t), labels...)
		}
	}
	put(mSafe, oneIf(r.SafeMode.On))
	put(mWrites, oneIf(r.Store.Ready))
	put(mEvents, float64(r.Store.Events))
	put(mLastSeq, float64(r.Store.LastSeq))
	put(mBytes, float64(r.Store.Bytes))
	put(mMaxBytes, float64(r.Store.MaxBytes))
	put(mFaulty, float64(len(r.Faulty)))
	for _, p := range r.Processes {
		put(mProcess, oneIf(p.State == processAlive), p.Role, p.Instance, p.Host)
		put(mProcMemory, float64(p.Memory), p.Role, p.Instance)
		put(mProcGo, float64(p.Goroutines), p.Role, p.Instance)
		at(mProcStart, p.Started, p.Role, p.Instance)
		put(mProcHolds, float64(len(p.Sources)+len(p.Targets)), p.Role, p.Instance)
		put(mProcTwice, oneIf(p.Twice), p.Role, p.Instance)
	}
	ends := map[string]time.Time{}
	for _, s := range r.Sources {
		ends[s.Server] = s.CertificateEnds
	}
	for _, t := range r.Targets {
		if !t.CertificateEnds.IsZero() && (ends[t.Server].IsZero() || t.CertificateEnds.After(ends[t.Server])) { // the one that was seen last
			ends[t.Server] = t.CertificateEnds
		}
	}
	for server, when := range ends {
		at(mServerEnds, when, server)
	}
	for _, s := range r.Sources {
		put(mDegraded, oneIf(s.State == string(producer.Degraded)), s.Server)
		put(mNoProd, oneIf(s.State == noProducer), s.Server)
		put(mFeed, oneIf(s.Feed), s.Server)
		put(mEpoch, float64(s.Epoch), s.Server)
		for _, t := range s.Types {
			at(mComplete, t.Complete, s.Server, t.Type)
			put(mObjects, float64(t.Objects), s.Server, t.Type)
			put(mPublished, float64(t.Published), s.Server, t.Type)
			put(mRefused, float64(t.Refused), s.Server, t.Type)
			put(mHeld, float64(t.Held), s.Server, t.Type)
		}
	}
	for _, t := range r.Targets {
		put(mBreaker, oneIf(t.State == string(consumer.Down)), t.Server)
		put(mNoCons, oneIf(t.State == noConsumer || t.State == string(consumer.Waiting)), t.Server)
		put(mLanes, float64(t.Lanes), t.Server)
		put(mApplied, float64(t.Applied), t.Server)
		put(mEqual, float64(t.Equal), t.Server)
	}
	for _, p := range r.ParkedBy {
		put(mParked, float64(p.Count), p.Target, p.Class)
	}
	for _, v := range r.Settings {
		put(mActive, oneIf(v.Active), v.Setting, v.Source, v.Target)
		if d := v.Drift; v.Active && d != nil {
			at(mAudited, d.Began, v.Setting, v.Target)
			put(mAuditFails, oneIf(d.Failed != ""), v.Setting, v.Target)
			if !d.Began.IsZero() {
				put(mDiffers, float64(d.Differs), v.Setting, v.Target)
				put(mDiffersOn, float64(d.Held), v.Setting, v.Target)
			}
		}
		if !v.Active || !v.Known {
			continue
		}
		put(mPending, float64(v.Pending), v.Setting, v.Target)
		at(mPass, v.LastRun, v.Setting, v.Target)
		put(mOK, oneIf(v.OK), v.Setting, v.Target)
		put(mTargetHeld, float64(v.DeletesHeld), v.Setting, v.Target)
		put(mGrace, float64(v.InGrace), v.Setting, v.Target)
		put(mOrphans, float64(v.Orphans), v.Setting, v.Target)
		a := v.Accounting
		if a == nil {
			continue
		}
		for _, term := range []struct {
			name string
			n    uint64
		}{{"captured", a.Captured}, {"applied", a.Applied}, {"superseded", a.Superseded}, {"filtered", a.Filtered}, {"parked", a.Parked}, {"held", a.Held}, {"pending", a.Pending}} {
			put(mVersions, float64(term.n), v.Setting, v.Target, term.name)
		}
		put(mUnaccounted, float64(a.Unaccounted), v.Setting, v.Target)
		at(mAccountAt, a.At, v.Setting, v.Target)
		oldest := 0.0
		if !a.Oldest.IsZero() {
			oldest = max(0, r.Time.Sub(a.Oldest).Seconds())
		}
		put(mOldest, oldest, v.Setting, v.Target)
	}
}
