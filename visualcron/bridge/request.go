package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// response is an answer whose server is the right one.
type response struct {
	b      *Bridge
	a      act
	ctx    context.Context
	status int
	header http.Header
	length int64 // as announced; -1 where it is not
	body   io.ReadCloser
}

// do sends a request with a token, and once more with a new one where the server
// does not take it: with 401 the request had no effect.
func (b *Bridge) do(ctx context.Context, a act, method string, u *url.URL, body []byte) (*response, error) {
	token, err := b.token(ctx, secret{})
	if err != nil {
		return nil, err
	}
	res, err := b.send(ctx, a, method, u, body, token)
	if err != nil || res.status != http.StatusUnauthorized {
		return res, err
	}
	_, _ = io.CopyN(io.Discard, res.body, maxProblem) // only to keep the connection
	res.close()
	if token, err = b.token(ctx, token); err != nil {
		return nil, err
	}
	return b.send(ctx, a, method, u, body, token)
}

// send sends one request and checks that the right server answers. A zero token
// sends none.
func (b *Bridge) send(ctx context.Context, a act, method string, u *url.URL, body []byte, token secret) (*response, error) {
	if err := ctx.Err(); err != nil {
		return nil, b.transportError(ctx, a, err, false)
	}
	if err := b.tooLate(); err != nil {
		return nil, b.transportError(ctx, a, err, false)
	}
	var asked, connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// Asked for again, the first connection was dead and nothing went out on it,
		// or the request was a mere read.
		GetConn: func(string) { asked.Store(true); connected.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(traced, method, "http://host/", content)
	if err != nil {
		return nil, b.errorOf(a, &visualcron.Error{Class: visualcron.Refused, Detail: "not sent: the request cannot be made"}) // the cause may hold the URL
	}
	req.URL, req.Host = u, u.Host
	req.Header.Set("User-Agent", "vcsync")
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("Accept-Encoding", "identity") // nothing between the bytes on the wire and the proof that they are whole
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.made != "" {
		req.Header.Set(secretsHeader, string(a.made))
	}
	if token.text != nil {
		req.Header.Set("Authorization", "Bearer "+token.reveal())
	}
	// The transport itself, not a Client: it follows no redirect.
	hres, err := b.transport.RoundTrip(req)
	if err != nil {
		sent := connected.Load() || !asked.Load() && !neverSent(err)
		return nil, b.transportError(ctx, a, err, sent)
	}
	res := &response{b, a, ctx, hres.StatusCode, hres.Header, hres.ContentLength, hres.Body}
	if err := b.checkIdentity(a, hres.Header.Get(identityHeader)); err != nil {
		res.close()
		return nil, err
	}
	return res, nil
}

// close gives the connection back where the body was read to its end, and ends it
// otherwise: a server that sends more than it should is not listened to.
func (res *response) close() { _ = res.body.Close() }

func (res *response) media() string {
	m, _, err := mime.ParseMediaType(res.header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return m
}

// want checks status, media type and coding of the answer.
func (res *response) want(statuses ...int) error {
	if !slices.Contains(statuses, res.status) {
		return res.answerError()
	}
	if res.status == http.StatusNoContent {
		return nil
	}
	return res.wantMedia("application/json")
}

func (res *response) wantMedia(media string) error {
	bad := func(detail string) error {
		return res.b.errorOf(res.a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: detail, Hint: hintAddress})
	}
	if m := res.media(); m != media {
		if m == "" {
			m = "no media type"
		}
		return bad(fmt.Sprintf("want %s, got %s", media, m))
	}
	if c := res.header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
		return bad(fmt.Sprintf("the answer is coded (%s), which was not asked for", c))
	}
	return nil
}

// namesNext tells whether the answer says that it is a page and where the next one
// is (RFC 8288). The contract has no pages, so the rest would be taken for absent.
func (res *response) namesNext() bool {
	for _, link := range res.header.Values("Link") {
		for param := range strings.FieldsFuncSeq(link, func(r rune) bool { return r == ';' || r == ',' }) {
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			if strings.EqualFold(name, "rel") && slices.ContainsFunc(strings.Fields(strings.Trim(value, `"`)),
				func(rel string) bool { return strings.EqualFold(rel, "next") }) {
				return true
			}
		}
	}
	return false
}

