package policy

import (
	"slices"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// A Reading is the value of a variable that some candidate rule reads.
type Reading struct {
	// Name is the variable, such as request.path or principal.attributes.ref.
	Name string

	// Value is its text; times are RFC 3339 in UTC. Absent variables and
	// attributes have no Reading.
	Value string
}

// readable returns q's value of a recordable variable as text.
func readable(q *Query, name string) (string, bool) {
	switch name {
	case "principal.id":
		return q.Principal.ID(), true
	case "request.time":
		return q.Time.UTC().Format(time.RFC3339Nano), true
	case "peer.address":
		return q.Peer, true
	}
	if q.Vars == nil {
		return "", false
	}
	return q.Vars.value(name)
}

// reads is which recordable variables a condition reads.
type reads struct {
	names []string // recordable, but for attributes
	attrs []string // keys read as constants
	all   bool     // attributes are read by computed keys, or as a whole
}

func (f *family) readsOf(a *ast.AST) reads {
	var out reads
	record := map[string]string{}
	for _, v := range f.variables() {
		record[v.name] = v.record
	}
	ast.MatchDescendants(ast.NavigateAST(a), func(n ast.NavigableExpr) bool {
		if n.Kind() != ast.IdentKind {
			return false
		}
		switch name := record[n.AsIdent()]; name {
		case "":
		case attributes:
			if key, ok := constantKey(n); ok {
				out.attrs = append(out.attrs, key)
			} else {
				out.all = true
			}
		default:
			out.names = append(out.names, name)
		}
		return false
	})
	slices.Sort(out.names)
	slices.Sort(out.attrs)
	out.names, out.attrs = slices.Compact(out.names), slices.Compact(out.attrs)
	return out
}

// constantKey returns the key with which the parent of the map n selects from it.
func constantKey(n ast.NavigableExpr) (string, bool) {
	up, ok := n.Parent()
	if !ok {
		return "", false
	}
	switch up.Kind() {
	case ast.SelectKind:
		return up.AsSelect().FieldName(), true
	case ast.CallKind:
		// "k in attributes" reads one key, attributes[k] too; the map is the
		// second operand of the one and the first of the other.
		c := up.AsCall()
		if key := map[string]int{operators.Index: 1, operators.In: 0}; len(c.Args()) == 2 {
			if i, ok := key[c.FunctionName()]; ok && c.Args()[i].Kind() == ast.LiteralKind {
				s, ok := c.Args()[i].AsLiteral().(types.String)
				return string(s), ok
			}
		}
	}
	return "", false
}

// join adds what another candidate's condition reads.
func (r *reads) join(o *reads) {
	if r.names == nil && r.attrs == nil && !r.all {
		*r = *o // of one candidate, the common case: nothing is copied
		return
	}
	r.names, r.attrs, r.all = union(r.names, o.names), union(r.attrs, o.attrs), r.all || o.all
}

// union returns the sorted union of two sorted sets, without touching either.
func union(a, b []string) []string {
	if len(b) == 0 || slices.Equal(a, b) {
		return a
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// readings returns the values of what was read, sorted by name.
func (w *walk) readings() []Reading {
	r := &w.reads
	attrs := w.q.Principal.Attributes
	n := len(r.names) + len(r.attrs)
	if r.all {
		n = len(r.names) + len(attrs)
	}
	if n == 0 {
		return nil
	}
	out := make([]Reading, 0, n)
	for _, name := range r.names {
		if v, ok := readable(w.q, name); ok {
			out = append(out, Reading{name, v})
		}
	}
	if r.all {
		for k, v := range attrs {
			out = append(out, Reading{attributes + "." + k, v})
		}
	} else {
		for _, k := range r.attrs {
			if v, ok := attrs[k]; ok {
				out = append(out, Reading{attributes + "." + k, v})
			}
		}
	}
	if len(out) > 1 {
		slices.SortFunc(out, func(a, b Reading) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
	}
	return out
}
