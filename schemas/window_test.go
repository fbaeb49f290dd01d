package schemas

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func window(kind WindowKind, schedule, duration, zone string) Window {
	return Window{Kind: kind, Schedule: schedule, Duration: duration, TimeZone: zone}
}

// moment reads a time with its zone.
func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWindows(t *testing.T) {
	const berlin, newYork = "Europe/Berlin", "America/New_York"
	night := Windows{window(AllowWindow, "0 22 * * *", "8h", berlin)}
	for _, c := range []struct {
		name    string
		windows Windows
		at      string
		open    bool
		next    string // empty for never
	}{
		{"none are open at any time", nil, "2026-11-23T12:00:00Z", true, ""},
		{"closed by day", night, "2026-11-23T12:00:00+01:00", false, "2026-11-23T22:00:00+01:00"},
		{"open from the moment on", night, "2026-11-23T22:00:00+01:00", true, "2026-11-24T06:00:00+01:00"},
		{"and not before", night, "2026-11-23T21:59:59.9+01:00", false, "2026-11-23T22:00:00+01:00"},
		{"open over midnight", night, "2026-11-24T05:59:59+01:00", true, "2026-11-24T06:00:00+01:00"},
		{"closed from the moment on", night, "2026-11-24T06:00:00+01:00", false, "2026-11-24T22:00:00+01:00"},
		{"deny alone leaves the rest open", Windows{window(DenyWindow, "0 8 * * 1-5", "10h", "")}, "2026-11-23T12:00:00Z", false, "2026-11-23T18:00:00Z"},
		{"also over a weekend", Windows{window(DenyWindow, "0 8 * * 1-5", "10h", "")}, "2026-11-27T18:00:00Z", true, "2026-11-30T08:00:00Z"},
		{"deny wins over allow", Windows{night[0], window(DenyWindow, "0 0 24 * *", "2h", berlin)}, "2026-11-24T01:00:00+01:00", false, "2026-11-24T02:00:00+01:00"},
		{"and ends it", Windows{night[0], window(DenyWindow, "0 0 24 * *", "2h", berlin)}, "2026-11-23T23:00:00+01:00", true, "2026-11-24T00:00:00+01:00"},
		{"one of two of allow is enough", Windows{night[0], window(AllowWindow, "0 12 * * *", "1h", "")}, "2026-11-23T12:30:00Z", true, "2026-11-23T13:00:00Z"},
		{"two that meet are one", Windows{night[0], window(AllowWindow, "0 6 * * *", "1h", berlin)}, "2026-11-23T23:00:00+01:00", true, "2026-11-24T07:00:00+01:00"},
		{"one that lasts longer than it takes to come again is always open", Windows{window(AllowWindow, "0 0 * * *", "25h", "")}, "2026-11-23T12:30:00Z", true, ""},
		{"and one of deny never", Windows{window(DenyWindow, "0 0 * * *", "24h", "")}, "2026-11-23T12:30:00Z", false, ""},
		{"the clock of another zone", Windows{window(AllowWindow, "0 22 * * *", "8h", newYork)}, "2026-11-23T23:00:00+01:00", false, "2026-11-24T04:00:00+01:00"},
		{"days of the month or of the week", Windows{window(AllowWindow, "0 0 1 * 0", "1h", "")}, "2026-11-23T12:00:00Z", false, "2026-11-29T00:00:00Z"},
		{"years ahead", Windows{window(AllowWindow, "0 0 29 2 *", "1h", "")}, "2026-11-23T12:00:00Z", false, "2028-02-29T00:00:00Z"},
		{"what is broken is closed", Windows{window(AllowWindow, "0 22 * *", "8h", berlin)}, "2026-11-23T23:00:00+01:00", false, ""},

		// Germany goes from 02:00 CET to 03:00 CEST on 2026-03-29, and from 03:00 CEST to
		// 02:00 CET on 2026-10-25; New York on 2026-03-08 and 2026-11-01, at 02:00 each.
		{"Berlin, the short night ends by the clock", night, "2026-03-29T00:00:00+01:00", true, "2026-03-29T06:00:00+02:00"},
		{"Berlin, the long night ends by the clock", night, "2026-10-25T00:00:00+02:00", true, "2026-10-25T06:00:00+01:00"},
		{"Berlin, the next night after the change", night, "2026-03-28T12:00:00+01:00", false, "2026-03-28T22:00:00+01:00"},
		{"Berlin, after the short night", night, "2026-03-29T12:00:00+02:00", false, "2026-03-29T22:00:00+02:00"},
		{"New York, the short night", Windows{window(AllowWindow, "0 22 * * *", "8h", newYork)}, "2026-03-08T01:00:00-05:00", true, "2026-03-08T06:00:00-04:00"},
		{"New York, the long night", Windows{window(AllowWindow, "0 22 * * *", "8h", newYork)}, "2026-11-01T01:30:00-04:00", true, "2026-11-01T06:00:00-05:00"},
		{"Berlin, one that begins in the hour that is left out is open after it", Windows{window(AllowWindow, "30 2 * * *", "2h", berlin)},
			"2026-03-29T01:59:00+01:00", false, "2026-03-29T03:00:00+02:00"},
		{"and ends by the clock", Windows{window(AllowWindow, "30 2 * * *", "2h", berlin)}, "2026-03-29T03:00:00+02:00", true, "2026-03-29T04:30:00+02:00"},
		{"Berlin, one that lies wholly in the hour that is left out is not open that night", Windows{window(AllowWindow, "10 2 * * *", "30m", berlin)},
			"2026-03-28T12:00:00+01:00", false, "2026-03-30T02:10:00+02:00"},
		{"Berlin, one that lies in the hour that comes twice is open twice", Windows{window(AllowWindow, "10 2 * * *", "30m", berlin)},
			"2026-10-25T02:40:00+02:00", false, "2026-10-25T02:10:00+01:00"},
		{"Berlin, one that ended in the hour that comes twice is open again", Windows{window(AllowWindow, "0 22 * * *", "4h30m", berlin)},
			"2026-10-25T02:45:00+02:00", false, "2026-10-25T02:00:00+01:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := moment(t, c.at)
			open, next := c.windows.At(at)
			var want time.Time
			if c.next != "" {
				want = moment(t, c.next)
			}
			if open != c.open || !next.Equal(want) {
				t.Errorf("open %v until %s, want %v until %s", open, next, c.open, want)
			}
			if c.windows.Open(at) != open {
				t.Errorf("Open says %v, At %v", !open, open)
			}
		})
	}
}

