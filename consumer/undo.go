package consumer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// given is what a run at a server gives an object to become: what was there before a pass,
// or an older version.
type given struct {
	// first and last are what the pass did with the object; zero where no pass is undone.
	first, last broker.Done
	// gone: there shall be none. Body is what there shall be, its secrets open.
	gone        bool
	body        []byte
	composition visualcron.Composition
	// version, source and name are of the object for people.
	version schemas.Version
	source  schemas.Slug
	id      schemas.ID // at the source
	name    string
	// revert is the older version that is brought back; zero where a pass is undone.
	revert broker.RunRevert
	event  schemas.Event
	own    string // of a revert at a target, as broker.Entry.Own
}

// comparison is how an object at a target compares with what it is given to become.
type comparison struct {
	made      visualcron.Composed
	now, want visualcron.Normal
	sit       decide.Undoing
}

// giveBack reads what was at the target before a pass touched an object.
func (s *session) giveBack(ctx context.Context, u broker.Undone) (given, error) {
	g := given{first: u.First, last: u.Last, gone: u.First.Before == "", version: u.Last.Version, source: u.Last.Source, id: u.Last.From(), name: cmp.Or(u.First.Name, u.Last.Name)}
	if g.gone {
		return g, nil
	}
	d, err := s.cfg.Broker.DoneObject(ctx, u.First.Seq)
	if err != nil {
		return g, err
	}
	g.body, err = s.openBody(d.Target, d.Type, d.ID, d.Object)
	g.composition = visualcron.Composition{Policy: schemas.Follow, Values: true, Withholds: d.Object.Withholds, Withheld: d.Object.Withheld}
	return g, err
}

// giveVersion reads an older version of an object.
func (s *session) giveVersion(ctx context.Context, v *view, r broker.RunRevert) (given, error) {
	ev, err := s.cfg.Broker.EventAt(ctx, r.Seq)
	if err != nil {
		return given{}, fmt.Errorf("version %s of %s %s is not kept any more: %w", r.Version, r.Type, r.ID, err)
	}
	if ev.Source != r.Source || ev.Object.Type != r.Type || ev.Object.ID != r.ID || ev.Version != r.Version || ev.Object.Body == nil {
		return given{}, fmt.Errorf("event %d is not version %s of %s %s with a body", r.Seq, r.Version, r.Type, r.ID)
	}
	g := given{version: ev.Version, source: ev.Source, id: ev.Object.ID, name: ev.Object.Name, revert: r, event: ev}
	g.body, err = s.openBody(ev.Source, ev.Object.Type, ev.Object.ID, ev.Object)
	g.composition = visualcron.Composition{Policy: schemas.Follow, Withholds: ev.Object.Withholds, Withheld: ev.Object.Withheld}
	if r.Setting != "" {
		set, ok := v.settings[r.Setting]
		if !ok {
			return g, fmt.Errorf("sync setting %s is not in force any more", r.Setting)
		}
		g.composition.Policy, g.composition.Values = set.Policy, set.VariableValues
		g.composition.Own, g.own = v.ownOf(ev.Source, r.Type, r.ID, nil)
	}
	return g, err
}

func (s *session) openBody(source schemas.Slug, t schemas.Type, id schemas.ID, o schemas.Object) ([]byte, error) {
	return visualcron.OpenBody(o.Body, o.Sealed, func(pointer, sealed string) (string, error) {
		return s.cfg.Broker.Keys.Open(schemas.SealContext(source, t, id, pointer), sealed)
	})
}

// pauses tells whether the object is paused once it is as given: where an undo is undone,
// it is as it was before that one.
func (g given) pauses() bool {
	if g.revert.Seq > 0 {
		return g.revert.Setting != ""
	}
	return !g.first.Pauses && !g.first.Unrecorded
}

// recorded tells whether the ledger says what was done: not of what is written at a source
// as a change of its own.
func (g given) recorded() bool {
	if g.revert.Seq > 0 {
		return g.revert.Setting != ""
	}
	return !g.first.Unrecorded
}

