package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

const (
	// maxWhen caps a condition, in characters.
	maxWhen = 4096

	// maxNodes caps the syntax tree that macros may unfold a condition to.
	maxNodes = 8192

	// maxMistake caps one error of CEL's, in bytes; it may quote the whole.
	maxMistake = 500
)

// A condition is a compiled `when`, for one action family.
type condition struct {
	family string
	prog   cel.Program
	reads  reads
}

// eval answers whether the condition holds. CEL recovers panics of its own into
// errors, so nothing of a condition reaches the caller but true.
func (c *condition) eval(a *activation) (bool, error) {
	v, _, err := c.prog.Eval(a)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it is a %s, not a bool", v.Type().TypeName())
	}
	return bool(b), nil
}

// environment is what conditions of f are checked against.
func (f *family) environment() (*cel.Env, error) {
	opts := functions()
	for _, v := range f.variables() {
		opts = append(opts, cel.Variable(v.name, v.typ))
	}
	return cel.NewCustomEnv(append(opts,
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxWhen),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
	)...)
}

// compile checks text for f in e. Each mistake is an error of its own that
// starts with LINE:COLUMN within text.
func (f *family) compile(e *cel.Env, text string) (condition, []error) {
	if n := utf8.RuneCountInString(text); n > maxWhen {
		return condition{}, []error{fmt.Errorf("the condition has %d characters: at most %d", n, maxWhen)}
	}
	checked, iss := e.Compile(text)
	if iss.Err() != nil {
		return condition{}, first(f.mistakes(iss, text))
	}
	if checked.OutputType() != cel.BoolType {
		return condition{}, []error{fmt.Errorf("1:1: the condition is a %s: it must be a bool", cel.FormatCELType(checked.OutputType()))}
	}
	if bad := refused(checked.NativeRep()); len(bad) > 0 {
		return condition{}, first(bad)
	}
	opts, err := budget(e, checked)
	if err != nil {
		return condition{}, []error{err}
	}
	prog, err := e.Program(checked, opts...)
	if err != nil {
		return condition{}, []error{errors.New(oneLine(err.Error()))}
	}
	return condition{f.name, prog, f.readsOf(checked.NativeRep())}, nil
}

// mistakes turns CEL's issues into plain errors, in the order of the text.
func (f *family) mistakes(iss *cel.Issues, text string) []error {
	var out []error
	lines := strings.Split(text, "\n")
	for _, e := range iss.Errors() {
		// What is wrong with the whole, such as its depth, CEL places nowhere.
		line, col := max(e.Location.Line(), 1), max(e.Location.Column(), 0)
		what := oneLine(e.Message)
		if rest, ok := strings.CutPrefix(what, "undeclared reference to '"); ok {
			name, _, _ := strings.Cut(rest, "'")
			from := after(lines, line, col)
			if strings.HasPrefix(from, "(") { // where CEL places an unknown function
				what = fmt.Sprintf("undeclared reference to '%s': conditions have no such function", name)
			} else {
				// CEL names only the first part, unless it has a guess.
				if chain := dotted.FindStringSubmatch(from); chain != nil && strings.HasPrefix(chain[1], name+".") {
					name = chain[1]
				}
				what = fmt.Sprintf("undeclared reference to '%s': known variables are %s", name, f.known())
			}
		}
		what = quoted.ReplaceAllStringFunc(what, plainName)
		if len(what) > maxMistake {
			what = strings.ToValidUTF8(what[:maxMistake], "") + "..."
		}
		out = append(out, fmt.Errorf("%d:%d: %s", line, col+1, what))
	}
	return out
}

// first cuts the list of a condition's mistakes: one misunderstanding can cause
// hundreds.
func first(bad []error) []error { return bad[:min(3, len(bad))] }

// dotted finds a variable's full name at the start of a text.
var dotted = regexp.MustCompile(`^(\w+(?:\.\w+)*)`)

// after returns the rest of a line from a column, which counts characters from 0.
func after(lines []string, line, col int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	r := []rune(lines[line-1])
	return string(r[min(max(col, 0), len(r)):])
}

// quoted finds CEL's internal names of operators and of our matches.
var quoted = regexp.MustCompile(`'[@_!\-][^ ']*'`)

// plainName spells an internal name, in quotes, as the author wrote it.
func plainName(s string) string {
	name := strings.Trim(s, "'")
	if plain, ok := operators.FindReverse(name); ok && plain != "" {
		return "'" + plain + "'"
	}
	return "'" + strings.Trim(name, "@_") + "'"
}

func (f *family) known() string {
	var names []string
	for _, v := range f.variables() {
		names = append(names, v.name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// refused finds what CEL allows and we do not.
func refused(a *ast.AST) []error {
	var out []error
	bad := func(e ast.Expr, format string, args ...any) {
		at := a.SourceInfo().GetStartLocation(e.ID())
		out = append(out, fmt.Errorf("%d:%d: %s", at.Line(), at.Column()+1, fmt.Sprintf(format, args...)))
	}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		// [a, a] inside [b, b] and so on is short to write and has 2^n leaves,
		// all of which one == visits.
		if t := a.GetType(e.ID()); nested(t) && !(e.Kind() == ast.ListKind && e.AsList().Size() == 0) {
			bad(e, "a list or map may not hold lists, maps or mixed types, and this is a %s", cel.FormatCELType(t))
		}
		switch e.Kind() {
		case ast.StructKind:
			bad(e, "conditions do not make messages")
		case ast.ComprehensionKind:
			// A map has no order: the order of what is built from it, or which
			// key exceeds the cost limit, would differ from run to run.
			over := e.AsComprehension().IterRange()
			if t := a.GetType(over.ID()); t.Kind() != types.ListKind {
				bad(over, "macros iterate over lists only, and this is a %s", cel.FormatCELType(t))
			}
		case ast.CallKind:
			c := e.AsCall()
			if c.FunctionName() != "glob" || c.Args()[1].Kind() != ast.LiteralKind {
				return
			}
			if p, ok := c.Args()[1].AsLiteral().(types.String); ok && !ValidPattern(string(p)) {
				bad(c.Args()[1], "%q is not a pattern: it is empty, too long, or has spaces or \"**\"", string(p))
			}
		}
	}))
	return out
}

// nested reports whether t is a list or map that holds more than plain values.
func nested(t *types.Type) bool {
	if t == nil || t.Kind() != types.ListKind && t.Kind() != types.MapKind {
		return false
	}
	return slices.ContainsFunc(t.Parameters(), func(p *types.Type) bool {
		switch p.Kind() {
		case types.BoolKind, types.BytesKind, types.DoubleKind, types.DurationKind, types.IntKind,
			types.StringKind, types.TimestampKind, types.UintKind:
			return false
		}
		return true
	})
}
