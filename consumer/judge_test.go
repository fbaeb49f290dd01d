package consumer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

func TestJudge(t *testing.T) {
	e := func(c visualcron.Class, status int, op string) error {
		return fmt.Errorf("apply: %w", &visualcron.Error{Class: c, Status: status, Op: op, RetryAfter: 7 * time.Second})
	}
	for _, c := range []struct {
		what       string
		err        error
		waited     time.Duration
		mismatched int
		want       Verdict
	}{
		{"a refusal is parked at once, however deep it is wrapped", e(visualcron.Refused, 422, "put"), 0, 0, Verdict{Fate: Park, Class: "refused"}},
		{"a fault of a read is retried", e(visualcron.Fault, 500, "get"), time.Minute, 0, Verdict{Fate: Retry}},
		{"a write that failed may still land", e(visualcron.Fault, 504, "put"), time.Minute, 0, Verdict{Fate: Retry, After: lateLanding}},
		{"a lasting fault is parked and tried again later", e(visualcron.Fault, 500, "put"), patience, 0, Verdict{Fate: Park, Class: "fault", Again: true}},
		{"a write that timed out is left alone until it cannot land any more", e(visualcron.Timeout, 0, "put"), 0, 0, Verdict{Fate: Retry, After: lateLanding}},
		{"so is a delete", e(visualcron.Timeout, 0, "delete"), 0, 0, Verdict{Fate: Retry, After: lateLanding}},
		{"a read that timed out is not", e(visualcron.Timeout, 0, "get"), 0, 0, Verdict{Fate: Retry}},
		{"a write with an answer that is none may have landed", e(visualcron.BadAnswer, 200, "put"), 0, 0, Verdict{Fate: Retry, After: lateLanding}},
		{"no connection is the target's fault, never parked", e(visualcron.Unreachable, 0, "put"), time.Hour, 0, Verdict{Fate: TargetDown, After: 7 * time.Second}},
		{"a busy target says how long", e(visualcron.Busy, 503, "put"), time.Hour, 0, Verdict{Fate: TargetDown, After: 7 * time.Second}},
		{"a refused account stops the target", e(visualcron.Unauthorized, 401, "put"), time.Hour, 0, Verdict{Fate: TargetDown, After: 7 * time.Second}},
		{"a refused logon stops the target", e(visualcron.Unauthorized, 403, "logon"), 0, 0, Verdict{Fate: TargetDown, After: 7 * time.Second}},
		{"a forbidden object does not", e(visualcron.Unauthorized, 403, "put"), 0, 0, Verdict{Fate: Park, Class: "forbidden"}},
		{"another server stops the target", e(visualcron.WrongServer, 0, "put"), 0, 0, Verdict{Fate: TargetDown, After: 7 * time.Second}},
		{"what the target cannot do is parked", e(visualcron.Unsupported, 0, "put"), 0, 0, Verdict{Fate: Park, Class: "unsupported"}},
		{"a first mismatch is tried again", &errMismatch{}, 0, 1, Verdict{Fate: Retry}},
		{"the third equal mismatch is parked", &errMismatch{}, 0, mismatches, Verdict{Fate: Park, Class: "mismatch"}},
		{"a message that is no event is parked", fmt.Errorf("x: %w", schemas.ErrEvent), 0, 0, Verdict{Fate: Park, Class: "unreadable"}},
		{"a body that is gone is told from a message that is no event", fmt.Errorf("%w: %w", broker.ErrLostBody, schemas.ErrEvent), 0, 0, Verdict{Fate: Park, Class: "body lost"}},
		{"what it refers to may be on its way", &errWait{}, 0, 0, Verdict{Fate: Wait}},
		{"a window may be shut for days", &errWindow{}, 100 * patience, 0, Verdict{Fate: AwaitWindow}},
		{"or not", &errWait{}, parentPatience, 0, Verdict{Fate: Park, Class: classWaiting, Again: true}},
		{"a lost lease ends the writer", fmt.Errorf("x: %w", broker.ErrLeaseLost), time.Hour, 0, Verdict{Fate: Abort}},
		{"a second writer of the ledger ends this one", fmt.Errorf("x: %w", broker.ErrConflict), 0, 0, Verdict{Fate: Abort}},
		{"a decision to park stands", &parkError{class: "conflict"}, 0, 0, Verdict{Fate: Park, Class: "conflict"}},
		{"a fault of our own is retried", errors.New("x"), 0, 0, Verdict{Fate: Retry}},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := Judge(c.err, c.waited, c.mismatched)
			got.Fix = ""
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
