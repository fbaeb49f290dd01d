package e2e_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// bodyOf returns an object of a host, decoded; nil where there is none.
func bodyOf(t testing.TB, h *e2e.Host, x schemas.Type, id schemas.ID) (out map[string]any) {
	t.Helper()
	b, ok := h.Server.Get(x, id)
	if !ok {
		return nil
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// change edits an object at a host, as a person would there.
func change(t testing.TB, h *e2e.Host, x schemas.Type, id schemas.ID, edit func(map[string]any)) {
	t.Helper()
	b := bodyOf(t, h, x, id)
	if b == nil {
		t.Fatalf("%s has no %s %s", h.Name, x, id)
	}
	edit(b)
	raw, _ := json.Marshal(b)
	if _, _, err := h.Server.Put(x, raw); err != nil {
		t.Fatal(err)
	}
}

// task returns the one task of a job.
func task(b map[string]any) map[string]any { return b["Tasks"].([]any)[0].(map[string]any) }

// TestOwnedFieldsSurvive edits jobs on both sides at random, with kept fields and
// overrides, one way and both ways: what a server owns stays as it is there, all else
// becomes as the other side has it, and every edit is at most one write.
func TestOwnedFieldsSurvive(t *testing.T) {
	for _, both := range []bool{false, true} {
		t.Run(fmt.Sprintf("both ways %v", both), func(t *testing.T) {
			t.Parallel()
			world(t, nil, func(w *e2e.World) {
				const jobs, steps = 4, 60
				const seed = 5
				rng := rand.New(rand.NewPCG(seed, 1))
				prod, test := w.Hosts["production"], w.AddHost("test")
				differ := func(id, source, target schemas.Slug, group string) schemas.Setting {
					s := e2e.AllJobs(id, source, target, schemas.Keep)
					s.Kept = []schemas.KeptField{{Type: schemas.Job, Pointer: "/Description"}, {Type: schemas.Job, Pointer: "/Tasks/*/Execute/CmdLine"}, {Type: schemas.Job, ID: jobID(1), Pointer: "/Owner"}}
					s.Overrides = []schemas.Override{{Type: schemas.Job, Patch: jsontext.Value(`{"Group":"` + group + `"}`)}, {Type: schemas.Job, ID: jobID(2), Patch: jsontext.Value(`{"Extra":{"Of":"` + group + `"}}`)}}
					return s
				}
				w.Setting(differ("there", "production", "test", "Test"))
				if both {
					w.Setting(differ("back", "test", "production", "Production"))
				}
				for i := range jobs {
					putJob(t, prod, i, "born")
				}
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2*time.Minute + 137*time.Microsecond)
				type place struct {
					host schemas.Slug
					job  int
					what string
				}
				owned := map[place]string{}
				for _, h := range w.Hosts {
					h.Reset()
					for i := range jobs {
						owned[place{h.Name, i, "Description"}], owned[place{h.Name, i, "CmdLine"}] = "born", "x.cmd"
						if i == 1 {
							owned[place{h.Name, i, "Owner"}] = "<nil>"
						}
					}
				}
				free := map[int]string{} // the last edit of what nobody owns
				// The writes that the edits on a side are to make on the other one: of what nobody
				// owns, of what was edited at the target alone, and of the first override.
				writes := map[schemas.Slug]int{}
				behind := map[place]bool{}
				if both {
					for i := range jobs {
						behind[place{"test", i, ""}] = true
					}
				}
				check := func(step int) {
					t.Helper()
					for p, want := range owned {
						b := bodyOf(t, w.Hosts[p.host], schemas.Job, jobID(p.job))
						have := fmt.Sprint(b[p.what])
						if p.what == "CmdLine" {
							have = fmt.Sprint(task(b)["Execute"].(map[string]any)["CmdLine"])
						}
						if have != want {
							t.Fatalf("seed %d step %d: %v is %s, its owner left %s", seed, step, p, have, want)
						}
					}
				}
				for step := range steps {
					i := rng.IntN(jobs)
					v := fmt.Sprintf("v%d", step)
					h := prod
					if rng.IntN(2) == 0 {
						h = test
					}
					if behind[place{h.Name, i, ""}] {
						writes[h.Name]++
						delete(behind, place{h.Name, i, ""})
					}
					switch k := rng.IntN(5); {
					case k == 0:
						change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Description"] = v })
						owned[place{h.Name, i, "Description"}] = v
					case k == 1:
						change(t, h, schemas.Job, jobID(i), func(b map[string]any) { task(b)["Execute"].(map[string]any)["CmdLine"] = v })
						owned[place{h.Name, i, "CmdLine"}] = v
					case k == 2 && i == 1:
						change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Owner"] = v })
						owned[place{h.Name, i, "Owner"}] = v
					case h == test && !both: // undone by the next edit at the source
						change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Free"] = v })
						behind[place{"production", i, ""}] = true
					default:
						change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Free"], task(b)["Name"] = v, v })
						free[i] = v
						writes[h.Name]++
					}
					time.Sleep(time.Duration(rng.IntN(8000))*time.Millisecond + 137*time.Microsecond)
					if both { // one side at a time: who edits both has a conflict of his own
						time.Sleep(5 * time.Second)
					}
					check(step)
				}
				for i := range jobs {
					v := fmt.Sprintf("last%d", i)
					change(t, prod, schemas.Job, jobID(i), func(b map[string]any) { b["Free"], task(b)["Name"] = v, v })
					free[i] = v
					writes["production"]++
					time.Sleep(137 * time.Microsecond)
				}
				time.Sleep(2 * time.Minute)
				check(steps)
				for i := range jobs {
					for _, h := range w.Hosts {
						b := bodyOf(t, h, schemas.Job, jobID(i))
						if b["Free"] != free[i] || task(b)["Name"] != free[i] {
							t.Errorf("job %d at %s did not become as the other side: %v %v, want %s", i, h.Name, b["Free"], task(b)["Name"], free[i])
						}
					}
					b := bodyOf(t, test, schemas.Job, jobID(i))
					extra, _ := b["Extra"].(map[string]any)
					if b["Group"] != "Test" || (i == 2) != (extra["Of"] == "Test") {
						t.Errorf("job %d has group %v and extra %v at the target", i, b["Group"], extra)
					}
				}
				puts, deletes := test.Count()
				back, _ := prod.Count()
				if puts > writes["production"] || puts < jobs || deletes != 0 || back > writes["test"] {
					t.Errorf("%d writes at test, want at most %d; %d at production, want at most %d; %d deletes", puts, writes["production"], back, writes["test"], deletes)
				}
				t.Logf("seed %d: %d steps, %d writes of %d at test, %d of %d at production", seed, steps, puts, writes["production"], back, writes["test"])
				for _, h := range w.Hosts {
					h.Reset()
				}
				time.Sleep(20 * time.Minute)
				for id, h := range w.Hosts {
					if puts, deletes := h.Count(); puts+deletes != 0 {
						t.Errorf("%s: %d puts, %d deletes without any edit", id, puts, deletes)
					}
				}
			})
		})
	}
}

// TestAChangedDifferenceTakesEffect: what a setting keeps or overrides is in force
// without an edit at the source, and a bad override is parked and written nowhere.
func TestAChangedDifferenceTakesEffect(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "born")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		set := e2e.AllJobs("production-to-test", "production", "test", schemas.Keep)
		set.Overrides = []schemas.Override{{Type: schemas.Job, Patch: jsontext.Value(`{"Description":"of the target"}`)}}
		w.Setting(set)
		time.Sleep(10 * time.Second)
		if b := bodyOf(t, test, schemas.Job, jobID(1)); b["Description"] != "of the target" {
			t.Errorf("the override did not take effect: %v", b["Description"])
		}
		set.Overrides = []schemas.Override{{Type: schemas.Job, Patch: jsontext.Value(`{"Id":"11111111-1111-4222-8333-000000000000"}`)}}
		w.Setting(set) // control would refuse it
		test.Reset()
		time.Sleep(10 * time.Second)
		targets, _ := w.Cons.Status()
		if puts, _ := test.Count(); puts != 0 || targets[0].Parked != 1 {
			t.Errorf("an override of the id made %d writes, %d parked", puts, targets[0].Parked)
		}
		set.Overrides = nil
		w.Setting(set)
		within(t, w, 20*time.Second, "test")
		if targets, _ := w.Cons.Status(); targets[0].Parked != 0 {
			t.Errorf("still parked")
		}
	})
}

