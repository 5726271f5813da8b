package policy_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// world is what exists in these tests.
var world = policy.World{
	Services:     map[string]string{"invoices": "http", "reports": "http", "ledger": "postgres"},
	Accounts:     []string{"orders", "billing"},
	Providers:    []string{"github", "okta"},
	Audiences:    []string{"https://invoices"},
	MintPatterns: []string{"https://*.partner.example"},
}

// rule is a rule that compiles; tests spoil one thing about it.
func rule(change func(*policy.Rule)) policy.Config {
	r := policy.Rule{Name: "r", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: []string{"http.get"}}
	change(&r)
	return policy.Config{Policies: []policy.Rule{r}}
}

func when(text string) policy.Config {
	return rule(func(r *policy.Rule) { r.When = text })
}

type R = policy.Rule

var mistakes = []struct {
	name string
	cfg  policy.Config
	want string // the beginning of a line of the error
}{
	{"a rule needs a name", rule(func(r *R) { r.Name = "" }), "policies[0].name: it is missing"},
	{"a name is plain", rule(func(r *R) { r.Name = "My rule" }), `policies[0].name: "My rule" is not a name`},
	{"other reserved names do not exist", rule(func(r *R) { r.Name = "sallyport:public" }), "policies[0].name: \"sallyport:public\": names that begin"},
	{"a built-in cannot be rewritten", rule(func(r *R) { r.Name = "sallyport:mint-own" }), "policies[0].mode: \"\": a built-in rule can only be switched off"},
	{"a built-in is switched off by nothing else", rule(func(r *R) { r.Name, r.Mode = "sallyport:mint-own", "off" }), "policies[0]: a built-in rule is switched off by name and mode alone"},
	{"a written rule is not switched off", rule(func(r *R) { r.Mode = "off" }), "policies[0].mode: only built-in rules"},
	{"an unknown mode is refused", rule(func(r *R) { r.Mode = "audit" }), `policies[0].mode: "audit" is not a mode`},
	{"allow and deny exclude each other", rule(func(r *R) { r.Deny = r.Allow }), "policies[0]: both allow and deny"},
	{"allow or deny is needed", rule(func(r *R) { r.Allow = nil }), "policies[0]: neither allow nor deny"},
	{"role and actions exclude each other", rule(func(r *R) { r.Role = "x" }), "policies[0]: both role and actions"},
	{"role or actions is needed", rule(func(r *R) { r.Actions = nil }), "policies[0]: neither role nor actions"},
	{"a role must exist", rule(func(r *R) { r.Actions, r.Role = nil, "reader" }), `policies[0].role: "reader" is not a role: none is declared`},
	{"a role's actions are checked", policy.Config{Roles: map[string]policy.Role{"reader": {Actions: []string{"http.get", "sql.select"}}}}, `roles.reader.actions[1]: "sql.select" is not an action: known are http.METHOD`},
	{"a role has actions", policy.Config{Roles: map[string]policy.Role{"reader": {}}}, "roles.reader: the role has no actions"},
	{"a role's name is plain", policy.Config{Roles: map[string]policy.Role{"a b": {}}}, `roles: "a b" is not a name`},
	{"methods are lower case", rule(func(r *R) { r.Actions = []string{"http.GET"} }), `policies[0].actions[0]: "http.GET" is not an action`},
	{"a family alone is no action", rule(func(r *R) { r.Actions = []string{"http"} }), `policies[0].actions[0]: "http" is not an action`},
	{"half a wildcard is no action", rule(func(r *R) { r.Actions = []string{"http.p*"} }), `policies[0].actions[0]: "http.p*" is not an action`},
	{"to is needed", rule(func(r *R) { r.To = nil }), "policies[0].to: it is missing"},
	{"a service must exist", rule(func(r *R) { r.To = []string{"invoice"} }), `policies[0].to[0]: "invoice" is not a service: did you mean "invoices"?`},
	{"an account to act on must exist", rule(func(r *R) { r.To = []string{"serviceAccount:x"} }), `policies[0].to[0]: "x" is not a declared service account: known are billing, orders`},
	{"a pattern has no double star", rule(func(r *R) { r.To = []string{"audience:https://**"} }), `policies[0].to[0]: "https://**" is not a pattern`},
	{"actions must be possible", rule(func(r *R) { r.Actions = []string{"token.mint"} }), `policies[0].to[0]: none of the rule's actions can be done to "invoices": write http.METHOD`},
	{"an unknown family of service is refused", rule(func(r *R) { r.To = []string{"ledger"} }), `policies[0].to[0]: none of the rule's actions can be done to "ledger"`},
	{"a member is well-formed", rule(func(r *R) { r.Allow = []string{"orders"} }), `policies[0].allow[0]: "orders" is not a member`},
	{"an account must exist", rule(func(r *R) { r.Allow = []string{"serviceAccount:order"} }), `policies[0].allow[0]: "order" is not a declared service account: did you mean "orders"?`},
	{"a provider must exist", rule(func(r *R) { r.Allow = []string{"principal:azure/x"} }), `policies[0].allow[0]: "azure" is not a declared provider: known are github, okta`},
	{"local has users only", rule(func(r *R) { r.Allow = []string{"principalSet:local/*"} }), `policies[0].allow[0]: "principalSet:local/*": local names attested callers`},
	{"a group must exist", rule(func(r *R) { r.Allow = []string{"group:ops"} }), `policies[0].allow[0]: "ops" is not a declared group`},
	{"anonymous is never allowed", rule(func(r *R) { r.Allow = []string{"anonymous"} }), "policies[0].allow[0]: anonymous can only be denied"},
	{"groups do not nest", policy.Config{Groups: []policy.Group{{Name: "a"}, {Name: "b", Members: []string{"group:a"}}}}, `groups[1].members[0]: "group:a" is a local group: a group does not contain groups`},
	{"anonymous is in no group", policy.Config{Groups: []policy.Group{{Name: "a", Members: []string{"anonymous"}}}}, "groups[0].members[0]: anonymous is not in any group"},
	{"groups have one name each", policy.Config{Groups: []policy.Group{{Name: "a"}, {Name: "a"}}}, `groups[1].name: "a" is already the name of groups[0]`},

	{"an unknown variable is named in full", when(`request.pth == "/"`), "policies[0].when: 1:8: undeclared reference to 'request.pth': known variables are peer.address, principal.attributes"},
	{"a mistake on the second line is placed there", when("true &&\n  request.x == \"\""), "policies[0].when: 2:3: undeclared reference to 'request.x'"},
	{"an unknown function is named", when(`now() > request.time`), "policies[0].when: 1:4: undeclared reference to 'now': conditions have no such function"},
	{"another family's variable is unknown", rule(func(r *R) {
		r.To, r.Actions, r.When = []string{"invoices", "serviceAccount:orders"}, []string{"http.get", "token.mint"}, `request.path == "/"`
	}), "policies[0].when: 1:8: undeclared reference to 'request.path': known variables are mint.audience"},
	{"a condition is a bool", when("request.path"), "policies[0].when: 1:1: the condition is a string: it must be a bool"},
	{"a condition must parse", when("1 +"), "policies[0].when: 1:4: Syntax error"},
	{"a condition of blanks is none", when("  "), "policies[0].when: 1:3: Syntax error"},
	{"an attribute is not a list", when(`"a" in principal.attributes.x`), "policies[0].when: 1:5: found no matching overload for 'in' applied to '(string, string)'"},
	{"text is not a number", when(`request.path == 1`), "policies[0].when: 1:14: found no matching overload for '=='"},
	{"dyn would hide types", when(`dyn(request.path) == 1`), "policies[0].when: 1:4: undeclared reference to 'dyn'"},
	{"a pattern must compile", when(`request.path.matches("a(b")`), "policies[0].when: 1:22: bad pattern: missing closing ): a(b"},
	{"a pattern cannot leave its group", when(`request.path.matches("a)|(b")`), "policies[0].when: 1:22: bad pattern: unexpected )"},
	{"a pattern is a literal", when(`request.path.matches(request.host)`), "policies[0].when: 1:29: the pattern of matches must be a literal"},
	{"the other form of matches is the same", when(`matches(request.path, request.host)`), "policies[0].when: 1:30: the pattern of matches must be a literal"},
	{"a pattern does not unfold without end", when(`request.path.matches("((a{9}){9}){9}((a{9}){9}){9}((a{9}){9}){9}")`), "policies[0].when: 1:22: the pattern compiles to 2"},
	{"glob has no double star", when(`glob(request.path, "/v1/**")`), `policies[0].when: 1:20: "/v1/**" is not a pattern`},
	{"maps have no order to iterate in", when(`principal.attributes.exists(k, k == "a")`), "policies[0].when: 1:10: macros iterate over lists only"},
	{"lists do not nest", when(`[["a"]].exists(l, l == l)`), "policies[0].when: 1:1: a list or map may not hold lists"},
	{"messages are not made", when(`google.protobuf.ListValue{} == google.protobuf.ListValue{}`), "policies[0].when: 1:26: "},
	{"time zones are files", when(`request.time.getHours("Europe/Berlin") == 1`), "policies[0].when: 1:22: found no matching overload for 'getHours'"},
	{"a bad duration is found at load", when(`duration("x") > duration("1s")`), "policies[0].when: 1:10: invalid duration"},
	{"a condition is not deep", when(strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300)), "policies[0].when: 1:1: expression recursion limit exceeded"},
	{"an error is short", when(strings.Repeat("\"'`?\\", 700)), "policies[0].when: 1:1: Syntax error"},
	{"a condition is short", when(`request.path == "` + strings.Repeat("x", 4096) + `"`), "policies[0].when: the condition has 4114 characters: at most 4096"},
}

func TestCompileMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range mistakes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := policy.Compile(tt.cfg, world)
			if err == nil || s != nil {
				t.Fatalf("got %v, %v, want no snapshot and an error with %q", s, err, tt.want)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if strings.HasPrefix(line, tt.want) && len(line) < 600 {
					return
				}
			}
			t.Errorf("got  %v\nwant %s", err, tt.want)
		})
	}
}

func TestCompileReportsEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	_, err := policy.Compile(policy.Config{
		Groups: []policy.Group{{Name: "Bad", Members: []string{"nobody"}}},
		Roles:  map[string]policy.Role{"reader": {Actions: []string{"ftp.get"}}, "writer": {Actions: []string{"http.post", "token.mint"}}},
		Policies: []policy.Rule{
			{Name: "a", Allow: []string{"x", "anonymous"}, To: []string{"nowhere", "invoices"}, Role: "writter", When: "1"},
			{Name: "a", Deny: []string{"anyAuthenticated"}, To: []string{"invoices"}, Role: "writer", When: "1 + 1", Mode: "loud"},
			{Name: "b", Deny: []string{"anyAuthenticated"}, To: []string{"invoices"}, Role: "reader"},
		},
	}, world)
	var paths []string
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			path, _, _ := strings.Cut(line, ": ")
			paths = append(paths, path)
		}
	}
	want := "groups[0].name groups[0].members[0] roles.reader.actions[0]" +
		" policies[0].allow[0] policies[0].allow[1] policies[0].role policies[0].to[0]" +
		" policies[1].name policies[1].mode policies[1].when"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, err)
	}
	if u, ok := err.(interface{ Unwrap() []error }); !ok || len(u.Unwrap()) != len(paths) {
		t.Errorf("each mistake is an error of its own, on one line: %v", err)
	}
}

