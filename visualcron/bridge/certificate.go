package bridge

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// PinOf returns the pin of a certificate: the SHA-256 of its public key, as
// schemas.Server.Pins holds it. A certificate that is renewed with the same key keeps it.
func PinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return schemas.PinPrefix + base64.StdEncoding.EncodeToString(sum[:])
}

// pinError says that a server has another key than those that are pinned.
type pinError struct{ found string }

func (e *pinError) Error() string {
	return "TLS: the server has another certificate than the pinned one: its pin is " + e.found
}

// tlsConfig accepts the pinned keys and no other, or, without pins, what the system's
// authorities vouch for. VerifyConnection is called on resumed sessions too, which
// VerifyPeerCertificate is not.
func (b *Bridge) tlsConfig(pins []string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: len(pins) > 0, // VerifyConnection decides then
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if pin := PinOf(leaf); len(pins) > 0 && !slices.Contains(pins, pin) {
				return &pinError{pin}
			}
			b.mu.Lock()
			b.peer = &visualcron.Certificate{Pin: PinOf(leaf), Subject: clean(leaf.Subject.String()), Issuer: clean(leaf.Issuer.String()), Ends: leaf.NotAfter}
			b.mu.Unlock()
			return nil
		},
	}
}

// reach checks an address at the moment of connecting to it.
func (b *Bridge) reach(host string) func(network, address string, c syscall.RawConn) error {
	return func(network, address string, c syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return errors.New("the address that was looked up is none")
		}
		if err := b.allowed.Check(host, to); err != nil {
			return err
		}
		return bound(network, address, c)
	}
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}
