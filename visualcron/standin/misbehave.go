package standin

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Mode is a way in which a stand-in can misbehave, or behave as some VisualCron
// servers may and others not. What is off is off: a new stand-in has none on.
type Mode struct {
	Name string `json:"name"`
	// Arg says what stands behind the =, in brackets where it may be left out;
	// empty where nothing may.
	Arg  string `json:"arg,omitzero"`
	What string `json:"what"`
	// Typed tells that the mode can be had for one type alone.
	Typed bool `json:"typed"`

	check func(arg string) error // nil where Arg is empty
}

// Misbehaviour is a mode that is on, for all types where Type is empty.
type Misbehaviour struct {
	Mode string       `json:"mode"`
	Arg  string       `json:"arg,omitzero"`
	Type schemas.Type `json:"type,omitzero"`
}

// String is the inverse of ParseMisbehaviour, its type apart.
func (m Misbehaviour) String() string {
	if m.Arg == "" {
		return m.Mode
	}
	return m.Mode + "=" + m.Arg
}

// Modes returns all modes in the order in which they are told to people.
func Modes() []Mode { return slices.Clone(modes) }

var modes = []Mode{
	{"secrets", "equal|opaque|masked|null", "how secrets come out; but for equal a write that leaves them out keeps them", true, oneOf("equal", "opaque", "masked", "null")},
	{"fresh-iv", "", "opaque secrets look different at every read", true, nil},
	{"enums-as-numbers", "", "known enumerations come out as numbers", true, nil},
	{"adds-fields", "", "unknown members appear in every object", true, nil},
	{"canonicalises", "[KIND,...]", "what is written is stored in a spelling of the server's own: " + strings.Join(spellings, ", "), true, someOf(spellings)},
	{"ignores-field", "NAME|/POINTER", "an update silently leaves that member as it was", true, nonEmpty},
	{"writes-refused", "", "every write is answered with 422 and not done", true, nil},
	{"answers-500-but-applies", "", "every write is done and answered with 500", true, nil},
	{"lands-late", "DURATION[,silent]", "a write is answered with 500, or never, and done that much later", true, lateArg},
	{"statistics-move", "", "every listing of jobs shows other statistics", false, nil},
	{"activity", "[KIND,...]", "things change by themselves: " + strings.Join(activities, ", "), false, someOf(activities)},
	{"token-expires-mid-list", "", "a listing breaks off in its middle, and all tokens are void", true, nil},
	{"token-short", "DURATION", "tokens are good for that long only", false, duration},
	{"empty-token", "", "the logon answers 200 with an empty token", false, nil},
	{"throttles", "N[,429|503]", "of each second's requests all but N are sent away", false, throttleArg},
	{"tarpit", "[DURATION]", "answers come 16 bytes at a time, that far apart (1s)", true, optional(duration)},
	{"slow", "DURATION", "every answer comes that much later", true, duration},
	{"hangs", "", "requests are taken and never answered", true, nil},
	{"cuts", "", "answers break off in their middle", true, nil},
	{"error", "STATUS[,problem|json|html|text]", "every answer is that error, such as 401, 403 or 500", true, errorArg},
	{"another-server", "[ID]", "the server gives itself for another one", false, optional(nonEmpty)},
	{"version", "TEXT", "the server is of that version", false, nonEmpty},
	{"reads-only", "", "the server offers no writes, and refuses them", true, nil},
	{"reads-jobs-only", "", "the server offers to read jobs and nothing else", false, nil},
	{"forbidden-types", "empty|403", "the account sees jobs only: other types are empty, or refused", true, oneOf("empty", "403")},
	{"lower-account", "PERCENT[,silent]", "the account does not see that share of the objects, and its rights are told as fewer, or as they were", true, lowerArg},
	{"no-account", "", "the server says nothing of the account", false, nil},
	{"no-changes-feed", "", "there is no change feed", false, nil},
	{"listing", "FAULT", "listings are wrong in one of the ways of ListingFaults", true, listingArg},
}

