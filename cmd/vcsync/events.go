package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// streamSilence is how long an event stream may be silent before it counts as
// broken: three signs of life of the API.
const streamSilence = 45 * time.Second

func newEventsCommand(a *app) *cobra.Command {
	var source, typ, kind, object, since string
	var follow bool
	var limit int
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what changed at the sources, newest first, or follow it",
		Long: `Shows the newest events, newest first. With --follow it prints events as they are
stored, oldest first, until interrupted, and goes on by itself when vcsync was away;
with --since or --limit it begins with what was before.`,
		Example: `  vcsync events --source production --type Job --kind deleted --since 24h
  vcsync events --follow
  vcsync events --object Job/3f2c1a50-...`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := eventQuery(source, typ, kind, object)
			if err != nil {
				return err
			}
			past := cloneQuery(q)
			if limit < 1 || limit > 1000 {
				return usageError("--limit %d: want 1 to 1000", limit)
			}
			past.Set("limit", strconv.Itoa(limit))
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return err
				}
				past.Set("since", t.UTC().Format(time.RFC3339Nano))
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			if follow {
				return a.follow(cmd.Context(), api, q, past, since != "" || cmd.Flags().Changed("limit"))
			}
			var out items[control.EventRecord]
			raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("events")+"?"+past.Encode(), nil, nil, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				if len(out.Items) == 0 {
					_, err := fmt.Fprintln(a.out, "No events.")
					return err
				}
				t := newTable("TIME", "SOURCE", "KIND", "OBJECT", "NAME", "WHO")
				for _, e := range out.Items {
					t.add(when(e.Time), e.Source, e.Kind, e.Type+"/"+shorten(e.ID, 48), dash(shorten(e.Name, 60)), dash(e.Who))
				}
				return t.print(a.out)
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "print events as they are stored")
	f.StringVar(&source, "source", "", "only events of this server")
	f.StringVar(&typ, "type", "", "only events of this type, such as Job")
	f.StringVar(&kind, "kind", "", "only added, updated or deleted")
	f.StringVar(&object, "object", "", "only events of this object: TYPE/ID or ID")
	f.StringVar(&since, "since", "", "only events since then: 2h, or a time such as 2026-03-04T15:00:00Z")
	f.IntVar(&limit, "limit", 50, "at most so many")
	return c
}

// cloneQuery copies a query.
func cloneQuery(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[k] = slices.Clone(v)
	}
	return out
}

// eventQuery checks the filters before anything is asked.
func eventQuery(source, typ, kind, object string) (url.Values, error) {
	q := url.Values{}
	if source != "" {
		if _, err := schemas.ParseSlug(source); err != nil {
			return nil, usageError("--source: %w", err)
		}
		q.Set("source", source)
	}
	if object != "" {
		id := object
		if t, rest, ok := strings.Cut(object, "/"); ok {
			if _, err := schemas.ParseType(t); err == nil {
				if typ != "" && typ != t {
					return nil, usageError("--object says %s and --type says %s", t, typ)
				}
				typ, id = t, rest
			}
		}
		if _, err := schemas.ParseID(id); err != nil {
			return nil, usageError("--object: %w", err)
		}
		q.Set("object", id)
	}
	if typ != "" {
		if _, err := schemas.ParseType(typ); err != nil {
			return nil, usageError("--type: %w", err)
		}
		q.Set("type", typ)
	}
	if kind != "" {
		if _, err := schemas.ParseKind(kind); err != nil {
			return nil, usageError("--kind: %w", err)
		}
		q.Set("kind", kind)
	}
	return q, nil
}

// parseSince reads a point in time or how long ago it was.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError("--since %q: want how long ago, such as 2h, or a time, such as 2026-03-04T15:00:00Z", s)
}

// follow prints events until ctx ends, which is no error. When the stream breaks it
// comes back with the last event's sequence, so that none is missed or told twice.
func (a *app) follow(ctx context.Context, api *client, q, past url.Values, withPast bool) error {
	last := ""
	if withPast {
		var out items[control.EventRecord]
		if _, _, err := api.call(ctx, http.MethodGet, apiPath("events")+"?"+past.Encode(), nil, nil, &out); err != nil {
			return err
		}
		slices.Reverse(out.Items)
		for _, e := range out.Items {
			if err := a.printEvent(e); err != nil {
				return err
			}
			last = strconv.FormatUint(e.Seq, 10)
		}
	}
	connected := false
	wait := 250 * time.Millisecond
	for {
		err := a.stream(ctx, api, q, &last, func() {
			if connected {
				fmt.Fprintln(a.err, "vcsync: following again")
			}
			connected, wait = true, 250*time.Millisecond
		})
		if ctx.Err() != nil {
			return nil
		}
		if e, ok := errors.AsType[*exitError](err); ok && (!connected || e.code != exitEnvironment && e.code != exitRunTime) {
			return err
		}
		if wait == 250*time.Millisecond {
			fmt.Fprintf(a.err, "vcsync: the event stream broke off: %s; trying again\n", clean(err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// errWrite says that standard output is gone, which no new stream helps.
var errWrite = errors.New("write to standard output")

// stream reads one event stream to its end and keeps in last where it was.
func (a *app) stream(ctx context.Context, api *client, q url.Values, last *string, listening func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamSilence, func() { cancel(errors.New("no sign of life")) })
	defer silence.Stop()
	header := map[string]string{"Accept": "text/event-stream"}
	if *last != "" {
		header["Last-Event-ID"] = *last
	}
	path := apiPath("events", "stream")
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	resp, err := api.send(ctx, http.MethodGet, path, header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	listening()
	rd := bufio.NewReaderSize(resp.Body, 64<<10)
	var data, id string
	for {
		line, err := rd.ReadString('\n')
		if err != nil {
			return cmp.Or(context.Cause(ctx), endOf(err))
		}
		silence.Reset(streamSilence)
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case field == "id":
			id = value
		case field == "data":
			data = value
		case line == "":
			if data != "" {
				var e control.EventRecord
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					return fmt.Errorf("an event of the stream: %w", err)
				}
				if err := a.printEvent(e); err != nil {
					return failed(exitUsage, fmt.Errorf("%w: %w", errWrite, err))
				}
			}
			if id != "" {
				*last = id
			}
			data, id = "", ""
		}
	}
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("vcsync ended it")
	}
	return err
}

// printEvent prints one event on one line.
func (a *app) printEvent(e control.EventRecord) error {
	if a.json {
		b, err := json.Marshal(e, json.Deterministic(true))
		if err == nil {
			_, err = fmt.Fprintf(a.out, "%s\n", b)
		}
		return err
	}
	who := ""
	if e.Who != "" {
		who = "  by " + clean(e.Who)
	}
	_, err := fmt.Fprintf(a.out, "%s  %-12s  %-7s  %s  %s%s\n", when(e.Time), e.Source, e.Kind, clean(e.Type+"/"+e.ID), clean(e.Name), who)
	return err
}
