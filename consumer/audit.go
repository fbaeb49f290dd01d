package consumer

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// auditEvery is how often a target is compared with its sources without any cause.
	auditEvery = 15 * time.Minute
	// auditAgain is how soon one that failed is tried again; each time that it fails again,
	// twice as late.
	auditAgain = time.Minute
	// auditLook is how often it is seen whether an audit is due or a drift list changed,
	// and auditPatience how long one waits for the lanes to come to rest.
	auditLook     = 2 * time.Second
	auditPatience = time.Minute
	// healMost is how often the same drift of an object is healed in a row: what comes
	// back each time is somebody's wish, or nothing that a write can mend.
	healMost = 3
)

// Causes of audits, as they stand in broker.DriftList.
const (
	auditStart     = "start"
	auditInterval  = "interval"
	auditReconnect = "reconnect"
	auditSettings  = "settings"
	auditAsked     = "asked"
)

// reasonComesBack says why drift is not healed any more.
const reasonComesBack = "comes-back"

// driftKeeper keeps the drift lists of a session's settings.
type driftKeeper struct {
	mu    sync.Mutex
	cause string // of an audit that is asked for
	by    map[schemas.Slug]*driftList
	// settled are the objects that were dealt with while an audit goes on.
	settled map[objectKey]bool
}

// driftList is what is known of one setting.
type driftList struct {
	head    broker.DriftList
	equal   map[schemas.Type]int
	owned   map[schemas.Type]int // that are in no entry
	entries map[objectKey]broker.PlanEntry
	// same are the objects that the last audit found equal: true while they are counted in
	// equal, false while they are in an entry.
	same  map[objectKey]bool
	dirty bool
}

// put lists an object. One that was found equal is not counted as that meanwhile.
func (l *driftList) put(key objectKey, e broker.PlanEntry) {
	if l.same[key] {
		l.same[key] = false
		l.equal[key.t]--
	}
	l.entries[key], l.dirty = e, true
}

// take takes an object from the list that has been dealt with. One that was found equal
// counts as that again, unless it was to be deleted.
func (l *driftList) take(key objectKey) {
	e, ok := l.entries[key]
	if !ok {
		return
	}
	if counted, was := l.same[key]; was && !counted && e.Act != string(decide.Delete) && e.Would != string(decide.Delete) {
		l.same[key] = true
		l.equal[key.t]++
	}
	delete(l.entries, key)
	l.dirty = true
}

// ask makes an audit of all settings due.
func (k *driftKeeper) ask(cause string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cause = cause
}

func (k *driftKeeper) asked() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.cause
	k.cause = ""
	return c
}

// list needs the lock.
func (k *driftKeeper) list(setting schemas.Slug) *driftList {
	if k.by == nil {
		k.by = map[schemas.Slug]*driftList{}
	}
	if k.by[setting] == nil {
		k.by[setting] = &driftList{entries: map[objectKey]broker.PlanEntry{}}
	}
	return k.by[setting]
}

// hold lists an object that would be changed and is not. What was left behind at its id
// by another one stays listed in its place as long as anything is there: it runs until
// somebody acts.
func (k *driftKeeper) hold(setting schemas.Slug, e broker.PlanEntry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.list(setting)
	was := l.entries[keyOf(e)]
	if was.Reason == string(decide.LeftBehind) && (was.Source != e.Source || was.ID != e.ID) && e.Difference != broker.OnlySource {
		return
	}
	l.put(keyOf(e), e)
}

// begin notes from now on what is dealt with, see replace.
func (k *driftKeeper) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.settled = map[objectKey]bool{}
}

// wasSettled tells whether an object was dealt with since the audit began.
func (k *driftKeeper) wasSettled(key objectKey) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.settled[key]
}

// lookAgain forgets that an object was dealt with: what is found out from now on counts.
func (k *driftKeeper) lookAgain(key objectKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.settled, key)
}

