package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/wneessen/go-mail"
)

// tryFor is how long one try to send a message takes at most.
const tryFor = 10 * time.Second

// sendFunc sends one message. Its errors may quote a URL; only reason reads them.
type sendFunc func(context.Context, Message) error

// httpClient follows no redirect, because a secret in a URL or header must not go to
// another host, and asks no proxy of the environment.
var httpClient = &http.Client{
	Transport: &http.Transport{TLSHandshakeTimeout: tryFor, ResponseHeaderTimeout: tryFor, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// statusError is an answer that is no success.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("HTTP %d", int(e)) }

// services make the senders over HTTP. The URL has its own scheme, http or https.
var services = map[string]func(*url.URL) (sendFunc, error){
	"webhook": func(u *url.URL) (sendFunc, error) {
		return post(u, func(m Message) any { return m }), nil
	},
	// Mattermost, Rocket.Chat and Google Chat take the same.
	"slack": func(u *url.URL) (sendFunc, error) {
		return post(u, func(m Message) any { return map[string]string{"text": m.Title + "\n" + m.Text} }), nil
	},
	"discord": func(u *url.URL) (sendFunc, error) {
		return post(u, func(m Message) any {
			return map[string]any{"content": m.Title + "\n" + m.Text, "allowed_mentions": map[string]any{"parse": []string{}}}
		}), nil
	},
	"teams":  func(u *url.URL) (sendFunc, error) { return post(u, adaptiveCard), nil },
	"matrix": matrixSender,
}

func serviceSchemes() []string {
	var out []string
	for _, s := range slices.Sorted(maps.Keys(services)) {
		if s != "webhook" {
			out = append(out, s+"+https://")
		}
	}
	return out
}

// adaptiveCard is what a webhook of Teams' Workflows takes.
func adaptiveCard(m Message) any {
	block := func(text, weight string) map[string]any {
		return map[string]any{"type": "TextBlock", "text": text, "weight": weight, "wrap": true}
	}
	// A single line feed is none in a card.
	text := strings.ReplaceAll(m.Text, "\n", "\n\n")
	return map[string]any{"type": "message", "attachments": []any{map[string]any{"contentType": "application/vnd.microsoft.card.adaptive",
		"content": map[string]any{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
			"body": []any{block(m.Title, "Bolder"), block(text, "Default")}}}}}
}

func post(u *url.URL, body func(Message) any) sendFunc {
	target, header := splitUser(u)
	return func(ctx context.Context, m Message) error {
		return request(ctx, http.MethodPost, target, header, body(m))
	}
}

// splitUser takes the account out of a URL and makes basic authentication of it.
func splitUser(u *url.URL) (string, http.Header) {
	v := *u
	header := http.Header{}
	if v.User != nil {
		password, _ := v.User.Password()
		r := http.Request{Header: header}
		r.SetBasicAuth(v.User.Username(), password)
		v.User = nil
	}
	return v.String(), header
}

// matrixSender speaks to matrix+https://TOKEN@host/ROOM.
func matrixSender(u *url.URL) (sendFunc, error) {
	room := strings.Trim(u.Path, "/")
	if u.User.Username() == "" || !strings.HasPrefix(room, "!") {
		return nil, fmt.Errorf("%w: want matrix+https://TOKEN@host/!ROOM:host, with the id of the room", ErrFile)
	}
	header := http.Header{"Authorization": {"Bearer " + u.User.Username()}}
	return func(ctx context.Context, m Message) error {
		// The id of the message makes a second try the same act there.
		target := u.Scheme + "://" + u.Host + "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/" + url.PathEscape(m.ID)
		return request(ctx, http.MethodPut, target, header, map[string]string{"msgtype": "m.text", "body": m.Title + "\n" + m.Text})
	}, nil
}

func request(ctx context.Context, method, target string, header http.Header, body any) error {
	raw, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "vcsync")
	resp, err := httpClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return statusError(resp.StatusCode)
	}
	return nil
}

