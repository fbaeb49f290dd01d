package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// progress is a line at the foot of a terminal that says how far something has come;
// elsewhere it says what is waited for, where that takes long. It goes to standard error,
// so that what is printed can be used.
type progress struct {
	w       io.Writer
	columns int
	last    string
	// lines is where there is no terminal, said when something was last said there.
	lines io.Writer
	said  time.Time
}

// sayAfter is how long something is waited for, or the same is not said again, without a
// terminal.
const sayAfter = 5 * time.Second

func (a *app) progress() *progress {
	if !terminal(a.err) || os.Getenv("TERM") == "dumb" {
		return &progress{lines: a.err, said: time.Now()}
	}
	p := &progress{w: a.err, columns: 80}
	if f, ok := a.err.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			p.columns = n
		}
	}
	return p
}

// barWidth is how many columns the bar itself takes.
const barWidth = 30

// show shows done of total with a bar, and what is being worked on.
func (p *progress) show(done, total int, what string) {
	if total <= 0 {
		return
	}
	full := barWidth * min(done, total) / total
	p.line(fmt.Sprintf("[%s%s] %d of %d %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, total, what))
}

// note shows a text.
func (p *progress) note(text string) {
	p.line(text)
	if p.lines != nil && text != p.last && time.Since(p.said) >= sayAfter {
		p.last, p.said = text, time.Now()
		fmt.Fprintf(p.lines, "vcsync: %s\n", clean(text))
	}
}

func (p *progress) line(text string) {
	if p.w == nil || text == p.last {
		return
	}
	p.last = text
	fmt.Fprintf(p.w, "\r\x1b[K%s", shorten(clean(text), p.columns-1))
}

// end takes the line away.
func (p *progress) end() {
	if p.w != nil && p.last != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
