package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

func explainWorld() policy.World {
	return policy.World{Services: map[string]string{"invoices": "http", "ledger": "http"}, Accounts: []string{"orders", "billing", "agent"},
		Providers: []string{"okta"}, Audiences: []string{"https://invoices"}}
}

// query is a call of an account, on a path.
func query(account, action, service, path string) *policy.Query {
	return &policy.Query{Principal: identity.Account(account, ""), Action: action, Resource: policy.Resource{Kind: policy.ServiceResource, Name: service},
		Vars: policy.HTTP{Method: "GET", Path: path}, Time: time.Unix(1e9, 0)}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	base := policy.Config{Roles: map[string]policy.Role{"reader": {Actions: []string{"http.get", "http.head"}}}, Policies: []policy.Rule{
		{Name: "never", Deny: []string{"serviceAccount:agent"}, To: []string{"ledger"}, Actions: []string{"http.delete"}, When: `request.path != "/x"`},
		{Name: "read", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Role: "reader", When: `under(request.path, "/v1")`},
		{Name: "trial", Allow: []string{"anyAuthenticated"}, To: []string{"ledger"}, Actions: []string{"http.*"}, Mode: "shadow"},
		{Name: "write", Allow: []string{"serviceAccount:billing"}, To: []string{"ledger"}, Actions: []string{"http.post"}},
	}}
	for _, tt := range []struct {
		name                      string
		q                         *policy.Query
		change, edit, opens, near string // parts of them
	}{
		{"allowed", query("orders", "http.get", "invoices", "/v1/a"), "", "", "", ""},
		{"a member is missing", query("billing", "http.get", "invoices", "/v1/a"), `policies[1] "read": add serviceAccount:billing to its allow`,
			"allow: [serviceAccount:orders, serviceAccount:billing]", "http.get, http.head on invoices when under", "does not name serviceAccount:billing"},
		{"an action is missing", query("billing", "http.put", "ledger", "/"), `policies[3] "write": add http.put to its actions`, "actions: [http.post, http.put]", "http.put on ledger to all of serviceAccount:billing", "action http.put is not in it"},
		{"an action of a role is missing", query("orders", "http.put", "invoices", "/v1"), `in place of role reader`, "actions: [http.get, http.head, http.put]", "", ""},
		{"a resource is missing", query("billing", "http.post", "invoices", "/"), `policies[3] "write": add invoices to its to`, "to: [ledger, invoices]", "http.post on invoices to all of serviceAccount:billing", "is not about invoices"},
		{"a condition is false", query("orders", "http.get", "invoices", "/v2"), `call as the condition of policies[1] "read" wants, change that condition, or add a rule`,
			"- name: orders-http-get\n  allow: [serviceAccount:orders]\n  to: [invoices]\n  actions: [http.get]", "http.get on all of invoices", "its condition is false"},
		{"nothing is near", query("agent", "http.patch", "invoices", "/"), "add a rule", "- name: agent-http-patch", "", ""},
		{"a deny rule is in the way", query("agent", "http.delete", "ledger", "/"), `policies[0] "never" stands in the way`, "", "", "denies http.delete on ledger"},
		{"nobody can write a rule for it", &policy.Query{Principal: identity.Account("orders", ""), Action: "http.get", Resource: policy.Resource{Kind: policy.ServiceResource, Name: "gone"}},
			"no rule could allow it", "", "", ""},
		{"an operator", &policy.Query{Principal: identity.Principal{Kind: identity.User, Provider: identity.Local, Name: "7"}, Action: "admin.keys.rotate"}, "add the user's uid to admin.uids", "", "everything that an operator may do", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x, err := policy.Explain(base, explainWorld(), tt.q)
			if err != nil {
				t.Fatal(err)
			}
			near := ""
			if len(x.Nearest) > 0 {
				near = x.Nearest[0].What
			}
			if !strings.Contains(x.Change, tt.change) || (tt.change == "") != (x.Change == "") || !strings.Contains(x.Edit, tt.edit) || !strings.Contains(x.Opens, tt.opens) || !strings.Contains(near, tt.near) {
				t.Errorf("change %q\nedit %q\nopens %q\nnear %q", x.Change, x.Edit, x.Opens, near)
			}
		})
	}
}