// whole reads the body, at most limit bytes. What is beyond a MiB waits for its
// turn: answers without end, side by side, must not fill the memory (G11).
func (res *response) whole(limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(res.body, min(limit+1, maxSmall+1)))
	beyond := int64(len(body)) > limit
	if err == nil && len(body) > maxSmall && limit > maxSmall {
		room := limit
		if res.length > 0 && res.length < limit {
			room = res.length
		}
		if err = res.b.large.Acquire(res.ctx, room); err == nil {
			defer res.b.large.Release(room)
			body, err = res.pieces(body, limit+1)
			beyond = err == nil && body == nil
		}
	}
	switch {
	case isEOF(err):
		return nil, res.b.errorOf(res.a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: "the answer breaks off"})
	case err != nil:
		return nil, res.b.transportError(res.ctx, res.a, err, true)
	case beyond:
		return nil, res.b.errorOf(res.a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: fmt.Sprintf("the answer has more than %d bytes", limit)})
	}
	return body, nil
}

// pieces reads on after what was read, until there are size bytes or no more come. The
// pieces are joined at the end, so that an answer without end is not copied again and
// again while it grows; one that has reached size is nil.
func (res *response) pieces(first []byte, size int64) ([]byte, error) {
	all := [][]byte{first}
	for left := size - int64(len(first)); left > 0; {
		piece, n := make([]byte, min(left, maxSmall)), 0
		var err error
		for n < len(piece) && err == nil {
			var some int
			some, err = res.body.Read(piece[n:])
			n += some
		}
		all, left = append(all, piece[:n]), left-int64(n)
		if err == io.EOF { // itself: what wraps it is a break
			return bytes.Join(all, nil), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// object reads the body as the object that the act is about.
func (res *response) object() ([]byte, error) {
	body, err := res.whole(visualcron.MaxBody)
	if err != nil {
		return nil, err
	}
	if err := checkObject(res.a.t, res.a.id, body); err != nil {
		return nil, res.b.errorOf(res.a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: err.Error()})
	}
	return body, nil
}

// checkObject tells whether body is one JSON object with the given id.
func checkObject(t schemas.Type, id schemas.ID, body []byte) error {
	if v := jsontext.Value(body); !v.IsValid() || v.Kind() != '{' {
		return fmt.Errorf("not one JSON object with each name once")
	}
	switch own, err := visualcron.BodyID(t, body); {
	case err != nil:
		return err
	case own != id:
		return fmt.Errorf("the body is that of another object, %.64s", own)
	}
	return nil
}

// logon is one logon that several callers may wait for.
type logon struct {
	done  chan struct{}
	token secret
	err   error
	// own tells that it failed for a reason of its first caller alone.
	own bool
}

// token returns the token, logging on where there is none or where it is the bad
// one. Callers that come while a logon is under way share it and its failure, so
// that a wrong password is tried once and not once per caller.
func (b *Bridge) token(ctx context.Context, bad secret) (secret, error) {
	a := act{op: "logon"}
	for {
		b.mu.Lock()
		if b.session.text != nil && b.session.text != bad.text {
			defer b.mu.Unlock()
			return b.session, nil
		}
		f := b.flight
		first := f == nil
		if first {
			f = &logon{done: make(chan struct{})}
			b.flight = f
		}
		b.mu.Unlock()
		if !first {
			select {
			case <-f.done:
				if f.err == nil || !f.own {
					return f.token, f.err
				}
				continue
			case <-ctx.Done():
				return secret{}, b.transportError(ctx, a, ctx.Err(), false)
			}
		}
		f.token, f.err = b.logon(ctx)
		f.own = f.err != nil && ctx.Err() != nil
		b.mu.Lock()
		if f.err == nil {
			if b.session.text != nil {
				b.retired = append(b.retired, b.session)
				b.retired = b.retired[max(0, len(b.retired)-8):]
			}
			b.session = f.token
		}
		b.flight = nil
		b.mu.Unlock()
		close(f.done)
		return f.token, f.err
	}
}

// logon asks for a token.
func (b *Bridge) logon(ctx context.Context) (secret, error) {
	a := act{op: "logon"}
	ctx, cancel := context.WithTimeout(ctx, b.requestTimeout)
	defer cancel()
	body, err := json.Marshal(struct {
		User     string `json:"user"`
		Password string `json:"password"`
	}{b.user, b.password.reveal()})
	if err != nil {
		return secret{}, b.errorOf(a, &visualcron.Error{Class: visualcron.Refused, Detail: "not sent: user or password is no valid text", Hint: hintAccount})
	}
	res, err := b.send(ctx, a, http.MethodPost, b.path("logon"), body, secret{})
	if err != nil {
		return secret{}, err
	}
	defer res.close()
	if err := res.want(http.StatusOK); err != nil {
		return secret{}, err
	}
	raw, err := res.whole(maxSmall)
	if err != nil {
		return secret{}, err
	}
	var out struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(raw, &out); err != nil || out.Token == "" ||
		strings.ContainsFunc(out.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return secret{}, b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: "the answer holds no token", Hint: hintAddress})
	}
	return newSecret(out.Token), nil
}

