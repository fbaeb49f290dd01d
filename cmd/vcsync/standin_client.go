package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// demoServers are the stand-ins of the demo; each has its address in a variable.
var demoServers = []string{"production", "test", "standby"}

// variable reads one variable of the environment, or its default, without finding
// fault with the others.
func variable(name string) string {
	if v := os.Getenv(envPrefix + name); v != "" {
		return v
	}
	for _, o := range options() {
		if o.name == envPrefix+name {
			return o.def
		}
	}
	return ""
}

// standinAddress turns the SERVER of the command line into a name for messages and
// an address.
func standinAddress(server string) (schemas.Slug, string, error) {
	switch {
	case slices.Contains(demoServers, server):
		return schemas.Slug(server), "http://" + variable("STANDIN_"+strings.ToUpper(server)+"_ADDR"), nil
	case strings.Contains(server, "://"):
		return "stand-in", server, nil
	case strings.Contains(server, ":"):
		return "stand-in", "http://" + server, nil
	}
	return "", "", usageError("SERVER %.64q: want production, test, standby, host:port or a URL", server)
}

// openStandin connects to a running stand-in, and to nothing else: these commands
// are no way around vcsync to a real server.
func openStandin(ctx context.Context, server string) (*bridge.Bridge, error) {
	name, addr, err := standinAddress(server)
	if err != nil {
		return nil, err
	}
	cfg := visualcron.Config{Server: name, Reach: visualcron.Anywhere(), Address: addr, User: variable("STANDIN_USER"), Password: variable("STANDIN_PASSWORD")}
	b, err := bridge.New(cfg)
	if err != nil {
		return nil, usageError("SERVER: %w", err)
	}
	info, err := b.Server(ctx)
	if err == nil && !strings.Contains(info.Version, "stand-in") {
		err = failed(exitDifferent, fmt.Errorf("%s is no stand-in but version %.64q; \"vcsync standin\" changes stand-ins only", name, info.Version))
	}
	if err != nil {
		return nil, errors.Join(standinFailed(err), b.Close())
	}
	return b, nil
}

// standinFailed gives an error of the connector its exit code.
func standinFailed(err error) error {
	switch visualcron.ClassOf(err) {
	case "":
		return err
	case visualcron.NotFound, visualcron.Refused, visualcron.Unsupported:
		return failed(exitDifferent, err)
	case visualcron.Unauthorized:
		return failed(exitUsage, err)
	case visualcron.Unreachable, visualcron.WrongServer, visualcron.Busy:
		return failed(exitEnvironment, err)
	}
	return failed(exitRunTime, err)
}

// onStandin runs do against the stand-in and the object that the arguments name.
func onStandin(do func(cmd *cobra.Command, b *bridge.Bridge, t schemas.Type, id schemas.ID) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		word, rest, ok := strings.Cut(args[1], "/")
		if !ok || rest == "" {
			return usageError("%.64q: want TYPE/ID, such as Job/5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60", args[1])
		}
		t, err := schemas.ParseType(word)
		if err != nil {
			return usageError("%w", err)
		}
		id, err := schemas.ParseID(rest)
		if err != nil {
			return usageError("%w", err)
		}
		b, err := openStandin(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		return standinFailed(do(cmd, b, t, id))
	}
}

func newStandinSeedCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "seed SERVER | seed --dir DIR",
		Short: "Fill an empty stand-in with 200 jobs and objects of every other type",
		Long: `Fill a stand-in that holds only its built-in objects with 200 synthetic jobs, 60
connections, 40 credentials, 50 variables and some objects of every other type. One that holds anything else is left as it is (exit code 1).
With --dir, the folder of a stand-in that does not run is filled.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) > 1 || (dir == "") == (len(args) == 0) {
				return usageError("name either a running SERVER or the --dir of one that does not run")
			}
			if dir != "" {
				s, err := standin.Open(standin.Config{Dir: dir})
				if err != nil {
					return failed(openCode(err), err)
				}
				switch err := errors.Join(standin.Seed(s), s.Close()); {
				case errors.Is(err, standin.ErrNotEmpty):
					return failed(exitDifferent, err)
				case err != nil:
					return failed(exitEnvironment, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "seeded %s with %d jobs\n", dir, standin.SeedJobs)
				return nil
			}
			b, err := openStandin(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			if err := seedOver(cmd.Context(), b); err != nil {
				return standinFailed(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "seeded %s with %d jobs\n", args[0], standin.SeedJobs)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder of a stand-in that does not run")
	return cmd
}

// seedOver is standin.Seed for one that runs elsewhere.
func seedOver(ctx context.Context, c visualcron.Connector) error {
	for _, t := range schemas.Types() {
		if _, err := c.List(ctx, t, func(r visualcron.Row) error {
			if !standin.IsBuiltin(t, r.ID) {
				return failed(exitDifferent, fmt.Errorf("%w: it holds %s %.64s; seed a new one", standin.ErrNotEmpty, t, r.ID))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan standin.Object)
	var wg sync.WaitGroup
	for range 16 { // each waits for the stand-in's disk
		wg.Go(func() {
			for o := range work {
				if _, err := c.Put(ctx, o.Type, o.ID, o.Body, ""); err != nil {
					cancel(err) // the first one counts
				}
			}
		})
	}
	for _, o := range standin.SeedObjects() {
		if ctx.Err() != nil {
			break
		}
		work <- o
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// summary is what a table shows of an object.
type summary struct {
	ID    schemas.ID `json:"id"`
	Name  string     `json:"name"`
	Group string     `json:"group,omitzero"`
}

func newStandinListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list SERVER [TYPE]",
		Short: "List the objects of a type, jobs where none is named",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) < 1 || len(args) > 2 {
				return usageError("%s takes SERVER and perhaps a TYPE; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			t := schemas.Job
			if len(args) == 2 {
				if t, err = schemas.ParseType(args[1]); err != nil {
					return usageError("%w", err)
				}
			}
			b, err := openStandin(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			rows := []summary{}
			if _, err := b.List(cmd.Context(), t, func(r visualcron.Row) error {
				rows = append(rows, summarize(t, r))
				return nil
			}); err != nil {
				return standinFailed(err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				if err := json.MarshalWrite(out, rows, jsontext.WithIndent("  ")); err != nil {
					return failed(exitRunTime, err)
				}
				_, err := fmt.Fprintln(out)
				return failed(exitRunTime, err)
			}
			tab := newTable("ID", "NAME", "GROUP")
			for _, r := range rows {
				tab.add(string(r.ID), r.Name, dash(r.Group))
			}
			return failed(exitRunTime, tab.print(out))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

// summarize takes the name from where the type has one.
func summarize(t schemas.Type, r visualcron.Row) summary {
	d, err := visualcron.Describe(t, r.Body)
	if err != nil {
		return summary{ID: r.ID} // what is shaped otherwise has no name here
	}
	return summary{ID: r.ID, Name: d.Name, Group: d.Group}
}

func newStandinGetCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "get SERVER TYPE/ID",
		Short: "Print one object, without the members that are null",
		Args:  exactly(2, "SERVER TYPE/ID"),
		RunE: onStandin(func(cmd *cobra.Command, b *bridge.Bridge, t schemas.Type, id schemas.ID) error {
			body, err := b.Get(cmd.Context(), t, id)
			if err != nil {
				return err
			}
			v := jsontext.Value(body)
			if !raw {
				if v, err = withoutNulls(v); err != nil {
					return err
				}
			}
			if err := v.Indent(jsontext.WithIndent("  ")); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), string(v))
			return err
		}),
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print everything, the empty slots of each Task included")
	return cmd
}

func newStandinPutCommand() *cobra.Command {
	var file string
	var sets []string
	cmd := &cobra.Command{
		Use:   "put SERVER TYPE/ID [-f FILE] [--set PATH=VALUE]...",
		Short: "Create or replace one object",
		Long: `Create or replace one object from a file (- reads standard input), or create a
