package consumer

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

var (
	schedules    = flag.Int("schedules", 4000, "how many random schedules the decision core is compared over")
	scheduleSeed = flag.Uint64("schedule", 0, "the seed of one schedule to run alone, with its timeline")
)

// fault is what goes wrong with one look.
type fault int

const (
	noFault     fault = iota
	crashBefore       // after the intent, before anything is sent
	refused           // the target refuses the write
	lostRequest       // a timeout; it did not arrive
	lostAnswer        // a timeout; it arrived
	crashAfter        // it arrived, and was not recorded
)

// plain is one object at one source and one target as it truly is, and what people have
// chosen. The reference sees this, and neither the ledger nor a Situation.
type plain struct {
	source, target string // contents, empty for none
	sourceEver     bool
	revision       uint64
	settings       []schemas.Setting
	otherRelease   bool
	windowShut     bool
	// Of the airlock at the target: many more went the same day, others there refer to it,
	// and what a person said of its deletion.
	many, used, rejected, cleared bool
}

// reference is the model that the decision core is compared with. It keeps what a
// careful person would note down who watched vcsync and the target all the time.
type reference struct {
	linked bool // vcsync brought it or found it equal, and has not removed it since
	// done is the source's revision that the target is known to have followed.
	done    uint64
	isDone  bool
	left    []string // what vcsync may have left there, newest attempt first; any of them is nobody's edit
	begun   string   // what a first write, never confirmed, was to leave
	waits   uint64   // the revision that waits for a person; 0 for none
	givenUp bool
	asked   bool
	again   bool // the settings have changed: what is parked, and not given up, is tried again
}

// expectation is what has to come of a look.
type expectation struct {
	target string
	// shown: something was to be done and is not, and that has to be seen.
	shown bool
	// asks: a person is asked what to do.
	asks bool
	// either: both are right.
	either bool
	why    string
}

// expect says in plain words what has to come of a look without a fault.
func (r *reference) expect(p plain, o decide.Occasion, approved bool) expectation {
	stays := expectation{target: p.target}
	because := func(why string) expectation { stays.why = why; return stays }
	// The settings that act: those of the freest mode among those that take it.
	order := []schemas.Mode{schemas.Automatic, schemas.Approve, schemas.ReportOnly}
	var acting []schemas.Setting
	for _, m := range order {
		for _, s := range p.settings {
			if s.Mode == m && s.Rights(schemas.Job, schemas.Selected{ID: modelID}).Use() {
				acting = append(acting, s)
			}
		}
		if acting != nil {
			break
		}
	}
	if acting == nil {
		return because("no setting takes it")
	}
	any := func(f func(schemas.Setting) bool) bool { return slices.ContainsFunc(acting, f) }
	may := func(right func(schemas.Rights) bool) bool {
		return any(func(s schemas.Setting) bool { return right(s.Rights(schemas.Job, schemas.Selected{ID: modelID})) })
	}
	switch {
	case !p.sourceEver:
		return because("the source never had it")
	case r.done > p.revision:
		return because("something newer was done before")
	case r.waits == p.revision && !r.asked && (r.givenUp || !r.again):
		return because("it waits for a person")
	case o == decide.Live && r.isDone && r.done == p.revision:
		return because("nothing has changed at the source since it was dealt with")
	case p.source == p.target:
		return because("the target is as it should be")
	}
	// Something is to be done: by whose right?
	switch {
	case p.source == "" && !r.linked && (r.begun == "" || r.begun != p.target):
		return because("what vcsync did not bring is not deleted")
	case p.source == "" && !may(func(x schemas.Rights) bool { return x.Deleted }):
		return because("no right to delete")
	case p.source != "" && p.target == "" && !may(func(x schemas.Rights) bool { return x.New }):
		return because("no right to create")
	case p.source != "" && p.target != "" && !may(func(x schemas.Rights) bool { return x.Updated }):
		return because("no right to overwrite")
	}
	// Who is in the way?
	edited := r.linked && !slices.Contains(r.left, p.target)
	protects := any(func(s schemas.Setting) bool { return s.TargetEdits != schemas.OverwriteEdits })
	parks := any(func(s schemas.Setting) bool { return s.TargetEdits == schemas.ParkEdits })
	unchanged := r.isDone && r.done == p.revision
	heals := !any(func(s schemas.Setting) bool { return s.Drift != schemas.DriftHeal })
	person := o == decide.SyncNow || o == decide.Replay
	stays.shown = true
	switch {
	case edited && protects && unchanged && o == decide.Audit && !heals && !approved:
		return because("drift is reported, or the edit is kept")
	case edited && parks && unchanged:
		return because("somebody edited it at the target, and the source has nothing new")
	case edited && parks && !r.asked:
		stays.asks = true
		return because("somebody edited it at the target, and a person decides")
	case edited && protects && !parks:
		return because("somebody edited it at the target")
	case p.otherRelease && any(func(s schemas.Setting) bool { return s.Versions != schemas.AnyVersions }):
		return because("the servers are of different versions")
	case acting[0].Mode == schemas.ReportOnly:
		return because("it only reports")
	case o == decide.Audit && unchanged && !heals && !approved:
		return because("drift is reported")
	case acting[0].Mode == schemas.Approve && !approved && !person:
		return because("nobody has approved it")
	case p.source == "" && ((p.many || p.rejected) && !p.cleared || p.used):
		return because("its deletion waits in the airlock")
	case p.windowShut:
		return because("no window is open")
	}
	return expectation{target: p.source, why: "it follows its source"}
}

