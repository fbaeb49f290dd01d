package broker_test

import (
	"strings"
	"testing"
	"time"


	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
)

func auditOf(t *testing.T, b *broker.Broker) (all []broker.StoredAudit) {
	t.Helper()
	if err := b.ReadAudit(t.Context(), 1, false, func(e broker.StoredAudit) bool {
		all = append(all, e)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// brokenAt returns the number of the first record that is not right, 0 for none.
func brokenAt(all []broker.StoredAudit, sealed func(broker.StoredAudit) bool) (uint64, string) {
	var before broker.StoredAudit
	for _, e := range all {
		if _, why := broker.CheckAudit(before, e, sealed); why != "" {
			return e.Seq, why
		}
		before = e
	}
	return 0, ""
}

func writeAudit(t *testing.T, b *broker.Broker, who string) {
	t.Helper()
	if err := b.Audit(t.Context(), broker.AuditRecord{Time: time.Now().UTC(), Who: who, From: "127.0.0.1:1", Action: "setting.update", Object: "setting/a", Before: 7, Detail: "why"}); err != nil {
		t.Fatal(err)
	}
}

// One changed record makes the check fail at that record (G12), whatever was changed.
func TestAChangedAuditRecordIsFound(t *testing.T) {
	b := brokertest.Open(t, t.TempDir())
	for _, who := range []string{"ann", "ben", "cleo", "dora", "emil"} {
		writeAudit(t, b, who)
	}
	all := auditOf(t, b)
	if len(all) != 5 {
		t.Fatalf("%d records", len(all))
	}
	if at, why := brokenAt(all, b.AuditSealed); at != 0 {
		t.Fatalf("a whole audit breaks at %d: %s", at, why)
	}
	rehash := func(e *broker.StoredAudit) { e.Hash = broker.HashOfAudit(e.Raw) }
	for name, change := range map[string]func(*broker.StoredAudit){
		"who":             func(e *broker.StoredAudit) { e.Raw = strings.Replace(e.Raw, `"who":"`, `"who":"x`, 1) },
		"object":          func(e *broker.StoredAudit) { e.Raw = strings.Replace(e.Raw, "setting/a", "setting/b", 1) },
		"detail":          func(e *broker.StoredAudit) { e.Raw = strings.Replace(e.Raw, "why", "nil", 1) },
		"a blank":         func(e *broker.StoredAudit) { e.Raw += " " },
		"the hash":        func(e *broker.StoredAudit) { e.Hash = broker.NoAudit },
		"the seal":        func(e *broker.StoredAudit) { e.Seal = broker.NoAudit },
		"text and hash":   func(e *broker.StoredAudit) { e.Raw = strings.Replace(e.Raw, "why", "nil", 1); rehash(e) },
		"no chain at all": func(e *broker.StoredAudit) { e.Raw = "{}"; e.Prev, e.Hash, e.Seal = "", "", "" },
	} {
		for i := range all {
			changed := append([]broker.StoredAudit{}, all...)
			change(&changed[i])
			want := all[i].Seq
			if name == "no chain at all" && i == 0 {
				want = 2 // as of an earlier release; the next one knows better
			}
			if at, _ := brokenAt(changed, b.AuditSealed); at != want {
				t.Errorf("%s of record %d changed: it breaks at %d, want %d", name, all[i].Seq, at, want)
			}
		}
	}
	// Who has the keyring too is found at the record after.
	forged := append([]broker.StoredAudit{}, all...)
	forged[1].Raw = strings.Replace(forged[1].Raw, "why", "nil", 1)
	rehash(&forged[1])
	if at, _ := brokenAt(forged, nil); at != 3 {
		t.Errorf("a forged record 2 breaks the chain at %d, want 3", at)
	}
	if at, _ := brokenAt(append(append([]broker.StoredAudit{}, all[:2]...), all[3:]...), b.AuditSealed); at != 4 {
		t.Errorf("without record 3 it breaks at %d, want 4", at)
	}
	swapped := append([]broker.StoredAudit{}, all...)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	if at, _ := brokenAt(swapped, b.AuditSealed); at != 3 {
		t.Errorf("with 2 and 3 exchanged it breaks at %d, want 3", at)
	}
	if at, _ := brokenAt(all[1:], b.AuditSealed); at != 2 {
		t.Errorf("without the first it breaks at %d, want 2", at)
	}
}

// The chain goes on after a start, after a record of another process, and after one of
// a release that did not link records.
func TestTheAuditGoesOn(t *testing.T) {
	b := brokertest.Open(t, t.TempDir())
	if _, err := b.AuditStore().Publish(t.Context(), "vcsync.audit.setting.add", []byte(`{"time":"2026-01-02T03:04:05Z","who":"local","action":"setting.add","object":"setting/a"}`)); err != nil {
		t.Fatal(err)
	}
	writeAudit(t, b, "ann")
	b.ForgetAuditTail()
	writeAudit(t, b, "ben")
	b.MisrememberAuditTail()
	writeAudit(t, b, "cleo")
	all := auditOf(t, b)
	if at, why := brokenAt(all, b.AuditSealed); at != 0 || len(all) != 4 {
		t.Fatalf("%d records, broken at %d: %s", len(all), at, why)
	}
	all[0].Raw = strings.Replace(all[0].Raw, "setting/a", "setting/b", 1)
	if at, _ := brokenAt(all, b.AuditSealed); at != 2 {
		t.Errorf("the unlinked record was changed, and it breaks at %d, want 2", at)
	}
}

// A full audit, or none, takes no record, and says so.
func TestAFullAuditTakesNothing(t *testing.T) {
	b := brokertest.Open(t, t.TempDir())
	writeAudit(t, b, "ann")
	s, err := b.AuditStore().Stream(t.Context(), broker.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 1
	if _, err := b.AuditStore().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := b.Audit(t.Context(), broker.AuditRecord{Time: time.Now(), Who: "ben", Action: "setting.update", Object: "setting/a"})
		if err == nil || !strings.Contains(err.Error(), "without which nothing is changed") {
			t.Fatalf("a full audit: %v", err)
		}
	}
	cfg.MaxBytes = 1 << 20
	if _, err := b.AuditStore().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	writeAudit(t, b, "cleo")
	if all := auditOf(t, b); len(all) != 2 {
		t.Fatalf("%d records, want 2", len(all))
	} else if at, why := brokenAt(all, b.AuditSealed); at != 0 {
		t.Fatalf("broken at %d: %s", at, why)
	}
}
