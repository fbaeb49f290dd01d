package e2e_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

const (
	// administrators is the id of the built-in group at every stand-in, builtInAdmin
	// that of the built-in user in it, with which vcsync logs on unless told.
	administrators = "00000000-57a1-4d10-8000-000000000001"
	builtInAdmin   = schemas.ID("00000000-57a1-4d10-8000-000000000011")
	viewers        = "00000000-57a1-4d10-8000-000000000002"
)

func userID(i int) schemas.ID { return schemas.ID(fmt.Sprintf("00000000-aaaa-4222-8333-%012d", i)) }

// person is a User's body.
func person(i int, login, group, rest string) []byte {
	return fmt.Appendf(nil, `{"Id":"%s","Name":"Person %d","UserName":%q,"PassWord":"c2VjcmV0","Email":"p%d@contoso.com","Active":true,"Groups":["%s"],"IsADUser":false,"IsADGroup":false,"ExpiryDate":"9999-12-31T23:59:59.9999999"%s}`,
		userID(i), i, login, i, group, rest)
}

// putUser stores one, over what is there.
func putUser(t testing.TB, h *e2e.Host, body []byte) {
	t.Helper()
	if _, _, err := h.Server.Put(schemas.User, body); err != nil {
		t.Fatal(err)
	}
}

// protected returns the parked records of class protected by object.
func protected(t *testing.T, w *e2e.World) map[schemas.ID]string {
	t.Helper()
	out := map[schemas.ID]string{}
	for _, p := range listParked(t, w) {
		if p.Class != "protected" {
			t.Errorf("parked: %+v", p)
		}
		out[p.ID] = p.Reason
	}
	return out
}

func TestTheAccountInUseIsNeverTouched(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test", func(c *standin.Config) { c.User = `CONTOSO\Sync` })
		w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
		// The one at the target, one of the same name and another id, and one who is
		// to be called so.
		putUser(t, test, person(1, "sync", administrators, `,"Note":"at test"`))
		putUser(t, prod, person(1, "sync", viewers, `,"Note":"of production"`))
		putUser(t, prod, person(2, "SYNC@contoso", viewers, ``))
		putUser(t, test, person(3, "third", viewers, ``))
		putUser(t, prod, person(3, `contoso\sync`, viewers, ``))
		putUser(t, prod, person(4, `fabrikam\sync`, viewers, ``))
		putUser(t, prod, person(5, "fifth", viewers, ``))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		p := protected(t, w)
		for _, i := range []int{1, 2, 3} {
			if !strings.Contains(p[userID(i)], "logs on") {
				t.Errorf("user %d is not protected: %v", i, p)
			}
		}
		if len(p) != 3 {
			t.Errorf("protected: %v", p)
		}
		for _, x := range test.Seen() {
			if x.Type == schemas.User && x.ID != userID(4) && x.ID != userID(5) {
				t.Errorf("%s of user %s", x.Op, x.ID)
			}
		}
		if puts, _ := test.Count(); puts != 2 {
			t.Errorf("%d writes, want the two others", puts)
		}
		// Nor deleted, even where vcsync brought it, and it became the account later.
		putUser(t, test, person(5, "sync", viewers, ``))
		if _, err := prod.Server.Delete(schemas.User, userID(5)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if _, ok := test.Server.Get(schemas.User, userID(5)); !ok || protected(t, w)[userID(5)] == "" {
			t.Errorf("there: %v, protected: %v", ok, protected(t, w))
		}
	})
}

