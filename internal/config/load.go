package config

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds the file, in bytes: 100,000 policies are about 20 MiB.
const maxFile = 64 << 20

// Mistakes is the error of a file that was read and is wrong. Each line names
// file, line, path and what would be right.
type Mistakes []string

func (m Mistakes) Error() string { return strings.Join(m, "\n") }

// Load reads, completes and checks the file at path. A file that is wrong fails
// with Mistakes.
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("read the file: %s is larger than %d bytes", path, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	return Parse(path, text, dir)
}

// Parse is Load for a file's text; relative paths in it start at dir.
func Parse(name string, text []byte, dir string) (*Config, error) {
	d := decoder{file: name, lines: map[string]int{}}
	var c Config
	root, err := d.root(text)
	if err != nil {
		return nil, err
	}
	if root != nil {
		d.decode(root, reflect.ValueOf(&c).Elem(), "")
	}
	if len(d.found) > 0 { // what did not decode would be reported again as missing
		return nil, d.mistakes()
	}
	for _, e := range flatten(c.Complete(dir)) {
		path, what := split(e.Error())
		d.mistake(path, d.line(path), what)
	}
	if len(d.found) > 0 {
		return nil, d.mistakes()
	}
	return &c, nil
}

// decoder walks the file's tree and a struct side by side, so that all mistakes
// are found in one reading and each has its line.
type decoder struct {
	file  string
	lines map[string]int // by path
	found []found
}

type found struct {
	line int
	text string
}

func (d *decoder) root(text []byte) (*ast.MappingNode, error) {
	f, err := parser.ParseBytes(text, 0)
	if err != nil {
		line, what := 1, err.Error()
		if y, ok := errors.AsType[yaml.Error](err); ok {
			what = y.GetMessage()
			if t := y.GetToken(); t != nil {
				line = t.Position.Line
			}
		}
		d.mistake("", line, what)
		return nil, d.mistakes()
	}
	switch {
	case len(f.Docs) > 1:
		d.mistake("", f.Docs[1].Start.Position.Line, "a second document: the file is one")
		return nil, d.mistakes()
	case len(f.Docs) == 0 || f.Docs[0].Body == nil || f.Docs[0].Body.Type() == ast.CommentType:
		return nil, nil
	}
	switch body := f.Docs[0].Body.(type) {
	case *ast.MappingNode:
		return body, nil
	case *ast.MappingValueNode:
		return ast.Mapping(body.GetToken(), false, body), nil
	}
	d.mistake("", 1, "the file is a mapping, such as trust_domain: acme.internal")
	return nil, d.mistakes()
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

func (d *decoder) decode(n ast.Node, v reflect.Value, path string) {
	if _, seen := d.lines[path]; !seen {
		d.lines[path] = line(n)
	}
	switch n.(type) {
	case *ast.NullNode:
		return
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode, *ast.TagNode:
		d.mistake(path, line(n), "anchors, aliases and tags are not read: write it out")
		return
	}
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case isText:
		d.leaf(n, v, path)
	case v.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path)
	default:
		d.leaf(n, v, path)
	}
}

func (d *decoder) structure(n ast.Node, v reflect.Value, path string) {
	fields := map[string]reflect.Value{}
	single := map[string]bool{}
	collect(v, fields, single)
	d.members(n, path, func(key string, value ast.Node, keyLine int) {
		p := join(path, key)
		f, ok := fields[key]
		if !ok {
			d.mistake(p, keyLine, "unknown key: "+suggest(key, fields))
			return
		}
		d.lines[p] = keyLine
		if _, isMap := asMapping(value); isMap && single[key] { // one in place of a list
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			d.decode(value, f.Index(0), p+"[0]")
			return
		}
		d.decode(value, f, p)
	})
}

// collect finds the fields of a struct by their key, through inlined structs.
func collect(v reflect.Value, fields map[string]reflect.Value, single map[string]bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(options, "inline"):
			collect(v.Field(i), fields, single)
		case tag != "" && f.IsExported():
			fields[tag] = v.Field(i)
			single[tag] = f.Tag.Get("config") == "one"
		}
	}
}

func asMapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	return nil, false
}

func (d *decoder) members(n ast.Node, path string, f func(key string, value ast.Node, keyLine int)) {
	values, ok := asMapping(n)
	if !ok {
		d.mistake(path, line(n), "want a mapping, KEY: VALUE")
		return
	}
	for _, kv := range values {
		key, ok := kv.Key.(*ast.StringNode)
		if !ok {
			d.mistake(path, line(kv.Key), "a key here is plain text")
			continue
		}
		f(key.Value, kv.Value, line(kv.Key))
	}
}

func (d *decoder) list(n ast.Node, v reflect.Value, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.mistake(path, line(n), "want a list: - VALUE, or [VALUE, VALUE]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, e := range seq.Values {
		d.decode(e, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.members(n, path, func(key string, value ast.Node, keyLine int) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.lines[join(path, key)] = keyLine
		d.decode(value, e, join(path, key))
		v.SetMapIndex(reflect.ValueOf(key), e)
	})
}

func (d *decoder) leaf(n ast.Node, v reflect.Value, path string) {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		d.mistake(path, line(n), "want a single value")
		return
	}
	if v.Kind() == reflect.String {
		if _, quoted := n.(*ast.StringNode); !quoted && n.Type() != ast.LiteralType {
			if n.Type() == ast.BoolType { // yes and no have surprised enough people
				d.mistake(path, line(n), "want text: put it in quotes")
				return
			}
		}
	}
	if err := yaml.NodeToValue(n, v.Addr().Interface()); err != nil {
		what := err.Error()
		if y, ok := errors.AsType[yaml.Error](err); ok {
			what = y.GetMessage()
		}
		d.mistake(path, line(n), fmt.Sprintf("%s: %s", n.String(), strings.TrimSpace(what)))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// suggest names the key that was meant, or all there are.
func suggest(key string, fields map[string]reflect.Value) string {
	var names []string
	for name := range fields {
		if strings.ReplaceAll(name, "_", "") == strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key)) || name+"s" == key || name == key+"s" {
			return "did you mean " + name + "?"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return "this version knows " + strings.Join(names, ", ") + " here"
}

func (d *decoder) mistake(path string, line int, what string) {
	text := what
	if path != "" {
		text = path + ": " + what
	}
	d.found = append(d.found, found{line, text})
}

// mistakes returns what was found, in the file's order.
func (d *decoder) mistakes() Mistakes {
	slices.SortStableFunc(d.found, func(a, b found) int { return a.line - b.line })
	var out Mistakes
	for _, f := range d.found {
		out = append(out, fmt.Sprintf("%s:%d: %s", d.file, f.line, f.text))
	}
	return out
}

// pathText is what a component's mistake begins with.
var pathText = regexp.MustCompile(`^[A-Za-z0-9_-]+(\[\d+\])?(\.[A-Za-z0-9_-]+(\[\d+\])?)*$`)

func split(text string) (path, what string) {
	p, rest, ok := strings.Cut(text, ": ")
	if !ok || !pathText.MatchString(p) {
		return "", text
	}
	return p, rest
}

// line returns the line of path, or of the nearest part of it that is there.
func (d *decoder) line(path string) int {
	for path != "" {
		if l, ok := d.lines[path]; ok {
			return l
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return 1
}
