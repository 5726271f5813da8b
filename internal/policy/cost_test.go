package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

// crowd is a caller with everything oversized that a caller can have.
func crowd() policy.Query {
	q := get(alice)
	q.Principal.Groups = nil
	for i := range 5000 {
		q.Principal.Groups = append(q.Principal.Groups, fmt.Sprint("group-number-", i))
	}
	q.Vars = policy.HTTP{Method: "GET", Path: strings.Repeat("a", 8000), Host: strings.Repeat("b", 8000)}
	return q
}

func TestConditionsEndWithinTheirBudget(t *testing.T) {
	t.Parallel()
	doubled := strings.Repeat(".map(a, a + a)", 70)
	for _, tt := range []struct{ name, when string }{
		{"a loop in a loop", `principal.groups.all(g, principal.groups.all(h, g + h != "x"))`},
		{"a loop in a loop in a loop", `principal.groups.all(g, principal.groups.all(h, principal.groups.all(i, g + h != i)))`},
		{"text that doubles", `[request.path]` + doubled + `.size() == 1`},
		{"numbers that double", `[1]` + doubled + `.size() == 1`}, // overflows, which is an error too
		{"a pattern that backtracks, in a loop", `principal.groups.all(g, !request.path.matches("(a|aa|aaa)*b"))`},
		{"a pattern with many repetitions", `!request.path.matches("(a?){200}(a?){200}b")`},
		{"a glob with many stars, in a loop", `principal.groups.all(g, !glob(request.path, "*a*a*a*a*a*a*a*a*b"))`},
		{"a long search, in a loop", `principal.groups.all(g, !request.path.contains(request.host))`},
		{"lists compared in a loop", `principal.groups.all(g, principal.groups == principal.groups)`},
		{"long lists built in a loop", `principal.groups.map(g, principal.groups.map(h, h).size()).size() > 0`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			allowing := compile(t, policy.Config{Policies: []policy.Rule{allow("a", all, tt.when)}}, world)
			denying := compile(t, policy.Config{Policies: []policy.Rule{allow("a", all, ""), deny("d", all, tt.when)}}, world)
			q := crowd()
			start := time.Now()
			a, d := allowing.Decide(&q), denying.Decide(&q)
			// 10 ms each is the aim; the rest is for a slow and busy machine
			// with the race detector. Unlimited, these take seconds to years.
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			if a.Allow || !strings.HasPrefix(a.NearWhy, "its condition failed: ") {
				t.Errorf("an allow rule over its budget: %+v", a)
			}
			if d.Allow || d.Reason != policy.DenyRuleError {
				t.Errorf("a deny rule over its budget: %+v", d)
			}
		})
	}
}

func TestUsualConditionsAreWithinTheirBudget(t *testing.T) {
	t.Parallel()
	q := crowd()
	q.Principal.Groups = q.Principal.Groups[:1000]
	for _, when := range []string{
		`principal.groups.exists(g, g.startsWith("group-number-9") && under(request.path, "/"))`,
		`principal.groups.filter(g, g.endsWith("7")).size() >= 0`,
		`"group-number-999" in principal.groups && request.path.startsWith("a")`,
		`request.path.matches("a+")`,
		`request.path.matches("[a-z]+(/[a-z0-9]+){0,3}") || true`,
	} {
		s := compile(t, policy.Config{Policies: []policy.Rule{allow("a", all, when)}}, world)
		if d := s.Decide(&q); strings.Contains(d.NearWhy, "failed") {
			t.Errorf("%s: %s", when, d.NearWhy)
		}
	}
}