// TestAnEditOfWhatIsKeptIsNoEdit: a setting that keeps edits at the target goes on
// following the source where only what the target keeps for itself was edited there.
func TestAnEditOfWhatIsKeptIsNoEdit(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs("jobs", "production", "test", schemas.Keep)
		set.TargetEdits, set.Kept = schemas.KeepEdits, []schemas.KeptField{{Type: schemas.Job, Pointer: "/Description"}}
		w.Setting(set)
		putJob(t, prod, 1, "born")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		is := func(what string, field string, want any) {
			t.Helper()
			if have := bodyOf(t, test, schemas.Job, jobID(1))[field]; have != want {
				t.Errorf("%s: %s is %v, want %v", what, field, have, want)
			}
		}
		edit := func(h *e2e.Host, field, value string) {
			t.Helper()
			change(t, h, schemas.Job, jobID(1), func(b map[string]any) { b[field] = value })
			time.Sleep(time.Minute)
		}
		edit(test, "Description", "the target's")
		edit(prod, "Free", "1")
		is("after an edit of what is kept", "Free", "1")
		is("after an edit of what is kept", "Description", "the target's")
		edit(test, "Free", "by hand")
		edit(prod, "Free", "2")
		is("after another edit", "Free", "by hand")
		// What was edited by hand becomes the target's own: then it is no edit any more.
		set.Kept = append(set.Kept, schemas.KeptField{Type: schemas.Job, Pointer: "/Free"})
		w.Setting(set)
		time.Sleep(time.Minute)
		edit(prod, "Other", "3")
		is("once that is kept too", "Free", "by hand")
		is("once that is kept too", "Other", "3")
	})
}

