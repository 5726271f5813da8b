package metadata

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// A node is a value or a directory of the tree (contract google-clients, 1.3).
type node struct {
	text     string         // of a value
	json     jsontext.Value // of a value
	children map[string]*node
	opaque   bool // a path that is served, and is in no recursive answer: token, identity
	private  bool // for this door's accounts only, and all below it
}

func text(s string) *node {
	quoted, _ := jsontext.AppendQuote(nil, strings.ToValidUTF8(s, "\uFFFD"))
	return &node{text: s, json: quoted}
}

func number(n uint64) *node {
	s := strconv.FormatUint(n, 10)
	return &node{text: s, json: jsontext.Value(s)}
}

// lines is a list that reads as one entry a line.
func lines(list []string) *node {
	n := array(list)
	n.text = strings.Join(append(slices.Clone(list), ""), "\n")
	return n
}

// array is a list that reads as JSON in both forms, as tags do.
func array(list []string) *node {
	b, _ := json.Marshal(append([]string{}, list...)) // strings of the file are UTF-8
	return &node{text: string(b), json: b}
}

func directory(children map[string]*node) *node { return &node{children: children} }

func (n *node) hidden() *node {
	n.private = true
	return n
}

func attributes(m map[string]string) *node {
	out := map[string]*node{}
	for k, v := range m {
		out[k] = text(v)
	}
	return directory(out).hidden()
}

// tree is what a door serves below /computeMetadata/v1/, without the accounts.
func (c *Config) tree() *node {
	inProject := func(kind, name string) *node {
		return text("projects/" + strconv.FormatUint(c.Project.Number, 10) + "/" + kind + "/" + name)
	}
	return directory(map[string]*node{
		"instance": directory(map[string]*node{
			"attributes":       attributes(c.Instance.Attributes),
			"hostname":         text(c.Instance.Hostname),
			"id":               number(c.Instance.ID),
			"name":             text(c.Instance.Name),
			"region":           inProject("regions", c.Instance.Region),
			"service-accounts": directory(map[string]*node{}).hidden(), // who is there depends on who asks
			"tags":             array(c.Instance.Tags),
			"zone":             inProject("zones", c.Instance.Zone),
		}),
		"project": directory(map[string]*node{
			"attributes":         attributes(c.Project.Attributes),
			"numeric-project-id": number(c.Project.Number),
			"project-id":         text(c.Project.ID),
		}),
		"universe": directory(map[string]*node{"universe-domain": text(c.UniverseDomain)}),
	})
}

// withAccount returns the tree as the account p sees it: itself under "default" and
// under its address.
func (n *node) withAccount(p *identity.Principal) *node {
	account := directory(map[string]*node{
		"aliases":  lines([]string{"default"}),
		"email":    text(p.Email),
		"identity": {opaque: true},
		"scopes":   lines([]string{cloudPlatform}),
		"token":    {opaque: true},
	})
	instance := directory(maps.Clone(n.children["instance"].children))
	instance.children["service-accounts"] = directory(map[string]*node{"default": account, p.Email: account}).hidden()
	out := directory(maps.Clone(n.children))
	out.children["instance"] = instance
	return out
}

// find returns what is at path, and whether anything on the way is private. It is
// nil if there is nothing.
func (n *node) find(path []string) (found *node, private bool) {
	for _, name := range path {
		if n = n.children[name]; n == nil {
			return nil, private
		}
		private = private || n.private
	}
	return n, private
}

// reveals reports whether a recursive answer from here would have what is private.
func (n *node) reveals() bool {
	if n.private {
		return true
	}
	for _, c := range n.children {
		if c.reveals() {
			return true
		}
	}
	return false
}

// listing names what is in a directory, one a line.
func (n *node) listing() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		b.WriteString(name)
		if c := n.children[name]; c.children != nil {
			b.WriteByte('/')
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// appendJSON appends the subtree: names are written as Google's server does,
// numericProjectId for numeric-project-id, but for those that people chose.
func (n *node) appendJSON(dst []byte, chosen bool) []byte {
	if n.children == nil {
		return append(dst, n.json...)
	}
	dst = append(dst, '{')
	sep := ""
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		c := n.children[name]
		if c.opaque {
			continue
		}
		shown := name
		if !chosen {
			shown = camel(name)
		}
		dst = append(dst, sep...)
		dst, _ = jsontext.AppendQuote(dst, shown) // names are ASCII
		dst = append(dst, ':')
		dst = c.appendJSON(dst, name == "attributes" || name == "service-accounts")
		sep = ","
	}
	return append(dst, '}')
}

// appendLines appends the subtree as "PATH VALUE" lines.
func (n *node) appendLines(dst []byte, path string) []byte {
	if n.children == nil {
		return append(dst, path+" "+strings.TrimSuffix(n.text, "\n")+"\n"...)
	}
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if c := n.children[name]; !c.opaque {
			dst = c.appendLines(dst, strings.TrimPrefix(path+"/"+name, "/"))
		}
	}
	return dst
}

func camel(name string) string {
	var b strings.Builder
	up := false
	for _, r := range name {
		switch {
		case r == '-':
			up = true
		case up:
			b.WriteString(strings.ToUpper(string(r)))
			up = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// etag is a short name of a body.
func etag(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}