func oneOf(words ...string) func(string) error {
	return func(arg string) error {
		if !slices.Contains(words, arg) {
			return fmt.Errorf("want %s", strings.Join(words, ", "))
		}
		return nil
	}
}

func someOf(words []string) func(string) error {
	return func(arg string) error {
		if arg == "" {
			return nil
		}
		for w := range strings.SplitSeq(arg, ",") {
			if !slices.Contains(words, w) {
				return fmt.Errorf("want some of %s", strings.Join(words, ","))
			}
		}
		return nil
	}
}

func nonEmpty(arg string) error {
	if arg == "" {
		return fmt.Errorf("want a text")
	}
	return nil
}

func optional(check func(string) error) func(string) error {
	return func(arg string) error {
		if arg == "" {
			return nil
		}
		return check(arg)
	}
}

func duration(arg string) error {
	if d, err := time.ParseDuration(arg); err != nil || d <= 0 {
		return fmt.Errorf("want a duration above 0 such as 500ms or 2s")
	}
	return nil
}

func lateArg(arg string) error {
	d, how, has := strings.Cut(arg, ",")
	if has && how != "silent" {
		return fmt.Errorf("want DURATION or DURATION,silent")
	}
	return duration(d)
}

func lowerArg(arg string) error {
	share, how, has := strings.Cut(arg, ",")
	if v, err := strconv.Atoi(share); err != nil || v < 0 || v > 100 || has && how != "silent" {
		return fmt.Errorf("want a share in per cent, and perhaps ,silent")
	}
	return nil
}

func throttleArg(arg string) error {
	n, status, has := strings.Cut(arg, ",")
	if v, err := strconv.Atoi(n); err != nil || v < 0 || has && status != "429" && status != "503" {
		return fmt.Errorf("want a number of requests a second, and perhaps ,429 or ,503")
	}
	return nil
}

func errorArg(arg string) error {
	code, form, has := strings.Cut(arg, ",")
	if v, err := strconv.Atoi(code); err != nil || v < 400 || v > 599 {
		return fmt.Errorf("want a status from 400 to 599")
	}
	if !has {
		return nil
	}
	return oneOf("problem", "json", "html", "text")(form)
}

func listingArg(arg string) error {
	var names []string
	for _, f := range ListingFaults() {
		names = append(names, f.Name)
	}
	return oneOf(names...)(arg)
}

// ParseMisbehaviour reads a mode as it is typed, MODE or MODE=ARG, for one type or,
// with "", for all. The error wraps ErrMode.
func ParseMisbehaviour(text string, t schemas.Type) (Misbehaviour, error) {
	name, arg, _ := strings.Cut(text, "=")
	m := Misbehaviour{name, arg, t}
	if strings.HasSuffix(text, "=") {
		return m, fmt.Errorf("%w %.64q: nothing stands behind the =", ErrMode, text)
	}
	return m, m.check()
}

func (m Misbehaviour) check() error {
	i := slices.IndexFunc(modes, func(x Mode) bool { return x.Name == m.Mode })
	switch {
	case i < 0:
		return fmt.Errorf("%w %.64q: the stand-in knows no such mode", ErrMode, m.Mode)
	case m.Type != "" && !modes[i].Typed:
		return fmt.Errorf("%w %s: it cannot be had for one type alone", ErrMode, m.Mode)
	case modes[i].check == nil && m.Arg != "":
		return fmt.Errorf("%w %s: it takes nothing behind a =", ErrMode, m.Mode)
	case modes[i].check != nil:
		if err := modes[i].check(m.Arg); err != nil {
			return fmt.Errorf("%w %s=%.64s: %w", ErrMode, m.Mode, m.Arg, err)
		}
	}
	if m.Type != "" {
		if _, err := schemas.ParseType(string(m.Type)); err != nil {
			return fmt.Errorf("%w %s: %w", ErrMode, m.Mode, err)
		}
	}
	return nil
}

// Misbehave turns modes on, each in place of the same mode for the same type. A
// mode for one type goes before the same one for all. With an error, which wraps
// ErrMode, none is turned on. Modes are not kept on disk.
func (s *Server) Misbehave(list ...Misbehaviour) error {
	return s.switchModes(list, nil)
}