// TestAPlanKnowsWhatDiffers: the run of an inactive setting is made with what that says of
// pins, overrides and kept fields, and nobody else is. What differs on purpose is shown as
// owned and is no drift, and what points at a server of the fleet is warned of.
func TestAPlanKnowsWhatDiffers(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		connection := func(h *e2e.Host, address string) {
			t.Helper()
			if _, _, err := h.Server.Put(schemas.Connection, fmt.Appendf(nil, `{"Id":%q,"Name":"To production","ProtocolType":"SFTP","Address":%q}`, jobID(50), address)); err != nil {
				t.Fatal(err)
			}
		}
		connection(prod, "production.invalid")
		putJob(t, prod, 1, "of production")
		putJob(t, test, 9, "of test")
		putJob(t, test, 2, "of test alone")
		live := e2e.AllObjects("live", "production", "test", schemas.Keep)
		delete(live.Rules, schemas.Job)
		live.Drift, live.Kept = schemas.DriftHeal, []schemas.KeptField{{Type: schemas.Connection, Pointer: "/Address"}}
		w.Setting(live)
		off := e2e.AllObjects("off", "production", "test", schemas.Keep)
		off.Active = false
		off.Pins = []schemas.Pin{{Type: schemas.Job, Source: jobID(1), Target: jobID(9)}}
		off.Overrides = []schemas.Override{{Type: schemas.Job, Patch: jsontext.Value(`{"Description":"of the plan"}`)}}
		w.Setting(off)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		connection(test, "other.invalid")
		test.Reset()

		p, entries := w.Ask("off", broker.RunScope{Types: []schemas.Type{schemas.Job, schemas.Connection}})
		same(t, "plan", entries, "Job 1 different: update (differs)", "Job 2 only at the target: nothing (not-from-source)", "To production owned: adopt (equal)")
		if i := slices.IndexFunc(entries, func(e broker.PlanEntry) bool { return e.Name == "Job 1" }); i < 0 || entries[i].ID != jobID(1) || entries[i].TargetID != jobID(9) {
			t.Errorf("the pinned job is %+v", entries)
		}
		wrote(t, test, "a plan", 0, 0)
		if end, _ := w.Approve(p); end.Result != broker.RunDone || end.Done != 2 {
			t.Errorf("progress %+v", end)
		}
		if b := bodyOf(t, test, schemas.Job, jobID(9)); b["Description"] != "of the plan" || bodyOf(t, test, schemas.Job, jobID(1)) != nil {
			t.Errorf("the pinned job has description %v, or there is a second one", b["Description"])
		}
		_, entries = w.Ask("off", broker.RunScope{Types: []schemas.Type{schemas.Job}})
		same(t, "a second plan", entries, "Job 1 owned: nothing (equal)", "Job 2 only at the target: nothing (not-from-source)")
		if i := slices.IndexFunc(entries, func(e broker.PlanEntry) bool { return e.Name == "Job 1" }); i < 0 || !slices.Equal(entries[i].Fields, []string{"/Description"}) {
			t.Errorf("owned fields of %+v", entries)
		}
		w.Move("off", broker.RunDropped, "")
		test.Reset()
		time.Sleep(31 * time.Minute) // two audits
		_, entries = w.Drift("live")
		same(t, "drift", entries, "To production owned: nothing (equal)")
		wrote(t, test, "audits", 0, 0)
		live.Kept = nil
		w.Setting(live)
		time.Sleep(time.Minute)
		p, _ = w.Ask("live", broker.RunScope{})
		wrote(t, test, "what is kept no more", 1, 0)
		if len(p.Warnings) != 0 { // it is equal now, and not looked at
			t.Errorf("warnings %q", p.Warnings)
		}
		connection(test, "other.invalid")
		p, _ = w.Ask("live", broker.RunScope{})
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "would point at server production") {
			t.Errorf("warnings %q", p.Warnings)
		}
	})
}

