package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// client speaks to the API of a running vcsync.
type client struct {
	base string // http://host:port or https://host:port
	// token is the session or token that goes with every request; "" for none.
	token string
	http  *http.Client
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 256 << 20

// client makes one from --api, VCSYNC_API_ADDR or the default.
func (a *app) client() (*client, error) {
	addr := a.api
	from := "--api"
	if addr == "" {
		addr, from = os.Getenv("VCSYNC_API_ADDR"), "VCSYNC_API_ADDR"
	}
	if addr == "" {
		if c, err := readContexts(); err != nil {
			return nil, err
		} else if addr = c.address(); addr != "" {
			from = "the context " + c.Selected
		}
	}
	if addr == "" {
		addr, from = defaultAPIAddr, "the default"
	}
	c, err := newClient(addr, from)
	if err != nil {
		return nil, err
	}
	if c.token = os.Getenv("VCSYNC_TOKEN"); c.token == "" {
		k, err := readContexts()
		if err != nil {
			return nil, err
		}
		c.token = k.Tokens[c.base]
	}
	return c, nil
}

// newClient makes a client of an address, which may begin with http:// or https://. Where
// it is that of this process's own environment, and VCSYNC_API_CERT stands there too, it is
// https:// and that certificate is trusted.
func newClient(addr, from string) (*client, error) {
	const apiAddr = envPrefix + "API_ADDR"
	scheme, rest, ok := strings.Cut(addr, "://")
	own := ""
	if !ok {
		scheme, rest = "http", addr
		if own = os.Getenv(envPrefix + "API_CERT"); own != "" && (from == apiAddr || from == "the default") {
			scheme = "https"
		} else {
			own = ""
		}
	}
	u, err := url.Parse(scheme + "://" + strings.TrimSuffix(rest, "/"))
	if err != nil || u.Host == "" || u.Path != "" || u.User != nil || u.RawQuery != "" || scheme != "http" && scheme != "https" {
		return nil, usageError("%s: %.80q is no address; want host:port, such as %s, or https://host:port", from, addr, defaultAPIAddr)
	}
	// Passwords and tokens go there, and what comes back is believed.
	if scheme == "http" && !loopback(u.Host) && !(u.Port() == "" && loopback(u.Host+":80")) {
		return nil, usageError("%s: %.80s is not on this machine, and passwords and tokens would go there in the clear: use https:// or a tunnel", from, u)
	}
	t := &http.Transport{ // no proxy: the API is on this machine, at the end of a tunnel, or near
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   1,
	}
	if scheme == "https" {
		if t.TLSClientConfig, err = clientTLS(u.Scheme+"://"+u.Host, own); err != nil {
			return nil, err
		}
		if host, port, err := net.SplitHostPort(u.Host); own != "" && err == nil {
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				u.Host = net.JoinHostPort("localhost", port)
			}
		}
	}
	return &client{base: u.String(), http: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// clientTLS trusts the authorities of the system, and that of VCSYNC_API_CA or the
// context; and the certificate own of a vcsync on this machine.
func clientTLS(base, own string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	ca := os.Getenv(envPrefix + "API_CA")
	if ca == "" {
		k, err := readContexts()
		if err != nil {
			return nil, err
		}
		ca = k.CAs[base]
	}
	if ca == "" && own == "" {
		return c, nil
	}
	var err error
	if c.RootCAs, err = x509.SystemCertPool(); err != nil {
		c.RootCAs = x509.NewCertPool()
	}
	for _, path := range []string{ca, own} {
		if path == "" {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError("read the certificate to trust: %w", err)
		}
		block, _ := pem.Decode(raw)
		if !c.RootCAs.AppendCertsFromPEM(raw) || block == nil {
			return nil, usageError("%s holds no certificate in PEM", path)
		}
		if path != own {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, usageError("%s: %w", path, err)
		}
		// It may name no host by which this machine calls itself.
		switch {
		case len(leaf.DNSNames) > 0:
			c.ServerName = leaf.DNSNames[0]
		case len(leaf.IPAddresses) > 0:
			c.ServerName = leaf.IPAddresses[0].String()
		}
	}
	return c, nil
}

// apiError is a refusal of the API.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

// send makes a request. The caller closes the body of the answer. Errors have
// their exit code.
func (c *client) send(ctx context.Context, method, path string, header map[string]string, body any) (*http.Response, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, failed(exitRunTime, err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, rd)
	if err != nil {
		return nil, usageError("address of the API: %w", err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, failed(exitRunTime, errors.New("interrupted"))
		}
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return nil, failed(exitEnvironment, fmt.Errorf("do not trust what answers at %s: %w; if it is your vcsync, name its authority with VCSYNC_API_CA, or with --ca of vcsync context add", c.base, err))
		}
		return nil, failed(exitEnvironment, fmt.Errorf("cannot reach vcsync at %s: %w; start it with \"vcsync up\", or name its address with --api or VCSYNC_API_ADDR", c.base, err))
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // a cut problem is no problem, see below
	return nil, refusal(resp, raw)
}

// refusal reads a problem.
func refusal(resp *http.Response, raw []byte) error {
	var p huma.ErrorModel
	// A stand-in answers 401 too, of a realm of its own.
	asksUs := resp.Header.Get("WWW-Authenticate") == `Bearer realm="vcsync"` || resp.Request.URL.Path == apiPath("session")
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(raw, &p) != nil || resp.StatusCode == http.StatusUnauthorized && !asksUs {
		return failed(exitEnvironment, fmt.Errorf("what answers at this address is not vcsync (HTTP %d); name its address with --api or VCSYNC_API_ADDR", resp.StatusCode))
	}
	text := p.Detail
	for _, d := range p.Errors {
		text += "\n  " + d.Location + ": " + d.Message
	}
	if text == "" {
		text = p.Title
	}
	code := exitDifferent
	switch {
	case resp.StatusCode >= 500:
		code = exitRunTime
	case resp.StatusCode == http.StatusTooManyRequests:
		code = exitRunTime
	case resp.StatusCode == http.StatusMisdirectedRequest, resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		code = exitEnvironment
	// A name or a value that was typed. A server that cannot be reached is no such thing.
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusUnprocessableEntity && !asksServer(resp.Request),
		resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusUnsupportedMediaType, resp.StatusCode == http.StatusRequestEntityTooLarge:
		code = exitUsage
	}
	return failed(code, &apiError{resp.StatusCode, text})
}

// asksServer tells whether a request has a server asked who it is, so that a refusal may be
// for what it answers. What was typed is looked at before such a request is made.
func asksServer(r *http.Request) bool {
	rest, servers := strings.CutPrefix(r.URL.Path, apiPath("servers"))
	return servers && (r.Method == http.MethodPost && rest == "" || r.Method == http.MethodPut && strings.Count(rest, "/") == 1)
}

// isStatus tells whether err is a refusal with that HTTP status.
func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.status == status
}

// call makes a request, reads the answer into out (nil for none) and returns its
// bytes and its ETag.
func (c *client) call(ctx context.Context, method, path string, header map[string]string, body, out any) (raw []byte, etag string, err error) {
	resp, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, "", failed(exitEnvironment, fmt.Errorf("read the answer of vcsync at %s: %w", c.base, err))
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			return nil, "", failed(exitEnvironment, fmt.Errorf("the answer at %s is not one of this version of vcsync: %w", c.base, err))
		}
	}
	return raw, resp.Header.Get("ETag"), nil
}

// show prints an answer: as it came for --json, else by the function.
func (a *app) show(raw []byte, table func() error) error {
	if !a.json {
		return failed(exitRunTime, table())
	}
	v := jsontext.Value(raw)
	if len(bytes.TrimSpace(raw)) == 0 {
		v = jsontext.Value("{}")
	}
	if err := v.Indent(); err != nil {
		return failed(exitEnvironment, err)
	}
	_, err := fmt.Fprintf(a.out, "%s\n", bytes.TrimSpace(v))
	return failed(exitRunTime, err)
}

// items is the form of every list of the API.
type items[T any] struct {
	Items []T `json:"items"`
}

// apiPath joins escaped parts below /api/v1.
func apiPath(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/api/v1/" + strings.Join(parts, "/")
}
