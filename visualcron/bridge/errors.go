package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/visualcron"
)

const (
	maxDetail = 200

	hintAddress  = "check that the address is that of a vcsync bridge or stand-in"
	hintRunning  = "check that the server runs and that the address is right"
	hintAccount  = "check the account of this server in vcsync and at the server"
	hintTrust    = "compare the pin with that of the server's own certificate, and if it is the same, confirm it: --pin of vcsync server add or edit"
	hintPin      = "if the certificate was changed on purpose, pin the new one: vcsync server edit NAME --pin; if not, somebody stands between"
	hintReach    = "if it is the right one, say so in VCSYNC_SERVERS_ALLOW and start vcsync anew"
	hintRedirect = "give the address that the server itself answers at; vcsync follows no redirect"
)

// anyURL finds what looks like a URL, so that no address or query gets into a text.
var anyURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]*`)

var (
	errListIdle  = errors.New("no byte came in time")
	errListTotal = errors.New("the listing did not end in time")
	errRowTooBig = errors.New("a row is too large")
)

// errorOf completes an error of this connector and keeps secrets out of it. Every
// *visualcron.Error that leaves the package comes by here.
func (b *Bridge) errorOf(a act, e *visualcron.Error) *visualcron.Error {
	if e.Op = a.op; e.Op == "" {
		e.Op = "ask"
	}
	e.Server, e.Type, e.ID = b.server, a.t, a.id
	e.Detail = clean(b.redact(e.Detail))
	return e
}

// clean makes a text one line of at most 200 characters.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxDetail {
		return string(r[:maxDetail-1]) + "…"
	}
	return s
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// transportError sorts an error of the transport. Sent tells whether anything may
// have reached the server. A text of net/http may hold the URL, so only what is
// known to be safe is taken from it.
func (b *Bridge) transportError(ctx context.Context, a act, err error, sent bool) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if e, ok := errors.AsType[*visualcron.Error](err); ok {
		return e // of the logon, complete already
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, errListIdle) || errors.Is(cause, errListTotal) {
		return b.errorOf(a, &visualcron.Error{Class: visualcron.Timeout, Detail: cause.Error(), Err: context.DeadlineExceeded})
	}
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		// The caller gave up; that says nothing about the server.
		where := strings.TrimSpace(a.op + " " + string(a.t))
		if errors.Is(cause, context.Canceled) {
			return fmt.Errorf("%s on %s: %w", where, b.server, context.Canceled)
		}
		return fmt.Errorf("%s on %s: %w: %w", where, b.server, context.Canceled, cause)
	}
	e := &visualcron.Error{Class: visualcron.Timeout, Detail: describe(err)}
	neterr, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errRowTooBig):
		e.Class, e.Detail = visualcron.BadAnswer, fmt.Sprintf("a row has more than %d bytes", visualcron.MaxBody)
	case isPin(err):
		e.Class, e.Hint = visualcron.WrongServer, hintPin
	case !sent:
		e.Class, e.Hint = visualcron.Unreachable, hintRunning
		switch _, verified := errors.AsType[*tls.CertificateVerificationError](err); {
		case verified:
			e.Hint = hintTrust
		case errors.Is(err, visualcron.ErrReach):
			e.Hint = hintReach
		}
		if ctx.Err() != nil {
			e.Detail, e.Err = "no connection in time", context.DeadlineExceeded
		}
	case ctx.Err() != nil:
		e.Detail, e.Err = "no answer in time; whether the request had an effect is not known", context.DeadlineExceeded
	case isNet && neterr.Timeout():
		e.Detail = "no answer in time; whether the request had an effect is not known"
	case strings.Contains(err.Error(), "malformed HTTP"), strings.Contains(err.Error(), "chunk"): // net/http has no types for these
		e.Class, e.Detail, e.Hint = visualcron.BadAnswer, "what answers does not speak HTTP", hintAddress
	}
	return b.errorOf(a, e)
}

// neverSent tells whether the kind of error alone shows that nothing reached the
// server.
func neverSent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	return isTLS(err)
}

func isPin(err error) bool {
	_, ok := errors.AsType[*pinError](err)
	return ok
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pinError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.AlertError](err)
	return ok
}

// describe says what happened to a connection, without address and URL.
func describe(err error) string {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return "the name of the host is not known"
		}
		return "the name of the host could not be looked up"
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		text := "TLS: no authority that this system trusts vouches for the server's certificate"
		if len(e.UnverifiedCertificates) > 0 {
			text += ", whose pin is " + PinOf(e.UnverifiedCertificates[0])
		}
		return text + ": " + e.Err.Error()
	}
	if e, ok := errors.AsType[*pinError](err); ok {
		return e.Error()
	}
	if errors.Is(err, visualcron.ErrReach) {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			return op.Err.Error()
		}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "TLS: the server does not speak TLS at this port"
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	if isEOF(err) {
		return "the server closed the connection"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}

// answerError sorts an answer that is not what was asked for.
func (res *response) answerError() error {
	status := res.status
	e := &visualcron.Error{Status: status}
	title, isProblem := res.problem()
	switch {
	case status >= 300 && status < 400:
		e.Class, e.Detail, e.Hint = visualcron.BadAnswer, "the server redirects elsewhere", hintRedirect
		return res.b.errorOf(res.a, e)
	case status < 400:
		e.Class, e.Detail, e.Hint = visualcron.BadAnswer, "not the status of the contract", hintAddress
		return res.b.errorOf(res.a, e)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Class, e.Hint = visualcron.Unauthorized, hintAccount
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		e.Class, e.RetryAfter = visualcron.Busy, retryAfter(res.header.Get("Retry-After"), time.Now())
	case status >= 500:
		e.Class = visualcron.Fault
	case status == http.StatusPreconditionFailed && isProblem && res.a.made != "":
		e.Class = visualcron.Changed
	case status == http.StatusNotFound, status == http.StatusGone:
		switch {
		case !isProblem:
			// A web server that knows nothing of the contract says so of every path, and
			// no object may be taken for absent because of that.
			e.Class, e.Detail, e.Hint = visualcron.BadAnswer, "not found, but not in the words of the contract", hintAddress
			return res.b.errorOf(res.a, e)
		case res.a.op == "get" || res.a.op == "delete":
			e.Class = visualcron.NotFound
		default:
			e.Class = visualcron.Refused
		}
	default:
		e.Class = visualcron.Refused
	}
	e.Detail = title
	return res.b.errorOf(res.a, e)
}

// problem returns what an RFC 9457 problem says, and whether the answer is one.
func (res *response) problem() (text string, ok bool) {
	b, _ := io.ReadAll(io.LimitReader(res.body, maxProblem)) // what can be had; the status tells enough
	media := res.media()
	if media != "application/problem+json" && media != "application/json" {
		return "", false
	}
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(b, &p) != nil {
		return "", false
	}
	text = p.Title
	if p.Detail != "" {
		if text != "" {
			text += ": "
		}
		text += p.Detail
	}
	return text, media == "application/problem+json"
}

// retryAfter parses the header, seconds or an HTTP date, into 0 to one hour; 0 is
// also for what is neither.
func retryAfter(s string, now time.Time) time.Duration {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
