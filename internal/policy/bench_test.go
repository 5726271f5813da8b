package policy_test

import (
	"fmt"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

// many returns n rules over n services and as many accounts, the first of which
// is orders on invoices.
func many(n int) (policy.Config, policy.World) {
	w := policy.World{Services: map[string]string{"invoices": "http"}, Accounts: []string{"orders"}}
	cfg := policy.Config{Policies: []policy.Rule{typical()}}
	for i := 1; i < n; i++ {
		r := typical()
		r.Name = fmt.Sprint("rule-", i)
		r.To = []string{fmt.Sprint("service-", i)}
		w.Services[r.To[0]] = "http"
		switch i % 4 {
		case 0: // another account on the same service
			r.To = []string{"invoices"}
			r.Allow = []string{fmt.Sprint("user:local/", i)}
		case 1: // the same account on another service
		case 2:
			r.Allow, r.Deny = nil, []string{"anyAuthenticated"}
		case 3:
			r.Allow = []string{fmt.Sprint("user:local/", i)}
		}
		cfg.Policies = append(cfg.Policies, r)
	}
	return cfg, w
}

func typical() policy.Rule {
	return policy.Rule{
		Name: "orders-read-invoices", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"},
		Actions: []string{"http.get", "http.head"}, When: `request.path.startsWith("/v1/")`,
	}
}

// Not parallel: testing.AllocsPerRun counts what the whole process allocates.
func TestDecideIsFlat(t *testing.T) {
	allocs := func(n int) float64 {
		cfg, w := many(n)
		s := compile(t, cfg, w)
		q := get(orders)
		if d := s.Decide(&q); d.Rule != "orders-read-invoices" || !d.Allow {
			t.Fatalf("%d rules: %+v", n, d)
		}
		return testing.AllocsPerRun(100, func() { s.Decide(&q) })
	}
	few, lots := allocs(10), allocs(100_000)
	if few != lots || few > 4 {
		t.Errorf("%v allocations with 10 rules, %v with 100,000: want the same, at most 4", few, lots)
	}
}

func benchmark(b *testing.B, cfg policy.Config, w policy.World, q policy.Query) {
	s := compile(b, cfg, w)
	if d := s.Decide(&q); !d.Allow {
		b.Fatalf("%+v", d)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Decide(&q)
	}
}

// BenchmarkDecide is one call with a typical condition.
func BenchmarkDecide(b *testing.B) {
	cfg, w := many(10)
	benchmark(b, cfg, w, get(orders))
}

// BenchmarkDecide100k is the same among 100,000 rules.
func BenchmarkDecide100k(b *testing.B) {
	cfg, w := many(100_000)
	benchmark(b, cfg, w, get(orders))
}

// BenchmarkDecideNoCondition is one call whose rule has no condition.
func BenchmarkDecideNoCondition(b *testing.B) {
	cfg, w := many(10)
	cfg.Policies[0].When = ""
	benchmark(b, cfg, w, get(orders))
}

// BenchmarkDecideFederated is a caller with groups and attributes, and a
// condition over them.
func BenchmarkDecideFederated(b *testing.B) {
	cfg := policy.Config{Policies: []policy.Rule{
		allow("a", "principalSet:github/attribute.repository_id/42", `principal.attributes.ref == "refs/heads/main"`),
	}}
	benchmark(b, cfg, world, get(deploy))
}

// BenchmarkCompile is a reload of 1000 rules with conditions of their own.
func BenchmarkCompile(b *testing.B) {
	cfg, w := many(1000)
	for i := range cfg.Policies {
		cfg.Policies[i].When = fmt.Sprintf(`request.path.startsWith("/v%d/")`, i)
	}
	for b.Loop() {
		compile(b, cfg, w)
	}
}