// replace puts what an audit found in place of what was known. What was dealt with after
// the audit looked at it is not listed again; stays tells of an entry that came meanwhile
// whether it is to. It returns how much drift there was and is.
func (k *driftKeeper) replace(setting schemas.Slug, with driftList, stays func(objectKey, broker.PlanEntry) bool) (before, now int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(with.entries, func(key objectKey, _ broker.PlanEntry) bool { return k.settled[key] })
	l := k.list(setting)
	for key, e := range l.entries { // held while the listing ran
		if stays(key, e) {
			with.put(key, e)
		}
	}
	before = drifted(l.entries)
	with.dirty = true
	*l = with
	return before, drifted(with.entries)
}

// orphansNamed is how many orphans a status names.
const orphansNamed = 5

// say puts what a setting's list tells into its status.
func (k *driftKeeper) say(setting schemas.Slug, st *SettingStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.by[setting]
	if l == nil {
		return
	}
	for _, e := range l.entries {
		switch {
		case e.IsHeldDeletion():
			st.DeletesHeld++
		case e.Reason == string(decide.OnGrace):
			st.InGrace++
		case e.Reason == string(decide.Orphan):
			st.Orphans++
			st.OrphanNames = append(st.OrphanNames, string(e.Type)+"/"+string(e.ID))
		}
	}
	slices.Sort(st.OrphanNames)
	st.OrphanNames = st.OrphanNames[:min(len(st.OrphanNames), orphansNamed)]
}

// settle takes an object from the lists: it has been dealt with.
func (k *driftKeeper) settle(key objectKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.settled != nil {
		k.settled[key] = true
	}
	for _, l := range k.by {
		l.take(key)
	}
}

type healKey struct {
	setting schemas.Slug
	objectKey
}

// healed is a drift that was healed.
type healed struct {
	version  schemas.Version
	atTarget schemas.Digest
	times    int
}

// audits compares the target with its sources: at the start, every 15 minutes, when the
// target is back, when a setting changed, and when somebody asks. It keeps the drift
// lists.
func (s *session) audits(ctx context.Context) {
	a := &auditor{session: s, audited: map[schemas.Slug]string{}, healed: map[healKey]healed{}, dangling: map[schemas.Slug]int{}, begun: map[schemas.Slug]time.Time{}, notBefore: map[schemas.Slug]time.Time{}, failed: map[schemas.Slug]int{}}
	tick := time.NewTicker(auditLook)
	defer tick.Stop()
	s.drift.ask(auditStart)
	due := map[schemas.Slug]string{}
	away := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v, _ := s.current()
		shut, _, _ := s.gate.state()
		if away && !shut {
			s.drift.ask(auditReconnect)
		}
		away = shut
		asked := s.drift.asked()
		for id, set := range v.settings {
			_, waits := due[id]
			switch {
			case asked != "":
				due[id] = asked
				delete(a.notBefore, id)
			case waits:
			case a.audited[id] != followed(set):
				due[id] = auditSettings
			case time.Since(a.begun[id]) >= auditEvery:
				due[id] = auditInterval
			}
			if cause := due[id]; cause != "" && !time.Now().Before(a.notBefore[id]) && a.mayBegin(set) {
				delete(due, id)
				a.audited[id], a.begun[id] = followed(set), time.Now()
				if a.audit(ctx, v, set, cause) {
					delete(a.failed, id)
				} else {
					due[id], a.notBefore[id] = cause, time.Now().Add(min(auditEvery, auditAgain<<a.failed[id]))
					a.failed[id] = min(a.failed[id]+1, 10)
				}
			}
		}
		for id := range due {
			if _, ok := v.settings[id]; !ok {
				delete(due, id)
			}
		}
		a.save(ctx, v)
	}
}

type auditor struct {
	*session
	audited map[schemas.Slug]string // see followed
	begun   map[schemas.Slug]time.Time
	// notBefore is when an audit that failed may be tried again, failed how often it has.
	notBefore map[schemas.Slug]time.Time
	failed    map[schemas.Slug]int
	healed    map[healKey]healed
	dangling  map[schemas.Slug]int // how many references of a setting's objects were, last
	rested    time.Time
}

