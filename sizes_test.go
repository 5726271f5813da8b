package sallyport_test

import (
	"fmt"
	"go/ast"
	"strings"
	"testing"
)

// Limits on the tail, where code goes bad (STYLE: medians do not tell).
const (
	maxFileLines     = 500
	maxFuncLines     = 80
	maxMainLines     = 20
	maxExportedNames = 30
	maxMethods       = 5
)

// exceptions are the names that may be over a limit, each with the reason.
func exceptions() map[string]string {
	return map[string]string{
		"token exported names":               "five algorithms and three types are names of the standards, not of ours",
		"verifier exported names":            "fifteen reasons are one list that a caller switches on; apart they would be a package of constants",
		"internal/audit exported names":      "kinds, decisions, durabilities and room are four lists that a caller switches on; the rest is one log's life: written, read, proved, exported, erased, pruned",
		"internal/door/admin exported names": "each path has its name, its body and its answer, which its clients share",
		"internal/guard exported names":      "a dozen reasons that doors refuse with are one list; apart they would be a package of constants",
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	over := func(name string, got, limit int) {
		if got <= limit {
			return
		}
		used[name] = true
		if exceptions()[name] == "" {
			t.Errorf("%s: %d, at most %d", name, got, limit)
		}
	}
	exported := map[string]int{}
	for _, s := range sources(t, false) {
		over(s.path+" lines", s.fset.File(s.file.Pos()).LineCount(), maxFileLines)
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				limit := maxFuncLines
				if f.Name.Name == "main" {
					limit = maxMainLines
				}
				lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
				over(fmt.Sprintf("%s %s lines", s.path, f.Name.Name), lines, limit)
			}
		}
		for _, n := range exportedNames(s.file) {
			exported[s.pkg]++
			if !n.documented {
				t.Errorf("%s: %s is exported and has no comment", s.path, n.name)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if ts, ok := n.(*ast.TypeSpec); ok {
				if i, ok := ts.Type.(*ast.InterfaceType); ok {
					over(fmt.Sprintf("%s %s methods", s.path, ts.Name.Name), i.Methods.NumFields(), maxMethods)
				}
			}
			return true
		})
	}
	for pkg, n := range exported {
		over(pkg+" exported names", n, maxExportedNames)
	}
	for name := range exceptions() {
		if !used[name] {
			t.Errorf("the exception %q is not needed any more: remove it", name)
		}
	}
}

type exportedName struct {
	name       string
	documented bool
}

// exportedNames returns the exported names that a file declares; methods count
// for documentation too, but with their type for size.
func exportedNames(f *ast.File) []exportedName {
	var out []exportedName
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.IsExported() {
				out = append(out, exportedName{d.Name.Name, d.Doc != nil})
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() {
						out = append(out, exportedName{spec.Name.Name, d.Doc != nil || spec.Doc != nil})
					}
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						if n.IsExported() {
							out = append(out, exportedName{n.Name, d.Doc != nil || spec.Doc != nil || spec.Comment != nil})
						}
					}
				}
			}
		}
	}
	return out
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	said := map[string]bool{}
	for _, s := range sources(t, false) {
		said[s.pkg] = said[s.pkg] || s.file.Doc != nil && (strings.HasPrefix(s.file.Doc.Text(), "Package "+s.file.Name.Name) || s.file.Name.Name == "main")
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func TestExportedMethodsAreDocumented(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t, false) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !f.Name.IsExported() || f.Doc != nil {
				continue
			}
			if t2, ok := receiver(f); ok && ast.IsExported(t2) && f.Name.Name != "Error" && f.Name.Name != "Unwrap" {
				t.Errorf("%s: method %s.%s has no comment", s.path, t2, f.Name.Name)
			}
		}
	}
}

func receiver(f *ast.FuncDecl) (string, bool) {
	t := f.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	id, ok := t.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}
