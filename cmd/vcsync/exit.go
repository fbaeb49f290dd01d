package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDifferent   = 1 // different, or refused by a rule
	exitUsage       = 2 // usage or configuration
	exitEnvironment = 3 // the API cannot be reached or does not let one in, a port is taken, the data folder is in use
	exitRunTime     = 4 // it began and failed
)

// exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError is a mistake in what was typed or configured.
func usageError(format string, a ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, a...)}
}

// failed gives err an exit code; nil stays nil.
func failed(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code, err}
}

// exitCode prints an error and returns the process's exit code. An error without a
// code is one of usage while no command has begun, and of run time afterwards.
func exitCode(err error, begun bool, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "vcsync: %s\n", cleanLines(err.Error()))
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if !begun {
		return exitUsage
	}
	return exitRunTime
}

// exactly, atMost and none are cobra's argument rules with words for people.
func exactly(n int, usage string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError("%s takes %s; see %s --help", cmd.CommandPath(), usage, cmd.CommandPath())
		}
		return nil
	}
}

func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError("%s takes no argument %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}