// apply does to a config what an Edit says.
func apply(t *rapid.T, cfg policy.Config, x *policy.Explanation) policy.Config {
	cfg.Policies = slices.Clone(cfg.Policies)
	where, edit, ok := strings.Cut(x.Edit, "\n")
	var i int
	if _, err := fmt.Sscanf(where, "# policies[%d]", &i); ok && err == nil {
		var r policy.Rule
		if err := yaml.Unmarshal([]byte(edit), &r); err != nil {
			t.Fatalf("%q is no YAML: %v", edit, err)
		}
		p := &cfg.Policies[i]
		switch {
		case r.Allow != nil:
			p.Allow = r.Allow
		case r.To != nil:
			p.To = r.To
		default:
			p.Role, p.Actions = "", r.Actions
		}
		return cfg
	}
	var rules []policy.Rule
	if err := yaml.Unmarshal([]byte(x.Edit), &rules); err != nil || len(rules) != 1 {
		t.Fatalf("%q is no rule: %v", x.Edit, err)
	}
	cfg.Policies = append(cfg.Policies, rules...)
	return cfg
}

// Whatever the rules are: the change that is proposed compiles, allows the query, and
// opens nothing to whom it does not name: another account gets what it got before, unless
// the rule that grew names it.
func TestTheSmallestChangeAllowsAndOpensNothingElse(t *testing.T) {
	t.Parallel()
	accounts, services := []string{"orders", "billing", "agent"}, []string{"invoices", "ledger"}
	actions := []string{"http.get", "http.post", "http.delete"}
	rapid.Check(t, func(t *rapid.T) {
		some := func(label string, from []string, prefix string) (out []string) {
			for _, s := range from {
				if rapid.Bool().Draw(t, label) {
					out = append(out, prefix+s)
				}
			}
			if out == nil {
				out = []string{prefix + from[0]}
			}
			return out
		}
		cfg := policy.Config{Roles: map[string]policy.Role{"reader": {Actions: []string{"http.get"}}}}
		for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
			r := policy.Rule{Name: fmt.Sprintf("r%d", i), To: some("to", services, "")}
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				r.Deny = some("deny", accounts, "serviceAccount:")
			} else {
				r.Allow = some("allow", accounts, "serviceAccount:")
			}
			if rapid.Bool().Draw(t, "role") {
				r.Role = "reader"
			} else {
				r.Actions = some("actions", actions, "")
			}
			if rapid.IntRange(0, 2).Draw(t, "when") == 0 {
				r.When = `request.path == "/a"`
			}
			if rapid.IntRange(0, 5).Draw(t, "mode") == 0 {
				r.Mode = "shadow"
			}
			cfg.Policies = append(cfg.Policies, r)
		}
		q := query(rapid.SampledFrom(accounts).Draw(t, "account"), rapid.SampledFrom(actions).Draw(t, "action"), rapid.SampledFrom(services).Draw(t, "service"), rapid.SampledFrom([]string{"/a", "/b"}).Draw(t, "path"))
		x, err := policy.Explain(cfg, explainWorld(), q)
		if err != nil {
			t.Fatal(err)
		}
		if x.Decision.Allow || x.Edit == "" {
			return
		}
		changed := apply(t, cfg, x)
		after, err := policy.Compile(changed, explainWorld())
		if err != nil {
			t.Fatalf("%s\n%s\ndoes not compile: %v", x.Change, x.Edit, err)
		}
		if d := after.Decide(q); !d.Allow {
			t.Fatalf("%s\n%s\ndoes not allow it: %+v\n%+v", x.Change, x.Edit, d, changed)
		}
		before, err := policy.Compile(cfg, explainWorld())
		if err != nil {
			t.Fatal(err)
		}
		named := []string{q.Principal.ID()}
		for i, r := range changed.Policies {
			if i >= len(cfg.Policies) || fmt.Sprint(r) != fmt.Sprint(cfg.Policies[i]) {
				named = append(named, r.Allow...)
			}
		}
		for _, a := range accounts {
			for _, action := range actions {
				for _, s := range services {
					o := query(a, action, s, "/b")
					if after.Decide(o).Allow && !before.Decide(o).Allow && !slices.Contains(named, o.Principal.ID()) {
						t.Fatalf("%s\nopens %s on %s to %s", x.Change, action, s, a)
					}
				}
			}
		}
	})
}

