package consumer

import (
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// wish is what a run or an audit wants of one object beside what the live path does. It
// is fulfilled by the object's own lane, as everything is.
type wish struct {
	// setting, run and plan name the approved plan of which this is an entry; setting is
	// empty where an audit wants drift healed.
	setting   schemas.Slug
	run, plan string
	entry     broker.PlanEntry
	// sent tells that a write of it was sent, sending that what came of that is not known
	// yet. Both are the session's to guard.
	sent, sending bool
	// given is what a pass did with the object that a run at a server undoes.
	given broker.Undone
	// left is what the target said that a write left, where that was not what was sent.
	left schemas.Digest
	// expired tells that the approval is too old to begin now; nil for an audit's.
	expired func() bool
	// done is told what became of it, once.
	done func(o broker.Outcome, why string)
}

// wants is what a look knows of the wish for its object, or of the plan that it is made
// for.
type wants struct {
	// occasion is why the object is looked at.
	occasion decide.Occasion
	// run is the run whose setting counts too, whether or not it is active.
	run *running
	// took is the wish that this look fulfils, grant the same where it is an approval
	// that still holds.
	took, grant *wish
	outcome     broker.Outcome
	why         string
	// saw is the last decision, recorded tells that the ledger has what came of it.
	saw      decide.Decision
	recorded bool

	// shown makes the look say what would be done, and do nothing. Listed is what the
	// target's listing held, nil for absent; unlisted tells that there was none.
	shown    *broker.PlanEntry
	refs     []visualcron.Reference
	listed   []byte
	unlisted bool
	// owned are the places in which the target differs on purpose, points those that name
	// a server of the fleet; both for shown.
	owned  []string
	points []visualcron.Points
	// planned are the deletions that a plan holds already, by the setting that they count
	// for, and after the objects that are to go before the look's.
	planned map[objectKey]schemas.Slug
	after   []objectKey
	// opens is when the window opens next, zero where it is open or that is not to be
	// seen.
	opens time.Time
}

// wishFor makes a lane fulfil a wish, after those that it has. An audit's adds nothing to
// others, and a run's takes its place: it may go where that waits.
func (s *session) wishFor(key objectKey, w *wish) { s.wishAll(staged{key, w}) }

// wishAll is wishFor for several, of which each look knows all.
func (s *session) wishAll(all ...staged) {
	for _, x := range all {
		s.note(x.key, x.wish)
	}
	for _, x := range all {
		s.lanes.nudge(x.key) // the wish may go through another window
		s.lanes.look(x.key, nil, nil, false)
	}
}

func (s *session) note(key objectKey, w *wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.wishes[key]
	if w.setting != "" {
		have = slices.DeleteFunc(have, func(o *wish) bool { return o.setting == "" })
	}
	if w.setting != "" || len(have) == 0 {
		s.wishes[key] = append(have, w)
	}
}

// isWished tells whether a run or an audit wants something of an object.
func (s *session) isWished(key objectKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wishes[key]) > 0
}

// unwish takes a wish back; false where it is fulfilled already. Nothing is sent for it
// from then on.
func (s *session) unwish(key objectKey, w *wish) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.wishes[key]
	i := slices.Index(have, w)
	if i < 0 {
		return false
	}
	if s.wishes[key] = slices.Delete(have, i, i+1); len(have) == 1 {
		delete(s.wishes, key)
	}
	return true
}

// isSending tells whether a write was sent for a wish of which nothing is known yet.
func (s *session) isSending(w *wish) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.sending
}

// wasSent tells whether a write was sent for a wish.
func (s *session) wasSent(w *wish) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.sent
}

// sends notes that a write is sent now; false where the wish that it is for was taken
// back.
func (l *look) sends() bool {
	if l.grant == nil {
		return true
	}
	l.session.mu.Lock()
	defer l.session.mu.Unlock()
	if !slices.Contains(l.wishes[l.key], l.grant) {
		return false
	}
	l.grant.sent, l.grant.sending, l.grant.left = true, true, ""
	return true
}

// sentOnce notes that a look is over, whatever came of what it sent.
func (l *look) sentOnce() {
	if l.took == nil {
		return
	}
	l.session.mu.Lock()
	l.took.sending = false
	l.session.mu.Unlock()
}

