package consumer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// guardUsers refuses to touch the account with which vcsync logs on at the target,
// and to leave the target without an administrator who can log on. Have is the
// target's own user, nil for none, desired what it shall become, nil for a
// deletion. Until done is called nobody else does such a thing at this target.
func (l *look) guardUsers(ctx context.Context, have, desired []byte) (done func(), err error) {
	done = func() {}
	view := visualcron.View{Secrets: visualcron.SecretsMasked}
	for _, body := range [][]byte{have, desired} {
		if body == nil {
			continue
		}
		n, err := view.Normalize(schemas.User, body)
		if err != nil {
			return done, err
		}
		if sameAccount(n.Login, l.server.User) {
			return done, &parkError{classProtected, fmt.Sprintf("%q is the account with which vcsync logs on at %s; it is never touched", n.Login, l.server.ID),
				"discard this version, or give vcsync an account of its own there"}
		}
	}
	if have == nil {
		return done, nil
	}
	unlock, err := l.users.take(ctx)
	if err != nil {
		return done, err
	}
	groups := map[schemas.ID]bool{}
	if err := l.list(ctx, schemas.UserGroup, func(r visualcron.Row) {
		if visualcron.IsAdministrators(r.Body) {
			groups[r.ID] = true
		}
	}); err != nil {
		unlock()
		return done, err
	}
	now := time.Now()
	if !visualcron.Administers(have, groups, now) || desired != nil && visualcron.Administers(desired, groups, now) {
		return unlock, nil
	}
	others := 0
	if err := l.list(ctx, schemas.User, func(r visualcron.Row) {
		e, _ := l.ledger.Get(schemas.User, r.ID)
		if r.ID != l.key.id && len(e.Needs) == 0 && visualcron.Administers(r.Body, groups, now) {
			others++ // one without a password cannot log on
		}
	}); err != nil {
		unlock()
		return done, err
	}
	if others == 0 {
		unlock()
		return done, &parkError{classProtected, fmt.Sprintf("this user is the last administrator of %s who can log on", l.server.ID),
			"make somebody else an administrator there, then retry"}
	}
	return unlock, nil
}

// list reads a whole listing of the target.
func (l *look) list(ctx context.Context, t schemas.Type, each func(visualcron.Row)) error {
	req, cancel := l.deadline(ctx)
	defer cancel()
	_, err := l.conn.List(req, t, func(r visualcron.Row) error { each(r); return nil })
	if err != nil {
		return l.leaseFault(ctx, req, err)
	}
	return nil
}

// sameAccount compares two names of an account without case, and without a domain
// where one of them has none.
func sameAccount(a, b string) bool {
	split := func(s string) (domain, user string) {
		if d, u, ok := strings.Cut(s, `\`); ok {
			return d, u
		}
		if u, d, ok := strings.Cut(s, "@"); ok {
			return d, u
		}
		return "", s
	}
	da, ua := split(strings.TrimSpace(a))
	db, ub := split(strings.TrimSpace(b))
	return ua != "" && strings.EqualFold(ua, ub) && (da == "" || db == "" || strings.EqualFold(da, db))
}
