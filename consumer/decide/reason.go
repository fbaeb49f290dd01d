package decide

import (
	"maps"
	"slices"
)

// Reason is why something is done or not: a short word that does not change between
// releases. Text says it to people.
type Reason string

// Reasons.
const (
	Unknown        Reason = "unknown"
	NotFromHere    Reason = "not-from-source"
	CameFromHere   Reason = "came-from-here"
	NotSelected    Reason = "not-selected"
	OnRecord       Reason = "on-record"
	NewerOnRecord  Reason = "newer-on-record"
	IsParked       Reason = "parked"
	GivenUp        Reason = "discarded"
	NotOurs        Reason = "not-ours"
	GoneAlready    Reason = "gone-already"
	GoneToo        Reason = "gone-too"
	GoneAtSource   Reason = "gone-at-source"
	NewOff         Reason = "new-off"
	UpdatedOff     Reason = "updated-off"
	DeletedOff     Reason = "deleted-off"
	OnlyDeleted    Reason = "only-deleted"
	AlreadyEqual   Reason = "equal"
	Differs        Reason = "differs"
	IsNew          Reason = "new"
	HasRun         Reason = "has-run"
	RunsAndGoes    Reason = "removes-itself"
	MayHaveRun     Reason = "may have run"
	OtherHome      Reason = "other-home"
	RanElsewhere   Reason = "ran-elsewhere"
	LeftBehind     Reason = "left-behind"
	BuiltIn        Reason = "built-in"
	EditKept       Reason = "edit-kept"
	EditParked     Reason = "edited"
	EditHeld       Reason = "edit-held"
	Conflict       Reason = "conflict"
	VersionsDiffer Reason = "versions"
	OnlyReports    Reason = "report-only"
	NeedsApproval  Reason = "approval"
	Drifted        Reason = "drift"
	OutsideWindow  Reason = "window"
	SafeMode       Reason = "safe-mode"
	Orphan         Reason = "orphan"
	Airlock        Reason = "airlock"
	InUse          Reason = "in-use"
	Rejected       Reason = "rejected"
	SwitchedOff    Reason = "switched-off"
	OnGrace        Reason = "grace"
	Undone         Reason = "undone"
	PutBack        Reason = "put-back"
	AsBefore       Reason = "as-before"
	MovedOn        Reason = "changed-since"
	HidesSecrets   Reason = "secrets-changed"
	Dangles        Reason = "dangles"
)

type words struct{ text, fix string }

var reasons = map[Reason]words{
	Unknown:        {"depends on what the target has", ""},
	NotFromHere:    {"the source never had it", ""},
	CameFromHere:   {"the source has it from this target", ""},
	NotSelected:    {"no sync setting takes it", ""},
	OnRecord:       {"its newest version was dealt with before", ""},
	NewerOnRecord:  {"something newer than the source's newest was applied", ""},
	IsParked:       {"this version is parked", "see the parked record"},
	GivenUp:        {"a person has discarded this version", ""},
	NotOurs:        {"it did not come from this source, or vcsync never brought it", ""},
	GoneAlready:    {"it was removed before", ""},
	GoneToo:        {"gone at the source, and at the target too", ""},
	GoneAtSource:   {"gone at the source", ""},
	NewOff:         {"the target has none, and the settings do not take new ones", ""},
	UpdatedOff:     {"it differs, and the settings do not take updates", ""},
	DeletedOff:     {"gone at the source, and the settings do not take deletions", ""},
	OnlyDeleted:    {"the settings take only its deletion", ""},
	AlreadyEqual:   {"the target holds it already", ""},
	Differs:        {"it differs", ""},
	IsNew:          {"the target has none", ""},
	HasRun:         {"it was here, and deletes itself when it has run", ""},
	RunsAndGoes:    {"it deletes itself when it has run; nobody deleted it", ""},
	MayHaveRun:     {"the job deletes itself when it has run, and it was gone when vcsync looked, or whether an earlier write of it arrived is not known: it may have run there", "retry to create it again, or discard this version"},
	OtherHome:      {"vcsync brought it to another id at the target before a pin came, changed or went, and there it is: both would run", "remove the old one at the target, or change the pin back; it goes by itself then, within minutes"},
	RanElsewhere:   {"it was brought to another id at the target, is there no more, and deletes itself when it has run: it may have run there", "retry to create it again, or discard this version"},
	LeftBehind:     {"vcsync brought it here, and by the pins it belongs to another id now", "remove it at the target, or change the pin back"},
	BuiltIn:        {"the target's object of this id is one of its built-in objects, which are never written", "rename one of the two, or discard this version"},
	EditKept:       {"somebody edited it at the target, and the setting keeps such edits", ""},
	EditHeld:       {"somebody edited or deleted it at the target, and its source has not changed since: the setting leaves such edits to people", "undo the edit, or change what the setting does about edits"},
	EditParked:     {"somebody edited or deleted it at the target, and its source has another state: the setting leaves that to a person", "retry to let the source win, or discard this version to keep what the target has"},
	Conflict:       {"two sources have it, and not the same", "let only one sync setting take this object to this target"},
	VersionsDiffer: {"the two servers are of different VisualCron versions", "update one of the servers, or let the setting write across versions"},
	OnlyReports:    {"the setting only reports", "change its mode to have it done"},
	NeedsApproval:  {"the setting waits for a person's approval", "approve the plan"},
	Drifted:        {"it was changed at the target, and the setting reports such drift", "Sync now, or let the setting heal drift"},
	OutsideWindow:  {"no sync window is open", ""},
	Orphan:         {"vcsync brought it, and nothing is known of it from its source any more, since a store was lost: nobody can tell whether it was deleted there", "remove it at the target where it is not wanted"},
	Airlock:        {"more would be deleted at the target in 24 hours than the setting's measure", "vcsync airlock list shows what waits, approve or reject it; or bring it back at the source"},
	InUse:          {"other objects at the target refer to it", "change or remove what refers to it: what its source deleted goes by itself then, or once it is approved in the airlock"},
	Rejected:       {"a person has rejected its deletion: it stays until its source has it again", "vcsync airlock approve deletes it after all"},
	SwitchedOff:    {"gone at the source: it is switched off, and deleted when its grace is over", ""},
	OnGrace:        {"gone at the source, and switched off: it is deleted when its grace is over", "bring it back at the source to have it as it was, or let it go"},
	Undone:         {"what was written of it was undone: it is paused at this target, in every version", "vcsync parked retry resumes it"},
	PutBack:        {"as it was before", ""},
	AsBefore:       {"the target holds what it held before", ""},
	MovedOn:        {"it was changed at the target since", "look at both, and change it at the target by hand"},
	HidesSecrets:   {"the target gives its secrets in another way than then, so nobody can tell whether it was changed since", "change it at the target by hand"},
	Dangles:        {"it refers to what is not there", "bring that back first, or do it all the same: --force"},
	SafeMode:       {"vcsync is in safe mode: it deletes nothing, and writes nothing but what a person has approved", "vcsync rebuild shows what is to be done and does it once approved; vcsync safe-mode off ends it"},
}

// Text returns the reason as a part of a sentence for people.
func (r Reason) Text() string { return reasons[r].text }

// Fix returns what a person can do about it, empty where nothing is to be done.
func (r Reason) Fix() string { return reasons[r].fix }

// Reasons returns every reason, by word.
func Reasons() []Reason {
	return slices.Sorted(maps.Keys(reasons))
}
