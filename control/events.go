package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// EventRecord is an event as the API shows it: all but the object's body.
type EventRecord struct {
	Seq        uint64    `json:"seq" doc:"Its sequence in the event stream."`
	Time       time.Time `json:"time" doc:"When it was captured."`
	Source     string    `json:"source"`
	Type       string    `json:"type"`
	Kind       string    `json:"kind" enum:"added,updated,deleted"`
	ID         string    `json:"id"`
	Token      string    `json:"token" doc:"The object's id in subjects."`
	Name       string    `json:"name,omitzero"`
	Version    string    `json:"version" doc:"Epoch and revision."`
	Digest     string    `json:"digest,omitzero"`
	BaseDigest string    `json:"baseDigest,omitzero" doc:"The digest that it replaces."`
	OriginPath []string  `json:"originPath,omitzero" doc:"The servers that the content came by before."`
	Who        string    `json:"who,omitzero"`
}

func eventRecord(e broker.StoredEvent) EventRecord {
	r := EventRecord{Seq: e.Seq, Time: e.Time, Source: string(e.Key.Source), Type: string(e.Key.Type), Kind: string(e.Kind), ID: string(e.ID),
		Token: string(e.Key.Token), Name: e.Name, Version: e.Version.String(), Digest: string(e.Digest), BaseDigest: string(e.BaseDigest), Who: e.Who}
	for _, s := range e.OriginPath {
		r.OriginPath = append(r.OriginPath, string(s))
	}
	return r
}

// EventFilter is what both event operations take; an empty member stands for any.
type EventFilter struct {
	Source string `query:"source" doc:"Only events of this server."`
	Type   string `query:"type" doc:"Only events of this type."`
	Kind   string `query:"kind" doc:"added, updated or deleted."`
	Object string `query:"object" doc:"Only events of the object with this id."`
}

func (f EventFilter) query() (q broker.EventQuery, err error) {
	if f.Source != "" {
		if q.Source, err = schemas.ParseSlug(f.Source); err != nil {
			return q, err
		}
	}
	if f.Type != "" {
		if q.Type, err = schemas.ParseType(f.Type); err != nil {
			return q, err
		}
	}
	if f.Kind != "" {
		if q.Kind, err = schemas.ParseKind(f.Kind); err != nil {
			return q, err
		}
	}
	if f.Object != "" {
		id, err := schemas.ParseID(f.Object)
		if err != nil {
			return q, err
		}
		q.Object = id.Token()
	}
	return q, nil
}

type eventsInput struct {
	EventFilter
	Since time.Time `query:"since" doc:"Only events stored since then."`
	Limit int       `query:"limit" minimum:"1" maximum:"1000" default:"50"`
}

type streamInput struct {
	EventFilter
	LastEventID string `header:"Last-Event-ID" doc:"The sequence of the last event that was received; the stream goes on after it."`
}

func (s *Server) listEvents(ctx context.Context, in *eventsInput) (*output[list[EventRecord]], error) {
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	q.Since = in.Since
	events, err := s.broker.Events(ctx, q, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &output[list[EventRecord]]{}
	for _, e := range events {
		out.Body.Items = append(out.Body.Items, eventRecord(e))
	}
	return out, nil
}

func (s *Server) registerStream() {
	huma.Register(s.api, huma.Operation{OperationID: "follow-events", Method: http.MethodGet, Path: apiPrefix + "/events/stream", Tags: []string{"Events"},
		Summary:     "Follow events as they are stored",
		Description: "Server-sent events of type \"event\", each with its sequence as id and an EventRecord as data. Without Last-Event-ID it begins with what comes next. A comment is sent when it listens, and at intervals while nothing happens.",
		Errors:      []int{http.StatusServiceUnavailable, http.StatusInternalServerError},
		Responses: map[string]*huma.Response{"200": {Description: "The stream.",
			Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}}},
		func(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
			q, err := in.query()
			if err != nil {
				return nil, s.problem(ctx, err)
			}
			after := uint64(broker.FromNow)
			if in.LastEventID != "" {
				if after, err = strconv.ParseUint(in.LastEventID, 10, 63); err != nil {
					return nil, huma.Error422UnprocessableEntity("Last-Event-ID: want the sequence of an event")
				}
			}
			select {
			case s.streams <- struct{}{}:
			default:
				return nil, huma.Error503ServiceUnavailable(fmt.Sprintf("%d event streams are open already; close one.", maxStreams))
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				defer func() { <-s.streams }()
				_, w := humago.Unwrap(hc)
				s.stream(hc.Context(), w, q, after)
			}}, nil
		})
}

// stream writes events until the client goes away or the Server stops.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, q broker.EventQuery, after uint64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	rc := http.NewResponseController(w)
	// A client that reads nothing for this long is gone.
	write := func(b []byte) error {
		if err := rc.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := make(chan []byte)
	done := make(chan error, 1)
	send := func(b []byte) error {
		select {
		case out <- b:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() {
		done <- s.broker.FollowEvents(ctx, q, after, func(after uint64) error {
			// An id alone is no event, but a client that loses the stream now comes back
			// with it.
			return send(fmt.Appendf(nil, ": listening\nid: %d\n\n", after))
		}, func(e broker.StoredEvent) error {
			b, err := json.Marshal(eventRecord(e))
			if err != nil {
				return err
			}
			return send(fmt.Appendf(nil, "id: %d\nevent: event\ndata: %s\n\n", e.Seq, b))
		})
	}()
	alive := time.NewTicker(s.cfg.Heartbeat)
	defer alive.Stop()
	for {
		var b []byte
		select {
		case b = <-out:
		case <-alive.C:
			if !s.still(ctx) {
				cancel()
				<-done
				return
			}
			b = []byte(": alive\n\n")
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "an event stream broke off; its client will come back", "error", err)
			}
			return
		}
		if write(b) != nil {
			cancel()
			<-done
			return
		}
	}
}
