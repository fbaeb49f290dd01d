package standin

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// spellings are the ways in which mode canonicalises changes the spelling of a body
// and not its meaning. What was changed once stays as it is.
var spellings = []string{"order", "lists", "guids", "empties", "dates", "booleans", "numbers", "lines", "enums"}

// enums are the enumerations that are known, with their values in order. Which
// numbers VisualCron has for them is not known; these are the stand-in's own.
func enums() map[string][]string {
	return map[string][]string{"ProtocolType": protocols, "TriggerType": triggerTypes, "TaskType": slots()}
}

// dateText finds a date as .NET writes it: whole text, seven digits of fraction at
// most, with or without an offset.
var dateText = regexp.MustCompile(`^(\d{4})-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?(Z|[+-]\d\d:\d\d)?$`)

// respell writes a body in a spelling of the server's own with the same meaning,
// in the ways that kinds names, all where it is empty. Secrets and the name of a
// variable, which is its id, stay.
func respell(t schemas.Type, root *node, kinds string) {
	does := func(kind string) bool { return kinds == "" || slices.Contains(strings.Split(kinds, ","), kind) }
	secret := map[*node]bool{}
	eachSecret(t, root, func(_ string, holder *node, i int) { secret[holder.kids[i]] = true })
	known := enums()
	var walk func(n *node)
	walk = func(n *node) {
		if does("empties") && n.kind == '{' {
			for i := len(n.kids) - 1; i >= 0; i-- {
				kid := n.kids[i]
				empty := kid.kind == 'n' || kid.kind == '[' && len(kid.kids) == 0 || kid.kind == '"' && len(kid.raw) == len(`""`)
				if empty && !secret[kid] {
					n.remove(i)
				}
			}
		}
		for i, kid := range n.kids {
			switch {
			case secret[kid], n == root && t == schemas.Variable && n.names[i] == "Name":
			case kid.kind == '{', kid.kind == '[':
				walk(kid)
			case kid.kind == '"':
				text := kid.text()
				if n.kind == '{' && known[n.names[i]] != nil && does("enums") {
					text = strings.ToUpper(text)
				}
				n.kids[i] = textNode(respellText(text, does))
			case (kid.kind == 't' || kid.kind == 'f') && does("booleans"):
				n.kids[i] = textNode(map[byte]string{'t': "True", 'f': "False"}[byte(kid.kind)])
			case kid.kind == '0' && does("numbers") && len(kid.raw) < 16 && strings.Trim(string(kid.raw), "-0123456789") == "":
				n.kids[i] = rawNode(string(kid.raw) + ".0")
			}
		}
		if n.kind == '{' && does("order") {
			order := make([]int, len(n.names))
			for i := range order {
				order[i] = i
			}
			slices.SortFunc(order, func(a, b int) int { return strings.Compare(n.names[b], n.names[a]) })
			names, kids := make([]string, len(order)), make([]*node, len(order))
			for i, from := range order {
				names[i], kids[i] = n.names[from], n.kids[from]
			}
			n.names, n.kids = names, kids
		}
	}
	walk(root)
	if does("lists") && t == schemas.Job { // the order of these means nothing, or stands in their items
		for _, name := range []string{"Tasks", "Triggers", "Variables"} {
			if list := root.get(name); list != nil && list.kind == '[' {
				slices.Reverse(list.kids)
			}
		}
	}
	if does("empties") {
		root.set("StandInEmpty", &node{kind: '['})
	}
}

func respellText(text string, does func(string) bool) string {
	if does("guids") && schemas.IsGUID(text) {
		return strings.ToUpper(text)
	}
	if m := dateText.FindStringSubmatch(text); m != nil && does("dates") {
		switch {
		case m[1] == "0001":
			return "0001-01-01T00:00:00"
		case m[1] == "9999":
			return "9999-12-31T23:59:59Z"
		case m[3] != "":
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
				return at.UTC().Format("2006-01-02T15:04:05.0000000Z")
			}
		case m[2] == "": // without an offset no instant is known; the fraction can be written out
			return text + ".0000000"
		}
	}
	if does("lines") {
		return strings.ReplaceAll(text, "\r\n", "\n")
	}
	return text
}

// enumsAsNumbers writes known enumerations as numbers.
func enumsAsNumbers(n *node) {
	known := enums()
	var walk func(n *node)
	walk = func(n *node) {
		for i, kid := range n.kids {
			if n.kind == '{' && kid.kind == '"' && known[n.names[i]] != nil {
				text := kid.text()
				if at := slices.IndexFunc(known[n.names[i]], func(s string) bool { return strings.EqualFold(s, text) }); at >= 0 {
					n.kids[i] = rawNode(strconv.Itoa(at))
				}
			}
			walk(kid)
		}
	}
	walk(n)
}

// addFields adds members that nobody knows, to the object and to each of its tasks.
func addFields(t schemas.Type, root *node) {
	add := func(n *node) {
		if n != nil && n.kind == '{' && n.index("StandInAdded") < 0 {
			v, _ := parseNode([]byte(`{"Since":"99.0","List":[1,"två",null,true]}`)) // it is valid
			n.set("StandInAdded", v)
		}
	}
	add(root)
	switch t {
	case schemas.Job:
		if list := root.get("Tasks"); list != nil {
			for _, kid := range list.kids {
				add(kid)
			}
		}
	case schemas.Notification, schemas.TaskRepository:
		add(root.get("Task"))
	}
}