const modelID = schemas.ID("00000000-1111-4222-8333-000000000001")

// actor drives the real decisions as apply does: the settings' terms, the situation, the
// ledger's entry and the parked record are the real ones, and only the servers are not.
type actor struct {
	look  *look
	entry broker.Entry
	known bool
	sent  int
}

func newActor() *actor {
	s := &session{target: &target{server: schemas.Server{ID: "t"}}, parked: newParkedSet(nil, "t")}
	return &actor{look: &look{session: s, key: objectKey{schemas.Job, modelID}}}
}

func (a *actor) view(p plain) *view {
	v := &view{settings: map[schemas.Slug]broker.StoredSetting{}, release: "13.2", releases: map[schemas.Slug]string{"s": "13.2"}}
	if p.otherRelease {
		v.releases["s"] = "12.5"
	}
	for _, s := range p.settings {
		v.settings[s.ID] = broker.StoredSetting{Setting: s}
	}
	return v
}

func (a *actor) parkedKey() string {
	return broker.Parked{Target: "t", Type: schemas.Job, Token: modelID.Token()}.Key()
}

func digestOf(content string) schemas.Digest {
	if content == "" {
		return broker.Absent
	}
	return schemas.Digest(content)
}

func (a *actor) record(e broker.Entry) { a.entry, a.known = e, true }

