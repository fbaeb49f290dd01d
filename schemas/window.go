package schemas

import (
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a target's zone is known also where the system has no list of zones, as Windows has none

	"github.com/robfig/cron/v3"
)

// Windows are the windows of a setting. None at all are open at any time.
type Windows []Window

const (
	// minWindow and maxWindow bound how long a window stays open.
	minWindow = time.Minute
	maxWindow = 366 * 24 * time.Hour
	// maxSchedule is how long a cron expression may be, in bytes.
	maxSchedule = 200
	// windowSteps bounds how many openings and closings At looks ahead.
	windowSteps = 5000
)

// cronFields are the five of a crontab: no seconds and no words such as @daily.
var cronFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// opening is a window that can be asked. Schedule and length are read by the wall clock
// of its zone: a window of 8h from 22:00 ends at 06:00 by that clock, also in the nights
// in which the clock is changed. Internally that clock's time is a time in UTC.
type opening struct {
	deny  bool
	at    cron.Schedule
	stays time.Duration
	zone  *time.Location
}

// parse reads a window, with all that is wrong with it.
func (w Window) parse() (o opening, faults [][2]string) {
	bad := func(path, format string, a ...any) {
		faults = append(faults, [2]string{path, fmt.Sprintf(format, a...)})
	}
	switch w.Kind {
	case AllowWindow:
	case DenyWindow:
		o.deny = true
	default:
		bad("kind", "%.32q, want allow or deny", w.Kind)
	}
	var err error
	if o.at, err = parseSchedule(w.Schedule); err != nil {
		bad("schedule", "%v", err)
	}
	if o.stays, err = time.ParseDuration(w.Duration); err != nil || o.stays < minWindow || o.stays > maxWindow {
		bad("duration", "%.32q, want a time such as 8h or 90m, from 1m to %dh", w.Duration, int(maxWindow.Hours()))
	}
	if o.zone, err = timeZone(w.TimeZone); err != nil {
		bad("timeZone", "%v", err)
	}
	return o, faults
}

// parseSchedule reads a cron expression of five fields that opens at all.
func parseSchedule(text string) (cron.Schedule, error) {
	const want = "want a cron expression of five fields (minute, hour, day, month, weekday), such as 0 22 * * 1-5"
	if len(text) > maxSchedule || strings.ContainsRune(text, '=') || strings.HasPrefix(strings.TrimSpace(text), "@") || len(strings.Fields(text)) != 5 {
		return nil, fmt.Errorf("%.80q; %s", text, want)
	}
	s, err := cronFields.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%.80q: %w; %s", text, err, want)
	}
	// From a leap year on, all days come within the five years that Next looks ahead.
	if s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("%.80q never comes; %s", text, want)
	}
	return s, nil
}

// zones holds the time zones that were asked for: they are read from files.
var zones sync.Map

// timeZone returns the zone of an IANA name, UTC for none.
func timeZone(name string) (*time.Location, error) {
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" { // of which computer?
		return nil, fmt.Errorf("%.64q is no time zone, want an IANA name such as Europe/Berlin; UTC where empty", name)
	}
	zones.Store(name, z)
	return z, nil
}

// wall is what the clock of the window's zone shows, as a time in UTC.
func (o opening) wall(t time.Time) time.Time {
	t = t.In(o.zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// open tells whether the window is open.
func (o opening) open(t time.Time) bool {
	w := o.wall(t)
	from := o.at.Next(w.Add(-o.stays))
	return !from.IsZero() && !from.After(w)
}

// change returns the next moment at which the window may open or close, zero where
// none is to be seen.
func (o opening) change(t time.Time) time.Time {
	w := o.wall(t)
	next := o.at.Next(w)
	if from := o.at.Next(w.Add(-o.stays)); !from.IsZero() {
		if closes := from.Add(o.stays); next.IsZero() || closes.Before(next) {
			next = closes
		}
	}
	// As long as the clock is not changed, its time and real time go on together.
	_, changed := t.In(o.zone).ZoneBounds()
	if next.IsZero() {
		return changed
	}
	at := t.Add(next.Sub(w))
	if !changed.IsZero() && changed.Before(at) {
		return changed
	}
	return at
}

// Open tells whether the windows allow a write: none of deny is open, and one of allow
// is, where there are any. A window that does not pass Validate allows nothing.
func (ws Windows) Open(t time.Time) bool {
	all, ok := ws.openings()
	return ok && isOpen(all, t)
}

// At tells whether the windows allow a write at t, and when that changes next: zero
// where it never does, or only in years.
func (ws Windows) At(t time.Time) (open bool, next time.Time) {
	all, ok := ws.openings()
	if !ok {
		return false, time.Time{}
	}
	open = isOpen(all, t)
	at := t
	for range windowSteps {
		var soonest time.Time
		for _, o := range all {
			if c := o.change(at); !c.IsZero() && (soonest.IsZero() || c.Before(soonest)) {
				soonest = c
			}
		}
		if soonest.IsZero() {
			return open, time.Time{}
		}
		if at = soonest; isOpen(all, at) != open {
			return open, at.UTC()
		}
	}
	return open, time.Time{}
}

func (ws Windows) openings() ([]opening, bool) {
	var out []opening
	for _, w := range ws {
		o, faults := w.parse()
		if faults != nil {
			return nil, false
		}
		out = append(out, o)
	}
	return out, true
}

func isOpen(all []opening, t time.Time) bool {
	allowed, asked := false, false
	for _, o := range all {
		switch {
		case o.deny && o.open(t):
			return false
		case !o.deny:
			asked = true
			allowed = allowed || o.open(t)
		}
	}
	return allowed || !asked
}