// mailSender speaks SMTP, with TLS unless the URL says tls=none.
func mailSender(u *url.URL, implicit bool) (sendFunc, error) {
	box, err := parseMail(u, implicit)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, m Message) error {
		msg := mail.NewMsg()
		msg.SetMessageIDWithValue(m.ID + "@vcsync")
		msg.SetDateWithValue(m.Time)
		if err := msg.From(box.from); err != nil {
			return err
		}
		if err := msg.To(box.to...); err != nil {
			return err
		}
		msg.Subject("vcsync: " + m.Title)
		msg.SetBodyString(mail.TypeTextPlain, m.Title+"\n\n"+m.Text+"\n")
		c, err := mail.NewClient(box.host, box.options(ctx, implicit)...)
		if err != nil {
			return err
		}
		return c.DialAndSendWithContext(ctx, msg)
	}, nil
}

func (b mailBox) options(ctx context.Context, implicit bool) []mail.Option {
	var port int
	_, _ = fmt.Sscan(b.port, &port) // url.Parse lets digits through only; 0 is refused by the client
	opts := []mail.Option{mail.WithPort(port), mail.WithTimeout(tryFor), mail.WithHELO("vcsync.invalid"), mail.WithoutNoop()}
	switch {
	case implicit:
		opts = append(opts, mail.WithSSL())
	case b.plain:
		opts = append(opts, mail.WithTLSPolicy(mail.NoTLS), mail.WithDialContextFunc(dialUntil(ctx)))
	default:
		opts = append(opts, mail.WithTLSPolicy(mail.TLSMandatory), mail.WithDialContextFunc(dialUntil(ctx)))
	}
	if b.user != "" {
		auth := mail.SMTPAuthPlain
		if b.plain {
			auth = mail.SMTPAuthPlainNoEnc // to this machine only, see parseMail
		}
		opts = append(opts, mail.WithSMTPAuth(auth), mail.WithUsername(b.user), mail.WithPassword(b.password))
	}
	return opts
}

// dialUntil makes connections that are cut when ctx ends: the client itself gives each
// answer its own time.
func dialUntil(ctx context.Context) mail.DialContextFunc {
	return func(dial context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(dial, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = c.Close() })
		}
		return c, err
	}
}

// reason says in vcsync's own words why a message could not be sent. Errors of the
// libraries quote URLs, hosts and answers, so none of their text is passed on.
func reason(err error) string {
	if e, ok := errors.AsType[statusError](err); ok {
		switch {
		case e/100 == 3:
			return e.Error() + ": a redirect, which is not followed; write the URL that it leads to"
		case e == http.StatusUnauthorized, e == http.StatusForbidden, e == http.StatusNotFound, e == http.StatusGone:
			return e.Error() + ": the URL or its secret is not right any more"
		}
		return e.Error()
	}
	if code := smtpCode(err); code != 0 {
		return fmt.Sprintf("SMTP %d", code)
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the name of its host is not known"
	}
	_, badCert := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknownCA := errors.AsType[x509.UnknownAuthorityError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	n, isNet := errors.AsType[net.Error](err)
	switch {
	case badCert || unknownCA:
		return "its TLS certificate is not trusted"
	case noTLS, strings.Contains(err.Error(), "HTTP response to HTTPS client"): // net/http has no other way to tell
		return "it does not speak TLS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there"
	case errors.Is(err, context.DeadlineExceeded), isNet && n.Timeout():
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case strings.Contains(err.Error(), "STARTTLS"):
		return "the mail server does not offer STARTTLS; a relay that has no TLS needs tls=none and no account"
	}
	return "it cannot be reached, or does not speak the protocol"
}

func smtpCode(err error) int {
	if e, ok := errors.AsType[*mail.SendError](err); ok && e.ErrorCode() != 0 {
		return e.ErrorCode()
	}
	if e, ok := errors.AsType[*textproto.Error](err); ok {
		return e.Code
	}
	return 0
}

// lasting tells whether another try would have the same outcome.
func lasting(err error) bool {
	if e, ok := errors.AsType[statusError](err); ok {
		return e < 500 && e != http.StatusRequestTimeout && e != http.StatusTooManyRequests && e != http.StatusTooEarly
	}
	return smtpCode(err) >= 500
}
