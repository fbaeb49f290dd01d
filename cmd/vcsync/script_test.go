package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vcsync": func() { os.Exit(mainCode()) }})
}

var updateScripts = flag.Bool("update-scripts", false, "write what cmp compares in the scripts anew")

const scriptPassword = "cli-S3cret word"

type (
	brokerKey   struct{}
	standinsKey struct{}
)

// TestScripts runs the real main as a user does, against an API that the test
// serves: a real broker, and two stand-ins behind $PROD and $TEST.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       *updateScripts,
		// A script that hangs ends with its own log instead of all goroutines.
		Deadline: time.Now().Add(10 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, ".config"))
			e.Setenv("VCSYNC_SERVERS_ALLOW", "127.0.0.1") // the stand-ins
			for i := range 4 {
				addr := freeAddr(t)
				_, port, _ := net.SplitHostPort(addr)
				e.Setenv(fmt.Sprintf("FREE%d", i+1), addr)
				e.Setenv(fmt.Sprintf("PORT%d", i+1), port)
			}
			ctx, cancel := context.WithCancel(context.Background())
			log := slog.New(slog.DiscardHandler)
			b, err := broker.Open(ctx, broker.Config{Dir: filepath.Join(e.WorkDir, ".control"), LazySync: true, EventsMaxBytes: 1 << 30, Log: log})
			if err != nil {
				cancel()
				return err
			}
			l, err := control.Listen(ctx, "127.0.0.1:0", false)
			if err != nil {
				cancel()
				return errors.Join(err, b.Close())
			}
			cfg := control.Config{Broker: b, Open: opener(15*time.Second, visualcron.Anywhere()), Addr: l.Addr().String(), Version: "scripted", Log: log}
			if slices.Contains([]string{"script-sync", "script-replay", "script-undo"}, filepath.Base(e.WorkDir)) {
				roles := &scriptedRoles{b: b, dir: e.WorkDir}
				cfg.Sources, cfg.Targets = scriptedProducer{}, roles
				ended := make(chan error, 1)
				go func() { ended <- b.WatchConfig(ctx, roles.look) }()
				e.Defer(func() {
					if err := <-ended; err != nil {
						t.Error(err)
					}
				})
			}
			s, err := control.New(cfg)
			if err != nil {
				cancel()
				return errors.Join(err, b.Close())
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, l) }()
			e.Defer(func() {
				cancel()
				if err := errors.Join(<-served, b.Close()); err != nil {
					t.Error(err)
				}
			})
			e.Values[brokerKey{}] = b
			e.Setenv("VCSYNC_API_ADDR", l.Addr().String())
			standins := map[string]*standin.Server{}
			e.Values[standinsKey{}] = standins
			for name, env := range map[string]string{"production": "PROD", "test": "TEST"} {
				st, err := standin.Open(standin.Config{Name: name, ID: "id-of-" + name, User: "sync", Password: scriptPassword})
				if err != nil {
					return err
				}
				standins[name] = st
				srv := httptest.NewServer(st.Handler())
				e.Defer(func() {
					srv.Close()
					if err := st.Close(); err != nil {
						t.Error(err)
					}
				})
				e.Setenv(env, srv.URL)
				e.Setenv(env+"HOST", srv.Listener.Addr().String())
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":    cmdCode,
			"until":   cmdUntil,
			"dial":    cmdDial,
			"publish": cmdPublish,
			"put":     cmdPut,
			"park":    cmdPark,
			"wrote":   cmdWrote,
			"pause":   cmdPause,
			"hold":    cmdHold,
			"holdat":  cmdHoldAt,
			"sed":     cmdSed,

			"underway": cmdUnderway,
			"keyid": func(ts *testscript.TestScript, _ bool, args []string) { // keyid VARIABLE FOLDER: the first key that does not seal, else that which does
				_, keys, err := broker.KeyringOf(ts.MkAbs(args[1]))
				ts.Check(err)
				ts.Setenv(args[0], keys[len(keys)-1].ID)
			},
			"age-key": func(ts *testscript.TestScript, _ bool, args []string) { // the key into a file, its recipient into a variable
				key, err := age.GenerateX25519Identity()
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(key.String()+"\n"), 0o600))
				ts.Setenv(args[1], key.Recipient().String())
			},
			"bom": func(ts *testscript.TestScript, _ bool, args []string) { // as an editor on Windows writes it
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte("\xef\xbb\xbf"+ts.ReadFile(args[0])), 0o644))
			},
		},
	})
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := e2e.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// cmdCode runs a command and checks its exit code: code 2 vcsync server add.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdHold lets deletions of jobs wait at a source, as its producer does, and sets the
// variable to the batch: hold BATCH production id...
func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: hold VARIABLE source id...")
	}
	b := ts.Value(brokerKey{}).(*broker.Broker)
	a := broker.Airlock{Source: schemas.Slug(args[1]), Type: schemas.Job, Class: producer.HeldTooMany, Why: "too many of them", Since: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	for _, text := range args[2:] {
		id := schemas.ID(text)
		a.Objects = append(a.Objects, broker.AirlockObject{Token: id.Token(), ID: id, Name: "Job " + text, Version: schemas.Version{Epoch: 1, Revision: 7}})
	}
	a.Normalize()
	_, err := b.PutAirlock(context.Background(), a)
	ts.Check(err)
	ts.Setenv(args[0], a.Batch)
}