// parseInfo reads the answer to the question who the server is. Types that this
// version does not know are passed over.
func parseInfo(body []byte) (visualcron.Info, error) {
	var in struct {
		ID           string `json:"id"`
		Name         string `json:"name"`
		Version      string `json:"version"`
		Capabilities map[string]struct {
			List    bool   `json:"list"`
			Get     bool   `json:"get"`
			Put     bool   `json:"put"`
			Delete  bool   `json:"delete"`
			Secrets string `json:"secrets"`
		} `json:"capabilities"`
		Changes bool `json:"changes"`
		Account *struct {
			Name   string   `json:"name"`
			Rights []string `json:"rights"`
		} `json:"account"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return visualcron.Info{}, errors.New("the answer does not describe a server")
	}
	if in.ID == "" {
		return visualcron.Info{}, errors.New("the server gives no id of its own")
	}
	info := visualcron.Info{ID: in.ID, Name: in.Name, Version: in.Version, Types: map[schemas.Type]visualcron.Capability{}, Changes: in.Changes}
	if in.Account != nil {
		info.Account = &visualcron.Account{Name: in.Account.Name, Rights: in.Account.Rights}
	}
	for word, c := range in.Capabilities {
		t, err := schemas.ParseType(word)
		if err != nil {
			continue
		}
		mode := visualcron.SecretMode(c.Secrets)
		switch mode {
		case visualcron.SecretsEqual, visualcron.SecretsOpaque, visualcron.SecretsMasked, visualcron.SecretsNull:
		default:
			mode = "" // an unknown word is no leave to write secrets
		}
		info.Types[t] = visualcron.Capability{List: c.List, Get: c.Get, Put: c.Put, Delete: c.Delete, Secrets: mode}
	}
	return info, nil
}

// idleTimer ends a context when nothing comes for too long.
type idleTimer struct {
	after  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// withIdle returns a context that ends with errListIdle unless the timer is
// restarted in time.
func withIdle(ctx context.Context, after time.Duration) (context.Context, *idleTimer) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &idleTimer{after: after, cancel: cancel}
	t.timer = time.AfterFunc(after, func() { cancel(errListIdle) })
	return ctx, t
}

func (t *idleTimer) start() { t.timer.Reset(t.after) }
func (t *idleTimer) pause() { t.timer.Stop() }
func (t *idleTimer) stop() {
	t.timer.Stop()
	t.cancel(nil)
}

// maxRowRead bounds what is read between two rows: the largest row, and one read
// beyond its end.
const (
	readSize   = 256 << 10
	maxRowRead = visualcron.MaxBody + 2*readSize
)

// rowReader reads a listing. Only reading counts as idle time, not the work of
// whoever takes the rows; and no row can fill the memory.
type rowReader struct {
	body io.Reader
	idle *idleTimer
	left int
	err  error // what ended the reading
}

func (r *rowReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left <= 0 {
		r.err = errRowTooBig
		return 0, r.err
	}
	r.idle.start()
	n, err := r.body.Read(p[:min(len(p), readSize)])
	r.idle.pause()
	r.left -= n
	r.err = err
	return n, err
}

// cause is what ended the reading, or the error that the decoder made of it.
func (r *rowReader) cause(err error) error {
	if r.err != nil {
		return r.err
	}
	return err
}
