package sallyport_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport-dev/sallyport"

// rank gives each folder its layer: a package imports lower ranks only, and within
// its own folder only the folder's root and what is in folders below its own ("all"
// packages excepted, which list their siblings). A folder without a rank does not belong here.
func rank(folder string) (int, bool) {
	r, ok := map[string]int{
		"token": 0, "identity": 0, "fault": 0, "sealing": 0, "wire": 0,
		"keys": 1, "verifier": 1, "policy": 1, "caller": 1, "forgery": 1,
		"audit": 2, "federation": 2, "attest": 2,
		"guard":  3,
		"issuer": 4,
		"door":   5, "gateway": 5,
		"store": 6, "config": 7, "app": 8, "cli": 9, "cmd": 10, "sallyporttest": 10, "bench": 10, "corpora": 10,
	}[folder]
	return r, ok
}

// maxChain is the longest chain of imports from main, in packages.
const maxChain = 12

// source is one Go file of the module, read in this process: files that a child
// process opens are not in the key of Go's test cache.
type source struct {
	path string // of the file, from the root
	pkg  string // of its package, from the root
	file *ast.File
	fset *token.FileSet
}

func sources(t *testing.T, tests bool) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin" || ownModule(p)) {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") && !tests:
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		out = append(out, source{p, filepath.ToSlash(filepath.Dir(p)), f, fset})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 40 {
		t.Fatalf("found only %d files: not at the root of the module?", len(out))
	}
	return out
}

// ownModule reports whether a folder is a module of its own.
func ownModule(dir string) bool {
	m, _ := filepath.Glob(filepath.Join(dir, "go.mod"))
	return len(m) > 0
}

// imports returns the packages of this module that s imports.
func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		if p, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module+"/"); ok {
			out = append(out, p)
		}
	}
	return out
}

// folder is what has a rank: the first part of a package's path, or the second
// below internal.
func folder(pkg string) string {
	parts := strings.Split(pkg, "/")
	if parts[0] == "internal" && len(parts) > 1 {
		return parts[1]
	}
	return parts[0]
}

// upward says what is wrong with the import of to by from, if anything.
func upward(from, to string) string {
	a, known := rank(folder(from))
	b, knownTo := rank(folder(to))
	switch {
	case !known:
		return "has no rank: does it belong here?"
	case !knownTo:
		return "imports " + to + ", which has no rank"
	case folder(from) == folder(to):
		root := strings.HasSuffix(to, "/"+folder(to)) || to == folder(to)
		below := strings.HasPrefix(to, from+"/") && from != "internal/"+folder(from)
		switch {
		case root && strings.Count(from, "/") > 2:
			return "imports " + to + ", which is above it"
		case !root && !below && path.Base(from) != "all":
			return "imports its sibling " + to
		}
	case b >= a:
		return "imports " + to + ", which is not below it"
	}
	return ""
}

func TestLayers(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t, false) {
		if s.pkg == "." {
			continue
		}
		if _, ok := rank(folder(s.pkg)); !ok {
			t.Errorf("%s: the folder %s has no rank: does it belong here?", s.path, folder(s.pkg))
		}
		for _, to := range s.imports() {
			if wrong := upward(s.pkg, to); wrong != "" {
				t.Errorf("%s: %s %s", s.path, s.pkg, wrong)
			}
		}
	}
}

// What the rule refuses: each was planted in the tree once and caught.
func TestLayersRefuse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, from, to string
		ok             bool
	}{
		{"a lower rank", "internal/guard", "internal/audit", true},
		{"the public verifier", "internal/federation", "verifier", true},
		{"the folder's root", "internal/gateway/httpproxy", "internal/gateway", true},
		{"the list of protocols", "internal/gateway/all", "internal/gateway/httpproxy", true},
		{"upward", "internal/audit", "internal/guard", false},
		{"the same rank", "internal/door/metadata", "internal/gateway", false},
		{"a sibling", "internal/door/metadata", "internal/door/discovery", false},
		{"a folder below one's own", "internal/gateway/httpproxy", "internal/gateway/httpproxy/upstream", true},
		{"the folder above", "internal/gateway/httpproxy/upstream", "internal/gateway/httpproxy", false},
		{"the root from below a protocol", "internal/gateway/httpproxy/upstream", "internal/gateway", false},
		{"a protocol from the root", "internal/gateway", "internal/gateway/httpproxy", false},
		{"what is below a sibling", "internal/gateway/tcp", "internal/gateway/httpproxy/upstream", false},
		{"a drawer", "internal/util", "token", false},
		{"from a drawer", "internal/guard", "internal/util", false},
	} {
		if wrong := upward(tt.from, tt.to); (wrong == "") != tt.ok {
			t.Errorf("%s: %s imports %s: got %q", tt.name, tt.from, tt.to, wrong)
		}
	}
}

// Doors and gateways translate: what they could decide, store or sign with is out
// of their reach, and of policy they know the variables of their protocol only.
func TestDoorsAndGatewaysOnlyTranslate(t *testing.T) {
	t.Parallel()
	forbidden := []string{"internal/store", "internal/keys", "internal/audit"}
	for _, s := range sources(t, false) {
		if f := folder(s.pkg); f != "door" && f != "gateway" {
			continue
		}
		for _, to := range s.imports() {
			if slices.Contains(forbidden, to) {
				t.Errorf("%s imports %s", s.path, to)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "policy" && !slices.Contains([]string{"Vars", "HTTP", "Mint"}, sel.Sel.Name) {
					t.Errorf("%s: uses policy.%s", s.fset.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestImportChain(t *testing.T) {
	t.Parallel()
	graph := map[string][]string{}
	for _, s := range sources(t, false) {
		graph[s.pkg] = append(graph[s.pkg], s.imports()...)
	}
	memo := map[string][]string{}
	var longest func(pkg string) []string
	longest = func(pkg string) []string {
		if c, ok := memo[pkg]; ok {
			return c
		}
		var best []string
		for _, to := range graph[pkg] {
			if c := longest(to); len(c) > len(best) {
				best = c
			}
		}
		memo[pkg] = append([]string{pkg}, best...)
		return memo[pkg]
	}
	if chain := longest("cmd/sallyport"); len(chain) > maxChain || len(chain) < 5 {
		t.Errorf("the longest chain of imports has %d packages, at most %d: %s", len(chain), maxChain, strings.Join(chain, " > "))
	}
}
