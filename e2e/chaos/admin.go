package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// The admin: while processes fail, somebody turns settings on and off, narrows and
// widens what they take, changes their modes and policies, pins jobs to other ids and
// takes the pins back, and starts, approves and drops runs, all through the API. In the
// end the settings are put to a known state, and everything that chaos proves has to
// hold, and beside it:
//
//   - no run stays open for ever,
//   - no job stands at two ids of one target,
//   - what a pin left behind is in the target's drift list; once it is removed by hand,
//     the job stands where its pin says,
//   - a job that deletes itself and ran at a target is never written there again.

const (
	// pinned of the jobs of each source may be pinned, to one of homes-1 ids that are
	// reserved for each.
	pinned = 20
	homes  = 3
	// selfJobs of each source delete themselves when they have run.
	selfJobs = 12
	runLimit = 4 * time.Minute
)

// selfID is the id of a job that deletes itself.
func selfID(i int) schemas.ID {
	return schemas.ID(fmt.Sprintf("c4a05003-1111-4222-8333-%012d", i))
}

// homeOf is an id at a target: of a job's own where at is 0, else reserved for it.
func homeOf(origin schemas.ID, at int) schemas.ID {
	if at == 0 {
		return origin
	}
	n := 0
	_, _ = fmt.Sscanf(string(origin[24:]), "%d", &n)
	return schemas.ID(fmt.Sprintf("%s-1111-4222-8333-%012d", map[bool]string{false: "c4a05002", true: "c4a05004"}[isSelf(origin)], at*1000000+n))
}

// originOf is the inverse of homeOf.
func originOf(id schemas.ID) schemas.ID {
	n := 0
	switch {
	case strings.HasPrefix(string(id), "c4a05002-"):
		_, _ = fmt.Sscanf(string(id[24:]), "%d", &n)
		return homeOfN("c4a05000", n%1000000)
	case strings.HasPrefix(string(id), "c4a05004-"):
		_, _ = fmt.Sscanf(string(id[24:]), "%d", &n)
		return homeOfN("c4a05003", n%1000000)
	}
	return id
}

func homeOfN(prefix string, n int) schemas.ID {
	return schemas.ID(fmt.Sprintf("%s-1111-4222-8333-%012d", prefix, n))
}

func isSelf(origin schemas.ID) bool { return strings.HasPrefix(string(origin), "c4a05003-") }

// note is a line of the timeline: of a server and an object, or of all.
type note struct {
	at     time.Time
	server schemas.Slug
	origin schemas.ID
	text   string
}

// note needs the lock.
func (f *flow) note(server schemas.Slug, origin schemas.ID, text string) {
	f.notes = append(f.notes, note{time.Now(), server, origin, text})
}

// selfs is what became of the jobs that delete themselves, by target and id.
type selfs struct {
	ran  map[string]time.Time
	seen map[string]int // in how many looks in a row it stood there, ready to run
}

// elsewhere needs the lock. It returns what is wrong with writing to an id, by what
// stands at the others of the same job, and by what ran.
func (f *flow) elsewhere(target schemas.Slug, at schemas.ID) (wrong []string) {
	origin := originOf(at)
	if ran, ok := f.selfs.ran[string(target)+"/"+string(origin)]; ok {
		wrong = append(wrong, fmt.Sprintf("again: %s is to get %s, which deletes itself and ran there at %s", target, at, ran.Format("15:04:05.000")))
	}
	for _, id := range f.stands(target, origin) {
		if id != at {
			wrong = append(wrong, fmt.Sprintf("twice: %s is to get %s, and the same job stands there as %s", target, at, id))
		}
	}
	return wrong
}

// stands returns at which ids of a target a job stands.
func (f *flow) stands(target schemas.Slug, origin schemas.ID) (out []schemas.ID) {
	for at := range homes {
		if id := homeOf(origin, at); f.hasAt(target, id) {
			out = append(out, id)
		}
	}
	return out
}

func (f *flow) hasAt(target schemas.Slug, id schemas.ID) bool {
	_, ok := f.fleet.Hosts[target].Server.Get(schemas.Job, id)
	return ok
}

