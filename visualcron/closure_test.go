package visualcron_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

func guid(n int) schemas.ID { return schemas.ID(fmt.Sprintf("%08d-1111-4111-8111-111111111111", n)) }

func TestClosure(t *testing.T) {
	id := func(n int) string { return `"Id":"` + string(guid(n)) + `"` }
	there := map[visualcron.Object]string{
		{Type: schemas.Job, ID: guid(1)}:        `{` + id(1) + `,"Credential":"` + string(guid(2)) + `","Tasks":[{` + id(9) + `,"ConnectionId":"` + string(guid(3)) + `","Text":"{JOB(` + string(guid(4)) + `)} {TASK(` + string(guid(50)) + `)} {TASK(` + string(guid(51)) + `)} {USERVAR(v)}"}],"UserGroup":"` + string(guid(6)) + `"}`,
		{Type: schemas.Job, ID: guid(4)}:        `{` + id(4) + `,"JobId":"` + string(guid(1)) + `","NotificationId":"` + string(guid(7)) + `"}`,
		{Type: schemas.Job, ID: guid(5)}:        `{` + id(5) + `}`,
		{Type: schemas.Credential, ID: guid(2)}: `{` + id(2) + `}`,
		{Type: schemas.Connection, ID: guid(3)}: `{` + id(3) + `,"Certificate":"` + string(guid(8)) + `","Credential":"` + string(guid(2)) + `"}`,
		{Type: schemas.UserGroup, ID: guid(6)}:  `{` + id(6) + `,"Name":"Administrators"}`,
		{Type: schemas.Variable, ID: "v"}:       `{"Name":"v"}`,
	}
	body := func(o visualcron.Object) ([]byte, error) {
		if b, ok := there[o]; ok {
			return []byte(b), nil
		}
		return nil, nil
	}
	got, err := visualcron.Closure([]visualcron.Object{{Type: schemas.Job, ID: guid(1)}}, body, func(task schemas.ID) (schemas.ID, bool) { return guid(5), task == guid(50) })
	if err != nil {
		t.Fatal(err)
	}
	const want = "{[{Credential 00000002-1111-4111-8111-111111111111} {Connection 00000003-1111-4111-8111-111111111111} {Variable v} {Job 00000004-1111-4111-8111-111111111111} {Job 00000005-1111-4111-8111-111111111111}] " +
		"[{Job 00000051-1111-4111-8111-111111111111 true} {Certificate 00000008-1111-4111-8111-111111111111 false} {Notification 00000007-1111-4111-8111-111111111111 false}]}"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, err := visualcron.Closure([]visualcron.Object{{Type: schemas.Job, ID: guid(1)}}, func(visualcron.Object) ([]byte, error) { return nil, errors.ErrUnsupported }, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := visualcron.Closure([]visualcron.Object{{Type: schemas.Job, ID: guid(1)}}, func(visualcron.Object) ([]byte, error) { return []byte("[]"), nil }, nil); err != nil {
		t.Error(err)
	}
}

func TestPointsAt(t *testing.T) {
	fleet := map[schemas.Slug]string{"prod": "https://vcprod.corp.example:8001/vc", "spare": "http://10.1.2.3", "local": "http://127.0.0.1:9000"}
	for _, c := range []struct {
		t    schemas.Type
		body string
		want string
	}{
		{schemas.Connection, `{"Address":"vcprod.corp.example"}`, "[{/Address vcprod.corp.example prod}]"},
		{schemas.Connection, `{"Address":"VCPROD"}`, "[{/Address vcprod prod}]"},
		{schemas.Connection, `{"Address":" sftp://user@vcprod.corp.example.:22/in "}`, "[{/Address vcprod.corp.example prod}]"},
		{schemas.Connection, `{"Address":"10.1.2.3:21","Proxy":{"Address":"vcprod:8080"}}`, "[{/Address 10.1.2.3 spare} {/Proxy/Address vcprod prod}]"},
		{schemas.Connection, `{"Address":"vcprod.other.example"}`, "[]"}, {schemas.Connection, `{"Address":"vcprod2"}`, "[]"}, {schemas.Connection, `{"Address":"10"}`, "[]"},
		{schemas.Connection, `{"Address":"127.0.0.1"}`, "[]"}, {schemas.Connection, `{"Address":"localhost"}`, "[]"}, {schemas.Connection, `{"Address":7,"Proxy":null}`, "[]"}, {schemas.Connection, `[`, "[]"},
		{schemas.NetworkDrive, `{"Path":"\\\\vcprod\\share\\x"}`, "[{/Path vcprod prod}]"}, {schemas.NetworkDrive, `{"Path":"C:\\vcprod"}`, "[]"},
		{schemas.Credential, `{"Address":"vcprod"}`, "[]"},
	} {
		if got := fmt.Sprint(visualcron.PointsAt(c.t, []byte(c.body), fleet)); got != c.want {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
	}
}

func TestMatchNames(t *testing.T) {
	type n = visualcron.Named
	source := []n{{guid(1), "Alpha", ""}, {guid(2), "Beta", ""}, {guid(3), "Twin", "a"}, {guid(4), "Twin", "b"}, {guid(5), "Same", ""}, {guid(6), "Pinned", ""}, {guid(7), "Only", ""}, {guid(8), "", ""}, {guid(9), "Half", ""}, {guid(10), "Half", ""}}
	target := []n{{guid(101), " alpha", ""}, {guid(102), "Beta", ""}, {guid(112), "BETA", ""}, {guid(103), "Twin", "a"}, {guid(5), "Same", ""}, {guid(105), "Other", ""}, {guid(106), "Pinned", ""}, {guid(108), "", ""}, {guid(9), "Half", ""}, {guid(110), "Half", ""}}
	pairs, ambiguous := visualcron.MatchNames(source, target, map[schemas.ID]schemas.ID{guid(6): guid(106)})
	if len(pairs) != 1 || pairs[0].Source.ID != guid(1) || pairs[0].Target.ID != guid(101) {
		t.Errorf("pairs %v", pairs)
	}
	names := ""
	for _, a := range ambiguous {
		names += fmt.Sprintf("%s %d %d, ", a.Name, len(a.Source), len(a.Target))
	}
	if names != "Beta 1 2, Half 2 2, Twin 2 1, " {
		t.Errorf("ambiguous %s", names)
	}
}
