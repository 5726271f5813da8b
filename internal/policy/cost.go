package policy

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

const (
	// costLimit is what one evaluation may cost, in CEL's units; a unit is at
	// most about 100 ns, so an evaluation ends within about 10 ms. A condition
	// whose estimate stays below runs without being counted.
	//
	// Costs are charged when a call has returned, so no single call may be
	// expensive: matches has a limit of its own, texts double only as they are
	// paid for, and lists of lists, whose size can double unpaid, are refused
	// at load (cel.MemoryLimit would find them too, but slows loops by a square).
	costLimit = 80_000

	// Sizes that the estimate takes for granted: of a text in bytes, of a list
	// (groups) and a map (attributes) in entries. Two loops over a list of this
	// size exceed costLimit, so what is larger costs an uncounted condition a
	// single loop.
	assumedText, assumedList, assumedMap = 8 << 10, 1000, 256
)

// budget plans a checked condition: optimised, and counted only when it may
// cost more than costLimit.
func budget(e *cel.Env, checked *cel.Ast) ([]cel.ProgramOption, error) {
	opts := []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize),
		cel.OptimizeRegex(compileMatches),
	}
	est, err := e.EstimateCost(checked, coster{})
	if err != nil {
		return nil, fmt.Errorf("its cost cannot be estimated: %w", err)
	}
	if est.Max > costLimit {
		opts = append(opts, cel.CostTracking(coster{}), cel.CostLimit(costLimit))
	}
	return opts, nil
}

// coster knows the sizes of our variables and the costs of our functions, both
// for the estimate and while counting.
type coster struct{}

func (coster) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if s := n.ComputedSize(); s != nil {
		return s
	}
	var s cost.SizeEstimate
	switch n.Type().Kind() {
	case types.StringKind, types.BytesKind, types.DynKind:
		s = cost.RangedSizeEstimate(0, assumedText)
	case types.ListKind:
		s = cost.RangedSizeEstimate(0, assumedList)
	case types.MapKind:
		s = cost.RangedSizeEstimate(0, assumedMap)
	default:
		return nil
	}
	return &s
}

func (c coster) EstimateCallCost(function, _ string, _ *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	size := func(i int) uint64 { return cost.EstimateSize(c, args[i]).Max }
	var most uint64
	switch function {
	case whole:
		n, _ := cost.UintValue(args[2])
		most = matchCost(size(0), n)
	case "glob":
		most = globCost(size(0), size(1))
	case "under":
		most = 1 + size(1)/10
	default:
		return nil
	}
	return &cost.CallEstimate{CostEstimate: cost.RangedCostEstimate(1, most)}
}

func (coster) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	var out uint64
	switch function {
	case whole:
		n, _ := args[2].(types.Int)
		out = matchCost(cost.ActualSize(args[0]), uint64(n))
	case "glob":
		out = globCost(cost.ActualSize(args[0]), cost.ActualSize(args[1]))
	case "under":
		out = 1 + cost.ActualSize(args[1])/10
	default:
		return nil
	}
	return &out
}

// matchCost is the worst case of package regexp, each instruction at each byte.
func matchCost(text, instructions uint64) uint64 {
	return 1 + min(cost.SafeMultiply(text, instructions), maxMatch)/8
}

func globCost(text, pattern uint64) uint64 { return 1 + cost.SafeMultiply(text, pattern)/50 }