// compareGiven composes what the target shall hold, and compares it with what it has.
func (s *session) compareGiven(g given, t schemas.Type, can visualcron.Capability, have []byte) (x comparison, err error) {
	full := visualcron.View{Secrets: can.Secrets, Values: true, Digest: s.cfg.Broker.Keys.Digest}
	x.sit = decide.Undoing{Target: decide.Absent, Gone: g.gone, Anything: g.revert.Seq > 0}
	if have != nil {
		x.sit.Target = decide.Different
		if x.now, err = full.Normalize(t, have); err != nil {
			return x, fmt.Errorf("the target's own: %w", err)
		}
		x.sit.BuiltIn = x.now.BuiltIn
	}
	x.sit.AsLeft = x.now.Digest == g.last.After
	x.sit.OtherSecrets = g.last.Secrets != string(can.Secrets)
	if g.gone {
		return x, nil
	}
	c := g.composition
	c.Secrets = can.Secrets
	if x.made, err = visualcron.Compose(t, g.body, have, c); err != nil {
		return x, err
	}
	if x.want, err = full.Normalize(t, x.made.Body); err != nil {
		return x, err
	}
	x.sit.BuiltIn, x.sit.RemovesItself = x.sit.BuiltIn || x.want.BuiltIn, x.want.RemovesItself
	if have != nil && x.now.Digest == x.want.Digest {
		x.sit.Target = decide.Equal
	}
	return x, nil
}

// inUse is what stands at a target: what refers to what, and what is there.
type inUse struct {
	users   referrers
	names   map[objectKey]string
	present map[objectKey]bool
	bodies  map[objectKey][]byte // of the objects that were asked for
	unknown []string             // types that the target does not list
}

// listUses lists everything at the target; wanted are the objects of which bodies are kept.
func (s *session) listUses(ctx context.Context, wanted map[objectKey]bool) (u inUse, err error) {
	done, err := s.listing.take(ctx)
	if err != nil {
		return u, err
	}
	defer done()
	u = inUse{referrers{}, map[objectKey]string{}, map[objectKey]bool{}, map[objectKey][]byte{}, nil}
	for _, t := range schemas.Types() {
		can, asked := s.capability(t)
		if !visualcron.Supported(t) || !asked {
			continue
		}
		if !can.List {
			if can.Get || can.Put {
				u.unknown = append(u.unknown, string(t))
			}
			continue
		}
		complete, err := s.conn.List(ctx, t, func(r visualcron.Row) error {
			key := objectKey{t, r.ID}
			u.present[key] = true
			if wanted[key] {
				u.bodies[key] = bytes.Clone(r.Body)
			}
			refs, err := visualcron.References(t, r.Body)
			if err != nil {
				return nil // it cannot be read, and refers to nothing that anybody knows
			}
			n, _ := visualcron.View{Digest: s.cfg.Broker.Keys.Digest}.Normalize(t, r.Body)
			u.users.add(key, refs)
			u.names[key] = cmp.Or(n.Name, string(r.ID))
			return nil
		})
		if err != nil {
			return u, err
		}
		if !complete.IsComplete() || complete.Type() != t {
			return u, &visualcron.Error{Class: visualcron.BadAnswer, Op: "list", Server: s.server.ID, Type: t, Detail: "the listing is not proven to be complete"}
		}
	}
	return u, nil
}

// undoing is one object of a plan of a run at a server.
type undoing struct {
	key  objectKey
	g    given
	x    comparison
	d    decide.Decision
	refs []visualcron.Reference // of what it shall become
	why  string
}

// planAct makes the plan of a run at a server.
func (s *session) planAct(ctx context.Context, y *survey) error {
	r := *y.run
	if err := s.probe(ctx); err != nil {
		return err
	}
	all, err := s.givenBy(ctx, y.v, r)
	if err != nil {
		return err
	}
	wanted := map[objectKey]bool{}
	for key := range all {
		wanted[key] = true
	}
	y.began = time.Now()
	u, err := s.listUses(ctx, wanted)
	if err != nil {
		return err
	}
	for _, t := range u.unknown {
		y.warnings = append(y.warnings, fmt.Sprintf("%s does not list objects of type %s: whether they use what goes is not known", s.server.ID, t))
	}
	var objects []*undoing
	for _, key := range slices.SortedFunc(maps.Keys(all), func(a, b objectKey) int { return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.id, b.id)) }) {
		o := &undoing{key: key}
		if o.g, err = s.load(ctx, y.v, r, all[key]); err == nil {
			can, _ := s.capability(key.t)
			have := u.bodies[key]
			if have == nil && !can.List {
				req, cancel := context.WithTimeout(ctx, requestLimit)
				have, err = s.conn.Get(req, key.t, key.id)
				cancel()
				if visualcron.ClassOf(err) == visualcron.NotFound {
					have, err = nil, nil
				}
			}
			if err == nil {
				o.x, err = s.compareGiven(o.g, key.t, can, have)
			}
			if err == nil && !o.g.gone {
				o.refs, err = visualcron.References(key.t, o.x.made.Body)
			}
		}
		switch {
		case err == nil:
			o.x.sit.SafeMode = y.v.safe
			o.d = decide.Undo(o.x.sit)
		case errors.Is(err, broker.ErrLostBody), errors.Is(err, schemas.ErrEvent), errors.Is(err, broker.ErrRecord), errors.Is(err, visualcron.ErrBody):
			o.d, o.why = decide.Decision{Act: decide.Hold, Reason: decide.Unknown}, "what is to be brought back cannot be read: "+err.Error()
		default:
			return err
		}
		objects = append(objects, o)
	}
	s.settleUses(objects, u, r)
	for _, o := range objects {
		if err := y.add(s.actEntry(o, u, r)); err != nil {
			return err
		}
	}
	y.warnings = append(y.warnings, dangling(objects, u)...)
	return nil
}

