package visualcron

import (
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// Columns returns the columns of the grid in which VisualCron shows objects of a
// type. The slice is the caller's own.
func Columns(t schemas.Type) []Column {
	if f := forms[t]; f != nil {
		return slices.Clone(f.columns)
	}
	return nil
}

// Description is an object as a grid shows it; it holds no secret.
type Description struct {
	ID          schemas.ID
	Name, Group string
	// Cells are the texts of the type's Columns, in their order.
	Cells    []string
	Children []Children
}

// Children are the parts of an object of one kind, by name.
type Children struct {
	Title string
	Names []string
}

// Describe returns what a grid shows of a body: its columns and what can be
// unfolded. The error wraps ErrBody.
func Describe(t schemas.Type, body []byte) (Description, error) {
	n, err := parse(body)
	if err != nil {
		return Description{}, err
	}
	id, err := BodyID(t, body)
	if err != nil {
		return Description{}, err
	}
	f := forms[t]
	if f == nil {
		return Description{ID: id}, nil
	}
	d := Description{ID: id, Name: f.title(n), Group: n.at(f.group).text()}
	for _, c := range f.columns {
		cell := ""
		if v := n.at(c.path); v != nil && v.kind != '{' && v.kind != '[' {
			if cell = v.text(); v.kind != '"' {
				cell = string(v.raw)
			}
		}
		d.Cells = append(d.Cells, cell)
	}
	for _, k := range f.children {
		c := Children{Title: k.Title}
		if list := n.at(k.path); list != nil {
			for _, it := range list.items {
				c.Names = append(c.Names, it.at(k.name).text())
			}
		}
		d.Children = append(d.Children, c)
	}
	return d, nil
}
