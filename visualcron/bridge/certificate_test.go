package bridge_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// ownCertificate makes one that signs itself.
func ownCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"elsewhere"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, bridge.PinOf(leaf)
}

func TestPins(t *testing.T) {
	one, pinOne := ownCertificate(t)
	two, pinTwo := ownCertificate(t)
	st, err := standin.Open(standin.Config{Name: "pinned", ID: "id-1"})
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[tls.Certificate]
	var asked atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		st.Handler().ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*now.Load()}}, nil
	}}
	srv.StartTLS()
	t.Cleanup(func() {
		srv.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	now.Store(&one)
	ask := func(pins ...string) (visualcron.Info, *visualcron.Error) {
		t.Helper()
		asked.Store(0)
		b := open(t, visualcron.Config{Server: "a", Address: srv.URL, User: standin.DefaultUser, Password: standin.DefaultPassword, Pins: pins})
		defer b.Close()
		info, err := b.Server(t.Context())
		e, _ := errors.AsType[*visualcron.Error](err)
		if err != nil && e == nil {
			t.Fatal(err)
		}
		return info, e
	}

	// Nobody vouches for it: nothing is sent, and the pin is shown to be confirmed.
	_, e := ask()
	if e == nil || e.Class != visualcron.Unreachable || !strings.Contains(e.Error(), pinOne) || !strings.Contains(e.Hint, "--pin") {
		t.Errorf("without a pin: %v", e)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests went to a server that is not trusted", n)
	}
	info, e := ask(pinOne)
	if e != nil || info.Certificate == nil || info.Certificate.Pin != pinOne || info.Certificate.Ends.IsZero() {
		t.Fatalf("%+v, error %v", info.Certificate, e)
	}

	// The certificate changes: nothing is sent, and it is said loudly.
	now.Store(&two)
	_, e = ask(pinOne)
	if e == nil || e.Class != visualcron.WrongServer || !strings.Contains(e.Error(), "another certificate than the pinned one") || !strings.Contains(e.Error(), pinTwo) {
		t.Errorf("another certificate: %v", e)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests went to a server with another certificate", n)
	}
	if _, e := ask(pinOne, pinTwo); e != nil {
		t.Errorf("with both pins: %v", e)
	}

	// A server that is pinned while its connections last is asked by its pin only, also
	// where they are made anew.
	b := open(t, visualcron.Config{Server: "a", Address: srv.URL, User: standin.DefaultUser, Password: standin.DefaultPassword, Pins: []string{pinTwo}})
	defer b.Close()
	if _, err := b.Server(t.Context()); err != nil {
		t.Fatal(err)
	}
	now.Store(&one)
	srv.CloseClientConnections()
	if _, err := b.Server(t.Context()); visualcron.ClassOf(err) != visualcron.WrongServer {
		t.Errorf("a connection made anew: %v", err)
	}
}

// TestRebinding has a name mean a listed address at first, and this machine's own then.
func TestRebinding(t *testing.T) {
	var meant, victim atomic.Int64
	count := func(n *atomic.Int64) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.Header().Set("Connection", "close") // the next request connects anew
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(count(&meant))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	other, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	inner := httptest.NewUnstartedServer(count(&victim))
	inner.Listener.Close()
	inner.Listener = other
	inner.Start()
	defer inner.Close()

	var answer atomic.Value
	answer.Store(net.IPv4(127, 0, 0, 2))
	resolve(t, &answer)
	reach, err := visualcron.ParseReach("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	b, err := bridge.New(visualcron.Config{Server: "a", Address: "http://rebound.test:" + port, User: "u", Password: "p", Reach: reach, RequestTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Server(t.Context()); visualcron.ClassOf(err) != visualcron.Busy || meant.Load() == 0 {
		t.Fatalf("the name as it was meant: %v, %d requests", err, meant.Load())
	}
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(169, 254, 169, 254)} {
		answer.Store(ip)
		_, err = b.Server(t.Context())
		if visualcron.ClassOf(err) != visualcron.Unreachable || !strings.Contains(err.Error(), "does not connect there") || strings.Contains(err.Error(), ip.String()) {
			t.Errorf("rebound to %s: %v", ip, err)
		}
	}
	if n := victim.Load(); n > 0 {
		t.Errorf("%d requests arrived at the machine itself", n)
	}
}

// resolve makes every name mean what answer holds, by a DNS server of the test's own.
func resolve(t *testing.T, answer *atomic.Value) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 // the question: labels, type, class
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5
			if n < 12 || end > n {
				continue
			}
			out := append([]byte(nil), buf[:end]...)
			binary.BigEndian.PutUint16(out[2:], 0x8180) // an answer, without error
			copy(out[6:12], []byte{0, 0, 0, 0, 0, 0})
			if binary.BigEndian.Uint16(out[end-4:]) == 1 { // an A record is asked for
				out[7] = 1
				out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				out = append(out, answer.Load().(net.IP).To4()...)
			}
			_, _ = c.WriteTo(out, from)
		}
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		c.Close()
		<-done
	})
}

// TestARedirectTakesNothingAlong has a server send a caller elsewhere: neither the token
// nor the account arrives there.
func TestARedirectTakesNothingAlong(t *testing.T) {
	var arrived atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer elsewhere.Close()
	st, err := standin.Open(standin.Config{Name: "s", ID: "id-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var redirect atomic.Int64 // 0 nothing, 1 all but the logon, 2 all
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if logon := strings.HasSuffix(r.URL.Path, "/logon"); redirect.Load() == 2 || redirect.Load() == 1 && !logon {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		st.Handler().ServeHTTP(w, r)
	}))
	defer srv.Close()
	for _, when := range []int64{1, 2} {
		redirect.Store(0)
		b := open(t, visualcron.Config{Server: "a", Address: srv.URL, User: standin.DefaultUser, Password: standin.DefaultPassword})
		if when == 1 {
			if _, err := b.Server(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		redirect.Store(when)
		_, err := b.Server(t.Context())
		if visualcron.ClassOf(err) != visualcron.BadAnswer || !strings.Contains(err.Error(), "redirects elsewhere") {
			t.Errorf("%v", err)
		}
		_, err = b.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil })
		if err == nil {
			t.Error("a listing of a server that redirects")
		}
		b.Close()
	}
	if n := arrived.Load(); n > 0 {
		t.Errorf("%d requests arrived where the server redirects to", n)
	}
}