// givenBy returns what a run at a server touches, by the ids there.
func (s *session) givenBy(ctx context.Context, v *view, r running) (map[objectKey]broker.Undone, error) {
	out := map[objectKey]broker.Undone{}
	if rev := r.run.Act.Revert; rev.Seq > 0 {
		id := rev.ID
		if rev.Setting != "" {
			id = v.home(rev.Source, rev.Type, rev.ID, nil)
		}
		out[objectKey{rev.Type, id}] = broker.Undone{}
		return out, nil
	}
	all, err := s.cfg.Broker.DoneBy(ctx, s.server.ID, r.run.Act.Undo)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, fmt.Errorf("nothing of pass %s at %s is kept: what was there before a write is kept for %d days, and no longer than there is room", r.run.Act.Undo, s.server.ID, int(broker.DoneAge/(24*time.Hour)))
	}
	for _, u := range all {
		if visualcron.Supported(u.First.Type) && r.run.Scope.Takes(u.First.Type, u.First.ID) {
			out[objectKey{u.First.Type, u.First.ID}] = u
		}
	}
	return out, err
}

// load reads what an object is to become.
func (s *session) load(ctx context.Context, v *view, r running, u broker.Undone) (given, error) {
	if r.run.Act.Revert.Seq > 0 {
		return s.giveVersion(ctx, v, r.run.Act.Revert)
	}
	return s.giveBack(ctx, u)
}

// settleUses holds the deletions of what is still used afterwards, and with a revert what
// refers to nothing.
func (s *session) settleUses(objects []*undoing, u inUse, r running) {
	by := map[objectKey]*undoing{}
	for _, o := range objects {
		by[o.key] = o
	}
	refersAfter := func(user objectKey, to []visualcron.Reference) bool {
		o := by[user]
		if o == nil || !o.d.Act.Writes() {
			return true
		}
		return o.d.Act != decide.Delete && slices.ContainsFunc(o.refs, func(ref visualcron.Reference) bool { return slices.Contains(to, ref) })
	}
	for again := true; again; {
		again = false
		for _, o := range objects {
			if o.d.Act != decide.Delete {
				continue
			}
			var names []string
			refs, err := namesOf(o.key, u.bodies[o.key])
			if err != nil { // what it is called by alone
				refs = []visualcron.Reference{{Type: o.key.t, ID: o.key.id}}
			}
			users := u.users.of(refs, o.key)
			for _, user := range users {
				if refersAfter(user, refs) {
					names = append(names, fmt.Sprintf("%s %q", user.t, u.names[user]))
				}
			}
			for _, other := range objects { // also what is only about to use it
				if other.key != o.key && other.d.Act.Writes() && other.d.Act != decide.Delete && refersAfter(other.key, refs) && !slices.Contains(users, other.key) {
					names = append(names, fmt.Sprintf("%s %q", other.key.t, other.g.name))
				}
			}
			if len(names) > 0 {
				o.x.sit.Used, again = true, true
				o.d, o.why = decide.Undo(o.x.sit), decide.InUse.Text()+": "+listed(names)
			}
		}
	}
	if r.run.Act.Revert.Seq == 0 || r.run.Act.Revert.Force {
		return
	}
	for _, o := range objects {
		var names []string
		for _, ref := range o.refs {
			if !ref.Task && !u.present[objectKey{ref.Type, ref.ID}] && !slices.Contains(u.unknown, string(ref.Type)) {
				names = append(names, fmt.Sprintf("%s %s", ref.Type, ref.ID))
			}
		}
		if len(names) > 0 && o.d.Act.Writes() {
			o.x.sit.Dangles = true
			o.d, o.why = decide.Undo(o.x.sit), decide.Dangles.Text()+": "+listed(names)
		}
	}
}