// do looks at the object once; p.target is changed as the target would be.
func (a *actor) do(p *plain, o decide.Occasion, approved bool, f fault) decide.Decision {
	l := a.look
	by := l.parked.by
	l.hand = by[a.parkedKey()]
	unpark := func() { delete(by, a.parkedKey()) }
	v := a.view(*p)
	l.event = schemas.Event{Source: "s", Version: schemas.Version{Epoch: 1, Revision: p.revision}, Kind: schemas.Updated, Digest: schemas.Digest(p.source),
		Object: schemas.Object{Type: schemas.Job, ID: modelID}}
	if p.source == "" {
		l.event.Kind = schemas.Deleted
	}
	tm := v.terms("s", schemas.Job, l.event.Selected(), nil)
	if !p.sourceEver || !tm.rights.Use() {
		unpark()
		return decide.Decision{Act: decide.Nothing, Reason: decide.NotSelected}
	}
	sit := l.situation(a.entry, a.known, v, tm)
	sit.Occasion, sit.Approved, sit.WindowShut, sit.Drift = o, approved, p.windowShut, schemas.DriftReport
	sit.Beyond, sit.InUse, sit.Rejected, sit.Cleared = p.many, p.used, p.rejected, p.cleared
	if tm.heals {
		sit.Drift = schemas.DriftHeal
	}
	d := decide.Decide(sit)
	if d.Act == decide.Look {
		now := schemas.Digest(p.target)
		switch {
		case p.target == "":
			sit.Target = decide.Absent
		case p.target == p.source:
			sit.Target = decide.Equal
		default:
			sit.Target = decide.Different
		}
		sit.AsLeft, sit.Edited = a.known && now == a.entry.AtTarget, a.known && a.entry.Edited(digestOf(p.target), "")
		d = decide.Decide(sit)
	}
	ev := l.event
	rec := broker.Entry{Type: schemas.Job, ID: modelID, Source: "s", Version: ev.Version, Digest: ev.Digest, Policy: tm.policy, State: broker.Applied, AtTarget: schemas.Digest(p.source), Left: digestOf(p.source)}
	if p.source == "" {
		rec.State = broker.Removed
	}
	switch {
	case d.Act == decide.Park:
		if f == crashBefore {
			return d
		}
		by[a.parkedKey()] = broker.Parked{Target: "t", Type: schemas.Job, Token: modelID.Token(), ID: modelID, Source: "s", Version: ev.Version, Class: string(d.Reason),
			RetryAsked: l.hand.RetryAsked, RetryDone: l.hand.RetryAsked}
	case d.Act == decide.Adopt:
		if f == crashBefore {
			return d
		}
		a.record(rec)
		unpark()
	case d.Act.Writes():
		intent := rec
		intent.State, intent.Ours = broker.Intent, a.known && owned(a.entry) && a.entry.Source == "s"
		intent.Version = a.entry.Version
		intent.Again = sit.Record == decide.Brought && sit.Age == decide.Same && !sit.Unfinished
		if p.source == "" {
			intent.AtTarget, intent.Ours = "", true
		}
		if intent.Before = digestOf(p.target); sit.Edited {
			intent.Before = a.entry.Left
		}
		a.record(intent)
		if f == crashBefore {
			return d
		}
		a.sent++
		if f == refused || f == lostRequest {
			return d
		}
		p.target = p.source
		if f == lostAnswer || f == crashAfter {
			return d
		}
		a.record(rec)
		unpark()
	case d.Reason == decide.IsParked || d.Reason == decide.GivenUp:
	default:
		unpark()
	}
	return d
}