// cmdHoldAt makes deletions wait at the target of a sync setting, as its consumer does, and
// puts the batch's name into a variable. A word before the ids is the reason.
func cmdHoldAt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: holdat VARIABLE setting reason id...")
	}
	b := ts.Value(brokerKey{}).(*broker.Broker)
	ctx := context.Background()
	snap, err := b.Snapshot(ctx)
	ts.Check(err)
	set := snap.Settings[schemas.Slug(args[1])]
	var entries []broker.PlanEntry
	for _, text := range args[3:] {
		entries = append(entries, broker.PlanEntry{Type: schemas.Job, ID: schemas.ID(text), Name: "Job " + text, Difference: broker.OnlyTarget, Act: "hold", Would: "delete", Reason: args[2],
			Why: "because of " + args[2], Source: set.Source, Version: schemas.Version{Epoch: 1, Revision: 7}})
	}
	ts.Check(b.PutDrift(ctx, broker.DriftList{ID: args[0] + args[2], Setting: set.ID, SettingRevision: set.Revision, Source: set.Source, Target: set.Target}, entries))
	ts.Setenv(args[0], broker.BatchOf(set.ID, entries))
}

// cmdDial waits until somebody listens on an address.
func cmdDial(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: dial address")
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			ts.Check(c.Close())
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// cmdUntil runs a command again and again until it ends with exit code 0.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: until command...")
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// cmdPublish stores an event of a Job: publish production added id name.
func cmdPublish(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.Value(brokerKey{}).(*broker.Broker)
	kind, err := schemas.ParseKind(args[1])
	ts.Check(err)
	e := schemas.Event{Source: schemas.Slug(args[0]), Kind: kind, Version: schemas.Version{Epoch: 1}, Time: time.Now().UTC(),
		Object: schemas.Object{Type: schemas.Job, ID: schemas.ID(args[2]), Name: args[3]}}
	if kind != schemas.Deleted {
		e.Digest, e.Object.Body = schemas.DigestOf([]byte(args[3])), jsontext.Value(`{"Id":"x"}`)
	}
	if len(args) == 6 { // of another type: its name and its body
		e.Object.Type, e.Object.Body = schemas.Type(args[4]), jsontext.Value(args[5])
	}
	last, err := b.LastEvent(context.Background(), e.Key())
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		ts.Fatalf("%v", err)
	}
	e.Version.Revision = last.Head.Version.Revision + 1
	header, data, err := e.Encode()
	ts.Check(err)
	_, err = b.JS().PublishMsg(context.Background(), &nats.Msg{Subject: e.Subject(), Header: header, Data: data})
	ts.Check(err)
	ts.Check(b.WaitState(context.Background()))
}

// cmdPut gives a stand-in an object: put production Job body.
func cmdPut(ts *testscript.TestScript, _ bool, args []string) {
	_, _, err := ts.Value(standinsKey{}).(map[string]*standin.Server)[args[0]].Put(schemas.Type(args[1]), []byte(args[2]))
	ts.Check(err)
}

// cmdPark records a Job as parked: park test id reason.
func cmdPark(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.Value(brokerKey{}).(*broker.Broker)
	id := schemas.ID(args[1])
	_, err := b.PutParked(context.Background(), broker.Parked{Target: schemas.Slug(args[0]), Setting: "one", Source: "production", Type: schemas.Job, ID: id, Token: id.Token(),
		Version: schemas.Version{Epoch: 1, Revision: 1}, Class: "refused", Reason: args[2], Fix: "rename it", First: time.Now(), Last: time.Now(), Attempts: 3})
	ts.Check(err)
}

// cmdPause pauses a Job: pause test id pass.
func cmdPause(ts *testscript.TestScript, _ bool, args []string) {
	id := schemas.ID(args[1])
	_, err := ts.Value(brokerKey{}).(*broker.Broker).PutParked(context.Background(), broker.Parked{Target: schemas.Slug(args[0]), Setting: "one", Source: "production", Type: schemas.Job,
		ID: id, Token: id.Token(), Version: schemas.Version{Epoch: 1, Revision: 1}, Class: broker.ClassUndone, Pass: args[2], Reason: "undone", First: time.Now(), Last: time.Now(), Attempts: 1})
	ts.Check(err)
}

