package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
)

// version is set by the Makefile.
var version string

// buildVersion is what was built: what the Makefile says, or else what Go noted.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return "devel-" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "devel"
}

func newVersionCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version", Args: none, RunE: func(*cobra.Command, []string) error {
		if a.json {
			return failed(exitRunTime, json.MarshalWrite(a.out, map[string]string{"version": buildVersion(), "go": runtime.Version()}, json.Deterministic(true)))
		}
		_, err := fmt.Fprintf(a.out, "vcsync %s (%s)\n", buildVersion(), runtime.Version())
		return failed(exitRunTime, err)
	}}
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return c
}