// schedule runs one random schedule and returns what disagrees, with the timeline.
func schedule(seed uint64) (timeline []string, wrong string) {
	r := rand.New(rand.NewPCG(seed, 5))
	say := func(format string, a ...any) { timeline = append(timeline, fmt.Sprintf(format, a...)) }
	a := newActor()
	var p plain
	var ref reference
	contents := 0
	fresh := func(who string) string { contents++; return fmt.Sprintf("%s%d", who, contents) }
	var seen []string
	var old []plain
	setting := func(id schemas.Slug) schemas.Setting {
		rights := schemas.Rights{New: r.IntN(4) > 0, Updated: r.IntN(4) > 0, Deleted: r.IntN(4) > 0}
		if r.IntN(8) == 0 {
			rights = schemas.Rights{New: r.IntN(2) == 0}
		}
		s := schemas.Setting{ID: id, Source: "s", Target: "t", Active: true, Policy: schemas.Keep, Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: rights}}}
		if r.IntN(3) == 0 {
			s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncListed, Objects: []schemas.ObjectRule{{ID: modelID, Rights: rights}}}
		}
		s.Mode = []schemas.Mode{schemas.Automatic, schemas.Automatic, schemas.Automatic, schemas.Approve, schemas.ReportOnly}[r.IntN(5)]
		s.TargetEdits = []schemas.TargetEdits{schemas.OverwriteEdits, schemas.KeepEdits, schemas.ParkEdits}[r.IntN(3)]
		s.Drift = []schemas.Drift{schemas.DriftReport, schemas.DriftHeal}[r.IntN(2)]
		s.Versions = []schemas.Versions{schemas.SameVersions, schemas.AnyVersions}[r.IntN(2)]
		return s
	}
	p.settings = []schemas.Setting{setting("one")}
	describe := func() string {
		var out []string
		for _, s := range p.settings {
			out = append(out, fmt.Sprintf("%s takes %s, mode %s, edits %s, drift %s, versions %s", s.ID, s.Rights(schemas.Job, schemas.Selected{ID: modelID}), s.Mode, s.TargetEdits, s.Drift, s.Versions))
		}
		return strings.Join(out, "; ")
	}
	say("settings: %s", describe())
	for range 10 + r.IntN(30) {
		switch k := r.IntN(20); {
		case k < 4: // the source
			switch {
			case p.source != "" && r.IntN(3) == 0:
				p.source = ""
			default:
				p.source = fresh("s")
				if len(seen) > 0 && r.IntN(4) == 0 { // a content that was there before
					p.source = seen[r.IntN(len(seen))]
				}
				seen = append(seen, p.source)
				p.sourceEver = true
			}
			if p.sourceEver {
				p.revision++
			}
			old = append(old, p)
			say("source: revision %d is %q", p.revision, p.source)
		case k < 7: // somebody at the target
			switch {
			case p.target != "" && r.IntN(3) == 0:
				p.target = ""
			case len(seen) > 0 && r.IntN(3) == 0:
				p.target = seen[r.IntN(len(seen))]
			default:
				p.target = fresh("h")
			}
			say("target: somebody makes it %q", p.target)
		case k < 9: // the settings and what is around them
			switch r.IntN(5) {
			case 0:
				p.otherRelease = !p.otherRelease
			case 1:
				p.windowShut = !p.windowShut
			case 2:
				p.settings = []schemas.Setting{setting("one"), setting("two")}
			default:
				p.settings = []schemas.Setting{setting("one")}
			}
			a.look.retryParked, ref.again = true, true
			say("settings: %s; other release %v, window shut %v", describe(), p.otherRelease, p.windowShut)
		case k == 9: // a person sees to what is parked
			rec, ok := a.look.parked.by[a.parkedKey()]
			if ok != (ref.waits != 0) {
				return timeline, fmt.Sprintf("parked %v, want %v", ok, ref.waits != 0)
			}
			if !ok {
				continue
			}
			if r.IntN(2) == 0 {
				rec.Discarded, ref.givenUp = "not wanted", true
				say("a person discards it")
			} else {
				rec.RetryAsked++
				ref.asked = true
				say("a person retries it")
			}
			a.look.parked.by[a.parkedKey()] = rec
		case k == 10 && r.IntN(8) == 0: // the ledger and what is parked are lost
			a.entry, a.known = broker.Entry{}, false
			clear(a.look.parked.by)
			ref = reference{}
			say("the ledger is lost")
		default:
			o := []decide.Occasion{decide.Live, decide.Live, decide.Live, decide.Audit, decide.SyncNow, decide.Replay}[r.IntN(6)]
			approved := r.IntN(3) == 0
			f := fault(max(0, r.IntN(12)-6))
			q := p
			q.many, q.used, q.rejected, q.cleared = r.IntN(6) == 0, r.IntN(6) == 0, r.IntN(8) == 0, r.IntN(4) == 0
			if len(old) > 1 && r.IntN(10) == 0 { // what is read is not the newest
				q.source, q.revision = old[len(old)-2].source, old[len(old)-2].revision
				say("the next look sees revision %d, %q", q.revision, q.source)
			}
			if wrong = ref.watch(a, &q, o, approved, f, say); wrong != "" {
				return timeline, wrong
			}
			p.target = q.target
		}
	}
	// What is left to do is done once everything allows it: nothing is stuck.
	p.settings = []schemas.Setting{{ID: "one", Source: "s", Target: "t", Active: true, Policy: schemas.Keep, Versions: schemas.AnyVersions,
		Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true, Deleted: true}}}}}
	p.windowShut = false
	if ref.waits != 0 {
		rec := a.look.parked.by[a.parkedKey()]
		rec.RetryAsked++
		a.look.parked.by[a.parkedKey()], ref.asked = rec, true
	}
	say("everything is allowed")
	if wrong = ref.watch(a, &p, decide.SyncNow, true, noFault, say); wrong == "" && p.source != "" && p.target != p.source {
		wrong = fmt.Sprintf("in the end the target has %q and the source %q", p.target, p.source)
	}
	return timeline, wrong
}