// clerk changes settings and runs.
type clerk struct {
	a      *apart
	rng    *rand.Rand
	http   http.Client
	bodies map[schemas.Slug]*control.SettingBody // by target, as they are to be now
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	final  map[schemas.Slug]map[schemas.ID]schemas.ID
	// asleep tells that what pins left behind still stands.
	asleep bool
	wrong  []string
	did    map[string]int
}

func settingOf(target schemas.Slug) string { return "to-" + string(target) }

// hire starts the admin.
func (a *apart) hire(ctx context.Context) error {
	c := &clerk{a: a, rng: rand.New(rand.NewPCG(*seed, 3)), bodies: map[schemas.Slug]*control.SettingBody{}, final: map[schemas.Slug]map[schemas.ID]schemas.ID{}, did: map[string]int{}, asleep: true}
	c.http.Timeout = 10 * time.Second
	a.mu.Lock()
	a.selfs = selfs{map[string]time.Time{}, map[string]int{}}
	a.mu.Unlock()
	for target, source := range a.from {
		c.bodies[target] = &control.SettingBody{Source: string(source), Target: string(target), Active: true, ActivePolicy: string(a.policies[target]), Rules: all()}
	}
	a.clerk = c
	work, stop := context.WithCancel(ctx)
	c.stop = stop
	c.done.Go(func() { c.work(work) })
	c.done.Go(func() { c.live(work) })
	return nil
}

// pins returns the pins of the end, none before.
func (c *clerk) pins(target schemas.Slug) map[schemas.ID]schemas.ID {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.final[target]
}

var anyID = regexp.MustCompile(`c4a0500\d-1111-4222-8333-\d{12}`)

// but leaves out the jobs that delete themselves, which are judged on their own, and,
// as long as they stand, those that pins left behind.
func (c *clerk) but(diff []string) (out []string) {
	if c == nil {
		return diff
	}
	for _, d := range diff {
		origin, target := originOf(schemas.ID(anyID.FindString(d))), c.targetIn(d)
		if isSelf(origin) {
			continue
		}
		if c.leaves() && len(c.behind(target, origin)) > 0 {
			continue
		}
		out = append(out, d)
	}
	return out
}

func (c *clerk) leaves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asleep
}

// targetIn finds the name of a target in a text.
func (c *clerk) targetIn(text string) schemas.Slug {
	for target := range c.a.from {
		if slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" :,;()", r) }), string(target)) {
			return target
		}
	}
	return ""
}

// behind returns at which ids a job stands that are not its home by the pins of the end.
func (c *clerk) behind(target schemas.Slug, origin schemas.ID) (out []schemas.ID) {
	home := cmp.Or(c.pins(target)[origin], origin)
	for _, id := range c.a.stands(target, origin) {
		if id != home {
			out = append(out, id)
		}
	}
	return out
}

func all() map[string]control.RuleRecord {
	return map[string]control.RuleRecord{"Job": {Sync: "all", RightsRecord: control.RightsRecord{New: true, Updated: true, Deleted: true}}}
}

// call asks the API.
func (c *clerk) call(ctx context.Context, method, path string, body, into any) (status int, err error) {
	var raw io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		raw = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.a.API+"/api/v1"+path, raw)
	if err != nil {
		return 0, err
	}
	r.Header.Set("If-Match", "*")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, answer)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(answer, into)
	}
	return resp.StatusCode, err
}

// does asks the API for something that may fail, as long as it does for a fault.
func (c *clerk) does(ctx context.Context, target schemas.Slug, what, method, path string, body any) bool {
	status, err := c.call(ctx, method, "/settings/"+settingOf(target)+path, body, nil)
	text := what
	if err != nil {
		text += ", which failed: " + err.Error()
	}
	c.a.mu.Lock()
	c.a.note(target, "", "admin: "+text)
	c.a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if status == http.StatusUnprocessableEntity || status == http.StatusBadRequest || status == http.StatusPreconditionRequired {
		c.wrong = append(c.wrong, "admin: "+text) // it is asked wrongly
	}
	if err == nil {
		c.did[strings.Fields(what)[0]]++
	}
	return err == nil
}