// Behave turns the named modes off for all types, and all of them where none is
// named.
func (s *Server) Behave(names ...string) {
	_ = s.switchModes(nil, func(m Misbehaviour) bool { return len(names) > 0 && !slices.Contains(names, m.Mode) }) // nothing to find fault with
}

// Misbehaviours returns the modes that are on, in the order in which they came.
func (s *Server) Misbehaviours() []Misbehaviour {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.modes)
}

// switchModes drops what keep does not keep, and turns the list on.
func (s *Server) switchModes(list []Misbehaviour, keep func(Misbehaviour) bool) error {
	for _, m := range list {
		if err := m.check(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := slices.Clone(s.modes)
	if keep != nil {
		now = slices.DeleteFunc(now, func(m Misbehaviour) bool { return !keep(m) })
	}
	for _, m := range list {
		now = slices.DeleteFunc(now, func(x Misbehaviour) bool { return x.Mode == m.Mode && x.Type == m.Type })
		now = append(now, m)
		switch m.Mode {
		case "token-short": // those that are out too
			life, _ := time.ParseDuration(m.Arg) // checked
			end := time.Now().Add(life)
			for t, until := range s.tokens {
				if until.After(end) {
					s.tokens[t] = end
				}
			}
		case "no-changes-feed":
			for f := range s.feeds {
				delete(s.feeds, f)
				close(f)
			}
		}
	}
	s.modes = now
	s.keepFaults()
	return nil
}

// mode tells whether a mode is on for a type, or for all where t is empty, and its
// argument.
func (s *Server) mode(name string, t schemas.Type) (arg string, on bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.modes {
		if m.Mode != name {
			continue
		}
		if m.Type != "" && m.Type == t {
			return m.Arg, true
		}
		if m.Type == "" {
			arg, on = m.Arg, true
		}
	}
	return arg, on
}

// modeTime is mode for one whose argument begins with a duration.
func (s *Server) modeTime(name string, t schemas.Type, def time.Duration) (d time.Duration, on bool) {
	arg, on := s.mode(name, t)
	text, _, _ := strings.Cut(arg, ",")
	if d, err := time.ParseDuration(text); err == nil {
		return d, on
	}
	return def, on
}

// misbehavesAtAll is the quick way out of a well stand-in.
func (s *Server) misbehavesAtAll() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.modes) > 0
}

// shown is what a reader gets of a stored body.
func (s *Server) shown(t schemas.Type, body []byte) []byte {
	_, added := s.mode("adds-fields", t)
	_, numbers := s.mode("enums-as-numbers", t)
	if !added && !numbers && s.SecretMode(t) == visualcron.SecretsEqual {
		return body
	}
	n, err := parseNode(body)
	if err != nil {
		return body // what is stored is valid
	}
	s.hide(t, n)
	if numbers {
		enumsAsNumbers(n)
	}
	if added {
		addFields(t, n)
	}
	return n.append(make([]byte, 0, len(body)+64))
}

