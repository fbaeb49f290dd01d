package control_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/control"
)

// writeCertificate writes a certificate that signs itself, and its key.
func writeCertificate(t *testing.T, dir string, serial int64, ends time.Time, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "api.pem"), filepath.Join(dir, "api.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestCertificateFaults(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	year := time.Now().AddDate(1, 0, 0)
	for name, c := range map[string]struct {
		make func() (string, string)
		want string
	}{
		"ended": {func() (string, string) {
			return writeCertificate(t, t.TempDir(), 1, time.Now().Add(-time.Minute), "vcsync.test")
		}, "ended at"},
		"no name": {func() (string, string) { return writeCertificate(t, t.TempDir(), 1, year) }, "names no host"},
		"open key": {func() (string, string) {
			cert, key := writeCertificate(t, t.TempDir(), 1, year, "vcsync.test")
			if err := os.Chmod(key, 0o644); err != nil {
				t.Fatal(err)
			}
			return cert, key
		}, "chmod 600"},
		"swapped": {func() (string, string) {
			cert, key := writeCertificate(t, t.TempDir(), 1, year, "vcsync.test")
			return key, cert
		}, "api.key"},
	} {
		cert, key := c.make()
		if _, err := control.LoadCertificate(cert, key, log); !errors.Is(err, control.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.want)
		}
	}
}

// TestTLS speaks to the API from what is not this machine, as far as the API can tell.
func TestTLS(t *testing.T) {
	dir, log := t.TempDir(), &lockedBuffer{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	certFile, keyFile := writeCertificate(t, dir, 1, time.Now().AddDate(0, 0, 3), "vcsync.test")
	cert, err := control.LoadCertificate(certFile, keyFile, logger)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "ends soon") {
		t.Error("nobody is told that it ends")
	}
	cfg := control.Config{Broker: brokertest.Open(t, dir), Open: openBridge, Addr: "0.0.0.0:7780", Version: "test", Log: logger}
	if _, err := control.New(cfg); err == nil || !strings.Contains(err.Error(), "no TLS") {
		t.Errorf("without a certificate: %v", err)
	}
	cfg.Certificate = cert
	s, err := control.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CheckDoor(t.Context()); err == nil || !strings.Contains(err.Error(), "vcsync account first") {
		t.Errorf("without an admin: %v", err)
	}
	l, err := control.Listen(t.Context(), "127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var serial int64
	get := func(host, path string) *http.Response {
		t.Helper()
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(c tls.ConnectionState) error {
			serial = c.PeerCertificates[0].SerialNumber.Int64()
			return nil
		}}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	r := get("vcsync.test", "/livez")
	if r.StatusCode != 200 || r.ProtoMajor != 2 || r.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s %s %v", r.Proto, r.Status, r.Header)
	}
	if r := get("evil.example", "/livez"); r.StatusCode != 421 {
		t.Errorf("another host: %s", r.Status)
	}
	// Nobody has an account, and yet nobody may come in: this is no loopback address.
	if r := get("vcsync.test", "/api/v1/settings"); r.StatusCode != 401 {
		t.Errorf("without an account: %s", r.Status)
	}
	if err := control.Collected(s, "vcsync_api_certificate_expiry_timestamp_seconds"); err < float64(time.Now().Add(70*time.Hour).Unix()) {
		t.Errorf("its end in the metrics: %v", err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String()+"/livez", nil)
	if resp, err := tr.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.1 is taken")
	}

	// Another certificate in its place is taken without a restart; rubbish is not.
	now := time.Now()
	writeCertificate(t, dir, 2, now.AddDate(1, 0, 0), "vcsync.test", "other.test")
	control.LookAtCertificate(cert)
	if get("other.test", "/livez"); serial != 2 {
		t.Errorf("certificate %d, want the second", serial)
	}
	if err := os.WriteFile(certFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	control.LookAtCertificate(cert)
	if r := get("other.test", "/livez"); serial != 2 || r.StatusCode != 200 {
		t.Errorf("certificate %d after rubbish, %s", serial, r.Status)
	}
	if !strings.Contains(log.String(), "the one before stays in use") {
		t.Error("nobody is told that it cannot be read")
	}
}
