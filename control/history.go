package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// historyFields and changesMost are how many fields are named of one version, and how
	// many are shown with their values.
	historyFields = 8
	changesMost   = 500
	// bodyReaders is how many requests read the bodies of events at once: one body may
	// have 128 MiB (G11).
	bodyReaders = 2
)

// VersionRecord is one version of an object, as the event stream holds it.
type VersionRecord struct {
	Version    string    `json:"version" doc:"Epoch and revision."`
	Seq        uint64    `json:"seq" doc:"Its sequence in the event stream."`
	Kind       string    `json:"kind" enum:"added,updated,deleted"`
	Time       time.Time `json:"time" doc:"When it was captured."`
	Source     string    `json:"source" doc:"The server on which it was changed."`
	OriginPath []string  `json:"originPath,omitzero" doc:"The servers that the content came by before: vcsync wrote it there."`
	Who        string    `json:"who,omitzero"`
	Name       string    `json:"name,omitzero"`
	Itself     bool      `json:"itself,omitzero" doc:"Nobody deleted it: it has deleted itself when it had run."`
	Against    string    `json:"against,omitzero" doc:"The version that it was compared with: the one before that the stream still holds. Absent where the object was not there before."`
	Fields     []string  `json:"fields,omitzero" doc:"What differs from that, the first 8, as JSON pointers in the normal form."`
	More       bool      `json:"more,omitzero" doc:"More than 8 fields differ."`
	Lost       uint64    `json:"lost,omitzero" doc:"How many versions there were between that and this one; the stream holds them no more."`
	Late       bool      `json:"late,omitzero" doc:"It was stored after a newer version, which stands above it."`
	Problem    string    `json:"problem,omitzero" doc:"Why its content cannot be read."`
}

// PlaceRecord is where an object stands at one target.
type PlaceRecord struct {
	Target  string    `json:"target"`
	ID      string    `json:"id,omitzero" doc:"Its id there, where a pin makes it another."`
	Version string    `json:"version,omitzero" doc:"On record there; absent where vcsync never dealt with it."`
	State   string    `json:"state,omitzero" doc:"applied, adopted (found equal), removed, or intent: a write was begun, and its outcome is not on record."`
	At      time.Time `json:"at,omitzero"`
	Newest  bool      `json:"newest" doc:"The version on record is the newest."`
	Held    string    `json:"held,omitzero" doc:"Why a newer version, or an edit there, is not dealt with: parked, or what the setting's drift list says."`
	Setting string    `json:"setting,omitzero" doc:"The sync setting that says so."`
	Pass    string    `json:"pass,omitzero" doc:"Where it was removed: the pass that did it. Undoing that of this object brings it back."`
}

// HistoryRecord is what the stream holds of one object, and where it stands.
type HistoryRecord struct {
	Source   string          `json:"source"`
	Type     string          `json:"type"`
	ID       string          `json:"id"`
	Token    string          `json:"token" doc:"The object's id in paths of this API."`
	Name     string          `json:"name,omitzero"`
	Versions []VersionRecord `json:"versions" nullable:"false" doc:"Newest first."`
	Older    int             `json:"older,omitzero" doc:"How many more the stream holds."`
	Lost     uint64          `json:"lost,omitzero" doc:"How many versions it holds no more, of all: it keeps 20 of each kind."`
	Odd      int             `json:"odd,omitzero" doc:"Messages among them that are no events: some other program wrote them."`
	Places   []PlaceRecord   `json:"places" nullable:"false" doc:"Where it stands at every target that has it on record or may take it."`
}

// ObjectPath names an object, as the API does.
type ObjectPath struct {
	Type  string `path:"type" maxLength:"32"`
	Token string `path:"token" maxLength:"400"`
}

// SourceParam names the source whose object is meant. It is exported because huma passes
// over what is embedded and is not.
type SourceParam struct {
	Source string `query:"source" maxLength:"48" doc:"The source; needed where several have an object of this type and id."`
}

type historyInput struct {
	ObjectPath
	SourceParam
	Limit int `query:"limit" minimum:"1" maximum:"60" default:"20"`
}

