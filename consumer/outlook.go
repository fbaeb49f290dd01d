package consumer

import (
	"maps"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Outlook is what is stored about one object for one target. Look says what a look at the
// object would come to, with the code of the apply path, and asks no server.
type Outlook struct {
	// Snapshot holds the sync settings and what servers said of their versions.
	Snapshot broker.Snapshot
	Target   schemas.Slug
	Type     schemas.Type
	// ID is the object's at the target.
	ID schemas.ID
	// Also is a sync setting that counts as if it were on and waited for no listing; empty
	// for none.
	Also schemas.Slug
	// Newest are the newest events of the object at its sources.
	Newest []broker.Newest
	// Entry is what is on record of it at the target, Parked what is parked there; nil for
	// nothing.
	Entry  *broker.Entry
	Parked *broker.Parked
}

// Foresight is what a look would come to.
type Foresight struct {
	decide.Decision
	// Why says it to people.
	Why string
	// Setting is the sync setting that has the say, Source the server whose object is
	// followed; empty where no setting takes it.
	Setting schemas.Slug
	Source  schemas.Slug
	// Opens is when the sync window opens that it waits for.
	Opens time.Time
}

// view is the view of the target as a Manager makes it.
func (o Outlook) view() *view {
	snap := o.Snapshot
	v := &view{settings: map[schemas.Slug]broker.StoredSetting{}, release: visualcron.Release(snap.Versions[o.Target]), releases: map[schemas.Slug]string{}, safe: snap.SafeMode.On, verdicts: snap.VerdictsAt(o.Target)}
	for id, s := range snap.Settings {
		awaits := slices.Collect(maps.Keys(snap.Awaits(s)))
		if id == o.Also {
			awaits = nil
		}
		if s = without(s, awaits); s.Target != o.Target || !s.Active && id != o.Also || len(s.TakenTypes()) == 0 {
			continue
		}
		v.settings[id] = s
		v.releases[s.Source] = visualcron.Release(snap.Versions[s.Source])
	}
	return v
}

// Look says what would become of the object if the target had that of it. Of a job that
// deletes itself, of another home and of what was edited there, only a look at the target
// itself knows.
func (o Outlook) Look(at decide.Target) Foresight {
	v := o.view()
	l := &look{key: objectKey{o.Type, o.ID}, session: &session{target: &target{}, parked: newParkedSet(nil, o.Target)}}
	if o.Parked != nil {
		l.parked.by[o.Parked.Key()] = *o.Parked
		l.hand = *o.Parked
	}
	l.info.Version = o.Snapshot.Versions[o.Target]
	var all, back []candidate
	out := Foresight{Decision: decide.Decision{Act: decide.Nothing, Reason: decide.NotFromHere}}
	for _, src := range v.sources(nil) {
		from, ok := v.origin(src, o.Type, o.ID, nil)
		i := slices.IndexFunc(o.Newest, func(n broker.Newest) bool { return n.Key.Source == src && n.ID == from })
		if !ok || i < 0 {
			continue
		}
		ev := eventOf(o.Newest[i].Head)
		tm := v.terms(src, o.Type, ev.Selected(), nil)
		if !tm.rights.Use() {
			out.Reason = decide.NotSelected
			continue
		}
		if slices.Contains(ev.Path(), o.Target) {
			if back = append(back, candidate{ev, tm}); tm.edits == schemas.OverwriteEdits {
				out.Reason = decide.CameFromHere
			}
			continue
		}
		all = append(all, candidate{ev, tm})
	}
	entry, known := broker.Entry{}, o.Entry != nil
	if known {
		entry = *o.Entry
	}
	c := candidate{}
	switch {
	case len(all) > 0:
		var err error
		if c, err = v.pick(l.key, nil, all, entry, known); err != nil {
			out.Decision, out.Why = decide.Decision{Act: decide.Park, Reason: decide.Conflict}, err.Error()
			out.Setting, out.Source = c.terms.setting, c.event.Source
			return out
		}
	case len(back) == 1 && out.Reason != decide.CameFromHere:
		c, l.cameFromHere = back[0], true
	default:
		if len(v.settings) == 0 {
			out.Reason = decide.NotSelected
		}
		out.Why = out.Reason.Text()
		return out
	}
	l.event = c.event
	sit := l.situation(entry, known, v, c.terms)
	sit.Target = at
	sit.Rejected = v.isRejected(c.event)
	if set, ok := v.deleter(c.terms, nil); ok && known {
		sit.Grace, l.graceEnds = graceOf(o.Type, entry, set, time.Now())
	}
	sit.Beyond = known && !entry.Held.IsZero() && entry.Held == c.event.Version
	sit.WindowShut, out.Opens = l.window(v, c.terms, sit)
	out.Decision = l.decide(sit, c.terms)
	if out.Reason == decide.OnGrace {
		out.Opens = l.graceEnds
	}
	out.Setting, out.Source, out.Why = l.setting, c.event.Source, out.Reason.Text()
	return out
}

// eventOf is an event without its body, as the decision needs it.
func eventOf(h schemas.Head) schemas.Event {
	return schemas.Event{Source: h.Key.Source, Kind: h.Kind, Version: h.Version, Digest: h.Digest, BaseDigest: h.BaseDigest, OriginPath: h.OriginPath, Who: h.Who,
		RemovedItself: h.RemovedItself, Time: h.Time, Object: schemas.Object{Type: h.Key.Type, ID: h.ID, Name: h.Name, Group: h.Group}}
}
