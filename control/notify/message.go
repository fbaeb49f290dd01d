package notify

import (
	"fmt"
	"strings"
	"time"
)

// State says which message of a condition it is.
type State string

// The states of a message.
const (
	Began State = "began"
	Lasts State = "lasts"
	Ended State = "ended"
	// Unknown: nothing has been known of it for an hour, so its end will not be told.
	Unknown State = "unknown"
	Test    State = "test"
)

// Message is what people are told. Webhooks get it as JSON: a member may be added, and
// none is renamed or removed.
type Message struct {
	Version int `json:"version"`
	// ID is the same at every try to send it, so that a receiver can leave out what it has.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// State is began, lasts, ended, unknown or test.
	State   State     `json:"state"`
	Source  string    `json:"source,omitzero"`
	Target  string    `json:"target,omitzero"`
	Setting string    `json:"setting,omitzero"`
	Count   int       `json:"count,omitzero"`
	Detail  []string  `json:"detail,omitzero"`
	Since   time.Time `json:"since,omitzero"`
	Time    time.Time `json:"time"`
	From    string    `json:"from"`
	Title   string    `json:"title"`
	Text    string    `json:"text"`
	Command string    `json:"command,omitzero"`
}

// message makes the texts of one.
func message(s subject, state State, v reading, since, now time.Time, from, id string) Message {
	m := Message{Version: 1, ID: id, Kind: s.Kind, State: state, Source: s.Source, Target: s.Target, Setting: s.Setting, Count: v.count, Detail: v.detail,
		Since: since.UTC(), Time: now.UTC(), From: from}
	what, next := s.what(v.count)
	lasted := now.Sub(since).Round(time.Minute)
	stamp := since.UTC().Format("2006-01-02 15:04 UTC")
	var b strings.Builder
	switch state {
	case Began, Lasts:
		m.Title, m.Command = what, next
		fmt.Fprintf(&b, "Since %s", stamp)
		if state == Lasts {
			m.Title = "still: " + what
			fmt.Fprintf(&b, ", for %s", duration(lasted))
		}
		b.WriteString(".")
		if len(v.detail) > 0 {
			fmt.Fprintf(&b, " Of: %s.", strings.Join(v.detail, ", "))
		}
		fmt.Fprintf(&b, "\nNext: %s", next)
	case Ended:
		m.Title = "over: " + s.over()
		fmt.Fprintf(&b, "It began %s and lasted %s.", stamp, duration(lasted))
	case Unknown:
		m.Title, m.Command = "not known any more: "+what, "vcsync status"
		fmt.Fprintf(&b, "It began %s. For an hour no process has spoken of it, or no active setting has used it; its end will not be told.\nNext: vcsync status", stamp)
	}
	fmt.Fprintf(&b, "\nFrom vcsync at %s.", from)
	m.Text = b.String()
	return m
}

// TestMessage is what vcsync notify test sends.
func TestMessage(from string, now time.Time) Message {
	return Message{Version: 1, ID: newID(), Kind: "test", State: Test, Time: now.UTC(), From: from,
		Title: "a test of notifications", Text: "Somebody ran vcsync notify test. Nothing is the matter.\nFrom vcsync at " + from + "."}
}

// duration is one for people: to the minute, and to the hour where it is long.
func duration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}
