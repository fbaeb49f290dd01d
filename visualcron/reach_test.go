package visualcron_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/visualcron"
)

func TestReach(t *testing.T) {
	const yes, machine, unlisted, never = "", "own machine", "not among", "never that of a server"
	for _, c := range []struct{ list, host, to, want string }{
		{"", "vc.corp", "10.0.0.5:8002", yes},
		{"", "vc.corp", "203.0.113.5:443", yes},
		{"", "127.0.0.1", "127.0.0.1:80", machine},
		{"", "vc.corp", "127.0.0.1:80", machine}, // a name that was bound anew
		{"", "vc.corp", "[::1]:80", machine},
		{"", "vc.corp", "[::ffff:127.0.0.1]:80", machine},
		{"", "vc.corp", "127.9.9.9:80", machine},
		{"*", "localhost", "127.0.0.1:80", machine},
		{"localhost", "localhost", "127.0.0.1:80", yes},
		{"localhost", "localhost", "[::1]:80", yes},
		{"localhost", "vc.corp", "127.0.0.1:80", machine},
		{"vc.corp", "vc.corp", "127.0.0.1:80", machine}, // the list names the host, not this machine
		{"127.0.0.1:8002", "127.0.0.1", "127.0.0.1:8002", yes},
		{"127.0.0.1:8002", "127.0.0.1", "127.0.0.1:7780", machine},
		{"*,127.0.0.0/8", "vc.corp", "10.0.0.5:1", yes},
		{"127.0.0.0/8", "vc.corp", "10.0.0.5:1", unlisted},
		{"10.0.0.0/8", "vc.corp", "10.1.2.3:1", yes},
		{"10.0.0.0/8:8002", "vc.corp", "10.1.2.3:8003", unlisted},
		{"10.0.0.0/8", "vc.corp", "11.1.2.3:1", unlisted},
		{"*.corp, 192.0.2.1", "VC.Corp.", "11.1.2.3:1", yes},
		{"*.corp", "corp", "11.1.2.3:1", unlisted},
		{"*.corp", "evilcorp", "11.1.2.3:1", unlisted},
		{"vc.corp:8002", "vc.corp", "11.1.2.3:8002", yes},
		{"vc.corp:8002", "vc.corp", "11.1.2.3:80", unlisted},
		{"", "metadata", "169.254.169.254:80", never},
		{"169.254.0.0/16", "metadata", "169.254.169.254:80", never}, // no list makes it a server
		{"vc.corp", "vc.corp", "169.254.169.254:80", never},
		{"", "m", "[::ffff:169.254.169.254]:80", never},
		{"", "m", "[64:ff9b::a9fe:a9fe]:80", never},
		{"", "m", "[64:ff9b::7f00:1]:80", machine},
		{"", "m", "[fe80::1%eth0]:80", never},
		{"", "m", "[fd00:ec2::254]:80", never},
		{"", "m", "100.100.100.200:80", never},
		{"", "m", "168.63.129.16:80", never},
		{"", "m", "0.0.0.0:80", never},
		{"", "m", "[::]:80", never},
		{"", "m", "224.0.0.1:80", never},
		{"", "m", "[ff02::1]:80", never},
		{"", "m", "255.255.255.255:80", never},
	} {
		r, err := visualcron.ParseReach(c.list)
		if err != nil {
			t.Fatalf("%q: %v", c.list, err)
		}
		err = r.Check(c.host, netip.MustParseAddrPort(c.to))
		if c.want == yes && err != nil || c.want != yes && (!errors.Is(err, visualcron.ErrReach) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("list %q, %s at %s: %v, want %q", c.list, c.host, c.to, err, c.want)
		}
	}
	for _, bad := range []string{"a b", "10.0.0.0/33x", "http://x", "x:0", "x:99999", "*.", "a*b", "[::1"} {
		if _, err := visualcron.ParseReach("ok.example, " + bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
