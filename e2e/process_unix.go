//go:build unix

package e2e

import (
	"fmt"
	"syscall"
)

// Freeze stops the process where it is, with SIGSTOP: nothing of it runs, its
// connections stay.
func (p *Process) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	return p.current().cmd.Process.Signal(sig)
}