// mayBegin tells whether an audit makes sense now: the target answers, and what is known
// to be done is done, or has been waiting for long.
func (a *auditor) mayBegin(set broker.StoredSetting) bool {
	if shut, _, _ := a.gate.state(); shut || !a.isCompared(set) {
		a.rested = time.Time{}
		return false
	}
	if a.lanes.count() == 0 {
		a.rested = time.Time{}
		return true
	}
	if a.rested.IsZero() {
		a.rested = time.Now()
	}
	return time.Since(a.rested) >= auditPatience
}

// audit compares what one setting takes; false where that failed.
func (a *auditor) audit(ctx context.Context, v *view, set broker.StoredSetting, cause string) bool {
	y := &survey{session: a.session, v: v, set: set, occasion: decide.Audit, same: map[objectKey]bool{},
		takes: func(t schemas.Type, o schemas.Selected) bool { return set.Rights(t, o).Use() }}
	for _, t := range set.TakenTypes() {
		if visualcron.Supported(t) {
			y.types = append(y.types, t)
		}
	}
	head := broker.DriftList{Setting: set.ID, SettingRevision: set.Revision, Source: set.Source, Target: set.Target, Cause: cause}
	failed := func(err error) { // what was known stays
		if ctx.Err() != nil {
			return
		}
		if Judge(err, 0, 0).Fate == TargetDown {
			a.gate.down(err) // it is audited again when it is back
		}
		a.log.WarnContext(ctx, "the target could not be compared with its source; that is tried again", "setting", set.ID, "error", err)
		a.drift.mu.Lock()
		l := a.drift.list(set.ID)
		head.Began, head.Failed = l.head.Began, err.Error()
		l.head, l.dirty = head, true
		a.drift.mu.Unlock()
	}
	a.drift.begin()
	if err := y.make(ctx); err != nil || ctx.Err() != nil {
		failed(err)
		return false
	}
	head.Began, head.Warnings = y.began.UTC(), y.dangling
	busy, _ := a.lanes.holds("")
	entries := map[objectKey]broker.PlanEntry{}
	now := map[objectKey]bool{}
	var todo []objectKey
	for _, e := range y.entries {
		key := keyOf(e)
		now[key] = true
		act := decide.Act(e.Act)
		switch {
		case e.Reason == string(decide.LeftBehind): // whatever a lane does there
		case busy[key] && !a.lanes.isShut(key):
			continue // it is being dealt with
		case !act.Writes() && act != decide.Adopt && !a.movedSince(key, y.began) && !a.drift.wasSettled(key):
			// What is only held or left alone is as it was listed: asking again for each of
			// many objects would take longer than one audit may.
		case e.Difference != broker.OnlyTarget || act != decide.Nothing:
			// A lane may have written it after it was listed.
			a.drift.lookAgain(key)
			again, err := y.evaluate(ctx, key, nil, true)
			if err != nil {
				failed(err)
				return false
			}
			if again == nil {
				continue
			}
			if y.isSettled(*again) {
				if again.Act = string(decide.Nothing); again.Difference == broker.Owned {
					entries[key] = *again
				}
				continue
			}
			e = *again
			act = decide.Act(e.Act)
		}
		if act.Writes() || act == decide.Adopt {
			if act.Writes() && !a.mayHeal(set.ID, key, e) {
				e.Act, e.Would, e.Reason = string(decide.Hold), e.Act, reasonComesBack
				e.Why = "it was healed three times, and differs again in the same way: somebody or something at the target changes it"
				entries[key] = e
				continue
			}
			todo = append(todo, key)
		}
		if act != decide.Adopt {
			entries[key] = e
		}
	}
	maps.DeleteFunc(a.healed, func(k healKey, _ healed) bool { return k.setting == set.ID && !now[k.objectKey] }) // it stayed
	before, n := a.drift.replace(set.ID, driftList{head: head, equal: y.equal, owned: y.owned, entries: entries, same: y.same}, func(key objectKey, e broker.PlanEntry) bool {
		if from, ok := v.origin(e.Source, key.t, key.id, nil); !ok || from != e.ID {
			return false // by the pins it belongs to another id since it was held here
		}
		if !y.takes(e.Type, schemas.Selected{ID: e.ID, Name: e.Name, Group: e.Group}) {
			return false // nor does the setting hold what it takes no more
		}
		if entries[key].Reason == string(decide.LeftBehind) {
			return false // what is held is in its reason
		}
		why, left := a.leftAlone(key, e.Source, e.ID, e.Version)
		return left && (entries[key].Act == "" || entries[key].Version.Compare(e.Version) < 0) && why.Act != decide.Nothing
	})
	for _, key := range todo { // what is done is taken from the list, so that stands first
		a.wishFor(key, &wish{})
	}
	if len(y.dangling) > 0 && len(y.dangling) != a.dangling[set.ID] {
		a.log.WarnContext(ctx, "objects at the target refer to what is not there, see vcsync drift", "setting", set.ID, "first", y.dangling[0], "references", len(y.dangling))
	}
	a.dangling[set.ID] = len(y.dangling)
	if n > 0 && n != before {
		a.log.WarnContext(ctx, "drift: objects at the target are not what the setting would make of them, see the drift list", "setting", set.ID, "objects", n)
	}
	return true
}