// watch compares one look with what has to come of it, and notes down what happened.
func (r *reference) watch(a *actor, p *plain, o decide.Occasion, approved bool, f fault, say func(string, ...any)) string {
	want := r.expect(*p, o, approved)
	before, sent := p.target, a.sent
	d := a.do(p, o, approved, f)
	a.look.retryParked = false
	defer func() { r.again = false }()
	say("look: occasion %d, approved %v, fault %d: %s (%s), target %q; expected %q, because %s", o, approved, f, d.Act, d.Reason, p.target, want.target, want.why)
	wrote := d.Act.Writes()
	switch {
	case p.target != before && p.target != p.source:
		return "the target got what the source does not have"
	case want.either:
	case wrote != (want.target != before):
		return fmt.Sprintf("writes %v, want %v", wrote, want.target != before)
	case f == noFault && p.target != want.target:
		return fmt.Sprintf("the target has %q, want %q", p.target, want.target)
	}
	if a.sent-sent > 1 || a.sent > sent && !wrote {
		return "something was sent that was not decided"
	}
	if asks := d.Act == decide.Park; asks != want.asks && !want.either {
		return fmt.Sprintf("asks a person: %v, want %v", asks, want.asks)
	}
	silent := d.Act == decide.Nothing && d.Reason != decide.EditKept
	if want.shown && !want.either && silent {
		return "what was to be done was left without a word"
	}
	r.note(a, *p, before, d, f, want)
	return ""
}

// note writes down what a careful watcher saw.
func (r *reference) note(a *actor, p plain, before string, d decide.Decision, f fault, want expectation) {
	edited := r.linked && !slices.Contains(r.left, before)
	switch {
	case d.Act.Writes() && f == noFault, d.Act == decide.Adopt && f != crashBefore:
		// It is as it should be, and known to be.
		*r = reference{linked: p.source != "", done: p.revision, isDone: true, left: []string{p.source}}
		return
	case d.Act == decide.Adopt, d.Act == decide.Park && f == crashBefore:
		return // as if nobody had looked, but for what a person asked: that stands
	case d.Act.Writes():
		switch {
		case r.linked:
			base := before
			if edited {
				base = ""
				if len(r.left) > 0 {
					base = r.left[0]
				}
			}
			r.left = []string{p.source, base}
		default:
			r.begun = p.source
			r.linked = p.source == "" // an attempt to delete is one on what is ours
			if r.linked {
				r.left = []string{"", before}
			}
		}
		r.isDone = r.isDone && r.done == p.revision && p.source != "" // who asked for a heal asks again
		return                                                        // parked or asked as before
	case d.Act == decide.Park:
		r.waits, r.givenUp, r.asked = p.revision, false, false
		return
	}
	if r.waits == p.revision && !r.asked && want.why == "it waits for a person" {
		return
	}
	r.waits, r.givenUp, r.asked = 0, false, false
}

// TestDecisionsAgreeWithTheModel compares the decisions with a model that was written
// from docs/settings.md alone, over random schedules of edits on both sides, changes of
// the settings, people and faults. -schedules 100000 is the full run.
func TestDecisionsAgreeWithTheModel(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	if *scheduleSeed != 0 {
		timeline, wrong := schedule(*scheduleSeed)
		t.Logf("%s\n%s", strings.Join(timeline, "\n"), wrong)
		if wrong != "" {
			t.Fail()
		}
		return
	}
	bad := 0
	for i := range *schedules {
		seed := uint64(i) + 1
		if timeline, wrong := schedule(seed); wrong != "" {
			if bad++; bad <= 3 {
				t.Errorf("schedule %d: %s\n%s", seed, wrong, strings.Join(timeline, "\n"))
			}
		}
	}
	t.Logf("%d schedules, %d disagreements, %s", *schedules, bad, time.Since(begun).Round(time.Millisecond))
}
