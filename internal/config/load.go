package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
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
	c.places = d
	if err := c.Mistaken(c.Complete(dir)); err != nil {
		return nil, err
	}
	return &c, nil
}

// Mistaken turns joined errors that start with their path into Mistakes, with the
// lines of the file that c was read from; nil stays nil.
func (c *Config) Mistaken(err error) error {
	d := decoder{file: c.places.file, lines: c.places.lines}
	for _, e := range flatten(err) {
		path, what := split(e.Error())
		d.mistake(path, d.line(path), what)
	}
	if len(d.found) == 0 {
		return nil
	}
	return d.mistakes()
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

func (d *decoder) root(text []byte) (*yaml.Node, error) {
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			d.mistake("", second.Line, "a second document: the file is one")
			return nil, d.mistakes()
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		line, what := position(err)
		d.mistake("", line, "not YAML: "+what)
		return nil, d.mistakes()
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		d.mistake("", 1, "the file is a mapping, such as trust_domain: acme.internal")
		return nil, d.mistakes()
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// position takes the line out of the library's message.
func position(err error) (int, string) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	m := yamlLine.FindStringSubmatch(text)
	n, aerr := strconv.Atoi(m[1])
	if aerr != nil {
		n = 1
	}
	return n, m[2]
}

func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if _, seen := d.lines[path]; !seen {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		d.mistake(path, n.Line, "anchors, aliases and tags are not read: write it out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // as if it were not there
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

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := map[string]reflect.Value{}
	single := map[string]bool{}
	collect(v, fields, single)
	d.members(n, path, func(key string, value *yaml.Node, line int) {
		p := join(path, key)
		f, ok := fields[key]
		if !ok {
			d.mistake(p, line, "unknown key: "+suggest(key, fields))
			return
		}
		d.lines[p] = line
		if value.Kind == yaml.MappingNode && single[key] { // one in place of a list
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

func (d *decoder) members(n *yaml.Node, path string, f func(key string, value *yaml.Node, line int)) {
	if n.Kind != yaml.MappingNode {
		d.mistake(path, n.Line, "want a mapping, KEY: VALUE")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		first, twice := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || key.Anchor != "":
			d.mistake(path, key.Line, "a key here is plain text")
		case twice:
			d.mistake(join(path, key.Value), key.Line, fmt.Sprintf("is there twice: first on line %d", first))
		default:
			seen[key.Value] = key.Line
			f(key.Value, n.Content[i+1], key.Line)
		}
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.mistake(path, n.Line, "want a list: - VALUE, or [VALUE, VALUE]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, e := range n.Content {
		d.decode(e, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.members(n, path, func(key string, value *yaml.Node, line int) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.lines[join(path, key)] = line
		d.decode(value, e, join(path, key))
		v.SetMapIndex(reflect.ValueOf(key), e)
	})
}

// leaf reads a single value. Text is what the file has, whatever YAML would take
// it for, but for yes and no, which have surprised enough people.
func (d *decoder) leaf(n *yaml.Node, v reflect.Value, path string) {
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case n.Kind != yaml.ScalarNode:
		d.mistake(path, n.Line, "want a single value")
	case v.Kind() == reflect.String && !isText && n.Tag == "!!bool":
		d.mistake(path, n.Line, "want text: put it in quotes")
	case v.Kind() == reflect.String && !isText:
		v.SetString(n.Value)
	case isText:
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
			d.mistake(path, n.Line, err.Error())
		}
	default:
		if err := n.Decode(v.Addr().Interface()); err != nil {
			d.mistake(path, n.Line, fmt.Sprintf("%q: want %s", n.Value, kinds[v.Type().String()]))
		}
	}
}

// kinds says what a value of a type looks like; TestEveryLeafHasAKind holds it to
// the types that the file uses.
var kinds = map[string]string{
	"time.Duration": "a duration such as 30s, 5m or 12h",
	"int":           "a whole number",
	"bool":          "true or false",
	"float64":       "a number",
	"uint32":        "a whole number, not negative",
	"uint64":        "a whole number, not negative",
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
		if d.file == "" { // made in code
			out = append(out, f.text)
			continue
		}
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