// movedSince tells whether something was put on record of an object after that moment.
func (a *auditor) movedSince(key objectKey, at time.Time) bool {
	e, ok := a.ledger.Get(key.t, key.id)
	return ok && e.At.After(at)
}

// drifted counts the entries that are more than what the setting leaves to the target.
func drifted(entries map[objectKey]broker.PlanEntry) int {
	n := 0
	for _, e := range entries {
		if e.Difference != broker.Owned {
			n++
		}
	}
	return n
}

// mayHeal tells whether drift may be healed, and counts it. What is no drift but a
// version on its way is not counted.
func (a *auditor) mayHeal(setting schemas.Slug, key objectKey, e broker.PlanEntry) bool {
	r, ok := a.ledger.Get(key.t, key.id)
	if !ok || r.Source != e.Source || r.Version != e.Version {
		return true
	}
	k := healKey{setting, key}
	h := a.healed[k]
	if h.version != e.Version || h.atTarget != e.AtTarget {
		h = healed{version: e.Version, atTarget: e.AtTarget}
	}
	if h.times >= healMost {
		return false
	}
	h.times++
	a.healed[k] = h
	return true
}

// save stores the drift lists that changed.
func (a *auditor) save(ctx context.Context, v *view) {
	type list struct {
		head    broker.DriftList
		entries []broker.PlanEntry
	}
	var all []list
	a.drift.mu.Lock()
	for id, l := range a.drift.by {
		set, ok := v.settings[id]
		if !ok {
			delete(a.drift.by, id)
			continue
		}
		if !l.dirty {
			continue
		}
		l.dirty = false
		h := l.head
		h.ID, h.Setting, h.SettingRevision, h.Source, h.Target, h.Updated = nuid.Next(), id, set.Revision, set.Source, set.Target, time.Now().UTC()
		var entries []broker.PlanEntry
		for _, e := range l.entries {
			entries = append(entries, e)
		}
		slices.SortFunc(entries, func(a, b broker.PlanEntry) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
		})
		h.Counts = countEntries(l.equal, l.owned, entries)
		all = append(all, list{h, entries})
	}
	a.drift.mu.Unlock()
	for _, l := range all {
		if err := a.cfg.Broker.PutDrift(ctx, l.head, l.entries); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "a drift list cannot be stored; trying again", "setting", l.head.Setting, "error", err)
			a.drift.mu.Lock()
			if have := a.drift.by[l.head.Setting]; have != nil {
				have.dirty = true
			}
			a.drift.mu.Unlock()
		}
	}
}