// work changes something until ctx ends.
func (c *clerk) work(ctx context.Context) {
	targets := slices.Sorted(maps.Keys(c.a.from))
	made := map[schemas.Slug]int{}
	for c.a.wait(ctx, time.Duration(200+c.rng.IntN(1300))*time.Millisecond) == nil {
		for _, source := range c.a.sources { // one more that deletes itself, now and then
			if made[source] < selfJobs && c.rng.IntN(6) == 0 {
				c.a.putSelf(source, made[source])
				made[source]++
			}
		}
		target := targets[c.rng.IntN(len(targets))]
		b := c.bodies[target]
		if !b.Active && c.rng.IntN(2) == 0 { // rather on than off
			b.Active = true
			c.does(ctx, target, "activate", "POST", "/activate", nil)
			continue
		}
		switch kind := c.rng.IntN(20); {
		case kind < 3:
			if b.Active = !b.Active; b.Active {
				c.does(ctx, target, "activate", "POST", "/activate", nil)
			} else {
				c.does(ctx, target, "deactivate", "POST", "/deactivate", nil)
			}
		case kind < 6:
			c.rule(b)
			c.put(ctx, target, fmt.Sprintf("rule %+v", b.Rules["Job"]))
		case kind < 9:
			one := func(words ...string) string { return words[c.rng.IntN(len(words))] }
			b.TargetEdits, b.Drift = one("overwrite", "keep", "park"), one("report", "heal")
			b.Mode, b.Versions = one("automatic", "automatic", "approve", "report"), one("same", "any")
			c.put(ctx, target, fmt.Sprintf("policies %s, edits %s, drift %s", b.Mode, b.TargetEdits, b.Drift))
		case kind < 13:
			b.Pins = c.choosePins(b.Pins)
			c.put(ctx, target, "pins "+pinText(b.Pins))
		default:
			c.run(ctx, target)
		}
	}
}

func pinText(pins []control.PinRecord) string {
	var words []string
	for _, p := range pins {
		words = append(words, p.Source[len(p.Source)-4:]+"->"+p.Target[:8]+".."+p.Target[len(p.Target)-7:])
	}
	return strings.Join(words, " ")
}

func (c *clerk) put(ctx context.Context, target schemas.Slug, what string) {
	c.does(ctx, target, what, "PUT", "", c.bodies[target])
}

// rule narrows or widens what is taken.
func (c *clerk) rule(b *control.SettingBody) {
	r := control.RuleRecord{Sync: "all", RightsRecord: control.RightsRecord{New: true, Updated: true, Deleted: true}}
	switch c.rng.IntN(6) {
	case 0:
		r.New = false
	case 1:
		r.Updated = false
	case 2:
		r.Deleted = false
	case 3:
		r.Groups = []string{fmt.Sprintf("Group %d", c.rng.IntN(12)), fmt.Sprintf("Group %d", c.rng.IntN(12))}
		if r.Groups[0] == r.Groups[1] {
			r.Groups = r.Groups[:1]
		}
	case 4:
		for i := range pinned {
			if c.rng.IntN(2) == 0 {
				r.Objects = append(r.Objects, control.ObjectRuleRecord{ID: string(id(i))})
			}
		}
	}
	b.Rules = map[string]control.RuleRecord{"Job": r}
}

// choosePins changes the pins of some jobs.
func (c *clerk) choosePins(pins []control.PinRecord) []control.PinRecord {
	now := map[schemas.ID]schemas.ID{}
	for _, p := range pins {
		now[schemas.ID(p.Source)] = schemas.ID(p.Target)
	}
	for range 1 + c.rng.IntN(8) {
		origin := id(c.rng.IntN(pinned))
		if c.rng.IntN(3) == 0 {
			origin = selfID(c.rng.IntN(selfJobs))
		}
		if at := c.rng.IntN(homes); at > 0 {
			now[origin] = homeOf(origin, at)
		} else {
			delete(now, origin)
		}
	}
	var out []control.PinRecord
	for _, origin := range slices.Sorted(maps.Keys(now)) {
		out = append(out, control.PinRecord{Type: "Job", Source: string(origin), Target: string(now[origin])})
	}
	return out
}

