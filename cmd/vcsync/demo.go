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
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func newDemoCommand(a *app) *cobra.Command {
	var acceptLoss bool
	c := &cobra.Command{
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
			// The stand-ins run on this machine.
			cfg.ServersAllow += ",localhost,127.0.0.0/8,::1"
			ctx, stop := withMake(cmd.Context())
			defer stop()
			return demo(ctx, cfg, acceptLoss, a.out, a.err)
		},
	}
	c.Flags().BoolVar(&acceptLoss, "accept-loss", false, "go on with a store that is damaged or holds less than it once held, under new epochs and in safe mode")
	c.AddCommand(newDemoSettingsCommand(a))
	return c
}

// newDemoSettingsCommand is for roles that run apart: the demo without its processes.
func newDemoSettingsCommand(a *app) *cobra.Command {
	urls := map[string]string{}
	var wait time.Duration
	c := &cobra.Command{
		Use:   "settings --production URL --test URL --standby URL",
		Short: "Give a running vcsync the demo's servers and sync settings",
		Long: `Adds three stand-ins as servers, and two sync settings from production, to a vcsync
that runs already. What is there already stays as it is. docker-compose.yml uses it.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range demoServers {
				rec := schemas.Server{ID: schemas.Slug(name), Connector: "bridge", Address: urls[name], User: standin.DefaultUser}
				if err := rec.Validate(); err != nil {
					return usageError("--%s: %w", name, err)
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			defer api.http.CloseIdleConnections()
			if err := demoSettingsWait(cmd.Context(), api, urls, wait); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "The servers production, test and standby and the sync settings from production to the others are there. Next: vcsync status\n")
			return failed(exitRunTime, err)
		},
	}
	for _, name := range demoServers {
		c.Flags().Func(name, "address of the stand-in "+name+", such as http://"+name+":7701 (required)", func(v string) error {
			urls[name] = v
			return nil
		})
	}
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until vcsync and the stand-ins answer")
	c.Flags().StringVar(&a.api, "api", "", "address of the API (default VCSYNC_API_ADDR, or "+defaultAPIAddr+")")
	return c
}

// demoSettingsWait is demoSettings, again and again while something does not answer
// yet.
func demoSettingsWait(ctx context.Context, api *client, urls map[string]string, wait time.Duration) error {
	late := time.After(wait)
	for {
		err := demoSettings(ctx, api, urls, func(name string) string {
			return "name that address with --" + name + ", or remove the server first"
		})
		if e, ok := errors.AsType[*exitError](err); err == nil || ok && e.code == exitUsage || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		case <-late:
			return err
		}
	}
}

// demo runs the stand-ins and vcsync. The stand-ins end last, so that vcsync's
// last requests are answered.
func demo(ctx context.Context, cfg config, acceptLoss bool, stdout, stderr io.Writer) (err error) {
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
	err = runProcess(upCtx, cfg, broker.All, "vcsync demo", start{acceptLoss: acceptLoss}, stderr, func(ctx context.Context) error {
		urls := map[string]string{}
		for _, r := range all {
			urls[r.name] = "http://" + r.l.Addr().String()
		}
		api, err := newClient(cfg.APIAddr, envPrefix+"API_ADDR")
		if err != nil {
			return err
		}
		defer api.http.CloseIdleConnections()
		// Where there are accounts, the demo was set up before them, and may not look.
		err = demoSettings(ctx, api, urls, func(name string) string {
			return fmt.Sprintf("start with the address of before in %sSTANDIN_%s_ADDR, or with another VCSYNC_DATA", envPrefix, strings.ToUpper(name))
		})
		if err != nil && !isStatus(err, http.StatusUnauthorized) {
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

// demoSettings adds what is not there, over the API as anybody would. Cure says what
// to do where a server is stored with another address.
func demoSettings(ctx context.Context, api *client, urls map[string]string, cure func(name string) string) error {
	for _, name := range demoServers {
		var have control.ServerRecord
		_, _, err := api.call(ctx, http.MethodGet, apiPath("servers", name), nil, nil, &have)
		if err == nil && have.Address != urls[name] {
			return usageError("server %s is stored with the address %s, and the stand-in runs at %s: %s", name, have.Address, urls[name], cure(name))
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
			if t == schemas.Job && !visualcron.RemovesItself(t, row.Body) {
				job = string(row.ID)
			}
		}
		objects, types = objects+n, types+min(n, 1)
	}
	_, err := fmt.Fprintf(w, `
vcsync %s is up.

  status page and API   %s
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

`, buildVersion(), cfg.apiURL(), urls["production"], objects, types, urls["test"], urls["standby"], cfg.Data, job, job)
	return err
}
