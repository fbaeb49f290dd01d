package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
)

// healthTimeout is longer than the store is given to answer, so that its reason is
// what is told.
const healthTimeout = 10 * time.Second

func newHealthCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Whether the API answers and the store takes writes",
		Long: `Asks /readyz of a running "vcsync up" or "vcsync control", for supervisors that know
only exit codes: 0 ready, 1 not ready (the reason is printed), 3 nothing answers.
It says nothing about producers and consumers that run elsewhere; see status.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeout)
			defer cancel()
			return a.health(ctx, api)
		},
	}
}

// health prints what /readyz says. A 503 of it is an answer, unlike any other
// refusal.
func (a *app) health(ctx context.Context, api *client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.base+"/readyz", nil)
	if err != nil {
		return usageError("address of the API: %w", err)
	}
	resp, err := api.http.Do(req)
	if err != nil {
		return failed(exitEnvironment, fmt.Errorf("nothing answers at %s: %w", api.base, errors.Unwrap(err)))
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var ready struct {
		Ready  *bool  `json:"ready"`
		Reason string `json:"reason"`
	}
	switch {
	case err != nil:
		return failed(exitEnvironment, fmt.Errorf("read the answer at %s: %w", api.base, err))
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable, json.Unmarshal(raw, &ready) != nil, ready.Ready == nil:
		return failed(exitEnvironment, fmt.Errorf("what answers at %s is not vcsync (HTTP %d); name its address with --api or VCSYNC_API_ADDR", api.base, resp.StatusCode))
	}
	if a.json || *ready.Ready {
		err = a.show(raw, func() error {
			_, err := fmt.Fprintln(a.out, "ready")
			return err
		})
	}
	if err == nil && !*ready.Ready {
		err = failed(exitDifferent, fmt.Errorf("not ready: %s", ready.Reason))
	}
	return err
}
