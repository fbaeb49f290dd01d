package control

import (
	"context"
	"errors"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

const (
	// namesTime bounds the search for the names of listed objects. They are for people,
	// so nothing waits for them for long.
	namesTime = 3 * time.Second
	// namesOneByOne is up to how many objects are looked up one by one; of more, their
	// types are read as a whole.
	namesOneByOne = 64
)

// GoneRecord is a listed object that is gone at the source.
type GoneRecord struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Name string `json:"name,omitzero" doc:"Its last known name."`
}

type typeID struct {
	t  schemas.Type
	id schemas.ID
}

// named calls f with every object that a setting names, and where the setting has its
// name.
func named(v *schemas.Setting, f func(typeID, *string)) {
	for _, t := range schemas.Types() {
		rows := v.Rules[t].Objects
		for i := range rows {
			f(typeID{t, rows[i].ID}, &rows[i].Name)
		}
	}
	for i := range v.Pins {
		f(typeID{v.Pins[i].Type, v.Pins[i].Source}, &v.Pins[i].Name)
	}
}

// newest returns the newest state of objects of a source, as far as they were ever seen;
// what is no event is passed over. Without an answer in time it returns an error.
func (s *Server) newest(ctx context.Context, source schemas.Slug, want map[typeID]bool) (map[typeID]schemas.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, namesTime)
	defer cancel()
	out := map[typeID]schemas.Head{}
	if len(want) <= namesOneByOne {
		for k := range want {
			n, err := s.broker.HeadOf(ctx, schemas.Key{Source: source, Type: k.t, Token: k.id.Token()})
			if errors.Is(err, broker.ErrNotFound) || errors.Is(err, schemas.ErrEvent) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out[k] = n.Head
		}
		return out, nil
	}
	types := map[schemas.Type]bool{}
	for k := range want {
		types[k.t] = true
	}
	var filters []string
	for _, t := range schemas.Types() {
		if types[t] {
			filters = append(filters, schemas.TypeStateFilter(source, t))
		}
	}
	err := s.broker.ScanState(ctx, filters, func(n broker.Newest) {
		if k := (typeID{n.Key.Type, n.ID}); want[k] {
			out[k] = n.Head
		}
	}, func(broker.Unreadable) {})
	return out, err
}

func namedIn(v *schemas.Setting) map[typeID]bool {
	want := map[typeID]bool{}
	named(v, func(k typeID, _ *string) { want[k] = true })
	return want
}

// learnNames gives the objects that a setting names the names that they have at the
// source, or had last: also when the source or the store is gone one day, people shall
// know what a row was. A name that nothing tells of stays as it was given, or as it is in
// old.
func (s *Server) learnNames(ctx context.Context, v *schemas.Setting, old schemas.Setting) {
	want := namedIn(v)
	if len(want) == 0 {
		return
	}
	heads, err := s.newest(ctx, v.Source, want)
	if err != nil {
		s.log.WarnContext(ctx, "the names of listed objects cannot be looked up now; the setting is stored with those that are known", "setting", v.ID, "error", err)
	}
	before := map[typeID]string{}
	named(&old, func(k typeID, name *string) { before[k] = *name })
	named(v, func(k typeID, name *string) {
		switch {
		case heads[k].Name != "":
			*name = heads[k].Name
		case *name == "":
			*name = before[k]
		}
	})
}

// shown is a setting as the API shows it: with the names that its objects have now, and
// with what of them is gone.
func (s *Server) shown(ctx context.Context, v broker.StoredSetting) SettingRecord {
	want := namedIn(&v.Setting)
	if len(want) == 0 {
		return settingRecord(v)
	}
	heads, err := s.newest(ctx, v.Source, want)
	if err != nil {
		return settingRecord(v) // the names that it has are good enough
	}
	v.Setting = v.Clone()
	named(&v.Setting, func(k typeID, name *string) {
		if heads[k].Name != "" {
			*name = heads[k].Name
		}
	})
	r := settingRecord(v)
	for _, t := range schemas.Types() {
		for _, o := range v.Rules[t].Objects {
			if heads[typeID{t, o.ID}].Kind == schemas.Deleted {
				r.Gone = append(r.Gone, GoneRecord{string(t), string(o.ID), o.Name})
			}
		}
	}
	return r
}
