package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
)

func auditSome(t *testing.T, b *broker.Broker, n int) {
	t.Helper()
	for i := range n {
		r := broker.AuditRecord{Time: time.Date(2026, 11, 1, 10, i, 0, 0, time.UTC), Who: "anna", From: "127.0.0.1:1", Action: "setting.update",
			Object: "setting/one", Before: uint64(i + 7), Detail: fmt.Sprint("step <", i, "> ä"), New: "ab", Settings: 3, Approval: "p"}
		if err := b.Audit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func verifyStore(t *testing.T, b *broker.Broker) broker.AuditCheck {
	t.Helper()
	var c broker.AuditCheck
	for {
		done, err := b.VerifyAudit(t.Context(), &c, 3)
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return c
		}
	}
}

func exported(t *testing.T, b *broker.Broker) (lines []string) {
	t.Helper()
	var buf bytes.Buffer
	for after := uint64(0); ; {
		n, last, err := b.ExportAudit(t.Context(), &buf, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		after = last
	}
	for l := range strings.Lines(buf.String()) {
		lines = append(lines, strings.TrimSuffix(l, "\n"))
	}
	return lines
}

func verifyLines(lines []string, keys *broker.Keyring) broker.AuditCheck {
	var c broker.AuditCheck
	for _, l := range lines {
		if !c.AddLine([]byte(l), keys) {
			return c
		}
	}
	c.End(0, keys)
	return c
}

// rebuild puts other messages in the place of the audit's.
func rebuild(t *testing.T, b *broker.Broker, lines []string) {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), broker.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	if err := b.JS().DeleteStream(t.Context(), broker.StreamAudit); err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS().CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if _, err := b.JS().Publish(t.Context(), "vcsync.audit.setting.update", []byte(l)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheAuditIsAChainThatGoesOnOverARestart(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	auditSome(t, b, 4)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	auditSome(t, b, 4)
	if c := verifyStore(t, b); c.Broken != nil || c.Records != 8 || c.Keyed != 8 || c.ChainFrom != 1 || c.Last != 8 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
	lines := exported(t, b)
	if c := verifyLines(lines, nil); len(lines) != 8 || c.Broken != nil || c.Records != 8 {
		t.Errorf("%d lines: %+v, broken %+v", len(lines), c, c.Broken)
	}
}

// TestTwoWritersNeverForkTheAudit lets two processes, each with its own notion of the
// head, append at once.
func TestTwoWritersNeverForkTheAudit(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	other := broker.SecondAudit(b)
	var wg sync.WaitGroup
	for _, w := range []*broker.Broker{b, other} {
		for range 2 {
			wg.Go(func() {
				for i := range 20 {
					if err := w.Audit(context.Background(), broker.AuditRecord{Time: time.Now(), Who: "x", Action: "a.b", Object: fmt.Sprint(i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if c := verifyStore(t, b); c.Broken != nil || c.Records != 80 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
}

// TestAChangedByteBreaksTheAuditAtItsRecord changes every byte of every record in turn, in
// a copy that is checked without the keyring.
func TestAChangedByteBreaksTheAuditAtItsRecord(t *testing.T) {
	b := brokertest.Start(t)
	auditSome(t, b, 3)
	lines := exported(t, b)
	for n := range lines {
		for i := range lines[n] {
			for _, mask := range []byte{1, 0x10} {
				bad := slices.Clone(lines)
				raw := []byte(bad[n])
				raw[i] ^= mask
				bad[n] = string(raw)
				if c := verifyLines(bad, nil); c.Broken == nil || c.Broken.Seq != uint64(n+1) {
					t.Fatalf("record %d, byte %d: %s\nbroken %+v", n+1, i, raw, c.Broken)
				}
			}
		}
	}
}

func TestWhatWasDoneToTheStoredAuditIsFoundAtItsRecord(t *testing.T) {
	stranger, err := broker.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		do   func(lines []string) []string
		want uint64
		says string
	}{
		"changed":       {func(l []string) []string { l[3] = strings.Replace(l[3], "anna", "otto", 1); return l }, 4, "was changed"},
		"deleted":       {func(l []string) []string { return slices.Delete(l, 3, 4) }, 4, "missing"},
		"swapped":       {func(l []string) []string { l[3], l[5] = l[5], l[3]; return l }, 4, "moved"},
		"first deleted": {func(l []string) []string { return l[1:] }, 1, "missing"},
		"no chain": {func(l []string) []string {
			l[3] = `{"time":"2026-11-01T10:03:00Z","who":"otto","action":"a","object":"b"}`
			return l
		}, 4, "changed or replaced"},
		"no record":                              {func(l []string) []string { l[3] = `[`; return l }, 4, "changed or replaced"},
		"added":                                  {func(l []string) []string { return append(l, `{"who":"otto"}`) }, 9, "outside of the chain"},
		"tail written anew without the keyring":  {func(l []string) []string { return broker.Relink(nil, l, 4, "anna", "otto") }, 4, "MAC"},
		"tail written anew with another keyring": {func(l []string) []string { return broker.Relink(stranger, l, 4, "anna", "otto") }, 4, "another keyring"},
		"all written anew with another keyring":  {func(l []string) []string { return broker.Relink(stranger, l, 1, "anna", "otto") }, 1, "another keyring"},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Start(t)
			auditSome(t, b, 8)
			rebuild(t, b, c.do(exported(t, b)))
			got := verifyStore(t, b).Broken
			if got == nil || got.Seq != c.want || !strings.Contains(got.Reason, c.says) {
				t.Errorf("%+v, want record %d and %q", got, c.want, c.says)
			}
		})
	}
}

// TestAMissingEndOfTheAuditIsFound deletes the last record in the store, as somebody with
// all rights on the broker can.
func TestAMissingEndOfTheAuditIsFound(t *testing.T) {
	b := brokertest.Start(t)
	auditSome(t, b, 3)
	s, err := b.JS().Stream(t.Context(), broker.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	lines := exported(t, b)
	if err := b.JS().DeleteStream(t.Context(), broker.StreamAudit); err != nil {
		t.Fatal(err)
	}
	cfg.DenyDelete = false
	if s, err = b.JS().CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if _, err := b.JS().Publish(t.Context(), "vcsync.audit.setting.update", []byte(l)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if got := verifyStore(t, b).Broken; got == nil || got.Seq != 3 {
		t.Errorf("%+v, want record 3", got)
	}
	if err := b.Audit(t.Context(), broker.AuditRecord{Time: time.Now(), Action: "a.b"}); err != nil {
		t.Errorf("the audit does not go on after it: %v", err)
	}
	if got := verifyStore(t, b).Broken; got == nil || got.Seq != 3 {
		t.Errorf("%+v, want record 3", got)
	}
}

func TestRecordsFromBeforeTheChainStayReadable(t *testing.T) {
	b := brokertest.Start(t)
	old := []string{`{"time":"2026-01-01T00:00:00Z","who":"local","action":"setting.add","object":"setting/x"}`, `{"time":"2026-01-02T00:00:00Z","who":"local","action":"setting.remove","object":"setting/x"}`}
	rebuild(t, b, old)
	if c := verifyStore(t, b); c.Broken != nil || c.ChainFrom != 0 || c.Unchained != 2 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
	auditSome(t, b, 2)
	if c := verifyStore(t, b); c.Broken != nil || c.ChainFrom != 3 || c.Unchained != 2 || c.Records != 4 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
	if c := verifyLines(exported(t, b), b.Keys); c.Broken != nil || c.ChainFrom != 3 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
	acts, _, err := b.AuditPage(t.Context(), broker.AuditQuery{Action: "setting"}, 0, 10)
	if err != nil || len(acts) != 4 || acts[3].Action != "setting.add" {
		t.Errorf("%+v, %v", acts, err)
	}
}

func TestAuditPages(t *testing.T) {
	b := brokertest.Start(t)
	for i := range 9 {
		r := broker.AuditRecord{Time: time.Date(2026, 11, 1, i, 0, 0, 0, time.UTC), Who: []string{"anna", "otto"}[i%2], Action: "setting.update", Object: fmt.Sprint("setting/", i)}
		seq, err := b.AuditAct(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if i == 8 {
			break // it ended before its result
		}
		var failed error
		if i == 4 {
			failed = fmt.Errorf("no room")
		}
		if err := b.AuditResult(t.Context(), r, seq, failed); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for before := uint64(0); ; {
		acts, next, err := b.AuditPage(t.Context(), broker.AuditQuery{Who: "anna"}, before, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range acts {
			got = append(got, a.Object+" "+a.Result)
		}
		if before = next; next == 0 {
			break
		}
	}
	want := []string{"setting/8 ", "setting/6 done", "setting/4 failed: no room", "setting/2 done", "setting/0 done"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	acts, _, err := b.AuditPage(t.Context(), broker.AuditQuery{Since: time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 1, 5, 0, 0, 0, time.UTC), Object: "setting"}, 0, 50)
	if err != nil || len(acts) != 2 || acts[0].Object != "setting/4" {
		t.Errorf("%+v, %v", acts, err)
	}
}

func TestARecordOfTheAuditIsBounded(t *testing.T) {
	b := brokertest.Start(t)
	long := strings.Repeat("ä", 1<<20)
	if err := b.Audit(t.Context(), broker.AuditRecord{Time: time.Now(), Who: long, From: long, Action: "a.b", Object: long, Detail: long + "\xff", Approval: long}); err != nil {
		t.Fatal(err)
	}
	if l := exported(t, b); len(l[0]) > 8<<10 {
		t.Errorf("%d bytes", len(l[0]))
	}
	if c := verifyStore(t, b); c.Broken != nil {
		t.Errorf("%+v", c.Broken)
	}
}

// TestAFullAuditTakesNothing is also why acts fail then; see package control.
func TestAFullAuditTakesNothing(t *testing.T) {
	b := brokertest.Start(t)
	auditSome(t, b, 2)
	s, err := b.JS().Stream(t.Context(), broker.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	room := cfg.MaxBytes
	cfg.MaxBytes = int64(s.CachedInfo().State.Bytes)
	if _, err := b.JS().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := b.Audit(t.Context(), broker.AuditRecord{Time: time.Now(), Action: "a.b"}); err == nil || !strings.Contains(err.Error(), "no room left") {
		t.Errorf("%v", err)
	}
	cfg.MaxBytes = room
	if _, err := b.JS().UpdateStream(t.Context(), jetstream.StreamConfig(cfg)); err != nil {
		t.Fatal(err)
	}
	auditSome(t, b, 1)
	if c := verifyStore(t, b); c.Broken != nil || c.Records != 3 {
		t.Errorf("%+v, broken %+v", c, c.Broken)
	}
}
