package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
)

// Kind is a kind of thing that is told.
type Kind string

// The kinds.
const (
	// Held: deletions wait for a person, at a source or at a target.
	Held Kind = "held"
	// Parked: objects cannot be applied at a target.
	Parked Kind = "parked"
	// Degraded: a source cannot be listed, or not completely.
	Degraded Kind = "degraded"
	// Drift: a target differs from what a sync setting makes of it.
	Drift Kind = "drift"
	// Down: a target does not answer or refuses the account.
	Down Kind = "down"
	// SafeMode: vcsync is in safe mode.
	SafeMode Kind = "safe-mode"
)

// Kinds are all kinds that a line of the file can name.
func Kinds() []Kind { return []Kind{Held, Parked, Degraded, Drift, Down, SafeMode} }

// ParseKind is the inverse of Kind.String. The error wraps ErrFile.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); slices.Contains(Kinds(), k) {
		return k, nil
	}
	// The text is not quoted: it may be a part of a URL.
	return "", fmt.Errorf("%w: not a kind of notification; the kinds are %s", ErrFile, kindList())
}

func (k Kind) String() string { return string(k) }

func kindList() string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// subject is what a message is about: of one subject and kind there is one message at a
// time. Only what the kind speaks of is set.
type subject struct {
	Kind    Kind   `json:"kind"`
	Source  string `json:"source,omitzero"`
	Target  string `json:"target,omitzero"`
	Setting string `json:"setting,omitzero"`
}

// reading is what a look found of a subject.
type reading struct {
	on bool
	// count is how many objects are concerned; 0 where that is no question.
	count int
	// since is when it began, where the status knows.
	since time.Time
	// detail are short words of vcsync's own: types and classes.
	detail []string
}

// read makes readings of a status. A subject that is missing is one of which nothing is
// known: that is no end.
func read(r control.StatusReport) map[subject]reading {
	out := map[subject]reading{{Kind: SafeMode}: {on: r.SafeMode.On, since: r.SafeMode.Since}}
	for _, s := range r.Sources {
		degraded := s.State == string(producer.Degraded)
		if !degraded && s.State != string(producer.Capturing) {
			continue
		}
		v := reading{on: degraded}
		if degraded {
			v.since, v.detail = s.Since, words(s.Class)
		}
		out[subject{Kind: Degraded, Source: s.Server}] = v
		held := reading{}
		for _, t := range s.Types {
			if t.Held > 0 {
				held.on, held.count, held.detail = true, held.count+t.Held, append(held.detail, t.Type)
			}
		}
		out[subject{Kind: Held, Source: s.Server}] = held
	}
	for _, t := range r.Targets {
		switch t.State {
		case string(consumer.Down):
			out[subject{Kind: Down, Target: t.Server}] = reading{on: true, since: t.Since}
		case string(consumer.Working):
			out[subject{Kind: Down, Target: t.Server}] = reading{}
		}
	}
	// Parked records are read from the store: a target without one has none.
	for _, v := range r.Settings {
		out[subject{Kind: Parked, Target: v.Target}] = reading{}
	}
	for _, p := range r.ParkedBy {
		k := subject{Kind: Parked, Target: p.Target}
		v := out[k]
		v.on, v.count, v.detail = true, v.count+p.Count, append(v.detail, words(p.Class)...)
		out[k] = v
	}
	for _, v := range r.Settings {
		if d := v.Drift; v.Active && d != nil && d.Failed == "" && !d.Outdated {
			out[subject{Kind: Drift, Setting: v.Setting, Source: v.Source, Target: v.Target}] = reading{on: d.Differs > 0, count: d.Differs, since: d.Began}
		}
		if v.Active && v.Known {
			k := subject{Kind: Held, Target: v.Target}
			held := out[k]
			held.on, held.count = held.on || v.DeletesHeld > 0, held.count+v.DeletesHeld
			out[k] = held
		}
	}
	return out
}

func words(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// what says of a subject what is the matter, and next the command that goes on.
func (s subject) what(count int) (what, next string) {
	objects := func(one, many string) string {
		if count == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", count, many)
	}
	switch s.Kind {
	case Held:
		at := "source " + s.Source
		if s.Target != "" {
			at = "target " + s.Target
		}
		return objects("deletion waits", "deletions wait") + " for a person at " + at, "vcsync airlock list"
	case Parked:
		return objects("object is", "objects are") + " parked at target " + s.Target, "vcsync parked list --target " + s.Target
	case Degraded:
		return "source " + s.Source + " is degraded: a listing fails or is not complete", "vcsync status"
	case Drift:
		return objects("object differs", "objects differ") + " at target " + s.Target + " from what setting " + s.Setting + " makes of it", "vcsync drift " + s.Setting
	case Down:
		return "target " + s.Target + " is down: it does not answer, or refuses the account", "vcsync server test " + s.Target
	case SafeMode:
		return "vcsync is in safe mode: it deletes nothing, and writes nothing but approved plans", "vcsync safe-mode"
	}
	return string(s.Kind), "vcsync status"
}

// over says that it has ended.
func (s subject) over() string {
	switch s.Kind {
	case Held:
		if s.Target != "" {
			return "no deletion waits any more at target " + s.Target
		}
		return "no deletion waits any more at source " + s.Source
	case Parked:
		return "nothing is parked any more at target " + s.Target
	case Degraded:
		return "source " + s.Source + " is listed completely again"
	case Drift:
		return "target " + s.Target + " is again as setting " + s.Setting + " makes it"
	case Down:
		return "target " + s.Target + " answers again"
	case SafeMode:
		return "vcsync has left safe mode"
	}
	return string(s.Kind)
}
