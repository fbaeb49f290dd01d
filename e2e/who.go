package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

// who tells which process is at the other end of a connection on this machine. Linux
// tells that under /proc; elsewhere nobody is known.
type who struct {
	mu    sync.Mutex
	names map[string]string // by both ends of the connection
	pids  func() map[int]string
}

// namedListener asks who connects before the first byte is read.
type namedListener struct {
	net.Listener
	who *who
}

func (l namedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.who.meet(c.RemoteAddr(), c.LocalAddr())
	}
	return c, err
}

func (w *who) meet(addr, own net.Addr) {
	from, ok := addr.(*net.TCPAddr)
	to, ok2 := own.(*net.TCPAddr)
	if !ok || !ok2 {
		return
	}
	name := ""
	if inode := socketInode(from.Port, to.Port); inode != "" {
		for pid, n := range w.pids() {
			if hasSocket(pid, inode) {
				name = n
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[ends(addr.String(), own)] = name
}

func (w *who) name(r *http.Request) string {
	own, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[ends(r.RemoteAddr, own)]
}

// ends tells connections apart: two processes may have the same port of their own, to
// different servers.
func ends(addr string, own net.Addr) string { return fmt.Sprint(addr, " ", own) }

// socketInode returns the inode of the loopback socket of a connection. Several may
// have the same local port, to others.
func socketInode(local, remote int) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	from, to := fmt.Sprintf("0100007F:%04X", local), fmt.Sprintf("0100007F:%04X", remote)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if x := strings.Fields(lines.Text()); len(x) > 9 && x[1] == from && x[2] == to && x[9] != "0" {
			return x[9]
		}
	}
	return ""
}

// Connections returns how many connections from this machine to a loopback address
// there are.
func Connections(address string) (int, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0, err
	}
	raw, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, fmt.Errorf("connections are counted on Linux only: %w", err)
	}
	count := 0
	for line := range strings.Lines(string(raw)) {
		if x := strings.Fields(line); len(x) > 9 && x[2] == fmt.Sprintf("0100007F:%04X", n) && x[3] == "01" {
			count++
		}
	}
	return count, nil
}

func hasSocket(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