func TestOneConditionTellsAtMostThreeMistakes(t *testing.T) {
	t.Parallel()
	_, err := policy.Compile(when("a == b && c == d && e"), world)
	if err == nil || strings.Count(err.Error(), "policies[0].when: ") != 3 || !strings.HasPrefix(err.Error(), "policies[0].when: 1:1: undeclared reference to 'a'") {
		t.Errorf("got %v", err)
	}
}

func TestRevisionChangesWithWhatDecides(t *testing.T) {
	t.Parallel()
	base := func() policy.Config { return rule(func(*policy.Rule) {}) }
	revision := func(cfg policy.Config, w policy.World) string {
		s, err := policy.Compile(cfg, w)
		if err != nil {
			t.Fatal(err)
		}
		return s.Revision()
	}
	first := revision(base(), world)
	if len(first) != 16 || first != revision(base(), world) {
		t.Errorf("revision %q is not 16 digits that stay", first)
	}
	wider := world
	wider.MintPatterns = []string{"*"}
	unrelated := world
	unrelated.Accounts = []string{"billing", "orders", "new"}
	if first != revision(base(), unrelated) {
		t.Error("a new account that no rule names changes the revision")
	}
	seen := map[string]string{first: "the base"}
	for name, rev := range map[string]string{
		"a name":       revision(rule(func(r *policy.Rule) { r.Name = "s" }), world),
		"a member":     revision(rule(func(r *policy.Rule) { r.Allow = []string{"serviceAccount:billing"} }), world),
		"the effect":   revision(rule(func(r *policy.Rule) { r.Allow, r.Deny = nil, r.Allow }), world),
		"a resource":   revision(rule(func(r *policy.Rule) { r.To = []string{"reports"} }), world),
		"an action":    revision(rule(func(r *policy.Rule) { r.Actions = []string{"http.*"} }), world),
		"a condition":  revision(when("true"), world),
		"the mode":     revision(rule(func(r *policy.Rule) { r.Mode = "shadow" }), world),
		"a pattern":    revision(base(), wider),
		"the built-in": revision(off(base()), world),
	} {
		if other, ok := seen[rev]; ok {
			t.Errorf("%s changes nothing against %s", name, other)
		}
		seen[rev] = name
	}
}

