package policy_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

func localUser(uid string) identity.Principal {
	return identity.Principal{Kind: identity.User, Provider: identity.Local, Name: uid}
}

// Who may administer the server, and that no written rule can say so by accident.
func TestAdmin(t *testing.T) {
	t.Parallel()
	all := policy.Rule{Name: "all", Allow: []string{"anyAuthenticated"}, To: []string{"serviceAccount:orders"}, Actions: []string{"workload.run"}}
	for _, tt := range []struct {
		name  string
		rules []policy.Rule
		who   identity.Principal
		rule  string // "" for no
	}{
		{"the server's own uid", nil, localUser("7"), "sallyport:admin-uids"},
		{"a uid of admin.uids", nil, localUser("8"), "sallyport:admin-uids"},
		{"another uid", nil, localUser("9"), ""},
		{"a uid that only begins like one", nil, localUser("70"), ""},
		{"a provider's user of that name", nil, identity.Principal{Kind: identity.User, Provider: "github", Name: "7"}, ""},
		{"an account of that name", nil, identity.Account("7", ""), ""},
		{"a federated principal that says it is local", nil, identity.Principal{Kind: identity.Federated, Provider: identity.Local, Name: "7"}, ""},
		{"nobody", nil, identity.Principal{}, ""},
		{"a rule that allows everybody something", []policy.Rule{all}, localUser("9"), ""},
		{"switched off", []policy.Rule{{Name: "sallyport:admin-uids", Mode: "off"}}, localUser("7"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := policy.Compile(policy.Config{Policies: tt.rules}, policy.World{Accounts: []string{"orders"}, Providers: []string{"github"}, AdminUIDs: []uint32{7, 8}})
			if err != nil {
				t.Fatal(err)
			}
			for _, action := range []string{"admin.keys.list", "admin.keys.revoke"} {
				d := s.Decide(&policy.Query{Principal: tt.who, Action: action})
				if d.Allow != (tt.rule != "") || d.Rule != tt.rule {
					t.Errorf("%s: %+v, want rule %q", action, d, tt.rule)
				}
			}
		})
	}
	if _, err := policy.Compile(policy.Config{Policies: []policy.Rule{{Name: "x", Allow: []string{"user:local/9"}, To: []string{"serviceAccount:orders"}, Actions: []string{"admin.*"}}}},
		policy.World{Accounts: []string{"orders"}}); err == nil {
		t.Error("a written rule names admin.*, and nobody says that it does nothing")
	}
}

func TestWorkloadRun(t *testing.T) {
	t.Parallel()
	s, err := policy.Compile(policy.Config{Policies: []policy.Rule{{Name: "run", Allow: []string{"user:local/7"}, To: []string{"serviceAccount:orders"}, Actions: []string{"workload.run"}}}},
		policy.World{Accounts: []string{"orders", "reports"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		who, account string
		allow        bool
	}{{"7", "orders", true}, {"7", "reports", false}, {"8", "orders", false}} {
		d := s.Decide(&policy.Query{Principal: localUser(tt.who), Action: "workload.run", Resource: policy.Resource{Kind: policy.AccountResource, Name: tt.account}})
		if d.Allow != tt.allow {
			t.Errorf("%s as %s: %+v", tt.who, tt.account, d)
		}
	}
	if d := s.Decide(&policy.Query{Principal: identity.Account("orders", ""), Action: "workload.run", Resource: policy.Resource{Kind: policy.AccountResource, Name: "orders"}}); d.Allow {
		t.Error("an account may run as itself without a rule: workload.run needs a written one")
	}
}