// TestARunWithDependencies: what a chosen job refers to comes along, through others and
// although the setting does not take it, and what is not there is warned of.
func TestARunWithDependencies(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs("jobs", "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		for typ, body := range map[schemas.Type]string{
			schemas.Credential: fmt.Sprintf(`{"Id":%q,"Username":"u","Domain":"d"}`, jobID(12)),
			schemas.Connection: fmt.Sprintf(`{"Id":%q,"Name":"c","ProtocolType":"SFTP","Credential":%q,"Certificate":%q}`, jobID(13), jobID(12), jobID(14)),
		} {
			if _, _, err := prod.Server.Put(typ, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		putJob(t, prod, 1, "chosen")
		change(t, prod, schemas.Job, jobID(1), func(b map[string]any) { task(b)["ConnectionId"] = jobID(13) })
		putJob(t, prod, 2, "not chosen")
		w.StartProducer()
		w.StartConsumer()
		p, entries := w.Ask("jobs", broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(1)}}, Dependencies: true})
		same(t, "plan", entries, "Job 1 only at the source: add (new)", "c only at the source: add (new)", "u@d only at the source: add (new)")
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "Certificate "+string(jobID(14))) {
			t.Errorf("warnings %q", p.Warnings)
		}
		if end, _ := w.Approve(p); end.Result != broker.RunDone || end.Done != 3 || bodyOf(t, test, schemas.Credential, jobID(12)) == nil || bodyOf(t, test, schemas.Job, jobID(2)) != nil {
			t.Errorf("progress %+v", end)
		}
	})
}