// TestWindowsByTheMinute compares what At foresees with what every minute shows, around
// the days on which the clocks change.
func TestWindowsByTheMinute(t *testing.T) {
	for _, zone := range []string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
		for _, ws := range []Windows{
			{window(AllowWindow, "0 22 * * *", "8h", zone)},
			{window(AllowWindow, "30 1 * * *", "45m", zone), window(DenyWindow, "*/40 2,3 * * *", "17m", zone)},
			{window(DenyWindow, "15 */3 * * *", "50m", zone), window(DenyWindow, "0 2 * * 0", "1h", "Europe/Berlin")},
		} {
			for _, day := range []string{"2026-03-07T12:00:00Z", "2026-03-28T12:00:00Z", "2026-04-04T06:00:00Z", "2026-10-03T06:00:00Z", "2026-10-24T12:00:00Z", "2026-10-31T12:00:00Z"} {
				begin := moment(t, day)
				was, next := ws.At(begin)
				for at := begin; at.Before(begin.Add(36 * time.Hour)); at = at.Add(time.Minute) {
					now := ws.Open(at)
					if changed := !at.Before(next); changed != (now != was) {
						t.Fatalf("%v at %s: open %v, was %v, and was to change at %s", ws, at, now, was, next)
					}
					if now != was {
						was, next = ws.At(at)
					}
				}
			}
		}
	}
}

func TestWindowFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		w    Window
		says string
	}{
		{"no kind", window("", "0 22 * * *", "8h", ""), "windows[0].kind: \"\", want allow or deny"},
		{"no schedule", window(AllowWindow, "", "8h", ""), "windows[0].schedule: \"\"; want a cron expression of five fields"},
		{"seconds", window(AllowWindow, "0 0 22 * * *", "8h", ""), "five fields"},
		{"a word", window(AllowWindow, "@daily", "8h", ""), "five fields"},
		{"an interval", window(AllowWindow, "@every 1h 0 0 0", "8h", ""), "five fields"},
		{"a zone in the schedule", window(AllowWindow, "TZ=UTC 22 * * *", "8h", ""), "five fields"},
		{"a zone alone", window(AllowWindow, "TZ=UTC", "8h", ""), "five fields"},
		{"an hour that there is not", window(AllowWindow, "0 25 * * *", "8h", ""), "above maximum (23)"},
		{"a day that never comes", window(AllowWindow, "0 0 30 2 *", "8h", ""), "never comes"},
		{"a step of nothing", window(AllowWindow, "*/0 * * * *", "8h", ""), "step"},
		{"no duration", window(AllowWindow, "0 22 * * *", "", ""), "windows[0].duration"},
		{"a duration of days", window(AllowWindow, "0 22 * * *", "1d", ""), "windows[0].duration"},
		{"a duration below zero", window(AllowWindow, "0 22 * * *", "-8h", ""), "windows[0].duration"},
		{"too short", window(AllowWindow, "0 22 * * *", "59s", ""), "windows[0].duration"},
		{"too long", window(AllowWindow, "0 22 * * *", "10000h", ""), "windows[0].duration"},
		{"a zone that there is not", window(AllowWindow, "0 22 * * *", "8h", "Europe/Atlantis"), "windows[0].timeZone: \"Europe/Atlantis\" is no time zone"},
		{"the zone of whatever computer", window(AllowWindow, "0 22 * * *", "8h", "Local"), "is no time zone"},
		{"a zone that is a path", window(AllowWindow, "0 22 * * *", "8h", "../../etc/passwd"), "is no time zone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Setting{ID: "s", Source: "a", Target: "b", Policy: Keep, Windows: Windows{c.w}}.Validate()
			if !errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want ErrSetting with %q", err, c.says)
			}
			if (Windows{c.w}).Open(time.Now()) {
				t.Error("it allows something")
			}
		})
	}
}

// FuzzWindow: whatever is written in a window, it is refused with a reason, or it can be
// asked.
func FuzzWindow(f *testing.F) {
	for _, s := range []string{"0 22 * * *", "*/5 0-6/2 1,15 jan-mar mon", "? ? ? ? ?", "0 0 31 2 *", "TZ=", "CRON_TZ= ", "1-0 * * * *", "*/999999999999 * * * *", "@every 1ns", "60 * * * *", "0 0 29 2 7"} {
		f.Add(s, "8h", "Europe/Berlin", int64(1_800_000_000))
	}
	f.Add("* * * * *", "1m", "America/New_York", int64(-1))
	f.Add("0 22 * * *", "9999999h", "\x00", int64(1<<40))
	f.Fuzz(func(t *testing.T, schedule, duration, zone string, at int64) {
		ws := Windows{window(AllowWindow, schedule, duration, zone), window(DenyWindow, schedule, duration, zone)}
		err := Setting{ID: "s", Source: "a", Target: "b", Policy: Keep, Windows: ws[:1]}.Validate()
		if err != nil && (!errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), "windows[0].")) {
			t.Errorf("refused with %v", err)
		}
		now := time.Unix(at%(1<<34), 0)
		open, next := ws[:1].At(now)
		if err != nil && (open || !next.IsZero()) {
			t.Errorf("refused, and open %v until %s", open, next)
		}
		if !next.IsZero() && (!next.After(now) || ws[:1].Open(next) == open) {
			t.Errorf("at %s open %v until %s, which changes nothing", now, open, next)
		}
		if ws.Open(now) {
			t.Error("allow and deny of the same time: deny does not win")
		}
	})
}