// take takes up the wish for the object, under one view of the settings (G13).
func (l *look) take(v *view) {
	if l.shown != nil {
		return
	}
	var w *wish
	l.session.mu.Lock()
	if all := l.wishes[l.key]; len(all) > 0 {
		w = all[0]
	}
	l.session.mu.Unlock()
	l.occasion, l.run, l.grant, l.recorded = decide.Live, nil, nil, false
	if w == nil || w == l.took && l.outcome != "" {
		return // nothing more comes of it
	}
	l.took, l.outcome, l.why = w, "", ""
	if w.setting == "" {
		l.occasion = decide.Audit
		return
	}
	if !l.session.wasSent(w) && w.expired() {
		if l.refuse(broker.OutcomeExpired, ""); l.isDone(w.entry) {
			l.outcome = broker.OutcomeDone
		}
		return
	}
	if r, ok := v.runs[w.setting]; ok && r.holds() && r.run.Phase == broker.RunApplying && r.run.ID == w.run && r.run.Plan == w.plan {
		l.occasion, l.run, l.grant = r.occasion(), &r, w
		return
	}
	l.refuse(broker.OutcomeLeft, "the run is over, or the settings were changed")
}

// holds tells whether the setting is the one under which the run was asked for.
func (r running) holds() bool { return r.set.Revision == r.run.SettingRevision }

// fits tells whether an event is the one that was approved.
func (w *wish) fits(ev *schemas.Event) bool {
	return ev != nil && ev.Source == w.entry.Source && ev.Version == w.entry.Version
}

// refuse notes why the approved entry is not done as it was planned. What the settings
// want without an approval is done all the same.
func (l *look) refuse(o broker.Outcome, why string) {
	l.outcome, l.why, l.grant = o, why, nil
}

// isGranted tells whether what is decided now is what was approved; always without an
// approval. G14: where the plan showed something else, that is said and not done.
func (l *look) isGranted(d decide.Decision, wanted, atTarget schemas.Digest) bool {
	if l.grant == nil || d.Act == decide.Adopt {
		return true
	}
	e, sent := l.grant.entry, l.session.wasSent(l.grant)
	switch {
	case atTarget == e.AtTarget, sent && l.grant.left != "" && atTarget == l.grant.left:
	case sent:
		l.refuse(broker.OutcomeTarget, "a write of this run was sent, and the target holds neither what it held before nor what that left")
		return false
	default:
		l.refuse(broker.OutcomeTarget, "")
		return false
	}
	switch {
	case d.Act == decide.Wait || d.Act == decide.Park:
		return true
	case !d.Act.Writes() && l.isDone(e):
		l.refuse(broker.OutcomeDone, "")
	case !d.Act.Writes():
		l.refuse(broker.OutcomeOther, l.whyHeld(d))
	case !sent && string(d.Act) != e.Act || wanted != e.Wanted:
		l.refuse(broker.OutcomeOther, "what would be written is not what the plan showed")
	default:
		return true
	}
	return false
}

// isDone tells whether what an entry of a plan says is on record as done: by the holder
// of the target before this one, which could not say so any more.
func (s *session) isDone(e broker.PlanEntry) bool {
	if e.Stage > 0 {
		return false // what was there before an undo tells nothing of it
	}
	key := keyOf(e)
	r, known := s.ledger.Get(key.t, key.id)
	switch {
	case !known || !isOf(r, e.Source, e.ID) || r.Version != e.Version:
		return false
	case e.Act == string(decide.Delete):
		return r.State == broker.Removed
	}
	return r.State == broker.Applied || r.State == broker.Adopted
}

// decide asks package decide, and notes what it said and by which setting.
func (l *look) decide(s decide.Situation, tm terms) decide.Decision {
	var modes []decide.Situation
	var settings []schemas.Slug
	for t := &tm; t != nil; t = t.next {
		s.Rights, s.Mode, s.Drift, s.TargetEdits = t.rights, t.mode, t.drift(), t.edits
		modes, settings = append(modes, s), append(settings, t.setting)
	}
	var by int
	l.saw, by = decide.Among(modes)
	l.setting = settings[by]
	return l.saw
}

