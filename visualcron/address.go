package visualcron

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Points says that a place of an object names a server.
type Points struct {
	// Place is the JSON pointer of the member.
	Place string
	// Host is what stands there, without the scheme, port, account and share.
	Host string
	// Server is the server that has this host in its address.
	Server schemas.Slug
}

// PointsAt returns the places of a body that hold the address of one of the servers: on
// another server the object would still speak to that one. Servers are the addresses by
// server, as URLs. A name without a domain is the same as one with any. Loopback points at
// whoever has the object, so it is never found. A body that cannot be read points nowhere.
func PointsAt(t schemas.Type, body []byte, servers map[schemas.Slug]string) []Points {
	f := forms[t]
	if f == nil || len(f.addresses) == 0 {
		return nil
	}
	n, err := parse(body)
	if err != nil {
		return nil
	}
	var out []Points
	for _, p := range f.addresses {
		host := hostOf(n.at(p).text())
		if host == "" || isLoopback(host) {
			continue
		}
		var at []schemas.Slug
		for id, address := range servers {
			if u, err := url.Parse(address); err == nil && sameHost(host, u.Hostname()) {
				at = append(at, id)
			}
		}
		slices.Sort(at)
		for _, id := range at {
			out = append(out, Points{"/" + strings.Join(p, "/"), host, id})
		}
	}
	return out
}

// PointsAt is the function of that name for a source's body as it is made for the target,
// without what the target keeps for itself.
func (o Own) PointsAt(t schemas.Type, source []byte, servers map[schemas.Slug]string) []Points {
	body, err := o.Apply(t, source)
	if err != nil {
		return nil
	}
	kp := keptTree(o.Kept)
	return slices.DeleteFunc(PointsAt(t, body, servers), func(p Points) bool {
		at := kp
		for _, name := range strings.Split(p.Place, "/")[1:] {
			if at = at.member(name); at.whole() {
				return true
			}
		}
		return false
	})
}

// HasAddress tells whether objects of type t have a member that names a host.
func HasAddress(t schemas.Type) bool { return forms[t] != nil && len(forms[t].addresses) > 0 }

// hostOf returns the host that an address names: a host, host:port, URL or UNC path.
func hostOf(s string) string {
	s = strings.TrimSpace(s)
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	} else if unc, ok := strings.CutPrefix(s, `\\`); ok {
		s = unc
	} else if len(s) > 1 && s[1] == ':' && strings.HasPrefix(s[2:], `\`) {
		return "" // a path of a drive
	}
	if i := strings.IndexAny(s, `/\?#`); i >= 0 {
		s = s[:i]
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(s, "[]")), ".")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || host == "." || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}

func sameHost(a, b string) bool {
	b = strings.TrimSuffix(strings.ToLower(b), ".")
	if a == b {
		return a != ""
	}
	if net.ParseIP(a) != nil || net.ParseIP(b) != nil {
		return false
	}
	first, domain, full := strings.Cut(a, ".")
	first2, domain2, full2 := strings.Cut(b, ".")
	return first != "" && first == first2 && !(full && full2 && domain != domain2)
}