// received is what is stored of a body as sent: its secrets by SecretMode, and what
// other modes make of a body that is written. Only a writer over HTTP meets the
// fields that are ignored: whoever changes a stand-in from within is its owner.
func (s *Server) received(t schemas.Type, body, old []byte, remote bool) ([]byte, error) {
	ignored, ignores := s.mode("ignores-field", t)
	kinds, canonicalises := s.mode("canonicalises", t)
	ignores = ignores && remote && old != nil
	if !ignores && !canonicalises && s.SecretMode(t) == visualcron.SecretsEqual {
		return body, nil
	}
	n, err := parseNode(body)
	var was *node
	if err == nil && old != nil {
		was, err = parseNode(old)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	s.take(t, n, was)
	if ignores {
		ignoreField(n, was, ignored)
	}
	if canonicalises {
		respell(t, n, kinds)
	}
	return n.append(nil), nil
}

// ignoreField puts back what the object had in the members of a name at any depth,
// or in the one at a JSON pointer; what it had not is taken out.
func ignoreField(n, was *node, field string) {
	put := func(n, was *node, name string) {
		if old := was.get(name); old != nil && n.kind == '{' {
			n.set(name, old)
		} else if i := n.index(name); i >= 0 {
			n.remove(i)
		}
	}
	if path, ok := strings.CutPrefix(field, "/"); ok {
		steps := strings.Split(path, "/")
		for i, step := range steps {
			step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
			if i == len(steps)-1 {
				put(n, was, step)
				return
			}
			next, old := n.get(step), was.get(step)
			if k, err := strconv.Atoi(step); err == nil && n.kind == '[' && k >= 0 && k < len(n.kids) {
				next, old = n.kids[k], was.twin(n, k)
			}
			if next == nil || old == nil {
				return
			}
			n, was = next, old
		}
	}
	var walk func(n, was *node)
	walk = func(n, was *node) {
		if was == nil || n.kind != was.kind {
			return
		}
		for i, kid := range n.kids {
			if n.kind == '[' {
				walk(kid, was.twin(n, i))
			} else {
				walk(kid, was.get(n.names[i]))
			}
		}
		if n.kind == '{' && (n.index(field) >= 0 || was.index(field) >= 0) {
			put(n, was, field)
		}
	}
	walk(n, was)
}

// adminPrefix is the path of what is the stand-in's own, beside the contract; no
// mode touches it.
const adminPrefix = "/standin/v1/"

// Admin is what a stand-in tells of its modes at /standin/v1/misbehaviour. A PUT
// there sends On alone, all that shall be on from then.
type Admin struct {
	Name    string         `json:"name"`
	Version string         `json:"version"`
	On      []Misbehaviour `json:"on"`
	Modes   []Mode         `json:"modes"`
	// Faults are what mode listing can be given.
	Faults []Mode `json:"faults"`
}

// serveAdmin answers what is beside the contract, with the contract's account.
func (s *Server) serveAdmin(w http.ResponseWriter, r *http.Request, rest string) {
	switch {
	case rest == "logon":
		if allow(w, r, http.MethodPost) {
			s.logon(w, r, true)
		}
	case !s.authorized(r, true):
		w.Header().Set("WWW-Authenticate", `Bearer realm="stand-in"`)
		refuse(w, http.StatusUnauthorized, "log on first: the token is absent, unknown or expired")
	case rest != "misbehaviour":
		refuse(w, http.StatusNotFound, "no such resource")
	case allow(w, r, http.MethodGet, http.MethodPut):
		if r.Method == http.MethodPut {
			var in struct {
				On []Misbehaviour `json:"on"`
			}
			err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, 1<<20), &in, json.RejectUnknownMembers(true))
			if err == nil {
				err = s.switchModes(in.On, func(Misbehaviour) bool { return false })
			}
			if err != nil {
				refuse(w, http.StatusBadRequest, "%v", err)
				return
			}
		}
		faults := []Mode{}
		for _, f := range ListingFaults() {
			faults = append(faults, Mode{Name: f.Name, What: f.What, Typed: true})
		}
		answerValue(w, Admin{s.cfg.Name, Version, append([]Misbehaviour{}, s.Misbehaviours()...), Modes(), faults})
	}
}

// listingFault returns the fault that listings of a type shall show.
func (s *Server) listingFault(t schemas.Type) (ListingFault, bool) {
	name, on := s.mode("listing", t)
	if !on {
		return ListingFault{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	f, ok := s.faults[name]
	return f, ok
}

// keepFaults keeps one value of each listing fault that is on, because it may count
// how often it was served; s.mu is held.
func (s *Server) keepFaults() {
	on := map[string]ListingFault{}
	for _, f := range ListingFaults() {
		if slices.ContainsFunc(s.modes, func(m Misbehaviour) bool { return m.Mode == "listing" && m.Arg == f.Name }) {
			on[f.Name] = f
			if old, ok := s.faults[f.Name]; ok {
				on[f.Name] = old
			}
		}
	}
	s.faults = on
}