minimal one where no file is given. An id that the file lacks is taken from TYPE/ID.
` + setHelp,
		Example: `  vcsync standin put production Job/0d9c2f3e-0000-4c58-9e0a-1f2d3c4b5a60 --set Name="My job"
  vcsync standin get production Job/<id> | vcsync standin put test Job/<id> -f -`,
		Args: exactly(2, "SERVER TYPE/ID"),
	}
	cmd.RunE = onStandin(func(cmd *cobra.Command, b *bridge.Bridge, t schemas.Type, id schemas.ID) error {
		_, err := b.Get(cmd.Context(), t, id)
		exists := err == nil
		if err != nil && visualcron.ClassOf(err) != visualcron.NotFound {
			return err
		}
		var body jsontext.Value
		switch {
		case file != "":
			if body, err = readBody(cmd, file); err != nil {
				return err
			}
			if _, err := visualcron.BodyID(t, body); err != nil {
				if body, err = setID(body, t, id); err != nil {
					return err
				}
			}
		case exists:
			return failed(exitDifferent, fmt.Errorf("%s/%.64s is there already; edit it, or give its replacement with -f", t, id))
		default:
			if body, err = minimalBody(t, id); err != nil {
				return err
			}
		}
		if body, err = applySets(body, sets); err != nil {
			return err
		}
		if _, err := b.Put(cmd.Context(), t, id, body, ""); err != nil {
			return err
		}
		done := "created"
		if exists {
			done = "replaced"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s/%.64s\n", done, t, clean(string(id)))
		return nil
	})
	cmd.Flags().StringVarP(&file, "file", "f", "", "file that holds the object as JSON; - for standard input")
	cmd.Flags().StringArrayVar(&sets, "set", nil, "PATH=VALUE; may be given more than once")
	return cmd
}

func newStandinEditCommand() *cobra.Command {
	var sets []string
	cmd := &cobra.Command{
		Use:   "edit SERVER TYPE/ID --set PATH=VALUE...",
		Short: "Change members of one object",
		Long:  "Change members of one object and leave all others as they are.\n" + setHelp,
		Example: `  vcsync standin edit production Job/<id> --set Description=hello
  vcsync standin edit production Job/<id> --set "Tasks[0].Name=First step" --set Stats.Active=true`,
		Args: exactly(2, "SERVER TYPE/ID"),
	}
	cmd.RunE = onStandin(func(cmd *cobra.Command, b *bridge.Bridge, t schemas.Type, id schemas.ID) error {
		if len(sets) == 0 {
			return usageError("--set: say what to change, such as --set Description=hello")
		}
		body, err := b.Get(cmd.Context(), t, id)
		if err != nil {
			return err
		}
		// Whoever edits an object in VisualCron's own client leaves its secrets as they
		// are; what is shown in their place would destroy them.
		info, err := b.Server(cmd.Context())
		if err != nil {
			return err
		}
		if info.Types[t].Secrets != visualcron.SecretsEqual {
			if body, err = standin.WithoutSecrets(t, body); err != nil {
				return err
			}
		}
		changed, err := applySets(body, sets)
		if err != nil {
			return err
		}
		if _, err := b.Put(cmd.Context(), t, id, changed, ""); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "edited %s/%.64s\n", t, clean(string(id)))
		return nil
	})
	cmd.Flags().StringArrayVar(&sets, "set", nil, "PATH=VALUE; may be given more than once")
	return cmd
}

func newStandinDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete SERVER TYPE/ID",
		Short: "Delete one object",
		Args:  exactly(2, "SERVER TYPE/ID"),
		RunE: onStandin(func(cmd *cobra.Command, b *bridge.Bridge, t schemas.Type, id schemas.ID) error {
			if _, err := b.Get(cmd.Context(), t, id); err != nil {
				return err // one that is not there is worth a word
			}
			if err := b.Delete(cmd.Context(), t, id); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s/%.64s\n", t, clean(string(id)))
			return nil
		}),
	}
}

// readBody reads one JSON object.
func readBody(cmd *cobra.Command, file string) (jsontext.Value, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, failed(exitUsage, fmt.Errorf("-f: %w", err))
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, visualcron.MaxBody+1))
	if err != nil {
		return nil, failed(exitEnvironment, fmt.Errorf("read %s: %w", file, err))
	}
	v := jsontext.Value(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))) // editors on Windows begin files with it
	if len(b) > visualcron.MaxBody || !v.IsValid() || v.Kind() != '{' {
		return nil, failed(exitUsage, fmt.Errorf("%s: want one JSON object with each name once, at most %d bytes", file, visualcron.MaxBody))
	}
	return v, nil
}

// minimalBody is a new object in the shape of its type.
func minimalBody(t schemas.Type, id schemas.ID) (jsontext.Value, error) {
	text := `{"Id":"","Name":"New object","Description":""}`
	switch t {
	case schemas.Job:
		text = `{"Id":"","Name":"New job","Description":"","Group":"Default group","Stats":{"Active":true},"Triggers":[],"Tasks":[]}`
	case schemas.Variable:
		text = `{"Name":"","Description":"","ObjectType":"String","ValueObject":""}`
	case schemas.TaskRepository:
		text = `{"Version":1,"Task":{"Id":"","Name":"New task","TaskType":"PowerShell","PowerShell":{"Script":""}}}`
	case schemas.Notification:
		text = `{"Id":"","Task":{"Name":"New notification","TaskType":"Email","Email":{}}}`
	case schemas.ServerSettings:
		text = `{}`
	}
	return setID(jsontext.Value(text), t, id)
}

// setID writes an id where the type has it.
func setID(body jsontext.Value, t schemas.Type, id schemas.ID) (jsontext.Value, error) {
	path := []step{{name: "Id"}}
	switch t {
	case schemas.ServerSettings:
		return body, nil
	case schemas.Variable:
		path = []step{{name: "Name"}}
	case schemas.TaskRepository:
		path = slices.Insert(path, 0, step{name: "Task"})
	}
	quoted, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	return setAt(body, path, func(jsontext.Value) (jsontext.Value, error) { return quoted, nil })
}
