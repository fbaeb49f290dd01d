//go:build !linux

package bridge

import "syscall"

// bound does nothing here: other systems have no such option, or another.
func bound(_, _ string, _ syscall.RawConn) error { return nil }