// listed names the first of many.
func listed(names []string) string {
	const most = 5
	more := ""
	if len(names) > most {
		names, more = names[:most], fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ") + more
}

// dangling warns of what an undo brings back and that refers to what is not there then.
func dangling(objects []*undoing, u inUse) (out []string) {
	after := maps.Clone(u.present)
	for _, o := range objects {
		switch o.d.Act {
		case decide.Add:
			after[o.key] = true
		case decide.Delete:
			delete(after, o.key)
		}
	}
	for _, o := range objects {
		for _, ref := range o.refs {
			if key := (objectKey{ref.Type, ref.ID}); o.d.Act.Writes() && !ref.Task && !after[key] && !slices.Contains(u.unknown, string(ref.Type)) {
				if len(out) == warnMost {
					return append(out, "more objects refer to what is not there")
				}
				out = append(out, fmt.Sprintf("%s %q refers to %s %s, which is not there", o.key.t, o.g.name, ref.Type, ref.ID))
			}
		}
	}
	return out
}

// stageOf returns when the turn of an object comes: types in the order of applying, what
// goes after all else and in reverse.
func stageOf(o *undoing) int {
	order := schemas.ApplyOrder()
	i := slices.Index(order, o.key.t)
	if o.d.Act == decide.Delete {
		return 2*len(order) - i
	}
	return i + 1
}

// actEntry says of one object what a run at a server does with it.
func (s *session) actEntry(o *undoing, u inUse, r running) broker.PlanEntry {
	e := broker.PlanEntry{Type: o.key.t, ID: o.g.id, TargetID: otherID(o.key.id, o.g.id), Name: cmp.Or(o.g.name, o.x.now.Name, o.x.want.Name), Group: cmp.Or(o.x.now.Group, o.x.want.Group),
		Act: string(o.d.Act), Would: string(o.d.Would), Reason: string(o.d.Reason), Why: cmp.Or(o.why, o.d.Reason.Text()), Source: o.g.source, Version: o.g.version,
		Wanted: o.x.want.Digest, AtTarget: o.x.now.Digest, Stage: stageOf(o)}
	if e.ID == "" {
		e.ID, e.TargetID = o.key.id, ""
	}
	act := o.d.Act
	if act == decide.Hold {
		act = o.d.Would
	}
	switch act {
	case decide.Adopt:
		e.Difference = broker.Equal
	case decide.Add:
		e.Difference = broker.OnlySource
	case decide.Delete:
		e.Difference = broker.OnlyTarget
	default:
		e.Difference, e.Fields = broker.Different, visualcron.Differences(o.x.now, o.x.want, 8)
	}
	if o.d.Reason == decide.MovedOn {
		if entry, ok := s.ledger.Get(o.key.t, o.key.id); ok && entry.AtTarget == o.x.now.Digest && entry.AtTarget != "" && entry.State == broker.Applied {
			e.Why = "a later pass wrote it: undo that first; vcsync pass list shows it"
		}
	}
	if o.d.Act == decide.Adopt && s.isDoneWith(o) {
		e.Act = string(decide.Nothing)
	}
	if len(o.x.made.Needs) > 0 && o.d.Act.Writes() {
		e.Why += "; the target gives no secrets, so these are lost: " + strings.Join(o.x.made.Needs, ", ")
	}
	if can, asked := s.capability(o.key.t); asked && (o.d.Act == decide.Delete && !can.Delete || (o.d.Act == decide.Add || o.d.Act == decide.Update) && !can.Put) {
		e.Act, e.Would, e.Reason, e.Why = string(decide.Hold), string(o.d.Act), "unsupported", "the target cannot do that with objects of this type"
	}
	return e
}

// isDoneWith tells whether nothing is left to put on record of an object that is as given.
func (s *session) isDoneWith(o *undoing) bool {
	p, parked := s.parked.get(o.key.t, o.key.id.Token())
	entry, known := s.ledger.Get(o.key.t, o.key.id)
	switch {
	case !o.g.recorded():
		return true
	case known && entry.State == broker.Intent:
		return false
	case o.g.pauses():
		return parked && p.IsPaused()
	}
	return !parked || p.Class != broker.ClassUndone || p.Pass != o.g.first.Pass
}

// applyAct does with one object what an approved run at a server says, and ends its wish.
// It returns nil also where that could not be done: then the outcome says why.
func (l *look) applyAct(ctx context.Context, v *view) error {
	l.acts = true
	for l.grant != nil {
		again, err := l.actOnce(ctx, v)
		if err != nil {
			return err
		}
		if again {
			if err := l.soft.Err(); err != nil {
				return err
			}
			v, _ = l.current()
			l.take(v) // also where it was taken back, such as by an approval that expired
			continue
		}
		break
	}
	l.sentOnce()
	l.fulfil(nil)
	l.acts, l.took, l.grant, l.run, l.outcome, l.recorded = false, nil, nil, nil, "", false
	return nil
}

// actOnce returns true where it has to begin anew.
func (l *look) actOnce(ctx context.Context, v *view) (again bool, err error) {
	t, id, e := l.key.t, l.key.id, l.grant.entry
	if waited, err := l.enter(); err != nil || waited {
		return waited, err
	}
	can, _ := l.capability(t)
	have, err := l.read(ctx)
	if visualcron.ClassOf(err) == visualcron.Changed {
		return l.changed(ctx, can, err)
	}
	if err != nil {
		return false, err
	}
	g, err := l.load(ctx, v, *l.run, l.grant.given)
	if err != nil {
		return false, err
	}
	l.event = schemas.Event{Source: g.source, Version: g.version, Kind: schemas.Updated, Object: schemas.Object{Type: t, ID: g.id, Name: g.name}}
	if l.event.Object.ID == "" {
		l.event.Object.ID = id
	}
	if n := len(g.last.Path); n > 0 { // as far as the content that goes came
		l.event.OriginPath = g.last.Path[:n-1]
	}
	if g.revert.Seq > 0 {
		l.event.OriginPath = g.event.OriginPath
	}
	l.setting = cmp.Or(g.last.Setting, g.revert.Setting)
	l.secrets = append(l.secrets, visualcron.Secrets(t, g.body)...)
	x, err := l.compareGiven(g, t, can, have)
	if err != nil {
		return false, err
	}
	if l.session.wasSent(l.grant) { // what it left itself is no change of others
		x.sit.AsLeft = x.sit.AsLeft || x.now.Digest == e.AtTarget || l.grant.left != "" && x.now.Digest == l.grant.left
	}
	x.sit.SafeMode = v.safe
	if l.saw = decide.Undo(x.sit); l.saw.Act == decide.Delete {
		if x.sit.Used, err = l.isInUse(ctx, v, have); err != nil {
			return false, err
		}
		l.saw = decide.Undo(x.sit)
	}
	if !l.isGranted(l.saw, x.want.Digest, x.now.Digest) {
		return false, nil
	}
	act := l.saw.Act
	if act == decide.Adopt {
		return false, l.settle(ctx, g, x.made, x.now, have, true, can)
	}
	if t == schemas.User {
		done, err := l.guardUsers(ctx, have, x.made.Body)
		if err != nil {
			return false, err
		}
		defer done()
	}
	if now, _ := l.current(); now != v || l.soft.Err() != nil {
		return true, nil // G13
	}
	back, err := l.prepare(ctx, g, x, act, have, can)
	if err != nil {
		return false, err
	}
	if act != decide.Delete {
		if werr := l.mayRefer(x.made.Body); werr != nil {
			return false, cmp.Or(back(ctx), werr)
		}
	} else {
		yield, may := l.mayGo()
		defer yield()
		if !may {
			return true, back(ctx)
		}
	}
	if now, _ := l.current(); now != v || l.soft.Err() != nil || !l.sends() {
		return true, back(ctx)
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	if act == decide.Delete {
		err := l.conn.Delete(req, t, id)
		gone := visualcron.ClassOf(err) == visualcron.NotFound
		if err != nil && !gone {
			return false, l.actFailed(ctx, req, back, err)
		}
		l.count(func(s *TargetStatus) { s.Applied++ })
		return false, l.settle(ctx, g, x.made, visualcron.Normal{}, nil, gone, can)
	}
	stored, err := l.conn.Put(req, t, id, x.made.Body, can.Secrets)
	if err != nil {
		failed := l.actFailed(ctx, req, back, err)
		if visualcron.ClassOf(failed) == visualcron.Changed {
			return l.changed(ctx, can, err)
		}
		return false, failed
	}
	got, err := visualcron.View{Secrets: can.Secrets, Values: true, Digest: l.cfg.Broker.Keys.Digest}.Normalize(t, stored)
	if err != nil {
		return false, fmt.Errorf("what the target stored: %w", err)
	}
	if got.Digest != x.want.Digest {
		l.grant.left = got.Digest
		return false, &errMismatch{visualcron.Differences(x.want, got, 8)}
	}
	l.count(func(s *TargetStatus) { s.Applied++ })
	return false, l.settle(ctx, g, x.made, got, stored, false, can)
}

// actFailed deals with a write that failed: where it is sure that nothing arrived, all on
// record is as it was.
func (l *look) actFailed(ctx, req context.Context, back func(context.Context) error, err error) error {
	if !mayLand(err) && req.Err() == nil {
		if berr := back(ctx); berr != nil {
			return berr
		}
	}
	return l.openOutcome(ctx, req, err)
}

// prepare puts on record what is about to be written, and pauses the object before it is:
// whatever comes in between, nothing else is written to it then. Back puts the record back
// as it was, where nothing was sent or surely nothing arrived.
func (l *look) prepare(ctx context.Context, g given, x comparison, act decide.Act, have []byte, can visualcron.Capability) (back func(context.Context) error, err error) {
	back = func(context.Context) error { return nil }
	d, err := l.done(act, have, x.want.Digest)
	if err != nil {
		return back, err
	}
	d.Undoes, d.Reverts, d.Pauses, d.Unrecorded = l.run.run.Act.Undo, g.reverts(), g.pauses(), !g.recorded()
	if !g.recorded() {
		return back, l.cfg.Broker.PutDone(ctx, d)
	}
	intent, err := l.entryAfter(g, x.made, x.want, x.made.Body, false, can)
	if err != nil {
		return back, err
	}
	var before broker.Entry
	if d.Ledger != nil {
		before = *d.Ledger
	}
	intent.State, intent.Ours, intent.Open = broker.Intent, owned(before), x.want.RemovesItself
	there, err := l.left(have, x.now, before, can.Secrets)
	if err != nil {
		return back, err
	}
	if intent.Before = before.Left; !before.Edited(there, string(can.Secrets)) { // an edit stays one where this write does not arrive
		if intent.Before, err = l.left(have, x.now, intent, can.Secrets); err != nil {
			return back, err
		}
	}
	run := l.run.run.ID
	parked, isParked := l.parked.get(l.key.t, l.key.id.Token())
	back = func(ctx context.Context) error {
		if err := l.unsent(ctx, intent, before, d.Ledger != nil); err != nil || !g.pauses() {
			return err
		}
		return l.parked.putBack(ctx, l.key, run, parked, isParked)
	}
	if g.pauses() {
		if err := l.pause(ctx, g, run, x.made.Needs); err != nil {
			return back, err
		}
	}
	stored := make(chan error, 1)
	go func() { stored <- l.cfg.Broker.PutDone(ctx, d) }()
	if err := l.restore(ctx, intent); err != nil {
		<-stored
		return back, err // the ledger takes no more
	}
	if err := <-stored; err != nil {
		if berr := back(ctx); berr != nil {
			return back, berr
		}
		return back, err
	}
	return back, nil
}

func (g given) reverts() string {
	if g.revert.Seq == 0 {
		return ""
	}
	return g.revert.Version.String()
}

// entryAfter returns the entry of the ledger once the object is as given: that of before the
// pass, with what is left now. Where there was none, nothing is ours. Found tells of an
// object that is not there that somebody else removed it, or it itself.
func (l *look) entryAfter(g given, made visualcron.Composed, n visualcron.Normal, body []byte, found bool, can visualcron.Capability) (broker.Entry, error) {
	t, id := l.key.t, l.key.id
	before := g.first.Ledger
	e := broker.Entry{Type: t, ID: id, Source: l.event.Source, SourceID: otherID(l.event.Object.ID, id), State: broker.Removed, Path: g.last.Path, Open: before != nil && before.Open}
	switch {
	case g.revert.Seq > 0:
		e = broker.Entry{Type: t, ID: id, Source: g.source, SourceID: otherID(g.id, id), Version: g.version, Digest: g.event.Digest, Path: g.event.Path(), State: broker.Applied,
			Policy: g.composition.Policy, Values: g.composition.Values, Own: g.own, LeftKept: g.composition.Own.Kept}.Counted(broker.Entry{})
	case before != nil && (before.State != broker.Intent || before.Ours):
		e = *before
		if e.State == broker.Intent {
			e.State = broker.Applied
		}
	}
	now, _ := l.ledger.Get(t, id)
	e = e.Displacing(now)
	if !now.Held.IsZero() { // a person is to decide about it still
		e.Held = now.Held
	}
	// A job that was found gone may have run, and who resumes it is to know.
	e.Open = e.State == broker.Removed && (e.Open || now.Open || body == nil && found)
	e.Ours, e.Before, e.AtTarget, e.Needs, e.LeftSecrets = false, "", "", made.Needs, string(can.Secrets)
	if e.State == broker.Removed {
		e.Needs = nil
	}
	if body == nil {
		e.Left = broker.Absent
		return e, nil
	}
	e.AtTarget = n.Digest
	if v, _ := l.current(); t == schemas.Variable && !v.captured {
		m, err := visualcron.View{Secrets: can.Secrets, Digest: l.cfg.Broker.Keys.Digest}.Normalize(t, body)
		if err != nil {
			return e, err
		}
		e.AtTarget = m.Digest
	}
	var err error
	e.Left, err = l.left(body, n, e, can.Secrets)
	return e, err
}

// restore stores an entry as it is, with its counters: they are of what it tells of.
func (l *look) restore(ctx context.Context, e broker.Entry) error {
	e.At = time.Now().UTC()
	before, _ := l.ledger.Get(e.Type, e.ID)
	if err := l.ledger.Put(ctx, e); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err)
	}
	l.deletions.record(before, e)
	return nil
}