// object reads which object is meant: of the only source that has it, or of the one that
// is named.
func (s *Server) object(ctx context.Context, p ObjectPath, source string) (broker.Newest, error) {
	t, err := schemas.ParseType(p.Type)
	if err != nil {
		return broker.Newest{}, err
	}
	token, err := schemas.ParseToken(p.Token)
	if err != nil {
		return broker.Newest{}, err
	}
	all, err := s.broker.SourcesOf(ctx, t, token)
	if err != nil {
		return broker.Newest{}, err
	}
	name := string(t) + "/" + string(token)
	if id, ok := token.ID(); ok {
		name = string(t) + "/" + string(id)
	}
	if source != "" {
		id, err := parseSlug(source)
		if err != nil {
			return broker.Newest{}, err
		}
		all = slices.DeleteFunc(all, func(n broker.Newest) bool { return n.Key.Source != id })
	}
	switch {
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0 && source != "":
		return broker.Newest{}, huma.Error404NotFound(fmt.Sprintf("Nothing was ever captured of %s at %s. vcsync events --source %s shows ids.", name, source, source))
	case len(all) == 0:
		return broker.Newest{}, huma.Error404NotFound(fmt.Sprintf("Nothing was ever captured of %s. vcsync events shows ids.", name))
	}
	var names []string
	for _, n := range all {
		names = append(names, string(n.Key.Source))
	}
	return broker.Newest{}, huma.Error409Conflict(fmt.Sprintf("%s was captured at %s. Say which is meant: --source %s.", name, strings.Join(names, " and "), names[0]))
}

