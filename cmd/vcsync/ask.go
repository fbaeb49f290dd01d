package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal tells whether somebody sits at the other end of a stream of this process.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirm asks before something is changed, on a terminal; elsewhere --yes is needed.
// The question goes to standard error, so that --json stays JSON.
func (a *app) confirm(ctx context.Context, question string) error {
	if !terminal(a.in) {
		return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	type said struct {
		line string
		err  error
	}
	answers := make(chan said, 1)
	go func() { // it may never end: nothing interrupts a read of a terminal
		line, err := bufio.NewReader(a.in).ReadString('\n')
		answers <- said{line, err}
	}()
	var line string
	var err error
	select {
	case s := <-answers:
		line, err = s.line, s.err
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return failed(exitRunTime, fmt.Errorf("interrupted; nothing was changed"))
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); err == nil && (answer == "y" || answer == "yes") {
		return nil
	}
	return failed(exitDifferent, fmt.Errorf("nothing was changed"))
}
