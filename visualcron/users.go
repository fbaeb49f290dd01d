package visualcron

import (
	"slices"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// administrators is the name of the built-in group whose members may do everything
// (VisualCron docs).
const administrators = "Administrators"

// IsAdministrators tells whether a UserGroup's body is that of the built-in group
// of administrators, by its name.
func IsAdministrators(body []byte) bool {
	n, err := parse(body)
	return err == nil && n.get("Name").text() == administrators
}

// Administers tells whether a User's body is that of a person who can log on at
// that time and is a member of one of the groups. A body that cannot be read is
// nobody's, nor does a group of Active Directory count: who is in it is not known.
func Administers(body []byte, groups map[schemas.ID]bool, now time.Time) bool {
	n, err := parse(body)
	if err != nil || isOn(n, path("IsADGroup")) || isOn(n, path("Blocked")) {
		return false
	}
	if a := n.get("Active"); a != nil && !isOn(n, path("Active")) {
		return false
	}
	if s := n.get("ExpiryDate").text(); isDate(s) && s[:4] > "0001" && s[:4] < "9999" {
		if t, err := time.Parse("2006-01-02T15:04:05", s[:19]); err != nil || t.Before(now) {
			return false
		}
	}
	list := n.get("Groups")
	return list != nil && slices.ContainsFunc(list.items, func(it *node) bool {
		id, err := schemas.ParseID(it.text())
		return err == nil && groups[id]
	})
}