// reading waits for its turn to read bodies of events.
func (s *Server) reading(ctx context.Context) (done func(), err error) {
	select {
	case s.bodies <- struct{}{}:
		return func() { <-s.bodies }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// normal reads the content of an event as its normal form. The zero form stands for a
// deletion.
func (s *Server) normal(ctx context.Context, seq uint64) (visualcron.Normal, error) {
	ev, err := s.broker.EventAt(ctx, seq)
	if err != nil || ev.Object.Body == nil {
		return visualcron.Normal{}, err
	}
	body, err := visualcron.OpenBody(ev.Object.Body, ev.Object.Sealed, func(pointer, sealed string) (string, error) {
		return s.broker.Keys.Open(schemas.SealContext(ev.Source, ev.Object.Type, ev.Object.ID, pointer), sealed)
	})
	if err != nil {
		return visualcron.Normal{}, err
	}
	secrets := visualcron.SecretsEqual
	if ev.Object.Withholds {
		secrets = visualcron.SecretsMasked
	}
	return visualcron.View{Secrets: secrets, Values: true, Digest: s.broker.Keys.Digest}.Normalize(ev.Object.Type, body)
}

// gap returns how many versions there were between two that follow each other in the
// stream, and whether the later one is older.
func gap(before, after schemas.Version) (lost uint64, late bool) {
	switch {
	case after.Compare(before) <= 0:
		return 0, true
	case broker.SameNumbering(before, after):
		return after.Revision - before.Revision - 1, false
	}
	return after.Revision - 1, false // a numbering that began anew
}

func (s *Server) history(ctx context.Context, in *historyInput) (*output[HistoryRecord], error) {
	n, err := s.object(ctx, in.ObjectPath, in.Source)
	if err != nil {
		return nil, err
	}
	all, odd, err := s.broker.History(ctx, n.Key)
	if err != nil {
		return nil, err
	}
	done, err := s.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	out := HistoryRecord{Source: string(n.Key.Source), Type: string(n.Key.Type), ID: string(n.ID), Token: string(n.Key.Token), Name: n.Name, Odd: odd,
		Versions: []VersionRecord{}, Older: max(0, len(all)-in.Limit)}
	newest := schemas.Version{}
	var before visualcron.Normal // of the event before; read where there is a body
	var problem error
	for i, e := range all {
		v := VersionRecord{Version: e.Version.String(), Seq: e.Seq, Kind: string(e.Kind), Time: e.Time, Source: string(e.Key.Source), Who: e.Who, Name: e.Name, Itself: e.RemovedItself}
		for _, id := range e.OriginPath {
			v.OriginPath = append(v.OriginPath, string(id))
		}
		v.Lost, v.Late = gap(newest, e.Version)
		if !v.Late {
			newest = e.Version
		}
		out.Lost += v.Lost
		if i+1 < out.Older { // neither shown nor compared with
			continue
		}
		now, err := s.content(ctx, e)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		switch {
		case err != nil:
			v.Problem = err.Error()
		case i > 0 && all[i-1].Kind != schemas.Deleted && e.Kind != schemas.Deleted && problem == nil:
			v.Against = all[i-1].Version.String()
			v.Fields = visualcron.Differences(before, now, historyFields+1)
			if v.More = len(v.Fields) > historyFields; v.More {
				v.Fields = v.Fields[:historyFields]
			}
		}
		if before, problem = now, err; i >= out.Older {
			out.Versions = append(out.Versions, v)
		}
	}
	slices.Reverse(out.Versions)
	if out.Places, err = s.places(ctx, n); err != nil {
		return nil, err
	}
	return &output[HistoryRecord]{out}, nil
}

// content is normal for an event of a history.
func (s *Server) content(ctx context.Context, e broker.StoredEvent) (visualcron.Normal, error) {
	if e.Kind == schemas.Deleted {
		return visualcron.Normal{}, nil
	}
	return s.normal(ctx, e.Seq)
}

// version finds one version in a history: epoch and revision, or the revision alone in
// the newest epoch that has it.
func version(all []broker.StoredEvent, text string) (int, error) {
	var wanted schemas.Version
	whole := strings.Contains(text, ".")
	var err error
	if whole {
		wanted, err = schemas.ParseVersion(text)
	} else {
		wanted.Revision, err = strconv.ParseUint(text, 10, 64)
	}
	if err != nil || wanted.Revision == 0 {
		return 0, huma.Error422UnprocessableEntity(fmt.Sprintf("%.64q is no version: want epoch and revision, such as 1.42, or a revision, such as 42", text))
	}
	for i, e := range slices.Backward(all) {
		if e.Version == wanted || !whole && e.Version.Revision == wanted.Revision {
			return i, nil
		}
	}
	held := "none"
	if len(all) > 0 {
		held = fmt.Sprintf("%s to %s, with %d gone in between or before", all[0].Version, all[len(all)-1].Version, lostOf(all))
	}
	return 0, huma.Error404NotFound(fmt.Sprintf("The stream does not hold version %s of this object: it keeps %d of each kind, now %s.", text, broker.HistoryKept, held))
}

func lostOf(all []broker.StoredEvent) (lost uint64) {
	newest := schemas.Version{}
	for _, e := range all {
		n, late := gap(newest, e.Version)
		if lost += n; !late {
			newest = e.Version
		}
	}
	return lost
}

// Content is JSON of any kind, as a server gave it but for secrets.
type Content jsontext.Value

// MarshalJSON returns the text as it is.
func (c Content) MarshalJSON() ([]byte, error) { return jsontext.Value(c).MarshalJSON() }

// UnmarshalJSON takes any JSON.
func (c *Content) UnmarshalJSON(b []byte) error { return (*jsontext.Value)(c).UnmarshalJSON(b) }

// Schema describes it.
func (Content) Schema(huma.Registry) *huma.Schema { return &huma.Schema{Description: "Any JSON."} }

// ContentRecord is the configuration of one version.
type ContentRecord struct {
	VersionRecord
	Group    string   `json:"group,omitzero"`
	Withheld []string `json:"withheld,omitzero" doc:"Where its source has secrets that it does not give, as JSON pointers."`
	Body     Content  `json:"body,omitzero" doc:"The object as its server gave it, secrets masked as ***. Absent for a deletion."`
}

type versionInput struct {
	ObjectPath
	SourceParam
	Version string `path:"version" maxLength:"48" doc:"Epoch and revision, or a revision."`
}

// getVersion shows the configuration of one version.
func (s *Server) getVersion(ctx context.Context, in *versionInput) (*output[ContentRecord], error) {
	n, err := s.object(ctx, in.ObjectPath, in.Source)
	if err != nil {
		return nil, err
	}
	all, _, err := s.broker.History(ctx, n.Key)
	if err != nil {
		return nil, err
	}
	i, err := version(all, in.Version)
	if err != nil {
		return nil, err
	}
	done, err := s.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	e := all[i]
	ev, err := s.broker.EventAt(ctx, e.Seq)
	if err != nil {
		return nil, unreadable(e, err)
	}
	out := ContentRecord{VersionRecord: VersionRecord{Version: e.Version.String(), Seq: e.Seq, Kind: string(e.Kind), Time: e.Time, Source: string(e.Key.Source), Who: e.Who,
		Name: ev.Object.Name, Itself: e.RemovedItself}, Group: ev.Object.Group, Withheld: ev.Object.Withheld}
	if ev.Object.Body != nil {
		body, err := visualcron.MaskBody(ev.Object.Type, ev.Object.Body, ev.Object.Sealed) // G6
		if err != nil {
			return nil, unreadable(e, err)
		}
		out.Body = Content(body)
	}
	return &output[ContentRecord]{out}, nil
}

// unreadable says that the content of an event cannot be had, and what to do.
func unreadable(e broker.StoredEvent, err error) error {
	if errors.Is(err, broker.ErrLostBody) || errors.Is(err, broker.ErrNotFound) || errors.Is(err, schemas.ErrEvent) || errors.Is(err, visualcron.ErrBody) || errors.Is(err, broker.ErrKeyring) {
		return huma.Error409Conflict(fmt.Sprintf("The content of version %s cannot be read: %v. Other versions are as they were; bring back the newest data folder if this one is needed.", e.Version, err))
	}
	return err
}

// ChangeRecord is one field in which two versions differ.
type ChangeRecord struct {
	Field string  `json:"field" doc:"JSON pointer in the normal form; empty for the whole object."`
	Old   Content `json:"old,omitzero" doc:"Absent where the field is not there. A secret is ***, so two that differ look the same."`
	New   Content `json:"new,omitzero"`
}

// ChangesRecord is what differs between two versions.
type ChangesRecord struct {
	From  string         `json:"from,omitzero" doc:"Absent where the object was not there before."`
	To    string         `json:"to"`
	Lost  uint64         `json:"lost,omitzero" doc:"How many versions between the two the stream holds no more."`
	Items []ChangeRecord `json:"items" nullable:"false"`
	More  bool           `json:"more,omitzero" doc:"More fields differ than are told."`
}

type changesInput struct {
	ObjectPath
	SourceParam
	From string `query:"from" maxLength:"48" doc:"The one before To where empty."`
	To   string `query:"to" maxLength:"48" doc:"The newest where empty."`
}

// listChanges shows the fields in which two versions differ, with their values.
func (s *Server) listChanges(ctx context.Context, in *changesInput) (*output[ChangesRecord], error) {
	n, err := s.object(ctx, in.ObjectPath, in.Source)
	if err != nil {
		return nil, err
	}
	all, _, err := s.broker.History(ctx, n.Key)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, huma.Error404NotFound("The stream holds no version of this object any more.")
	}
	to := len(all) - 1
	if in.To != "" {
		if to, err = version(all, in.To); err != nil {
			return nil, err
		}
	}
	from := to - 1
	if in.From != "" {
		if from, err = version(all, in.From); err != nil {
			return nil, err
		}
	}
	done, err := s.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	out := ChangesRecord{To: all[to].Version.String(), Items: []ChangeRecord{}}
	var forms [2]visualcron.Normal
	for i, at := range []int{from, to} {
		if at < 0 {
			continue
		}
		if forms[i], err = s.content(ctx, all[at]); err != nil {
			return nil, unreadable(all[at], err)
		}
	}
	if from >= 0 {
		out.From = all[from].Version.String()
		out.Lost = lostOf(all[min(from, to) : max(from, to)+1])
		if first, _ := gap(schemas.Version{}, all[min(from, to)].Version); out.Lost >= first {
			out.Lost -= first // those before the first of both
		}
	}
	for _, c := range visualcron.Changes(forms[0], forms[1], changesMost+1, nil) {
		if out.More = len(out.Items) == changesMost; out.More {
			break
		}
		out.Items = append(out.Items, ChangeRecord{c.Field, Content(c.Old), Content(c.New)})
	}
	return &output[ChangesRecord]{out}, nil
}

// homeOf returns the id that an object of a source has at a target by the pins of the
// settings between the two.
func homeOf(snap broker.Snapshot, source, target schemas.Slug, t schemas.Type, id schemas.ID) schemas.ID {
	for _, v := range sortedSettings(snap) {
		if v.Source == source && v.Target == target {
			for _, p := range v.Pins {
				if p.Type == t && p.Source == id {
					return p.Target
				}
			}
		}
	}
	return id
}

// heldIn returns the entry of a setting's drift list about an object, by its id at the
// source; false where there is none.
func (s *Server) heldIn(ctx context.Context, setting schemas.Slug, t schemas.Type, id schemas.ID) (e broker.PlanEntry, list broker.DriftList, ok bool, err error) {
	for range 3 { // another list may take its place
		list, err = s.broker.GetDrift(ctx, setting)
		if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrRecord) {
			return e, broker.DriftList{}, false, nil
		}
		if err == nil {
			err = s.broker.DriftPages(ctx, list, func(_ int, page broker.PlanPage) bool {
				i := slices.IndexFunc(page.Entries, func(e broker.PlanEntry) bool { return e.Type == t && e.ID == id })
				if ok = i >= 0; ok {
					e = page.Entries[i]
				}
				return !ok
			})
		}
		if !errors.Is(err, broker.ErrConflict) && !errors.Is(err, broker.ErrNotFound) {
			return e, list, ok, err
		}
	}
	return e, broker.DriftList{}, false, nil
}