// settle puts on record that the object is as given: n and body are what the target holds,
// found as in entryAfter.
func (l *look) settle(ctx context.Context, g given, made visualcron.Composed, n visualcron.Normal, body []byte, found bool, can visualcron.Capability) error {
	if g.recorded() {
		e, err := l.entryAfter(g, made, n, body, found, can)
		if err != nil {
			return err
		}
		if g.pauses() {
			err = l.pause(ctx, g, l.run.run.ID, made.Needs)
		}
		if err == nil {
			err = l.restore(ctx, e)
		}
		if err == nil && !g.pauses() {
			if g.first.Paused != "" {
				err = l.pause(ctx, g, g.first.Paused, nil)
			} else {
				err = cmp.Or(err, l.parked.lift(ctx, l.key.t, l.key.id.Token(), g.first.Pass))
			}
		}
		if err != nil {
			return err
		}
	}
	l.usersOf(l.key)
	l.recorded, l.outcome = true, broker.OutcomeDone
	return nil
}

// pause keeps every version of the object away until a person resumes it.
func (l *look) pause(ctx context.Context, g given, pass string, needs []string) error {
	now := time.Now().UTC()
	what := fmt.Sprintf("pass %s was undone by %s", g.first.Pass, cmp.Or(l.run.run.By, "somebody"))
	if g.revert.Seq > 0 {
		what = fmt.Sprintf("%s brought back version %s", cmp.Or(l.run.run.By, "somebody"), g.version)
	}
	if len(needs) > 0 {
		what += "; it lacks " + strings.Join(needs, ", ")
	}
	if p, ok := l.parked.get(l.key.t, l.key.id.Token()); ok && p.IsPaused() && p.Pass == pass {
		return nil
	}
	return l.parked.put(ctx, broker.Parked{Target: l.server.ID, Setting: l.setting, Source: l.event.Source, Type: l.key.t, Token: l.key.id.Token(), ID: l.key.id,
		SourceID: otherID(l.event.Object.ID, l.key.id), Name: l.event.Object.Name, Version: l.event.Version, Class: broker.ClassUndone, Pass: pass,
		Reason: what + " (pass " + pass + "): it is paused here, in every version", Fix: decide.Undone.Fix(), First: now, Last: now, Attempts: 1})
}

// isPaused tells whether a person undid what was written of the object, and has not
// resumed it.
func (l *look) isPaused() bool {
	p, ok := l.parked.get(l.key.t, l.key.id.Token())
	return ok && p.IsPaused()
}
