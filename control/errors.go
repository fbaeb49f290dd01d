package control

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// Sentinel errors of this package.
var (
	// ErrConfig says that a Server cannot be made of its configuration.
	ErrConfig = errors.New("invalid control configuration")
	// ErrListen says that the listening address cannot be had.
	ErrListen = errors.New("cannot listen")
)

// problem makes the answer for an error of the layers below. What it does not know
// is the store's trouble: 500, with the error's own words, none of which hold a
// secret.
func (s *Server) problem(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[huma.StatusError](err); ok {
		return err
	}
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, broker.ErrConflict):
		return huma.NewError(http.StatusPreconditionFailed, "It was changed by somebody else meanwhile: read it again, look at the change, and repeat.")
	case errors.Is(err, broker.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, schemas.ErrSetting), errors.Is(err, schemas.ErrServer), errors.Is(err, schemas.ErrSlug),
		errors.Is(err, schemas.ErrType), errors.Is(err, schemas.ErrKind), errors.Is(err, schemas.ErrID), errors.Is(err, schemas.ErrToken):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrDisconnected):
		return huma.NewError(http.StatusServiceUnavailable, "The broker does not answer. Nothing is lost: what changes waits at its source. Start the broker, or look at its log.")
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	if status == http.StatusInternalServerError && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "a request failed", "error", err)
	}
	return huma.NewError(status, err.Error())
}

func notFound(what string, id schemas.Slug) error {
	return huma.Error404NotFound("There is no " + what + " " + string(id) + ".")
}

// stripValues takes out of a problem the values that huma echoes for debugging:
// a refused body may hold a password (G6).
func stripValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, d := range m.Errors {
			if d != nil {
				d.Value = nil
			}
		}
	}
	return v, nil
}