// places returns where an object stands at every target that has it on record or may take
// it.
func (s *Server) places(ctx context.Context, n broker.Newest) ([]PlaceRecord, error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := []PlaceRecord{}
	for _, target := range slices.Sorted(maps.Keys(snap.Servers)) {
		if target == n.Key.Source {
			continue
		}
		entries, err := s.broker.LedgerOf(ctx, target, n.Key.Source, n.Key.Type, n.ID)
		if err != nil {
			return nil, err
		}
		var takers []broker.StoredSetting
		for _, v := range sortedSettings(snap) {
			if v.Source == n.Key.Source && v.Target == target && v.Rights(n.Key.Type, n.Selected()).Use() {
				takers = append(takers, v)
			}
		}
		home := homeOf(snap, n.Key.Source, target, n.Key.Type, n.ID)
		if !slices.ContainsFunc(entries, func(e broker.Entry) bool { return e.ID == home }) {
			if len(takers) == 0 && len(entries) == 0 {
				continue
			}
			entries = append(entries, broker.Entry{ID: home})
		}
		for _, e := range entries {
			p := PlaceRecord{Target: string(target), At: e.At, State: string(e.State)}
			if e.ID != n.ID {
				p.ID = string(e.ID)
			}
			if !e.Version.IsZero() {
				p.Version, p.Newest = e.Version.String(), e.Version == n.Version && (e.State != broker.Intent || e.Again)
			}
			if err := s.holdOf(ctx, &p, n, e.ID, takers); err != nil {
				return nil, err
			}
			if e.State == broker.Removed {
				d, err := s.broker.LastDone(ctx, target, n.Key.Type, e.ID)
				switch {
				case err == nil && d.Act == string(decide.Delete):
					p.Pass = d.Pass
				case err != nil && !errors.Is(err, broker.ErrNotFound):
					return nil, err
				}
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// holdOf notes what keeps an object back at a place.
func (s *Server) holdOf(ctx context.Context, p *PlaceRecord, n broker.Newest, home schemas.ID, takers []broker.StoredSetting) error {
	parked, err := s.broker.GetParked(ctx, schemas.Slug(p.Target), n.Key.Type, home.Token())
	switch {
	case err == nil && parked.IsPaused():
		p.Held, p.Setting = "paused: "+parked.Reason, string(parked.Setting)
		return nil
	case err == nil && parked.Source == n.Key.Source && parked.Version == n.Version && parked.Discarded != "":
		p.Held, p.Setting = "discarded: "+parked.Discarded, string(parked.Setting)
		return nil
	case err == nil && parked.Source == n.Key.Source && parked.Version == n.Version:
		p.Held, p.Setting = fmt.Sprintf("parked, %s: %s", parked.Class, parked.Reason), string(parked.Setting)
		return nil
	case err != nil && !errors.Is(err, broker.ErrNotFound):
		return err
	}
	for _, v := range takers {
		if !v.Active {
			continue
		}
		e, _, ok, err := s.heldIn(ctx, v.ID, n.Key.Type, n.ID)
		if err != nil {
			return err
		}
		switch act := decide.Act(e.Act); {
		case !ok || e.Version != n.Version:
		case act == decide.Hold || act == decide.Wait || act == decide.Park:
			p.Held, p.Setting = fmt.Sprintf("%s: %s", act, cmp.Or(e.Why, e.Reason)), string(v.ID)
			return nil
		}
	}
	return nil
}
