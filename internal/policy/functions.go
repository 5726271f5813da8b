package policy

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"
)

const (
	// whole is matches() after the macro: text, anchored pattern, and the
	// number of instructions of the compiled pattern, for costs. No condition
	// can spell it.
	whole = "@matches"

	// maxPattern caps the instructions of a compiled pattern: x{1000} is short
	// to write and slow to run.
	maxPattern = 2000

	// maxMatch caps instructions times bytes of text of one match, the worst
	// case of package regexp: about 10 ms.
	maxMatch = 1 << 19
)

// functions are what conditions have besides CEL's standard library.
func functions() []cel.EnvOption {
	text := cel.StringType
	return []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset())),
		cel.Macros(append(cel.StandardMacros,
			parser.NewReceiverMacro("matches", 1, expandMatches),
			parser.NewGlobalMacro("matches", 2, expandMatches))...),
		cel.Function(whole, cel.Overload(whole, []*cel.Type{text, text, cel.IntType}, cel.BoolType,
			cel.FunctionBinding(func(...ref.Val) ref.Val { return types.NewErr("matches was not compiled") }))),
		cel.Function("glob", cel.Overload("glob_string_string", []*cel.Type{text, text}, cel.BoolType,
			cel.BinaryBinding(func(s, p ref.Val) ref.Val {
				return types.Bool(Glob(string(p.(types.String)), string(s.(types.String))))
			}))),
		cel.Function("under", cel.Overload("under_string_string", []*cel.Type{text, text}, cel.BoolType,
			cel.BinaryBinding(func(path, prefix ref.Val) ref.Val {
				return types.Bool(under(string(path.(types.String)), string(prefix.(types.String))))
			}))),
	}
}

// subset leaves out CEL's own matches, which is not anchored; dyn, behind which
// values of unbounded depth hide; and accessors that take a time zone, which
// package time reads from a file.
func subset() *env.LibrarySubset {
	out := env.NewLibrarySubset().AddExcludedFunctions(
		env.NewFunction(overloads.Matches), env.NewFunction(overloads.TypeConvertDyn))
	for name, id := range map[string]string{
		overloads.TimeGetFullYear:     overloads.TimestampToYearWithTz,
		overloads.TimeGetMonth:        overloads.TimestampToMonthWithTz,
		overloads.TimeGetDayOfYear:    overloads.TimestampToDayOfYearWithTz,
		overloads.TimeGetDayOfMonth:   overloads.TimestampToDayOfMonthZeroBasedWithTz,
		overloads.TimeGetDate:         overloads.TimestampToDayOfMonthOneBasedWithTz,
		overloads.TimeGetDayOfWeek:    overloads.TimestampToDayOfWeekWithTz,
		overloads.TimeGetHours:        overloads.TimestampToHoursWithTz,
		overloads.TimeGetMinutes:      overloads.TimestampToMinutesWithTz,
		overloads.TimeGetSeconds:      overloads.TimestampToSecondsWithTz,
		overloads.TimeGetMilliseconds: overloads.TimestampToMillisecondsWithTz,
	} {
		out.AddExcludedFunctions(env.NewFunction(name, env.NewOverload(id, nil, nil)))
	}
	return out
}

// expandMatches rewrites x.matches("p") and matches(x, "p") to the whole-text
// form. The group matters: without it "a|b" would anchor only its outer arms,
// and match "a-evil".
func expandMatches(eh parser.ExprHelper, target ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	if target == nil {
		target, args = args[0], args[1:]
	}
	at := args[0].ID()
	if args[0].Kind() != ast.LiteralKind {
		return nil, eh.NewError(at, "the pattern of matches must be a literal, so that it can be compiled at load: use glob for others")
	}
	pattern, ok := args[0].AsLiteral().(types.String)
	if !ok {
		return nil, eh.NewError(at, "the pattern of matches must be a string")
	}
	anchored, size, err := anchor(string(pattern))
	if err != nil {
		return nil, eh.NewError(at, err.Error())
	}
	return eh.NewCall(whole, target, eh.NewLiteral(types.String(anchored)), eh.NewLiteral(types.Int(size))), nil
}

// anchor is the one place that turns a pattern into a whole-text expression. It
// compiles the pattern by itself first, so that "a)|(b" cannot escape its group.
func anchor(pattern string) (string, int, error) {
	if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
		if e, ok := errors.AsType[*syntax.Error](err); ok {
			return "", 0, fmt.Errorf("bad pattern: %s: %s", e.Code, e.Expr)
		}
		return "", 0, fmt.Errorf("bad pattern: %w", err)
	}
	anchored := "^(?:" + pattern + ")$"
	size, err := types.RegexProgramSize(anchored)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("bad pattern: %w", err)
	case size > maxPattern:
		return "", 0, fmt.Errorf("the pattern compiles to %d instructions: at most %d, shorten its repetitions", size, maxPattern)
	}
	return anchored, size, nil
}

// compileMatches replaces a call of whole by one that holds the compiled
// pattern and refuses a text too long for it.
var compileMatches = &interpreter.RegexOptimization{
	Function:   whole,
	RegexIndex: 1,
	Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(v ...ref.Val) ref.Val {
			s, ok := v[0].(types.String)
			if !ok {
				return types.ValOrErr(v[0], "matches needs a string")
			}
			size, _ := v[2].(types.Int)
			if len(s)*int(size) > maxMatch {
				return types.NewErr("a text of %d bytes is too long for this pattern of matches", len(s))
			}
			return types.Bool(re.MatchString(string(s)))
		}), nil
	},
}
