package bridge

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// maxHintLine bounds a line of a change feed.
const maxHintLine = 64 << 10

// Watch reads the server's change feed. A feed that is silent for three signs of
// life counts as broken.
func (b *Bridge) Watch(ctx context.Context, ready func(), hint func(visualcron.Hint)) error {
	a := act{op: "watch"}
	ctx, idle := withIdle(ctx, watchIdle)
	defer idle.stop()
	res, err := b.do(ctx, a, http.MethodGet, b.path("changes"), nil)
	if err != nil {
		return err
	}
	defer res.close()
	switch res.status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return b.errorOf(a, &visualcron.Error{Class: visualcron.Unsupported, Status: res.status, Detail: "the server has no change feed"})
	case http.StatusOK:
	default:
		return res.answerError()
	}
	if err := res.wantMedia("text/event-stream"); err != nil {
		return err
	}
	if ready != nil {
		ready()
	}
	lines := bufio.NewScanner(res.body)
	lines.Buffer(make([]byte, 0, 4096), maxHintLine)
	event, data := "", ""
	for {
		idle.start()
		more := lines.Scan()
		idle.pause()
		if !more {
			break
		}
		line := lines.Text()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if event == "change" && data != "" {
				hint(parseHint(data))
			}
			event, data = "", ""
		case name == "event":
			event = value
		case name == "data":
			if data != "" {
				data += "\n"
			}
			if data += value; len(data) > maxHintLine {
				return b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: "a hint is too large"})
			}
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: "a hint is too large"})
	case ctx.Err() == nil && (err == nil || isEOF(err)):
		return b.errorOf(a, &visualcron.Error{Class: visualcron.Timeout, Status: res.status, Detail: "the change feed broke off"})
	default:
		return b.transportError(ctx, a, cmp.Or(err, ctx.Err()), true)
	}
}

// parseHint takes what it can: an unreadable hint is one about everything.
func parseHint(data string) visualcron.Hint {
	var in struct {
		Type string `json:"type"`
		ID   string `json:"id"`
		Kind string `json:"kind"`
	}
	if json.Unmarshal([]byte(data), &in) != nil {
		return visualcron.Hint{}
	}
	t, err := schemas.ParseType(in.Type)
	if err != nil {
		t = ""
	}
	return visualcron.Hint{Type: t, ID: in.ID, Kind: in.Kind}
}