// run asks for a run, or does something about the one there is.
func (c *clerk) run(ctx context.Context, target schemas.Slug) {
	var r control.RunRecord
	if _, err := c.call(ctx, "GET", "/settings/"+settingOf(target)+"/run", nil, &r); err != nil {
		r.Over = true // none yet, or a fault
	}
	switch {
	case r.Over:
		var ask control.NewRun
		if c.rng.IntN(3) == 0 {
			for range 1 + c.rng.IntN(4) {
				ask.Objects = append(ask.Objects, control.RunObjectRecord{Type: "Job", ID: string(id(c.rng.IntN(pinned)))})
			}
			ask.Dependencies = c.rng.IntN(2) == 0
		}
		if ask.DryRun = c.bodies[target].Mode == "report" || c.rng.IntN(3) == 0; ask.DryRun {
			c.does(ctx, target, "dry run", "POST", "/runs", ask)
		} else if c.does(ctx, target, "run", "POST", "/runs", ask) && c.rng.IntN(2) == 0 {
			// A person who waits for the plan, and approves it.
			for begun := time.Now(); r.Phase != "shown" && time.Since(begun) < 8*time.Second && c.a.wait(ctx, 250*time.Millisecond) == nil; {
				r = control.RunRecord{}
				if _, err := c.call(ctx, "GET", "/settings/"+settingOf(target)+"/run", nil, &r); err != nil {
					r.Phase = ""
				}
			}
			if r.Phase == "shown" {
				c.does(ctx, target, "approve "+r.Plan.ID, "POST", "/run/approve", control.ApproveRun{Plan: r.Plan.ID})
			}
		}
	case r.Phase == "shown" && c.rng.IntN(4) > 0:
		c.does(ctx, target, "approve "+r.Plan.ID, "POST", "/run/approve", control.ApproveRun{Plan: r.Plan.ID})
	case c.rng.IntN(4) == 0:
		c.does(ctx, target, "drop "+r.ID+", "+r.Phase, "POST", "/run/drop", control.DropRun{Run: r.ID})
	}
}

// putSelf makes a job that deletes itself. It never changes.
func (f *flow) putSelf(source schemas.Slug, i int) {
	f.mu.Lock()
	f.version++
	version := f.version
	f.history[string(source)+"/"+string(selfID(i))] = []event{{version, false}}
	f.at[version] = time.Now()
	f.note(source, selfID(i), fmt.Sprintf("the source has version %d, which deletes itself", version))
	f.mu.Unlock()
	body := fmt.Sprintf(`{"Id":%q,"Name":"Runs and goes %d","Group":"Once","Description":"version=%d","RemoveAfterExecution":true,"Stats":{"Active":true},"Tasks":[]}`, selfID(i), i, version)
	if _, _, err := f.fleet.Hosts[source].Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // see put
	}
}

// live lets the jobs that delete themselves run at the targets that follow their source's
// flag: they are gone then. One that is being written does not run.
func (c *clerk) live(ctx context.Context) {
	f := c.a.flow
	for c.a.wait(ctx, time.Second) == nil {
		f.mu.Lock()
		for target, policy := range c.a.policies {
			for i := range selfJobs {
				key := string(target) + "/" + string(selfID(i))
				at := f.stands(target, selfID(i))
				if policy != schemas.Follow || len(at) != 1 || f.under[key] > 0 {
					f.selfs.seen[key] = 0
					continue
				}
				body, _ := f.fleet.Hosts[target].Server.Get(schemas.Job, at[0])
				if f.selfs.seen[key]++; f.selfs.seen[key] < 4 || !bytes.Contains(bytes.ReplaceAll(body, []byte(" "), nil), []byte(`"Active":true`)) {
					continue
				}
				if ok, err := f.fleet.Hosts[target].Server.Delete(schemas.Job, at[0]); err == nil && ok {
					f.selfs.ran[key] = time.Now()
					f.note(target, selfID(i), fmt.Sprintf("%s has run, and is gone", at[0]))
				}
			}
		}
		f.mu.Unlock()
	}
}

