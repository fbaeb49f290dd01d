package visualcron

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ErrReach says that an address is one that vcsync does not connect to.
var ErrReach = errors.New("vcsync does not connect there")

// Reach says which addresses vcsync connects to as servers, so that nobody who may enter
// an address can have vcsync speak to whatever else its machine reaches. The zero value
// refuses what is never a server (see Check) and this machine itself.
type Reach struct {
	any     bool
	entries []reachEntry
}

type reachEntry struct {
	host   string // in lower case; "" where it is a prefix
	suffix bool   // host is what names end in
	prefix netip.Prefix
	port   uint16 // 0 for all
}

// ParseReach reads a list with commas between: host names (a.example.org, or
// *.example.org for all below), addresses (10.0.0.5) and networks (10.0.0.0/8), each also
// with a port (10.0.0.5:8002), and * for everything but this machine. An empty list means
// *. The error names the entry.
func ParseReach(text string) (Reach, error) {
	var r Reach
	for part := range strings.SplitSeq(text, ",") {
		part = strings.ToLower(strings.TrimSpace(part))
		switch part {
		case "":
			continue
		case "*":
			r.any = true
			continue
		}
		e, err := parseReachEntry(part)
		if err != nil {
			return Reach{}, err
		}
		r.entries = append(r.entries, e)
	}
	r.any = r.any || len(r.entries) == 0
	return r, nil
}

func parseReachEntry(text string) (e reachEntry, err error) {
	host := text
	if h, port, perr := net.SplitHostPort(text); perr == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return e, fmt.Errorf("%.80q: the port is no number from 1 to 65535", text)
		}
		host, e.port = h, uint16(n)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	}
	if p, err := netip.ParsePrefix(host); err == nil {
		e.prefix = p.Masked()
		return e, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap().WithZone("")
		e.prefix = netip.PrefixFrom(a, a.BitLen())
		return e, nil
	}
	e.host, e.suffix = strings.CutPrefix(host, "*.")
	if e.suffix {
		e.host = "." + e.host
	}
	if strings.Trim(e.host, ".") == "" || strings.ContainsAny(e.host, "*/:[] \t") {
		return e, fmt.Errorf("%.80q: want a host, *.domain, an address or a network, each also with :port", text)
	}
	return e, nil
}

// Anywhere reaches everything that Check does not always refuse, this machine too.
func Anywhere() Reach {
	r, err := Reach{any: true}.With("localhost", "127.0.0.0/8", "::1")
	if err != nil {
		panic(err) // these three are right
	}
	return r
}

// With returns r with more entries, in the words of ParseReach.
func (r Reach) With(more ...string) (Reach, error) {
	add, err := ParseReach(strings.Join(more, ","))
	if err != nil {
		return r, err
	}
	return Reach{any: r.any || len(r.entries) == 0, entries: append(append([]reachEntry(nil), r.entries...), add.entries...)}, nil
}

// never are addresses at which no server is: this network, the metadata services of
// clouds, and what is no address of one machine.
var never = func() (out []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8",
		"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", // metadata elsewhere than link-local
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}()

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Check tells whether vcsync connects to an address that host was looked up to, at the
// moment of connecting: a name that means something else a second later is caught. Never
// are link-local, multicast and unspecified addresses, and those of metadata services;
// this machine only where the list names its address, its network or localhost. The error
// wraps ErrReach and holds no address.
func (r Reach) Check(host string, to netip.AddrPort) error {
	ip := to.Addr().Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	for _, p := range never {
		if p.Contains(ip) {
			return fmt.Errorf("%w: it is a link-local, multicast or unspecified address, or a metadata service, and never that of a server", ErrReach)
		}
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	listed := r.any || len(r.entries) == 0
	for _, e := range r.entries {
		if e.port != 0 && e.port != to.Port() {
			continue
		}
		switch {
		case e.host == "":
			if e.prefix.Contains(ip) {
				return nil
			}
		case e.suffix && strings.HasSuffix(host, e.host), host == e.host:
			if host == "localhost" {
				return nil
			}
			listed = true
		}
	}
	switch {
	case ip.IsLoopback():
		return fmt.Errorf("%w: it is an address of vcsync's own machine, which is not listed", ErrReach)
	case !listed:
		return fmt.Errorf("%w: it is not among those that are listed", ErrReach)
	}
	return nil
}
