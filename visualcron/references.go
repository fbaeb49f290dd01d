package visualcron

import (
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Reference is one object that another one refers to.
type Reference struct {
	Type schemas.Type
	ID   schemas.ID
	// Task tells that what is meant is a task, by its id, of whichever job; Type is
	// Job then and ID the task's.
	Task bool
}

// References returns the objects that a body refers to, each once, in the order of
// its members: by ids in members that are known to hold them, and by ids and names
// in placeholders of texts, such as {TASK(guid,Name)}, {JOB(guid|Variable|x)} and
// {USERVAR(name)}. Secrets are not looked into, nor what is no configuration. An
// object's references to itself and to its own tasks are left out. VisualCron's
// references are soft: the object referred to may be absent. The error wraps
// ErrBody.
//
// Source: VisualCron docs (variables, windows) and public client code, see refName.
func References(t schemas.Type, body []byte) ([]Reference, error) {
	f := forms[t]
	if f == nil {
		return nil, nil
	}
	n, err := parse(body)
	if err != nil {
		return nil, err
	}
	self, err := BodyID(t, body)
	if err != nil {
		return nil, err
	}
	var out []Reference
	seen := map[Reference]bool{{Type: t, ID: self}: true}
	if t == schemas.Job {
		for _, id := range taskIDs(n) {
			seen[Reference{schemas.Job, id, true}] = true
		}
	}
	add := func(r Reference) {
		if !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	n.visit(f.root, "", func(r *rule, _ string, n *node) bool {
		if r.volatile || r.secret {
			return false
		}
		if n.kind != '"' {
			return true
		}
		s := n.text()
		if r.ref != "" && schemas.IsGUID(s) {
			if id, err := schemas.ParseID(s); err == nil { // not the zero GUID
				add(Reference{Type: r.ref, ID: id})
			}
			return false
		}
		placeholders(s, add)
		return false
	})
	return out, nil
}

// placeholders finds the references in a text. The separator is a comma or a pipe.
func placeholders(s string, add func(Reference)) {
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			return
		}
		s = s[i+1:]
		word, rest, ok := strings.Cut(s, "(")
		if !ok {
			return
		}
		end := strings.IndexAny(rest, ",|)")
		if end < 0 {
			continue
		}
		arg := strings.TrimSpace(rest[:end])
		switch {
		case strings.EqualFold(word, "USERVAR"):
			if id, err := schemas.ParseID(arg); err == nil {
				add(Reference{Type: schemas.Variable, ID: id})
			}
		case schemas.IsGUID(arg) && (strings.EqualFold(word, "TASK") || strings.EqualFold(word, "JOB")):
			if id, err := schemas.ParseID(arg); err == nil {
				add(Reference{schemas.Job, id, strings.EqualFold(word, "TASK")})
			}
		}
	}
}

// Tasks returns the ids of a job's tasks. The error wraps ErrBody.
func Tasks(job []byte) ([]schemas.ID, error) {
	n, err := parse(job)
	if err != nil {
		return nil, err
	}
	return taskIDs(n), nil
}

func taskIDs(job *node) []schemas.ID {
	var out []schemas.ID
	if tasks := job.get("Tasks"); tasks != nil {
		for _, it := range tasks.items {
			if id, err := schemas.ParseID(it.get("Id").text()); err == nil {
				out = append(out, id)
			}
		}
	}
	return out
}