// close puts the settings to the state of the end, and proves what pins and runs demand.
func (c *clerk) close(ctx context.Context) error {
	c.stop()
	c.done.Wait()
	a := c.a
	targets := slices.Sorted(maps.Keys(a.from))
	for _, target := range targets {
		b := c.bodies[target]
		b.Active, b.Mode, b.TargetEdits, b.Drift, b.Versions, b.Rules = true, "automatic", "overwrite", "report", "same", all()
		for begun := time.Now(); ; {
			if c.does(ctx, target, "end: all jobs, with pins "+pinText(b.Pins), "PUT", "", b) {
				break
			}
			if time.Since(begun) > 2*time.Minute {
				return fmt.Errorf("setting %s cannot be put to its last state:\n%s", settingOf(target), strings.Join(c.wrong, "\n"))
			}
			if err := a.wait(ctx, time.Second); err != nil {
				return err
			}
		}
		final := map[schemas.ID]schemas.ID{}
		for _, p := range b.Pins {
			final[schemas.ID(p.Source)] = schemas.ID(p.Target)
		}
		c.mu.Lock()
		c.final[target] = final
		c.mu.Unlock()
	}
	a.say("the admin is done: %v", c.did)
	fault := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		a.say("WRONG: %s", text)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wrong = append(c.wrong, text)
	}
	// What is open ends; then everybody gets one more, whole.
	for _, target := range targets {
		if err := c.ends(ctx, target, false); err != nil {
			fault("hangs: %s: %v", target, err)
		}
	}
	took, err := a.settles(ctx, *settle)
	if err != nil {
		fault("before what pins left behind is removed: %v: %s", err, strings.Join(a.diverged()[:min(8, len(a.diverged()))], "; "))
	}
	a.say("equal %s later, but for what pins left behind", took.Round(100*time.Millisecond))
	for _, target := range targets {
		asked := time.Now()
		for begun := time.Now(); !c.does(ctx, target, "run of the end", "POST", "/runs", control.NewRun{}) && time.Since(begun) < time.Minute; {
			if err := a.wait(ctx, time.Second); err != nil {
				return err
			}
		}
		if err := c.ends(ctx, target, true); err != nil {
			fault("hangs: %s: %v", target, err)
		}
		c.listed(ctx, target, asked, fault)
	}
	// What a person does about it.
	removed := 0
	for _, target := range targets {
		for i := range pinned {
			for _, at := range c.behind(target, id(i)) {
				a.mu.Lock()
				a.note(target, id(i), fmt.Sprintf("a person removes %s, which a pin left behind", at))
				a.mu.Unlock()
				if _, err := a.Hosts[target].Server.Delete(schemas.Job, at); err != nil {
					return err
				}
				removed++
			}
		}
	}
	c.mu.Lock()
	c.asleep = false
	c.mu.Unlock()
	a.say("a person removes %d jobs that pins left behind", removed)
	if c.rng.IntN(3) > 0 { // else it goes by itself, which takes minutes
		for _, target := range targets {
			c.retry(ctx, target)
		}
	}
	took, err = a.settles(ctx, *settle+2*time.Minute)
	if ctx.Err() != nil {
		return err
	}
	a.say("all pinned jobs stand where their pins say %s later", took.Round(100*time.Millisecond))
	c.judgeSelfs(ctx, targets, fault)
	return nil
}

// retry asks for another try of what waited for the removal of what a pin left behind.
func (c *clerk) retry(ctx context.Context, target schemas.Slug) {
	var parked struct{ Items []control.ParkedRecord }
	if _, err := c.call(ctx, "GET", "/parked?target="+string(target), nil, &parked); err != nil {
		return // it goes by itself then
	}
	for _, p := range parked.Items {
		if p.Class == "other-home" && !isSelf(originOf(schemas.ID(p.ID))) {
			_, _ = c.call(ctx, "POST", fmt.Sprintf("/parked/%s/%s/%s/retry", p.Target, p.Type, p.Token), nil, nil) // likewise
		}
	}
}

