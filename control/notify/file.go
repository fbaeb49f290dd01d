package notify

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
)

// ErrFile says that the file of receivers is not right. No error that wraps it quotes
// the file.
var ErrFile = errors.New("file of notifications")

const (
	maxFile  = 64 << 10
	maxLines = 32
)

// Line is a receiver: one line of the file. It never prints its URL.
type Line struct {
	// Number is its place in the file, from 1.
	Number int
	// Service is its kind of service, such as slack.
	Service string
	kinds   []Kind // nil for all
	url     *url.URL
	send    sendFunc
}

// String names the line without its URL.
func (l Line) String() string { return fmt.Sprintf("line %d (%s)", l.Number, l.Service) }

// GoString is String.
func (l Line) GoString() string { return l.String() }

// takes tells whether a message of the kind goes there.
func (l Line) takes(k Kind) bool { return l.kinds == nil || slices.Contains(l.kinds, k) }

// Read reads the file of receivers, which only its owner can read. The error wraps
// ErrFile and names all lines that are not right, by number.
func Read(path string) ([]Line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what has the name by now
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no file", ErrFile, path)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 && runtime.GOOS != "windows" { // there the folder's own rights protect it
		return nil, fmt.Errorf("%w: %s has mode %04o, so others can read its URLs: run chmod 600 on it, and replace the secrets if somebody may have read it", ErrFile, path, m)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrFile, path, maxFile)
	}
	return parse(path, string(raw))
}

func parse(path, text string) ([]Line, error) {
	var lines []Line
	var errs []error
	n := 0
	for row := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		n++
		row = strings.TrimSpace(row)
		if row == "" || strings.HasPrefix(row, "#") {
			continue
		}
		l, err := parseLine(row)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s, line %d: %w", path, n, err))
			continue
		}
		l.Number = n
		lines = append(lines, l)
	}
	switch {
	case errs != nil:
		return nil, errors.Join(errs...)
	case len(lines) == 0:
		return nil, fmt.Errorf("%w: %s has no URL: write one to a line, or leave VCSYNC_NOTIFY_FILE empty", ErrFile, path)
	case len(lines) > maxLines:
		return nil, fmt.Errorf("%w: %s has %d URLs; %d are the most", ErrFile, path, len(lines), maxLines)
	}
	return lines, nil
}

// parseLine reads "[KIND,KIND] URL". Its errors quote nothing: whatever is wrong with a
// line, it may hold a secret.
func parseLine(row string) (l Line, err error) {
	fields := strings.Fields(row)
	switch len(fields) {
	case 1:
	case 2:
		for name := range strings.SplitSeq(fields[0], ",") {
			k, err := ParseKind(name)
			if err != nil {
				return l, err
			}
			l.kinds = append(l.kinds, k)
		}
	default:
		return l, fmt.Errorf("%w: want a URL, or kinds with commas between them and a URL", ErrFile)
	}
	if l.url, err = url.Parse(fields[len(fields)-1]); err != nil || l.url.Hostname() == "" {
		return l, fmt.Errorf("%w: not a URL with a host; a character such as #, %% or / in a password is written as %%23, %%25 or %%2F", ErrFile)
	}
	if l.url.Fragment != "" {
		return l, fmt.Errorf("%w: the URL has a #, and nothing after it would be sent; write it as %%23", ErrFile)
	}
	service, transport, joined := strings.Cut(l.url.Scheme, "+")
	if !joined {
		service, transport = "webhook", l.url.Scheme
	}
	switch {
	case !joined && (transport == "smtp" || transport == "smtps"):
		l.Service = "mail"
		l.send, err = mailSender(l.url, transport == "smtps")
		return l, err
	case transport != "https" && transport != "http" || services[service] == nil:
		return l, fmt.Errorf("%w: not a kind of URL that is known; want https://, %s, smtp:// or smtps://", ErrFile, strings.Join(serviceSchemes(), ", "))
	}
	u := *l.url
	u.Scheme, l.Service = transport, service
	l.send, err = services[service](&u)
	return l, err
}

// mailBox is what of a mail URL says who writes to whom.
type mailBox struct {
	host, port     string
	user, password string
	from           string
	to             []string
	plain          bool
}

func parseMail(u *url.URL, implicit bool) (m mailBox, err error) {
	m.host, m.port = u.Hostname(), u.Port()
	if m.port == "" {
		m.port = "587"
		if implicit {
			m.port = "465"
		}
	}
	m.user = u.User.Username()
	m.password, _ = u.User.Password()
	q := u.Query()
	for name := range q {
		if !slices.Contains([]string{"from", "to", "tls"}, name) {
			return m, fmt.Errorf("%w: a mail URL has a parameter that is not known; want from, to and tls", ErrFile)
		}
	}
	address := func(s string) (string, error) {
		a, err := mail.ParseAddress(s)
		if err != nil {
			return "", fmt.Errorf("%w: a mail URL needs ?from=ADDRESS&to=ADDRESS, with commas between several to", ErrFile)
		}
		return a.Address, nil
	}
	if m.from, err = address(q.Get("from")); err != nil {
		return m, err
	}
	for s := range strings.SplitSeq(q.Get("to"), ",") {
		a, err := address(s)
		if err != nil {
			return m, err
		}
		m.to = append(m.to, a)
	}
	switch tls := q.Get("tls"); {
	case tls == "none" && implicit:
		return m, fmt.Errorf("%w: smtps:// is TLS from the beginning; tls=none is for smtp://", ErrFile)
	case tls == "none":
		m.plain = true
	case tls != "":
		return m, fmt.Errorf("%w: a mail URL's tls can only be none", ErrFile)
	}
	if ip := net.ParseIP(m.host); m.plain && m.user != "" && (ip == nil || !ip.IsLoopback()) {
		return m, fmt.Errorf("%w: a password would go to the mail server in the clear: take out tls=none, or the account", ErrFile)
	}
	return m, nil
}