// TestPinnedObjects: two servers have the same job and credential under ids of their
// own. What is pinned is written in place, references are rewritten, nothing is there
// twice, a deletion finds its object, the accounts balance, and both ways are quiet.
func TestPinnedObjects(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		const theirs, ours, cred, credThere = 11, 21, 12, 22
		pins := []schemas.Pin{{Type: schemas.Job, Source: jobID(theirs), Target: jobID(ours)}, {Type: schemas.Credential, Source: jobID(cred), Target: jobID(credThere)}}
		var turned []schemas.Pin
		for _, p := range pins {
			turned = append(turned, schemas.Pin{Type: p.Type, Source: p.Target, Target: p.Source})
		}
		there, back := e2e.AllObjects("there", "production", "test", schemas.Keep), e2e.AllObjects("back", "test", "production", schemas.Keep)
		there.Pins, back.Pins = pins, turned
		w.Setting(there)
		credential := func(h *e2e.Host, id int, domain string) {
			t.Helper()
			if _, _, err := h.Server.Put(schemas.Credential, fmt.Appendf(nil, `{"Id":%q,"Username":"u","Domain":%q,"Password":"p"}`, jobID(id), domain)); err != nil {
				t.Fatal(err)
			}
		}
		credential(prod, cred, "a")
		credential(test, credThere, "b")
		putJob(t, prod, theirs, "of production")
		change(t, prod, schemas.Job, jobID(theirs), func(b map[string]any) { b["Credential"] = jobID(cred) })
		putJob(t, test, ours, "of test")
		putJob(t, prod, 30, "refers")
		change(t, prod, schemas.Job, jobID(30), func(b map[string]any) {
			b["Credential"], b["Note"] = jobID(cred), "{JOB("+string(jobID(theirs))+"|Active|Name)}"
		})
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		checkPinned := func(what, description string) {
			t.Helper()
			for host, ids := range map[schemas.Slug][2]int{"production": {theirs, cred}, "test": {ours, credThere}} {
				h := w.Hosts[host]
				b := bodyOf(t, h, schemas.Job, jobID(ids[0]))
				if b["Description"] != description || b["Credential"] != string(jobID(ids[1])) {
					t.Errorf("%s, %s: %v, credential %v", what, host, b["Description"], b["Credential"])
				}
				if b := bodyOf(t, h, schemas.Job, jobID(30)); b["Credential"] != string(jobID(ids[1])) || b["Note"] != "{JOB("+string(jobID(ids[0]))+"|Active|Name)}" {
					t.Errorf("%s, %s: job 30 refers to %v %v", what, host, b["Credential"], b["Note"])
				}
			}
			for host, strangers := range map[schemas.Slug][2]int{"production": {ours, credThere}, "test": {theirs, cred}} {
				if bodyOf(t, w.Hosts[host], schemas.Job, jobID(strangers[0])) != nil || bodyOf(t, w.Hosts[host], schemas.Credential, jobID(strangers[1])) != nil {
					t.Errorf("%s: %s has a second one", what, host)
				}
			}
		}
		checkPinned("first", "of production")
		if c := bodyOf(t, test, schemas.Credential, jobID(credThere)); c["Domain"] != "a" {
			t.Errorf("the pinned credential was not written: %v", c["Domain"])
		}
		w.Setting(back)
		time.Sleep(time.Minute)
		change(t, test, schemas.Job, jobID(ours), func(b map[string]any) { b["Description"] = "back" })
		time.Sleep(time.Minute)
		checkPinned("back", "back")
		for _, h := range w.Hosts {
			h.Reset()
		}
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(20 * time.Minute)
		for id, h := range w.Hosts {
			if puts, deletes := h.Count(); puts+deletes != 0 {
				t.Errorf("%s: %d puts, %d deletes without any edit", id, puts, deletes)
			}
		}
		change(t, prod, schemas.Job, jobID(30), func(b map[string]any) { b["Note"] = "" }) // else it is in use
		deleteJob(t, prod, theirs)
		time.Sleep(2 * time.Minute)
		if bodyOf(t, test, schemas.Job, jobID(ours)) != nil {
			t.Error("the deletion did not find the pinned job")
		}
		for _, setting := range []schemas.Slug{"there", "back"} {
			if a := account(t, w, w.Cons, setting); a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending || a.Unaccounted != 0 || a.Open != 0 {
				t.Errorf("the accounts of %s do not balance: %+v", setting, a)
			}
		}
	})
}