// ends waits until a setting's run is over. A plan that waits for an approval gets it, or
// is dropped.
func (c *clerk) ends(ctx context.Context, target schemas.Slug, approve bool) error {
	var last control.RunRecord
	for begun := time.Now(); ; {
		var r control.RunRecord
		status, err := c.call(ctx, "GET", "/settings/"+settingOf(target)+"/run", nil, &r)
		switch {
		case status == http.StatusNotFound:
			return nil
		case err == nil && r.Over:
			if approve && r.Phase != "done" {
				return fmt.Errorf("the run of the end is %s: %s", r.Phase, r.Reason)
			}
			return nil
		case err == nil && r.Phase == "shown" && approve:
			c.does(ctx, target, "approve "+r.Plan.ID, "POST", "/run/approve", control.ApproveRun{Plan: r.Plan.ID})
		case err == nil && r.Phase == "shown":
			c.does(ctx, target, "drop "+r.ID, "POST", "/run/drop", control.DropRun{Run: r.ID})
		}
		if err == nil {
			last = r
		}
		if time.Since(begun) > runLimit {
			return errors.Join(fmt.Errorf("run %s is %s after %s, and waits for: %s", last.ID, last.Phase, runLimit, last.Waits), err)
		}
		if err := c.a.wait(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// listed waits until a drift list since then holds everything that pins left behind.
func (c *clerk) listed(ctx context.Context, target schemas.Slug, since time.Time, fault func(string, ...any)) {
	path := "/settings/" + settingOf(target) + "/drift"
	var missing []schemas.ID
	var last string
	for begun := time.Now(); time.Since(begun) < 2*time.Minute && ctx.Err() == nil; _ = c.a.wait(ctx, time.Second) {
		var d control.DriftRecord
		if _, err := c.call(ctx, "GET", path, nil, &d); err != nil {
			last = err.Error()
			continue
		}
		if last = fmt.Sprintf("list %s of %s, %d entries, %s", d.ID, d.Began.Format("15:04:05"), d.Entries, d.Failed); d.Failed != "" || d.Began.Before(since) || d.Outdated {
			continue
		}
		have := map[string]bool{}
		for page := range max(d.Pages, 1) {
			var p control.EntryPage
			if _, err := c.call(ctx, "GET", fmt.Sprintf("%s/objects?page=%d&plan=%s", path, page, d.ID), nil, &p); err != nil {
				last = err.Error()
				have = nil
				break
			}
			for _, e := range p.Items {
				if e.Reason == "left-behind" {
					have[cmp.Or(e.TargetID, e.ID)] = true
				}
			}
		}
		if have == nil {
			continue
		}
		missing = nil
		for _, origin := range origins() {
			for _, at := range c.behind(target, origin) {
				if !have[string(at)] {
					missing = append(missing, at)
				}
			}
		}
		if missing == nil {
			return
		}
		last = fmt.Sprintf("list %s of %s has not %v", d.ID, d.Began.Format("15:04:05"), missing)
	}
	fault("silent: what pins left behind at %s is not in its drift list: %v (%s)", target, missing, last)
}

// origins are the jobs that may be pinned.
func origins() (out []schemas.ID) {
	for i := range pinned {
		out = append(out, id(i))
	}
	for i := range selfJobs {
		out = append(out, selfID(i))
	}
	return out
}

// judgeSelfs tells of every job that deletes itself where it is: at one place, or it ran,
// or a person is asked.
func (c *clerk) judgeSelfs(ctx context.Context, targets []schemas.Slug, fault func(string, ...any)) {
	a := c.a
	stand, ran, asked := 0, 0, 0
	for _, target := range targets {
		var parked struct{ Items []control.ParkedRecord }
		if _, err := c.call(ctx, "GET", "/parked?target="+string(target), nil, &parked); err != nil {
			fault("parked: %v", err)
		}
		for i := range selfJobs {
			origin := selfID(i)
			if !a.hasAt(a.from[target], origin) {
				continue // never made
			}
			at := a.stands(target, origin)
			a.mu.Lock()
			_, didRun := a.selfs.ran[string(target)+"/"+string(origin)]
			a.mu.Unlock()
			isAsked := slices.ContainsFunc(parked.Items, func(p control.ParkedRecord) bool { return originOf(schemas.ID(p.ID)) == origin })
			switch {
			case len(at) > 1 || len(at) == 1 && didRun:
				fault("twice: %s stands at %v of %s, and ran there: %v", origin, at, target, didRun)
			case len(at) == 1:
				stand++
			case didRun:
				ran++
			case isAsked:
				asked++
			default:
				fault("lost: %s lacks %s, which deletes itself and did not run there", target, origin)
			}
		}
	}
	a.say("of the jobs that delete themselves %d stand, %d ran, and of %d a person is asked", stand, ran, asked)
}

// timelines prints what was done to the objects and servers that texts name.
func (a *apart) timelines(texts []string) {
	said := map[string]bool{}
	for _, text := range texts {
		origin := originOf(schemas.ID(anyID.FindString(text)))
		var target schemas.Slug
		if a.clerk != nil {
			target = a.clerk.targetIn(text)
		}
		if key := string(target) + "/" + string(origin); origin == "" || said[key] || len(said) > 5 {
			continue
		} else {
			said[key] = true
		}
		fmt.Printf("chaos: timeline of %s at %s (%s)\n", origin, target, text)
		for _, n := range a.notes {
			if (n.server == "" || n.server == target || n.server == a.from[target]) && (n.origin == "" || n.origin == origin) {
				fmt.Printf("chaos:   %s %s: %s\n", n.at.Format("15:04:05.000"), cmp.Or(n.server, "all"), n.text)
			}
		}
	}
}

// runOneAdmin is the admin while everything is one process that is killed.
func runOneAdmin(ctx context.Context) (err error) {
	fmt.Printf("chaos: %d kills while %d jobs change for 3 targets, and their settings (seed %d)\n", *rounds, *jobs, *seed)
	fleet, err := e2e.NewFleet(*binary)
	if err != nil {
		return err
	}
	fleet.Env = []string{"VCSYNC_POLL=5s"}
	a := &apart{Roles: &e2e.Roles{Fleet: fleet}, policies: map[schemas.Slug]schemas.ActivePolicy{}, rng: rand.New(rand.NewPCG(*seed, 1)), begun: time.Now()}
	a.flow = &flow{fleet: fleet, from: map[schemas.Slug]schemas.Slug{}, slow: 100 * time.Millisecond, rng: rand.New(rand.NewPCG(*seed, 2)), history: map[string][]event{}, highest: map[string]int{}}
	defer func() { err = a.end(err) }()
	if err := a.hosts(ctx, map[schemas.Slug]int{"production": 3}); err != nil {
		return err
	}
	if err := fleet.Start(ctx); err != nil {
		return err
	}
	if err := a.RegisterFrom(ctx, a.from, a.policies); err != nil {
		return err
	}
	if _, err := a.settles(ctx, time.Minute); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	if err := a.hire(ctx); err != nil {
		return err
	}
	rest := a.flows(12)
	for round := 1; round <= *rounds && err == nil; round++ {
		alive := time.Duration(2000+a.rng.IntN(10000)) * time.Millisecond
		if err = a.wait(ctx, alive); err != nil {
			break
		}
		a.Kill()
		a.say("kill %2d after %s alive; %d changes, %d writes", round, alive, a.count(), a.writes())
		err = fleet.Start(ctx)
	}
	rest()
	if err != nil {
		return err
	}
	if err := a.clerk.close(ctx); err != nil {
		return err
	}
	return a.verdict(ctx, fmt.Sprintf("%d kills", *rounds))
}