// weigh stands between what was decided with the target's own and what is done: a look
// for a plan ends here, done, and one whose approval does not fit begins anew, stale.
// What is held back is listed. Want is the normal form of what the target would hold,
// now of what it holds.
func (l *look) weigh(d decide.Decision, s decide.Situation, want, now visualcron.Normal, have []byte) (done, stale bool) {
	if l.shown != nil {
		*l.shown = l.entryOf(d, s, want, now, have)
		return true, false
	}
	if !l.isGranted(d, want.Digest, now.Digest) {
		return false, true
	}
	if d.Act == decide.Hold || d.Act == decide.Wait {
		l.session.drift.hold(l.setting, l.entryOf(d, s, want, now, have))
	}
	return false, false
}

// fulfil says what became of the wish that the look took up. It is called when the look
// is over: it is done, or parked because of err.
func (l *look) fulfil(err error) {
	w := l.took
	if w != nil && !l.unwish(l.key, w) {
		w = nil // taken back
	}
	if l.recorded {
		l.session.drift.settle(l.key)
	}
	if l.isWished(l.key) {
		l.lanes.look(l.key, nil, nil, false)
	}
	if w == nil || w.done == nil {
		return
	}
	switch {
	case l.outcome != "":
	case err != nil:
		l.outcome, l.why = broker.OutcomeParked, err.Error()
	case l.recorded, w.setting != "" && l.isDone(w.entry):
		l.outcome = broker.OutcomeDone
	default:
		l.outcome, l.why = broker.OutcomeOther, l.saw.Reason.Text()
	}
	w.done(l.outcome, l.why)
}

// changes returns the values of what differs. Secrets are hidden, also where they stand
// within other fields.
func (l *look) changes(now, want visualcron.Normal, have []byte) (out []broker.FieldChange) {
	secrets := slices.Concat(l.secrets, visualcron.Secrets(l.key.t, have))
	for _, c := range visualcron.Changes(now, want, 8, func(s string) string { return hide(s, secrets) }) {
		out = append(out, broker.FieldChange{Field: c.Field, Old: shortened(c.Old), New: shortened(c.New)})
	}
	return out
}

// shortened returns a value as a plan tells it, cut after 160 characters.
func shortened(v []byte) string {
	const most = 160
	text := []rune(strings.ToValidUTF8(string(v), "\uFFFD"))
	if len(text) > most {
		return string(text[:most-3]) + "..."
	}
	return string(text)
}

// entryOf says what was decided. Want is the normal form of what the target would hold,
// now of what it holds.
func (l *look) entryOf(d decide.Decision, s decide.Situation, want, now visualcron.Normal, have []byte) broker.PlanEntry {
	ev := l.event
	e := broker.PlanEntry{Type: l.key.t, ID: ev.Object.ID, TargetID: otherID(l.key.id, ev.Object.ID), Name: ev.Object.Name, Group: ev.Object.Group, Act: string(d.Act), Would: string(d.Would),
		Reason: string(d.Reason), Why: l.whyOf(d), Source: ev.Source, Version: ev.Version, Wanted: want.Digest, AtTarget: now.Digest}
	switch {
	case s.Target == decide.Equal && len(l.owned) > 0:
		e.Difference, e.Fields = broker.Owned, l.owned
	case s.Source == decide.Deleted && have == nil, s.Target == decide.Equal:
		e.Difference = broker.Equal
	case s.Source == decide.Deleted:
		e.Difference = broker.OnlyTarget
	case have == nil:
		e.Difference = broker.OnlySource
	default:
		e.Difference = broker.Different
		e.Fields = visualcron.Differences(now, want, 8)
		if l.shown != nil && l.run != nil && l.run.run.Fields {
			e.Changed = l.changes(now, want, have)
		}
	}
	if d.Reason == decide.Airlock || d.Reason == decide.InUse {
		for _, user := range l.keeping {
			e.UsedBy = append(e.UsedBy, broker.RunObject{Type: user.t, ID: user.id})
		}
	}
	if d.Act == decide.Wait {
		e.Opens = l.opens.UTC()
	}
	if s.Edited && (d.Act.Writes() || d.Act == decide.Wait || d.Reason == decide.NeedsApproval) { // whoever approves it throws somebody's work away
		e.Why += "; somebody edited or deleted it at the target since vcsync left it there"
	}
	if can, asked := l.capability(l.key.t); asked && (d.Act == decide.Delete && !can.Delete || d.Act != decide.Delete && d.Act.Writes() && !can.Put) {
		e.Act, e.Would, e.Reason, e.Why = string(decide.Park), string(d.Act), "unsupported", "the target cannot do that with objects of this type"
	}
	return e
}