// cmdWrote notes a write to the target test, of a pass: wrote pass act id name.
func cmdWrote(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.Value(brokerKey{}).(*broker.Broker)
	d := broker.Done{Target: "test", Pass: args[0], Type: schemas.Job, ID: schemas.ID(args[2]), Name: args[3], Act: args[1], Setting: "one", Source: "production",
		Version: schemas.Version{Epoch: 1, Revision: 1}}
	if args[1] != "add" {
		d.Before, d.Object.Body = schemas.DigestOf([]byte(args[3])), jsontext.Value(`{"Id":"x"}`)
	}
	ts.Check(b.PutDone(context.Background(), d))
}

// scriptedProducer has always just listed everything.
type scriptedProducer struct{}

func (scriptedProducer) Poke(schemas.Slug) {}
func (scriptedProducer) Status() []producer.Status {
	s := producer.Status{Server: "production", State: producer.Capturing, Types: map[schemas.Type]producer.TypeStatus{}}
	for _, t := range schemas.Types() {
		s.Types[t] = producer.TypeStatus{Revision: math.MaxUint64}
	}
	return []producer.Status{s}
}

// scriptedRoles stand for a consumer in the script of sync: what there is to plan, and
// what becomes of it, stands in the script's file plan.json. Real consumers are in e2e.
type scriptedRoles struct {
	b   *broker.Broker
	dir string
}

func (*scriptedRoles) Status() ([]consumer.TargetStatus, []consumer.SettingStatus) {
	return []consumer.TargetStatus{{Target: "test", State: consumer.Working}}, nil
}

func (r *scriptedRoles) look(snap broker.Snapshot) {
	for _, run := range snap.Runs {
		if err := r.play(run); err != nil {
			panic(err)
		}
	}
}

func (r *scriptedRoles) play(run broker.StoredRun) error {
	ctx := context.Background()
	var f struct {
		Plan     broker.Plan        `json:"plan"`
		Entries  []broker.PlanEntry `json:"entries"`
		Outcomes []broker.Outcome   `json:"outcomes"`
		Result   broker.RunPhase    `json:"result"`
		Reason   string             `json:"reason"`
		Slow     bool               `json:"slow"` // there is no plan yet
	}
	raw, err := os.ReadFile(filepath.Join(r.dir, "plan.json"))
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		return err
	}
	switch run.Phase {
	case broker.RunPlan:
		if f.Slow {
			return nil
		}
		p := f.Plan
		p.ID, p.Run, p.Setting, p.SettingRevision, p.Source, p.Target, p.Made = "plan-of-"+run.ID, run.ID, run.Setting, run.SettingRevision, "production", "test", time.Now()
		return r.b.PutPlan(ctx, p, f.Entries)
	case broker.RunApplying:
		p, err := r.b.GetPlan(ctx, run.Setting)
		if err != nil {
			return err
		}
		g := broker.RunProgress{Run: run.ID, Plan: p.ID, Setting: run.Setting, Outcomes: map[broker.Outcome]int{}, Ended: true, Result: f.Result, Reason: f.Reason}
		for _, o := range f.Outcomes {
			if o != "" {
				g.Total++
				g.Done++
				g.Outcomes[o]++
			}
		}
		var pages []broker.PlanPage
		if err := r.b.PlanPages(ctx, p, func(_ int, page broker.PlanPage) bool { pages = append(pages, page); return true }); err != nil {
			return err
		}
		for n, page := range pages {
			for i := range page.Entries {
				if i < len(f.Outcomes) {
					page.Entries[i].Outcome = f.Outcomes[i]
				}
			}
			if _, err := r.b.PutPlanPage(ctx, p, n, page); err != nil {
				return err
			}
		}
		return r.b.PutProgress(ctx, g)
	}
	return nil
}

// cmdUnderway waits until a run of a setting waits for its plan: underway one.
func cmdUnderway(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: underway setting")
	}
	b := ts.Value(brokerKey{}).(*broker.Broker)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r, err := b.GetRun(context.Background(), schemas.Slug(args[0]))
		if err == nil && r.Phase == broker.RunPlan {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no run: %+v, error %v", r, err)
		}
	}
}

// cmdSed writes a file anew with another text in it: sed old new from to.
func cmdSed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: sed old new from to")
	}
	text := ts.ReadFile(args[2])
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	if !re.MatchString(text) {
		ts.Fatalf("no %s in %s", args[0], text)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), []byte(re.ReplaceAllLiteralString(text, args[1])), 0o644))
}
