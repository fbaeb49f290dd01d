package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// withMake returns a context that also ends when the program is run by make and
// make got a SIGINT. GNU make does not pass it on: it takes for granted that the
// terminal told its children too, and waits for them. While it does, SIGINT is
// blocked in make, which Linux shows; elsewhere nothing is watched.
func withMake(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	parent := fmt.Sprintf("/proc/%d/", os.Getppid())
	if name, err := os.ReadFile(parent + "comm"); err != nil || string(bytes.TrimSpace(name)) != "make" {
		return ctx, cancel
	}
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if status, err := os.ReadFile(parent + "status"); err == nil && blocksInterrupt(status) {
					cancel()
				}
			}
		}
	}()
	return ctx, cancel
}

// blocksInterrupt reads from /proc/PID/status whether SIGINT (2) is blocked.
func blocksInterrupt(status []byte) bool {
	for line := range bytes.Lines(status) {
		if mask, ok := bytes.CutPrefix(line, []byte("SigBlk:")); ok {
			bits, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
			return err == nil && bits&(1<<(2-1)) != 0
		}
	}
	return false
}
