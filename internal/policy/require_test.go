package policy_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// The obligations of all allow rules that match are joined, and those of a rule that
// neither allows nor denies hold whoever allowed.
func TestRequire(t *testing.T) {
	t.Parallel()
	get := []string{"http.get"}
	allow := policy.Rule{Name: "a", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: get}
	with := func(r policy.Rule, name, when string, members ...string) policy.Rule {
		r.Name, r.When, r.Allow, r.Require = name, when, members, []string{"live_token"}
		return r
	}
	for _, tt := range []struct {
		name  string
		rules []policy.Rule
		allow bool
		want  bool
	}{
		{"nobody demands it", []policy.Rule{allow}, true, false},
		{"the rule that allows does", []policy.Rule{with(allow, "b", "", "serviceAccount:orders")}, true, true},
		{"another that matches does", []policy.Rule{allow, with(allow, "b", "", "anyAuthenticated")}, true, true},
		{"another whose condition is false does not", []policy.Rule{allow, with(allow, "b", "request.path == '/x'", "anyAuthenticated")}, true, false},
		{"another for somebody else does not", []policy.Rule{allow, with(allow, "b", "", "serviceAccount:reports")}, true, false},
		{"a rule for all does", []policy.Rule{allow, with(allow, "b", "")}, true, true},
		{"a rule for all with a condition that is false does not", []policy.Rule{allow, with(allow, "b", "request.path == '/x'")}, true, false},
		{"a rule for all whose condition fails does", []policy.Rule{allow, with(allow, "b", "principal.attributes.none == 'x'")}, true, true},
		{"a rule for all allows nobody", []policy.Rule{with(allow, "b", "")}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := policy.Compile(policy.Config{Policies: tt.rules}, policy.World{Services: map[string]string{"invoices": "http"}, Accounts: []string{"orders", "reports"}})
			if err != nil {
				t.Fatal(err)
			}
			d := s.Decide(&policy.Query{Principal: identity.Account("orders", ""), Action: "http.get",
				Resource: policy.Resource{Kind: policy.ServiceResource, Name: "invoices"}, Vars: policy.HTTP{Method: "GET", Path: "/"}})
			if d.Allow != tt.allow || d.LiveToken != tt.want {
				t.Errorf("allow %v, live token %v", d.Allow, d.LiveToken)
			}
		})
	}
}

func TestMistakesOfRequire(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]policy.Rule{
		`policies[0].require[0]: "mfa" is not an obligation: known is live_token`: {Allow: []string{"anyAuthenticated"}, Require: []string{"mfa"}},
		`policies[0].require: what is denied has no obligations`:                  {Deny: []string{"anyAuthenticated"}, Require: []string{"live_token"}},
	} {
		r.Name, r.To, r.Actions = "a", []string{"invoices"}, []string{"http.get"}
		_, err := policy.Compile(policy.Config{Policies: []policy.Rule{r}}, policy.World{Services: map[string]string{"invoices": "http"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}
