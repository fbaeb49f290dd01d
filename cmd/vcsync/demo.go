package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func newDemoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Run vcsync with three stand-ins for VisualCron servers and two sync settings",
		Long: `Runs three stand-ins (production with synthetic objects, test and standby with the
built-in ones only) and vcsync with two sync settings from production, in the
foreground, until interrupted. What is there already stays as it is.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig()
			if err != nil {
				return err
			}
			ctx, stop := withMake(cmd.Context())
			defer stop()
			return demo(ctx, cfg, a.out, a.err)
		},
	}
}

// demo runs the stand-ins and vcsync. The stand-ins end last, so that vcsync's
// last requests are answered.
func demo(ctx context.Context, cfg config, stdout, stderr io.Writer) (err error) {
	type running struct {
		name string
		addr string
		l    net.Listener
		s    *standin.Server
	}
	all := []*running{{name: "production", addr: cfg.Production}, {name: "test", addr: cfg.Test}, {name: "standby", addr: cfg.Standby}}
	defer func() {
		for _, r := range all {
			if r.l != nil {
				_ = r.l.Close() // closed already where it was served
			}
			if r.s != nil {
				err = errors.Join(err, failed(exitRunTime, r.s.Close()))
			}
		}
	}()
	for _, r := range all { // all ports before any folder
		if r.l, err = standin.Listen(ctx, r.addr); err != nil {
			return failed(exitEnvironment, fmt.Errorf("stand-in %s: %w with %sSTANDIN_%s_ADDR", r.name, err, envPrefix, strings.ToUpper(r.name)))
		}
	}
	for _, r := range all {
		if r.s, err = standin.Open(standin.Config{Dir: filepath.Join(cfg.Data, "standin", r.name), Name: r.name}); err != nil {
			return failed(exitEnvironment, fmt.Errorf("stand-in %s: %w", r.name, err))
		}
	}
	if err := standin.Seed(all[0].s); err != nil && !errors.Is(err, standin.ErrNotEmpty) {
		return failed(exitEnvironment, err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	var mu sync.Mutex
	var served []error
	upCtx, down := context.WithCancel(ctx)
	defer down()
	for _, r := range all {
		wg.Go(func() {
			if err := r.s.Serve(serving, r.l); err != nil {
				mu.Lock()
				served = append(served, err)
				mu.Unlock()
				down()
			}
		})
	}
	err = runProcess(upCtx, cfg, broker.All, false, stderr, func(ctx context.Context) error {
		urls := map[string]string{}
		for _, r := range all {
			urls[r.name] = "http://" + r.l.Addr().String()
		}
		if err := demoSettings(ctx, cfg, urls); err != nil {
			return err
		}
		return demoHello(stdout, cfg, urls, all[0].s)
	})
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(err, failed(exitRunTime, errors.Join(served...)))
}

// demoTypes are what the demo's settings take: every type that this version syncs
// but ServerSettings, which has to be asked for.
func demoTypes() []schemas.Type {
	return slices.DeleteFunc(schemas.Types(), func(t schemas.Type) bool {
		return t == schemas.ServerSettings || !visualcron.Supported(t)
	})
}

// demoSettings adds what is not there, over the API as anybody would.
func demoSettings(ctx context.Context, cfg config, urls map[string]string) error {
	api, err := newClient(cfg.APIAddr, envPrefix+"API_ADDR")
	if err != nil {
		return err
	}
	defer api.http.CloseIdleConnections()
	for _, name := range []string{"production", "test", "standby"} {
		var have control.ServerRecord
		_, _, err := api.call(ctx, http.MethodGet, apiPath("servers", name), nil, nil, &have)
		if err == nil && have.Address != urls[name] {
			return usageError("server %s is stored with the address %s, and the stand-in runs at %s: start with the address of before in %sSTANDIN_%s_ADDR, or with another VCSYNC_DATA",
				name, have.Address, urls[name], envPrefix, strings.ToUpper(name))
		}
		if isStatus(err, http.StatusNotFound) {
			_, _, err = api.call(ctx, http.MethodPost, apiPath("servers"), nil, control.NewServer{ID: name, Name: "Stand-in " + name, Connector: "bridge",
				Address: urls[name], User: standin.DefaultUser, Password: standin.DefaultPassword}, nil)
		}
		if err != nil {
			return err
		}
	}
	rules := map[string]control.RuleRecord{}
	for _, t := range demoTypes() {
		rules[string(t)] = control.RuleRecord{Sync: string(schemas.SyncAll), RightsRecord: control.RightsRecord{New: true, Updated: true, Deleted: true}}
	}
	for _, s := range []struct {
		name, target string
		policy       schemas.ActivePolicy
	}{{"production-to-test", "test", schemas.Keep}, {"production-to-standby", "standby", schemas.Off}} {
		_, _, err := api.call(ctx, http.MethodGet, apiPath("settings", s.name), nil, nil, nil)
		if isStatus(err, http.StatusNotFound) {
			_, _, err = api.call(ctx, http.MethodPost, apiPath("settings"), nil, control.NewSetting{ID: s.name, SettingBody: control.SettingBody{
				Source: "production", Target: s.target, Active: true, ActivePolicy: string(s.policy), Description: "From the demo",
				Rules: rules}}, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// demoHello prints the addresses and three things to try.
func demoHello(w io.Writer, cfg config, urls map[string]string, production *standin.Server) error {
	job, objects, types := "<id>", 0, 0
	for _, t := range demoTypes() {
		n := 0
		for _, row := range production.Objects(t) {
			if standin.IsBuiltin(t, row.ID) {
				continue
			}
			n++
			if t == schemas.Job {
				job = string(row.ID)
			}
		}
		objects, types = objects+n, types+min(n, 1)
	}
	_, err := fmt.Fprintf(w, `
vcsync %s is up.

  status page and API   http://%s
  production (stand-in) %s   %d objects (types: %d), and built-in ones that are never synced
  test       (stand-in) %s   takes all of them; its jobs keep their own Active flags
  standby    (stand-in) %s   takes all of them; every job is inactive
  data                  %s

Four things to try, in another terminal:

  1. Edit a job on production and see it arrive on both:
       bin/vcsync standin edit production Job/%s --set Description="edited by hand"
       bin/vcsync standin get standby Job/%s
  2. Watch what happens:
       bin/vcsync events --follow
       bin/vcsync status
  3. Make production misbehave, and see what vcsync makes of it (--off ends it):
       bin/vcsync standin misbehave production listing=login-page --type Variable
       bin/vcsync status
  4. Edit again, kill this with kill -9 in the same moment, and start it again:
     nothing is lost.

Stop with Ctrl-C.

`, buildVersion(), cfg.APIAddr, urls["production"], objects, types, urls["test"], urls["standby"], cfg.Data, job, job)
	return err
}