// TestAPinThatChanges: with another pin another object is another's, whatever is on
// record: nothing is deleted for it (G4), and an id that another object is pinned to is
// not taken for the one that has it at the source.
func TestAPinThatChanges(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs("there", "production", "test", schemas.Keep)
		pin := func(from int) {
			set.Pins = []schemas.Pin{{Type: schemas.Job, Source: jobID(from), Target: jobID(9)}}
			w.Setting(set)
		}
		for _, i := range []int{1, 2, 9} {
			putJob(t, prod, i, fmt.Sprintf("job %d of production", i))
		}
		pin(1)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		is := func(what string, i int, want any) {
			t.Helper()
			if have := bodyOf(t, test, schemas.Job, jobID(i))["Description"]; have != want {
				t.Errorf("%s: job %d at the target is %v, want %v", what, i, have, want)
			}
		}
		is("pinned", 9, "job 1 of production")
		is("pinned", 1, nil)
		is("pinned", 2, "job 2 of production")
		pin(2)
		time.Sleep(time.Minute)
		is("pinned anew", 9, "job 1 of production") // each has one home, until a person takes the old one out
		is("pinned anew", 1, nil)
		is("pinned anew", 2, "job 2 of production")
		deleteJob(t, test, 2)
		time.Sleep(11 * time.Minute)
		is("with the old one out", 9, "job 2 of production")
		is("with the old one out", 1, "job 1 of production")
		is("with the old one out", 2, nil)
		w.StopConsumer(nil)
		pin(1)
		deleteJob(t, prod, 1)
		time.Sleep(2 * time.Minute)
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		is("deleted while another was written there", 9, "job 2 of production")
		set.Pins = nil
		w.Setting(set)
		time.Sleep(time.Minute)
		is("without a pin", 9, "job 9 of production")
		time.Sleep(time.Minute)
		if a := account(t, w, w.Cons, "there"); a.Unaccounted != 0 || a.Open != 0 {
			t.Errorf("%+v", a)
		}
	})
}

// TestNoJobFiresAtTwoServers lets the schedule tick a thousand times over a source and
// two targets, one that keeps its own Active flag and one where all is off, while jobs
// are edited, added, deleted and handed over: no job ever fires at two servers, and each
// fires where it was handed to.
func TestNoJobFiresAtTwoServers(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		const ticks, jobs, seed = 1000, 4, 4
		rng := rand.New(rand.NewPCG(seed, 1))
		prod, test := w.Hosts["production"], w.Hosts["test"]
		at := map[int]*e2e.Host{} // who shall fire it
		for i := range jobs {
			putJob(t, prod, i, "born")
			at[i] = prod
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test", "standby")
		active := func(h *e2e.Host, i int, on bool) {
			change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Stats"].(map[string]any)["Active"] = on })
		}
		fired, handed := 0, 0
		for tick := range ticks {
			time.Sleep(time.Duration(rng.IntN(1000))*time.Millisecond + 137*time.Microsecond)
			i := rng.IntN(jobs)
			switch rng.IntN(6) {
			case 0, 1:
				if at[i] != nil {
					change(t, prod, schemas.Job, jobID(i), func(b map[string]any) { b["Description"] = fmt.Sprint(tick) })
				}
			case 2: // handed over, or back: off here first, then on there
				to := map[*e2e.Host]*e2e.Host{prod: test, test: prod}[at[i]]
				if to != nil && bodyOf(t, to, schemas.Job, jobID(i)) != nil {
					active(at[i], i, false)
					time.Sleep(time.Duration(rng.IntN(3)) * time.Second)
					active(to, i, true)
					at[i] = to
					handed++
				}
			case 3:
				switch {
				case at[i] == nil:
					putJob(t, prod, i, "again")
					at[i] = prod
				case at[i] == prod && rng.IntN(4) == 0:
					deleteJob(t, prod, i)
					at[i] = nil
				}
			case 4:
				if tick%50 == 49 {
					w.Crash()
					w.StartProducer()
					w.StartConsumer()
				}
			}
			by := map[schemas.ID][]schemas.Slug{}
			for _, h := range w.Hosts {
				for _, id := range h.Server.Fire() {
					by[id] = append(by[id], h.Name)
					fired++
				}
			}
			for i := range jobs {
				var want []schemas.Slug
				if at[i] != nil {
					want = []schemas.Slug{at[i].Name}
				}
				if !slices.Equal(by[jobID(i)], want) {
					t.Fatalf("seed %d tick %d: job %d fired at %v, want %v\ntargets %v", seed, tick, i, by[jobID(i)], want, fmt.Sprint(w.Cons.Status()))
				}
			}
		}
		t.Logf("seed %d: %d ticks, %d fires, %d handovers", seed, ticks, fired, handed)
		if fired < ticks || handed < 50 {
			t.Errorf("only %d fires and %d handovers", fired, handed)
		}
	})
}
