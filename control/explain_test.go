package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// TestEveryReasonHasAGate: whatever the apply path decides, explain knows the gate.
func TestEveryReasonHasAGate(t *testing.T) {
	t.Parallel()
	for _, r := range decide.Reasons() {
		g, ok := gateOf[r]
		if !ok {
			t.Errorf("reason %q stands in no gate: add it to gateOf", r)
		}
		if g != "" && !slices.Contains(gates, g) {
			t.Errorf("gate %q of reason %q is none that is told", g, r)
		}
	}
	if n := len(decide.Reasons()); len(gateOf) != n {
		t.Errorf("%d reasons have a gate, there are %d", len(gateOf), n)
	}
	for class, want := range map[string]Gate{"waiting": GateParent, "conflict": GateConflict, "built-in": GateBuiltIn, "refused": GateParked, "secret": GateParked, "edited": GatePolicy} {
		if got := gateOfClass(class); got != want {
			t.Errorf("class %q is of gate %q, want %q", class, got, want)
		}
	}
}

// TestExplain changes one thing at a time of an object whose second version is on its way.
func TestExplain(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	version := func(n uint64) schemas.Version { return schemas.Version{Epoch: 1, Revision: n} }
	all := schemas.Rights{New: true, Updated: true, Deleted: true}
	head := func(source schemas.Slug, n uint64, kind schemas.Kind) broker.Newest {
		h := broker.Newest{Head: schemas.Head{Key: schemas.Key{Source: source, Type: schemas.Job, Token: "nightly"}, Kind: kind, Version: version(n), ID: "nightly", Name: "Nightly", Time: at}}
		if kind != schemas.Deleted {
			h.Digest = schemas.DigestOf([]byte(source))
		}
		return h
	}
	made := func(change func(f *facts, v *schemas.Setting)) facts {
		n := head("production", 2, schemas.Updated)
		v := schemas.Setting{ID: "one", Source: "production", Target: "test", Active: true, Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: all}}}
		f := facts{now: at, t: schemas.Job, id: "nightly", newest: &n,
			outlook: consumer.Outlook{Target: "test", Type: schemas.Job, ID: "nightly", Also: "one",
				Entry: &broker.Entry{Type: schemas.Job, ID: "nightly", Source: "production", Version: version(1), State: broker.Applied, At: at}},
			source: &producer.Status{Server: "production", State: producer.Capturing, Types: map[schemas.Type]producer.TypeStatus{schemas.Job: {Complete: at}}},
			target: &consumer.TargetStatus{Target: "test", State: consumer.Working}}
		f.outlook.Snapshot = broker.Snapshot{Settings: map[schemas.Slug]broker.StoredSetting{}, Versions: map[schemas.Slug]string{}}
		if change(&f, &v); f.newest != nil {
			f.outlook.Newest = append(f.outlook.Newest, *f.newest)
		}
		v.Normalize()
		f.setting = broker.StoredSetting{Setting: v, Revision: 7}
		f.outlook.Snapshot.Settings["one"] = f.setting
		return f
	}
	parked := func(class string) func(*facts, *schemas.Setting) {
		return func(f *facts, _ *schemas.Setting) {
			f.outlook.Parked = &broker.Parked{Target: "test", Source: "production", Type: schemas.Job, Token: "nightly", ID: f.outlook.ID, Version: version(2), Class: class, Reason: "because", Fix: "do it"}
		}
	}
	onRecord := func(f *facts) {
		f.outlook.Entry.Version, f.outlook.Entry.Policy = version(2), schemas.Keep
	}
	said := func(act decide.Act, reason decide.Reason) *broker.PlanEntry {
		return &broker.PlanEntry{Type: schemas.Job, ID: "nightly", Source: "production", Version: version(2), Act: string(act), Reason: string(reason), Why: reason.Text()}
	}
	rival := func(f *facts, digest schemas.Slug) {
		o := broker.StoredSetting{Setting: schemas.Setting{ID: "two", Source: "other", Target: "test", Active: true, Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: all}}}}
		n := head("other", 1, schemas.Added)
		n.Digest = schemas.DigestOf([]byte(digest))
		f.outlook.Snapshot.Settings["two"], f.outlook.Newest = o, []broker.Newest{n}
	}
	for _, c := range []struct {
		name   string
		change func(f *facts, v *schemas.Setting)
		stands string
		held   Gate
		line   string
	}{
		{"on its way", func(*facts, *schemas.Setting) {}, "on its way", "", "on its way: version 1.2, captured at 2026-03-04T12:00:00Z; version 1.1 is on record at test since 2026-03-04T12:00:00Z"},
		{"on record", func(f *facts, _ *schemas.Setting) { onRecord(f) }, "on record", "", "version 1.2 is on record at test since 2026-03-04T12:00:00Z"},
		{"off", func(_ *facts, v *schemas.Setting) { v.Active, v.Reason = false, "month end" }, "held", GateActive, "sync setting one is off: month end; version 1.1"},
		{"off for a time, on record", func(f *facts, v *schemas.Setting) { onRecord(f); v.Active, v.Until = false, at.Add(time.Hour) }, "held", GateActive, "is off until 2026-03-04T13:00:00Z; version 1.2 is on record"},
		{"waits for a listing", func(f *facts, _ *schemas.Setting) { f.awaits = true }, "held", GateSource, "waits for a complete listing of Job"},
		{"degraded, on record", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.source.State, f.source.Reason = producer.Degraded, "it answers with a login page"
		}, "held", GateSource, "production is degraded since 0001-01-01T00:00:00Z: it answers with a login page; version 1.2 is on record"},
		{"degraded, and a version is on its way all the same", func(f *facts, _ *schemas.Setting) { f.source.State = producer.Degraded }, "on its way", "", "version 1.2"},
		{"a type in trouble", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.source.State, f.source.Partly = producer.Degraded, true
			f.source.Types[schemas.Job] = producer.TypeStatus{Complete: at, Class: "bad answer", Reason: "cut"}
		}, "held", GateSource, "Job could not be listed at production: cut"},
		{"another type in trouble", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.source.State, f.source.Partly = producer.Degraded, true
		}, "on record", "", ""},
		{"no producer, never captured", func(f *facts, _ *schemas.Setting) { f.newest, f.source = nil, nil }, "held", GateSource, "no producer process speaks of production"},
		{"never captured", func(f *facts, _ *schemas.Setting) { f.newest, f.outlook.Entry = nil, nil }, "held", GateKnown, "nothing was ever captured of it at production; nothing of it is on record at test"},
		{"never captured, and the source has built-in ones", func(f *facts, _ *schemas.Setting) {
			f.newest, f.outlook.Entry = nil, nil
			f.source.Types[schemas.Job] = producer.TypeStatus{Complete: at, BuiltIn: 3}
		}, "held", GateKnown, "nothing was ever captured of it at production, whose 3 built-in objects of Job are never captured"},
		{"an orphan", func(f *facts, _ *schemas.Setting) { f.newest = nil }, "held", GateKnown, "orphan: vcsync brought it, and nothing is known of it from its source any more"},
		{"not known, and not brought", func(f *facts, _ *schemas.Setting) { f.newest, f.outlook.Entry.State = nil, broker.Removed }, "held", GateKnown, "nothing was ever captured of it"},
		{"approved at the source, and not published", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.atSource = heldAtSource{count: 9, listed: true, this: true, approved: true, why: "approved", fix: "wait"}
		}, "held", GateAirlock, "approved"},
		{"refused, with the intent of a first write", func(f *facts, v *schemas.Setting) {
			parked("refused")(f, v)
			f.outlook.Entry.State, f.outlook.Entry.Version = broker.Intent, version(2)
		}, "held", GateParked, "parked, refused: because; a write of version 1.2 at test began at 2026-03-04T12:00:00Z, and that it arrived is not on record"},
		{"refused, with the intent of a later write", func(f *facts, v *schemas.Setting) {
			parked("refused")(f, v)
			f.outlook.Entry.State, f.outlook.Entry.Version, f.outlook.Entry.Ours = broker.Intent, version(2), true
		}, "held", GateParked, "that it arrived is not on record; an older version was brought before"},
		{"paused by an undo", parked(broker.ClassUndone), "held", GateParked, "parked, undone: because"},
		{"not taken", func(_ *facts, v *schemas.Setting) {
			v.Rules = map[schemas.Type]schemas.Rule{schemas.Connection: v.Rules[schemas.Job]}
		}, "held", GateSelected, "sync setting one does not take it; it stays as it is at test"},
		{"no right to updates", func(_ *facts, v *schemas.Setting) {
			v.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
		}, "held", GateKind, "the settings do not take updates"},
		{"no right to new ones", func(f *facts, v *schemas.Setting) {
			f.outlook.Entry = nil
			v.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{Updated: true}}
		}, "held", GateKind, "do not take new ones; where the target has one of its own, it is updated"},
		{"no right to deletions", func(f *facts, v *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest = &n
			v.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true}}
		}, "held", GateKind, "the settings do not take deletions"},
		{"built in", parked("built-in"), "held", GateBuiltIn, "because"},
		{"no window", func(_ *facts, v *schemas.Setting) {
			v.Windows = schemas.Windows{{Kind: schemas.AllowWindow, Schedule: "0 0 29 2 *", Duration: "1m"}}
		}, "held", GateWindow, "no sync window is open; the next opens at 2028-02-29T00:00:00Z"},
		{"no window, and nothing to write", func(f *facts, v *schemas.Setting) {
			onRecord(f)
			v.Windows = schemas.Windows{{Kind: schemas.AllowWindow, Schedule: "0 0 29 2 *", Duration: "1m"}}
		}, "on record", "", ""},
		{"approval", func(_ *facts, v *schemas.Setting) { v.Mode = schemas.Approve }, "held", GateMode, "waits for a person's approval (would update)"},
		{"report", func(_ *facts, v *schemas.Setting) { v.Mode = schemas.ReportOnly }, "held", GateMode, "only reports (would update)"},
		{"safe mode", func(f *facts, _ *schemas.Setting) {
			f.outlook.Snapshot.SafeMode.SafeMode = broker.SafeMode{On: true, Why: "the store was restored"}
		}, "held", GateSafeMode, "the store was restored"},
		{"held at the source", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.atSource = heldAtSource{count: 9, listed: true, this: true, why: "9 deletions wait", fix: "approve them"}
		}, "held", GateAirlock, "9 deletions wait; version 1.2 is on record"},
		{"approved at the source, and its listing is not believed", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.atSource = heldAtSource{listed: true, this: true, approved: true, why: "approved", fix: "wait for two listings"}
			f.source.Types[schemas.Job] = producer.TypeStatus{Complete: at, Class: "empty listing", Reason: "it is empty; create one object"}
		}, "held", GateSource, "it is empty; create one object"},
		{"others are held at the source", func(f *facts, _ *schemas.Setting) {
			onRecord(f)
			f.atSource = heldAtSource{count: 9, listed: true}
		}, "on record", "", ""},
		{"some are held at the source", func(f *facts, _ *schemas.Setting) { onRecord(f); f.atSource.count = 9 }, "on record", "", "9 deletions of Job wait at production, and which ones is not on record"},
		{"held at the target", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest, f.held = &n, said(decide.Hold, decide.Airlock)
		}, "held", GateAirlock, decide.Airlock.Text()},
		{"in use at the target", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest, f.held = &n, said(decide.Hold, decide.InUse)
		}, "held", GateAirlock, decide.InUse.Text()},
		{"held at the target, as the ledger says", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest, f.outlook.Entry.Held = &n, version(2)
		}, "held", GateAirlock, decide.Airlock.Text()},
		{"rejected", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest = &n
			f.outlook.Snapshot.Verdicts = map[schemas.Slug]broker.Verdicts{"one": {Setting: "one", Rejected: []broker.RejectedDeletion{{Source: "production", Type: schemas.Job, ID: "nightly", Version: version(2)}}}}
		}, "held", GateAirlock, decide.Rejected.Text()},
		{"in grace", func(f *facts, v *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			v.Grace = "48h"
			f.newest, f.outlook.Entry.Grace = &n, broker.Grace{Since: time.Now(), Setting: "one"}
		}, "held", GateAirlock, decide.OnGrace.Text()},
		{"a parent", parked("waiting"), "held", GateParent, "because"},
		{"a conflict", func(f *facts, _ *schemas.Setting) { f.outlook.Entry = nil; rival(f, "another") }, "held", GateConflict, "other and production both have this object, and not the same"},
		{"another source that has the same", func(f *facts, _ *schemas.Setting) { rival(f, "production") }, "on its way", "", ""},
		{"refused", parked("refused"), "held", GateParked, "parked, refused: because"},
		{"an older version was refused", func(f *facts, v *schemas.Setting) {
			parked("refused")(f, v)
			f.outlook.Parked.Version = version(1)
		}, "on its way", "", ""},
		{"a retry was asked for", func(f *facts, v *schemas.Setting) {
			parked("refused")(f, v)
			f.outlook.Parked.RetryAsked = 1
		}, "on its way", "", ""},
		{"discarded", func(f *facts, v *schemas.Setting) {
			parked("refused")(f, v)
			f.outlook.Parked.Discarded = "not needed"
		}, "held", GateParked, "a person has discarded this version: not needed"},
		{"drift", func(f *facts, _ *schemas.Setting) { onRecord(f); f.held = said(decide.Hold, decide.Drifted) }, "held", GatePolicy, decide.Drifted.Text()},
		{"an edit is kept", func(f *facts, _ *schemas.Setting) { f.held = said(decide.Nothing, decide.EditKept) }, "held", GatePolicy, decide.EditKept.Text()},
		{"what was said of an older version", func(f *facts, _ *schemas.Setting) {
			f.held = said(decide.Nothing, decide.EditKept)
			f.held.Version = version(1)
		}, "on its way", "", ""},
		{"other versions", func(f *facts, _ *schemas.Setting) {
			f.outlook.Snapshot.Versions = map[schemas.Slug]string{"production": "10.1.0", "test": "9.8.5"}
		}, "held", GatePolicy, decide.VersionsDiffer.Text()},
		{"it came from there", func(f *facts, _ *schemas.Setting) { f.newest.OriginPath = []schemas.Slug{"test"} }, "held", GatePolicy, decide.CameFromHere.Text()},
		{"gone, and never brought", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			f.newest, f.outlook.Entry = &n, nil
		}, "held", GatePolicy, decide.NotOurs.Text()},
		{"gone, and removed", func(f *facts, _ *schemas.Setting) {
			n := head("production", 2, schemas.Deleted)
			onRecord(f)
			f.newest, f.outlook.Entry.State = &n, broker.Removed
		}, "on record", "", "where it is gone"},
		{"the target is down", func(f *facts, _ *schemas.Setting) { f.target.State, f.target.Reason = consumer.Down, "no answer" }, "held", GateBreaker, "test is down since 0001-01-01T00:00:00Z: no answer"},
		{"the target is down, and nothing to write", func(f *facts, _ *schemas.Setting) { onRecord(f); f.target.State = consumer.Down }, "on record", "", ""},
		{"no consumer", func(f *facts, _ *schemas.Setting) { f.target = nil }, "held", GateLease, "no consumer process speaks of test; nobody has it"},
		{"another has the lease", func(f *facts, _ *schemas.Setting) {
			f.target.State, f.lease = consumer.Waiting, &broker.LeaseState{Holder: "c2", Moved: at}
		}, "held", GateLease, "c2 had it last, at 2026-03-04T12:00:00Z"},
	} {
		r := explain(made(c.change))
		if r.Stands != c.stands || r.Held != c.held || !strings.Contains(r.Line, c.line) {
			t.Errorf("%s: %s by %q, want %s by %q: %s, want %s", c.name, r.Stands, r.Held, c.stands, c.held, r.Line, c.line)
		}
		if len(r.Gates) != len(gates) {
			t.Errorf("%s: %d gates", c.name, len(r.Gates))
		}
		for i, g := range r.Gates {
			if g.Gate != gates[i] || g.Holds != (g.Gate == r.Held) || g.Holds && (g.State != gateShut || g.Why == "") || g.State == "" {
				t.Errorf("%s: gate %d is %+v", c.name, i, g)
			}
			if g.Holds && g.Gate == GateParked && !strings.Contains(g.Fix, "vcsync parked retry") {
				t.Errorf("%s: how it is tried again is not said: %s", c.name, g.Fix)
			}
			if g.Holds && g.Fix == "" && g.Gate != GatePolicy {
				t.Errorf("%s: nothing is said of what to do about %+v", c.name, g)
			}
		}
	}
}
