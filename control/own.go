package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// matchTime bounds the listing of two servers for a match.
const matchTime = 2 * time.Minute

// ownFaults refuses kept fields, overrides and pins that cannot be, and pins that
// contradict those of another sync setting between the same servers: there they count
// together.
func ownFaults(snap broker.Snapshot, v schemas.Setting) error {
	var faults []string
	add := func(format string, a ...any) { faults = append(faults, fmt.Sprintf(format, a...)) }
	for i, k := range v.Kept {
		if err := visualcron.CheckKept(k.Type, k.Pointer); err != nil {
			add("kept[%d]: %v", i, err)
		}
	}
	for i, o := range v.Overrides {
		if err := visualcron.CheckOverride(o.Type, o.Patch); err != nil {
			add("overrides[%d]: %v", i, err)
		}
	}
	for i, p := range v.Pins {
		if !hasPins(p.Type) {
			add("pins[%d]: objects of type %s are the same by their name and have no pins", i, p.Type)
		}
	}
	for _, o := range sortedSettings(snap) {
		if o.ID == v.ID || o.Source != v.Source || o.Target != v.Target {
			continue
		}
		for i, p := range v.Pins {
			for _, q := range o.Pins {
				if p.Type == q.Type && (p.Source == q.Source) != (p.Target == q.Target) {
					add("pins[%d]: sync setting %s, between the same servers, pins %s %.64q to %.64q; they count together, so pin it there", i, o.ID, q.Type, q.Source, q.Target)
				}
			}
		}
	}
	if faults == nil {
		return nil
	}
	return huma.Error422UnprocessableEntity(strings.Join(faults, "\n"))
}

// hasPins tells whether objects of a type have ids that can differ: a variable is its
// name, and of server settings there is one.
func hasPins(t schemas.Type) bool {
	return t != schemas.Variable && t != schemas.ServerSettings && visualcron.Supported(t)
}

// MatchTypes is the body of a match.
type MatchTypes struct {
	Types []string `json:"types,omitzero" maxItems:"32" doc:"The types that are matched; those that the setting takes where empty."`
}

// NamedRecord is an object of one server.
type NamedRecord struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Group string `json:"group,omitzero"`
}

// AmbiguousRecord is a name that a person has to decide on.
type AmbiguousRecord struct {
	Type   string        `json:"type"`
	Name   string        `json:"name"`
	Source []NamedRecord `json:"source" nullable:"false" doc:"Who has it at the source."`
	Target []NamedRecord `json:"target" nullable:"false" doc:"Who has it at the target."`
}

// MatchRecord is what a match by name found.
type MatchRecord struct {
	Pins      []PinRecord       `json:"pins" nullable:"false" doc:"New pins: one object of each server has the name, and no partner by its id."`
	Ambiguous []AmbiguousRecord `json:"ambiguous" nullable:"false" doc:"Names that more than one object of a server has; nothing is pinned there."`
}

// matchSetting reads both servers afresh and pairs by name what has no partner by id. It
// changes nothing.
func (s *Server) matchSetting(ctx context.Context, in *idBody[MatchTypes]) (*tagged[MatchRecord], error) {
	v, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var types []schemas.Type
	for _, text := range in.Body.Types {
		t, err := schemas.ParseType(text)
		if err != nil {
			return nil, huma.Error422UnprocessableEntity(err.Error())
		}
		if !hasPins(t) {
			return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("Objects of type %s are the same by their name and have no pins.", t))
		}
		types = append(types, t)
	}
	if types == nil {
		types = slices.DeleteFunc(v.TakenTypes(), func(t schemas.Type) bool { return !hasPins(t) })
	}
	ctx, cancel := context.WithTimeout(ctx, matchTime)
	defer cancel()
	var sides [2]map[schemas.Type][]visualcron.Named
	for i, id := range []schemas.Slug{v.Source, v.Target} {
		if sides[i], err = s.named(ctx, snap, id, types); err != nil {
			return nil, err
		}
	}
	out := &tagged[MatchRecord]{ETag: etag(v.Revision), Body: MatchRecord{Pins: []PinRecord{}, Ambiguous: []AmbiguousRecord{}}}
	for _, t := range types {
		pins := map[schemas.ID]schemas.ID{}
		for _, o := range sortedSettings(snap) {
			for _, p := range o.Pins {
				if o.Source == v.Source && o.Target == v.Target && p.Type == t {
					pins[p.Source] = p.Target
				}
			}
		}
		pairs, ambiguous := visualcron.MatchNames(sides[0][t], sides[1][t], pins)
		for _, p := range pairs {
			out.Body.Pins = append(out.Body.Pins, PinRecord{Type: string(t), Source: string(p.Source.ID), Target: string(p.Target.ID), Name: p.Source.Name})
		}
		for _, a := range ambiguous {
			out.Body.Ambiguous = append(out.Body.Ambiguous, AmbiguousRecord{string(t), a.Name, namedRecords(a.Source), namedRecords(a.Target)})
		}
	}
	return out, nil
}