func off(cfg policy.Config) policy.Config {
	cfg.Policies = append(cfg.Policies, policy.Rule{Name: "sallyport:mint-own", Mode: "off"})
	return cfg
}

func TestBuiltInsArePrintedUntilSwitchedOff(t *testing.T) {
	t.Parallel()
	if got := (policy.Config{}).BuiltIns(); len(got) != 2 || !strings.HasPrefix(got[0], "sallyport:mint-own: ") || !strings.HasPrefix(got[1], "sallyport:admin-uids: ") {
		t.Errorf("got %q", got)
	}
	if got := off(policy.Config{}).BuiltIns(); len(got) != 1 || !strings.HasPrefix(got[0], "sallyport:admin-uids: ") {
		t.Errorf("one switched off: %q", got)
	}
}

func TestResourceIsSpelledAsInRules(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]policy.Resource{
		"invoices":              {Kind: policy.ServiceResource, Name: "invoices"},
		"serviceAccount:orders": {Kind: policy.AccountResource, Name: "orders"},
		"audience:https://x":    {Kind: policy.AudienceResource, Name: "https://x"},
	} {
		if got := r.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzWhen(f *testing.F) {
	for _, s := range []string{
		`request.path.startsWith("/v1/")`, `matches(request.path, "a|b") || request.path.matches("(")`, "1 +", `principal.attributes["a"] in ["b"]`,
		`[[1]].map(a, a + a).exists(a, a == a)`, `glob(request.host, "*") && under(request.path, "/")`, "\xff`\x00", `request.time.getHours() > 7 ? has(principal.attributes.x) : !true`,
	} {
		f.Add(s)
	}
	q := policy.Query{Principal: identity.Account("orders", ""), Action: "http.get", Resource: policy.Resource{Kind: policy.ServiceResource, Name: "invoices"}, Vars: policy.HTTP{}}
	f.Fuzz(func(t *testing.T, text string) {
		allow, err := policy.Compile(when(text), world)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "policies[0].when: ") {
					t.Errorf("a mistake without its path: %q", line)
				}
			}
			return
		}
		deny, err := policy.Compile(rule(func(r *policy.Rule) { r.Allow, r.Deny, r.When = nil, r.Allow, text }), world)
		if err != nil {
			t.Fatalf("good for allow, not for deny: %v", err)
		}
		// Whatever the condition does, allowing and denying by it exclude each
		// other, and a failure never allows.
		a, d := allow.Decide(&q), deny.Decide(&q)
		failed := strings.HasPrefix(a.NearWhy, "its condition failed")
		if a.Allow && failed || failed != (d.Reason == policy.DenyRuleError) || a.Allow != (d.Reason == policy.DeniedByRule) {
			t.Errorf("allow says %+v, deny says %+v", a, d)
		}
	})
}