func TestRecall(t *testing.T) {
	t.Parallel()
	at := time.Unix(1e9, 0)
	q, unknown, err := policy.Recall("acme.internal", "principal:github/repo:o/r", "http.get", "invoices", "", map[string]string{"request.path": "/v1", "request.method": "GET", "principal.attributes.ref": "main"}, at, "[::ffff:10.0.0.1]:7")
	if err != nil || q.Principal.ID() != "principal:github/repo:o/r" || q.Principal.Attributes["ref"] != "main" || q.Peer != "10.0.0.1" || q.Vars != (policy.HTTP{Method: "GET", Path: "/v1"}) || len(unknown) != 1 {
		t.Errorf("%+v, %v", q, err)
	}
	q, unknown, err = policy.Recall("acme.internal", "serviceAccount:orders", "token.mint", "", "audience:https://x", map[string]string{"request.time": "2026-11-28T08:00:00.5Z"}, at, "10.0.0.1:9")
	if err != nil || q.Principal.ID() != "serviceAccount:orders" || q.Principal.Email != "orders@sa.acme.internal" || q.Time.Nanosecond() != 5e8 || q.Resource != (policy.Resource{Kind: policy.AudienceResource, Name: "https://x"}) || len(unknown) != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	if _, unknown, err := policy.Recall("acme.internal", "serviceAccount:orders", "token.mint", "", "audience:https://x", nil, at, "unix"); err != nil || len(unknown) != 1 {
		t.Errorf("without an address: %v, %v", unknown, err)
	}
	for _, bad := range []string{"", "anonymous", "group:x", "principalSet:github/*", "anyAuthenticated", "x"} {
		if q, _, err := policy.Recall("acme.internal", bad, "http.get", "invoices", "", nil, at, ""); err == nil {
			t.Errorf("%q is %+v", bad, q)
		}
	}
	if _, _, err := policy.Recall("acme.internal", "serviceAccount:orders", "http.get", "", "", nil, at, ""); err == nil {
		t.Error("about nothing")
	}
}

func TestRolesMarkReads(t *testing.T) {
	t.Parallel()
	cfg := policy.Config{Roles: map[string]policy.Role{"editor": {Actions: []string{"http.*"}, Reads: []string{"http.get", "http.head"}}, "plain": {Actions: []string{"http.get"}}}, Policies: []policy.Rule{
		{Name: "a", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Role: "editor"},
		{Name: "b", Allow: []string{"serviceAccount:billing"}, To: []string{"invoices"}, Role: "plain"},
		{Name: "c", Allow: []string{"serviceAccount:agent"}, To: []string{"invoices"}, Actions: []string{"http.get"}},
		{Name: "d", Deny: []string{"serviceAccount:orders"}, To: []string{"ledger"}, Role: "editor"},
	}}
	s, err := policy.Compile(cfg, explainWorld())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		q    *policy.Query
		want bool
	}{
		{query("orders", "http.get", "invoices", "/"), true}, {query("orders", "http.head", "invoices", "/"), true}, {query("orders", "http.post", "invoices", "/"), false},
		{query("billing", "http.get", "invoices", "/"), false}, {query("agent", "http.get", "invoices", "/"), false}, {query("orders", "http.get", "ledger", "/"), false},
	} {
		if d := s.Decide(tt.q); d.Reads != tt.want {
			t.Errorf("%s of %s: %+v", tt.q.Action, tt.q.Principal.Name, d)
		}
	}
	other := cfg
	other.Roles = map[string]policy.Role{"editor": {Actions: []string{"http.*"}, Reads: []string{"http.get"}}, "plain": cfg.Roles["plain"]}
	if o, err := policy.Compile(other, explainWorld()); err != nil || o.Revision() == s.Revision() {
		t.Errorf("the revision does not change with reads: %v", err)
	}
	for reads, want := range map[string]string{"http.get": "", "http.*": "", "token.mint": "is not among the role's actions", "http": `is not an action`} {
		cfg.Roles["editor"] = policy.Role{Actions: []string{"http.*"}, Reads: []string{reads}}
		if _, err := policy.Compile(cfg, explainWorld()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), "roles.editor.reads[0]") {
			t.Errorf("%s: %v, want %q", reads, err, want)
		}
	}
}

// Whoever wrote the name of a principal, the edit is YAML that means that name.
func TestEditsOfOddNames(t *testing.T) {
	t.Parallel()
	w := explainWorld()
	for _, name := range []string{"alice", "no", "a b", "a: b", "a#b", "[x]", "a\nb", "a\x1b[2J", "\u202eevil", `a"b\c`, "é", "true", "a,b", "'", "- x", "a:", "*", "&a", "!x"} {
		q := query("orders", "http.get", "invoices", "/")
		q.Principal = identity.Principal{Kind: identity.Federated, Provider: "okta", Name: name}
		x, err := policy.Explain(policy.Config{}, w, q)
		if err != nil {
			t.Fatal(err)
		}
		var rules []policy.Rule
		if err := yaml.Unmarshal([]byte(x.Edit), &rules); err != nil || len(rules) != 1 || !slices.Equal(rules[0].Allow, []string{"principal:okta/" + name}) {
			t.Errorf("%q: %v\n%s", name, err, x.Edit)
		}
		if strings.ContainsFunc(x.Edit, func(r rune) bool { return r > 0x7e || r < 0x20 && r != '\n' }) {
			t.Errorf("%q: %q is not for a terminal", name, x.Edit)
		}
	}
}
