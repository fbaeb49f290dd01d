package control

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"
)

// Certificate is that of the API: a file with the chain and one with the key, in PEM. A
// new one in their place is taken within ten seconds; one that cannot be read leaves the
// one before in use, and is said in the log.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	now     *tls.Certificate
	changed [2]time.Time // when the files were written
	looked  time.Time
}

// certificateEvery is how often the files are looked at, and warnAt how long before its
// end a certificate is complained of.
const (
	certificateEvery = 10 * time.Second
	warnAt           = 14 * 24 * time.Hour
)

// LoadCertificate reads a certificate and its key. The error wraps ErrConfig and names the
// file; the key must not be readable for everybody.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	pair, changed, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate of the API: %w", ErrConfig, err)
	}
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		return nil, fmt.Errorf("%w: the certificate of the API: %s ended at %s", ErrConfig, certFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if len(pair.Leaf.DNSNames) == 0 && len(pair.Leaf.IPAddresses) == 0 {
		return nil, fmt.Errorf("%w: the certificate of the API: %s names no host: it needs subject alternative names", ErrConfig, certFile)
	}
	c.now, c.changed, c.looked = pair, changed, time.Now()
	c.warn(pair)
	return c, nil
}

// written returns when the files were, and checks who may read the key.
func (c *Certificate) written() (changed [2]time.Time, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return changed, err
		}
		if m := info.Mode().Perm(); i == 1 && m&0o007 != 0 && runtime.GOOS != "windows" {
			return changed, fmt.Errorf("%s has mode %04o, so everybody on this machine can read the key: run chmod 600 on it", path, m)
		}
		changed[i] = info.ModTime()
	}
	return changed, nil
}

func (c *Certificate) read() (pair *tls.Certificate, changed [2]time.Time, err error) {
	if changed, err = c.written(); err != nil {
		return nil, changed, err
	}
	p, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, changed, fmt.Errorf("%s with %s: %w", c.certFile, c.keyFile, err)
	}
	return &p, changed, nil
}

func (c *Certificate) warn(pair *tls.Certificate) {
	if left := time.Until(pair.Leaf.NotAfter); left < warnAt {
		c.log.Warn("the certificate of the API ends soon; put another in its place", "file", c.certFile, "ends", pair.Leaf.NotAfter)
	}
}

// get returns the certificate that is in use now.
func (c *Certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateEvery {
		return c.now
	}
	c.looked = time.Now()
	if changed, err := c.written(); err == nil && changed == c.changed {
		return c.now
	}
	pair, changed, err := c.read()
	if err != nil {
		c.log.Error("the certificate of the API cannot be read anew; the one before stays in use", "error", err)
		return c.now
	}
	c.now, c.changed = pair, changed
	c.log.Info("the API has a new certificate", "ends", pair.Leaf.NotAfter)
	c.warn(pair)
	return c.now
}

// config is that of a listener.
func (c *Certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil }}
}

// names tells whether the certificate is good for a host.
func (c *Certificate) names(host string) bool { return c.get().Leaf.VerifyHostname(host) == nil }

// ends is when the certificate in use ends.
func (c *Certificate) ends() time.Time { return c.get().Leaf.NotAfter }
