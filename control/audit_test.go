package control_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/control"
)

// The audit is read page by page, in both orders, and its chain is checked.
func TestTheAuditIsReadAndChecked(t *testing.T) {
	w := newWorld(t)
	w.putServer("production", "test")
	w.do(http.MethodPost, "/api/v1/settings", settingBody("a", "production", "test", false, allJobs)).want(201)
	w.do(http.MethodPost, "/api/v1/safe-mode/on", `{"reason":"a look"}`)
	w.do(http.MethodPost, "/api/v1/settings", settingBody("b", "production", "test", false, allJobs))
	var all, page control.AuditPage
	w.do(http.MethodGet, "/api/v1/audit?order=oldest", "").want(200).into(&all)
	if len(all.Items) < 2 || all.Next != 0 || all.Items[0].Seq != 1 || all.Items[0].Action != "setting.add" && !strings.HasPrefix(all.Items[0].Action, "setting.") {
		t.Fatalf("the audit: %+v", all)
	}
	var seqs []uint64
	for cursor := ""; ; {
		page = control.AuditPage{}
		w.do(http.MethodGet, "/api/v1/audit?limit=1"+cursor, "").want(200).into(&page)
		for _, e := range page.Items {
			seqs = append(seqs, e.Seq)
		}
		if page.Next == 0 {
			break
		}
		cursor = "&cursor=" + strconv.FormatUint(page.Next, 10)
	}
	if len(seqs) != len(all.Items) || seqs[0] != uint64(len(seqs)) || seqs[len(seqs)-1] != 1 {
		t.Errorf("newest first, one a page: %v", seqs)
	}
	page = control.AuditPage{}
	w.do(http.MethodGet, "/api/v1/audit?object=setting/a", "").want(200).into(&page)
	if len(page.Items) != 1 || page.Items[0].Object != "setting/a" {
		t.Errorf("of one setting: %+v", page.Items)
	}
	page = control.AuditPage{}
	w.do(http.MethodGet, "/api/v1/audit?who=nobody", "").want(200).into(&page)
	if len(page.Items) != 0 || page.Next != 0 {
		t.Errorf("of nobody: %+v", page)
	}
	var c control.AuditCheck
	w.do(http.MethodGet, "/api/v1/audit/verify", "").want(200).into(&c)
	if c.Broken != nil || c.Checked != len(all.Items) || c.Head != all.Items[len(all.Items)-1].Hash || c.Next != 0 {
		t.Errorf("the check: %+v", c)
	}
	w.do(http.MethodGet, "/api/v1/audit?limit=1001", "").want(422)
	w.do(http.MethodGet, "/api/v1/audit/verify?cursor=-1", "").want(422)
}