// The last administrator who can log on stays one, whatever the source says.
func TestTheLastAdministratorStays(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(t *testing.T, prod *e2e.Host)
	}{
		{"deleted", func(t *testing.T, prod *e2e.Host) {
			for i := 1; i <= 2; i++ {
				if _, err := prod.Server.Delete(schemas.User, userID(i)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"deactivated", func(t *testing.T, prod *e2e.Host) {
			for i := 1; i <= 2; i++ {
				putUser(t, prod, bytes.Replace(person(i, fmt.Sprint("boss", i), administrators, ``), []byte(`"Active":true`), []byte(`"Active":false`), 1))
			}
		}},
		{"taken out of the group", func(t *testing.T, prod *e2e.Host) {
			for i := 1; i <= 2; i++ {
				putUser(t, prod, person(i, fmt.Sprint("boss", i), viewers, ``))
			}
		}},
		{"expired", func(t *testing.T, prod *e2e.Host) {
			for i := 1; i <= 2; i++ {
				putUser(t, prod, bytes.Replace(person(i, fmt.Sprint("boss", i), administrators, ``), []byte(`9999-12-31`), []byte(`1999-12-31`), 1))
			}
		}},
		{"made a group", func(t *testing.T, prod *e2e.Host) {
			for i := 1; i <= 2; i++ {
				putUser(t, prod, bytes.Replace(person(i, fmt.Sprint("boss", i), administrators, ``), []byte(`"IsADGroup":false`), []byte(`"IsADGroup":true`), 1))
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			world(t, nil, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.AddHost("test", func(c *standin.Config) { c.User = "elsewhere" })
				w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
				for i := 1; i <= 2; i++ {
					putUser(t, prod, person(i, fmt.Sprint("boss", i), administrators, ``))
				}
				putUser(t, prod, person(3, "viewer", viewers, ``))
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				// Of the other administrators none can log on.
				if _, err := test.Server.Delete(schemas.User, builtInAdmin); err != nil {
					t.Fatal(err)
				}
				putUser(t, test, person(7, "blocked", administrators, `,"Blocked":"True"`))
				putUser(t, test, bytes.Replace(person(8, "expired", administrators, ``), []byte("9999"), []byte("1999"), 1))
				putUser(t, test, bytes.Replace(person(9, "directory", administrators, ``), []byte(`"IsADGroup":false`), []byte(`"IsADGroup":true`), 1))
				test.Reset()
				c.change(t, prod) // of two at the same time
				time.Sleep(5 * time.Minute)
				p := protected(t, w)
				puts, deletes := test.Count()
				if len(p) != 1 || puts+deletes != 1 {
					t.Fatalf("%d writes, %d deletes, protected: %v; want one of two", puts, deletes, p)
				}
				// Somebody else becomes one there: then it may be done.
				putUser(t, test, person(10, "successor", administrators, ``))
				for id := range p {
					retry(t, w, schemas.User, id)
				}
				time.Sleep(time.Minute)
				if left := protected(t, w); len(left) != 0 {
					t.Errorf("still protected: %v", left)
				}
				if puts, deletes := test.Count(); puts+deletes != 2 {
					t.Errorf("%d writes, %d deletes after the retry", puts, deletes)
				}
				time.Sleep(time.Hour)
				if puts, deletes := test.Count(); puts+deletes != 2 {
					t.Errorf("%d writes, %d deletes after an hour", puts, deletes)
				}
			})
		})
	}
}

// Who came with the installation is nobody's to sync, by whichever name.
func TestBuiltInUsersAndGroupsAreNeverTouched(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test", func(c *standin.Config) { c.User = "elsewhere" })
		w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		for _, x := range []schemas.Type{schemas.User, schemas.UserGroup} {
			for _, r := range prod.Server.Objects(x) {
				body := bytes.Replace(r.Body, []byte(`{`), []byte(`{"Note":"edited",`), 1)
				if _, _, err := prod.Server.Put(x, body); err != nil {
					t.Fatal(err)
				}
			}
		}
		// One of another id, whose name on the window is a person's.
		putUser(t, prod, person(1, "TrayClientUser", viewers, ``))
		putUser(t, prod, person(2, "Admin", viewers, ``))
		time.Sleep(5 * time.Minute)
		for _, r := range prod.Server.Objects(schemas.UserGroup) {
			if _, err := prod.Server.Delete(schemas.UserGroup, r.ID); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := prod.Server.Delete(schemas.User, builtInAdmin); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if p := listParked(t, w); len(p) != 0 {
			t.Errorf("parked: %+v", p)
		}
		if seen := test.Seen(); len(seen) != 0 {
			t.Errorf("%d writes, the first: %s %s %s", len(seen), seen[0].Op, seen[0].Type, seen[0].ID)
		}
	})
}
