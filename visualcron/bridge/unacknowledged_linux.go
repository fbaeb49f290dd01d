package bridge

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bound makes the system drop what the other end has not acknowledged in time: also
// while this process is stopped, and could not close the connection itself.
func bound(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}
