package standin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// activities are what mode activity does.
var activities = []string{"active", "exit-codes", "ad-users", "removed", "run-once"}

// Act does once what mode activity lets happen at every Config.StatisticsEvery, if
// it is on: a job's Active flag flips, an unknown exit code gets an entry, a user of
// the directory logs on for the first time, a job with RemoveAfterExecution is gone,
// and one with RunOnce has switched itself off. The change feed tells of jobs only.
// It returns what happened. The error wraps ErrStore.
func (s *Server) Act() ([]string, error) {
	kinds, on := s.mode("activity", "")
	if !on {
		return nil, nil
	}
	does := func(kind string) bool { return kinds == "" || slices.Contains(strings.Split(kinds, ","), kind) }
	s.mu.Lock()
	lot := s.rng.IntN(1 << 30)
	s.mu.Unlock()
	var done []string
	flag := func(n *node, path ...string) bool {
		for _, name := range path {
			n = n.get(name)
		}
		return n != nil && (n.kind == 't' || strings.EqualFold(n.text(), "true"))
	}
	// first edits the first object, from a chance one on, that the edit takes.
	first := func(what string, t schemas.Type, edit func(*node) bool) error {
		rows := s.Objects(t)
		for i := range rows {
			id := rows[(i+lot)%len(rows)].ID
			if IsBuiltin(t, id) {
				continue
			}
			changed, err := s.edit(t, id, edit)
			if err != nil {
				return err
			}
			if changed {
				done = append(done, fmt.Sprintf("%s: %s/%s", what, t, id))
				return nil
			}
		}
		return nil
	}
	if does("active") {
		if err := first("active", schemas.Job, func(n *node) bool {
			stats := n.get("Stats")
			if stats == nil || stats.kind != '{' || flag(n, "RunOnce") || flag(n, "RemoveAfterExecution") {
				return false
			}
			stats.set("Active", rawNode(fmt.Sprint(!flag(stats, "Active"))))
			return true
		}); err != nil {
			return done, err
		}
	}
	if does("exit-codes") {
		if err := first("exit-codes", schemas.ExitCode, func(n *node) bool {
			codes := n.get("Codes")
			if codes == nil || codes.kind != '[' {
				return false
			}
			entry, err := parseNode(fmt.Appendf(nil, `{"Code":%d,"Description":"Unknown exit code","Success":false}`, 1000+lot%100000))
			if err == nil { // it is valid
				codes.kids = append(codes.kids, entry)
			}
			return err == nil
		}); err != nil {
			return done, err
		}
	}
	if does("ad-users") {
		name := fmt.Sprintf("ad-user-%d", lot)
		o := newObject(schemas.User, doc{"Id": newGUID(), "Name": name, "UserName": name, "PassWord": nil, "Email": name + "@contoso.com", "Active": true,
			"Groups": []string{groupViewers}, "IsADUser": true, "IsADGroup": false, "ADGroup": nil, "ADDC": "dc01.contoso.com", "ADHostName": nil,
			"InheritGroup": true, "ExpiryDate": "9999-12-31T23:59:59.9999999"})
		if _, _, err := s.Put(o.Type, o.Body); err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("ad-users: %s/%s", o.Type, o.ID))
	}
	if does("run-once") {
		if err := first("run-once", schemas.Job, func(n *node) bool {
			if !flag(n, "RunOnce") || !flag(n, "Stats", "Active") {
				return false
			}
			n.get("Stats").set("Active", rawNode("false"))
			return true
		}); err != nil {
			return done, err
		}
	}
	if does("removed") {
		for _, row := range s.Objects(schemas.Job) {
			n, err := parseNode(row.Body)
			if err != nil || !flag(n, "RemoveAfterExecution") || !flag(n, "Stats", "Active") {
				continue
			}
			if _, err := s.Delete(schemas.Job, row.ID); err != nil {
				return done, err
			}
			done = append(done, fmt.Sprintf("removed: %s/%s", schemas.Job, row.ID))
			break
		}
	}
	return done, nil
}

// edit changes one object as the server itself does; it returns false where change
// did, or where there is none.
func (s *Server) edit(t schemas.Type, id schemas.ID, change func(*node) bool) (bool, error) {
	defer s.locks.lock(string(t) + "/" + string(id))()
	body, ok := s.Get(t, id)
	if !ok {
		return false, nil
	}
	n, err := parseNode(body)
	if err != nil || !change(n) {
		return false, nil
	}
	body = n.append(nil)
	if err := s.keep(t, id, body); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[t][id] = &object{id, body}
	if t == schemas.Job {
		s.tell(hint{t, id, schemas.Updated})
	}
	return true, nil
}