func namedRecords(all []visualcron.Named) []NamedRecord {
	out := []NamedRecord{}
	for _, n := range all {
		out = append(out, NamedRecord{string(n.ID), n.Name, n.Group})
	}
	return out
}

// named lists what a server has of some types, by name, without what is built in.
func (s *Server) named(ctx context.Context, snap broker.Snapshot, id schemas.Slug, types []schemas.Type) (map[schemas.Type][]visualcron.Named, error) {
	server, ok := snap.Servers[id]
	if !ok {
		return nil, huma.Error409Conflict(fmt.Sprintf("There is no server %s any more.", id))
	}
	fault := func(err error) error {
		return huma.Error422UnprocessableEntity(fmt.Sprintf("The objects of %s could not be listed: %v. Nothing was pinned; see vcsync server test %s.", id, err, id))
	}
	password, err := s.broker.Password(ctx, id)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, huma.Error409Conflict(fmt.Sprintf("No password of server %s is stored; remove it and add it again.", id))
	}
	if err != nil {
		return nil, err
	}
	bound := server.Server
	if bound.Identity, err = s.broker.Identity(ctx, id); err != nil {
		return nil, err
	}
	c, err := s.cfg.Open(bound, password)
	if err != nil {
		return nil, fault(err)
	}
	defer c.Close() // nothing was written
	out := map[schemas.Type][]visualcron.Named{}
	for _, t := range types {
		complete, err := c.List(ctx, t, func(r visualcron.Row) error {
			n, err := visualcron.View{Secrets: visualcron.SecretsMasked}.Normalize(t, r.Body)
			if err == nil && !n.BuiltIn {
				out[t] = append(out[t], visualcron.Named{ID: r.ID, Name: n.Name, Group: n.Group})
			}
			return err
		})
		if err != nil {
			return nil, fault(err)
		}
		if !complete.IsComplete() {
			return nil, fault(fmt.Errorf("the listing of %s did not come to its end", t))
		}
	}
	return out, nil
}

// FlaggedRecord is an object that points at a server of the fleet.
type FlaggedRecord struct {
	Type   string `json:"type"`
	ID     string `json:"id"`
	Name   string `json:"name,omitzero"`
	Place  string `json:"place" doc:"The member, as a JSON pointer."`
	Host   string `json:"host"`
	Server string `json:"server" doc:"The server whose address has this host."`
}

// flagged returns the objects that a setting takes and that would speak, from the target,
// to a server of the fleet: overrides count, and what the target keeps is its own.
func (s *Server) flagged(ctx context.Context, in *IDPath) (*output[list[FlaggedRecord]], error) {
	v, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	fleet := map[schemas.Slug]string{}
	for id, server := range snap.Servers {
		fleet[id] = server.Address
	}
	var filters []string
	for _, t := range v.TakenTypes() {
		if visualcron.HasAddress(t) {
			filters = append(filters, schemas.TypeStateFilter(v.Source, t))
		}
	}
	out := &output[list[FlaggedRecord]]{}
	if filters == nil {
		return out, nil
	}
	var newest []broker.Newest
	if err := s.broker.ScanState(ctx, filters, func(n broker.Newest) {
		if n.Kind != schemas.Deleted && v.Rights(n.Key.Type, n.Selected()).Use() {
			newest = append(newest, n)
		}
	}, func(broker.Unreadable) {}); err != nil {
		return nil, err
	}
	for _, n := range newest {
		ev, _, err := s.broker.NewestOf(ctx, n.Key)
		if errors.Is(err, broker.ErrNotFound) || errors.Is(err, schemas.ErrEvent) || errors.Is(err, broker.ErrLostBody) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range visualcron.OwnOf(v.Setting, n.Key.Type, n.ID).PointsAt(n.Key.Type, ev.Object.Body, fleet) {
			out.Body.Items = append(out.Body.Items, FlaggedRecord{string(n.Key.Type), string(n.ID), ev.Object.Name, p.Place, p.Host, string(p.Server)})
		}
	}
	slices.SortFunc(out.Body.Items, func(a, b FlaggedRecord) int {
		return slices.Compare([]string{a.Type, a.Name, a.ID, a.Place, a.Server}, []string{b.Type, b.Name, b.ID, b.Place, b.Server})
	})
	return out, nil
}
