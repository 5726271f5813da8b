package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

var (
	orders = identity.Account("orders", "orders@sa.acme.internal")
	alice  = identity.Principal{Kind: identity.User, Provider: "okta", Name: "7", Email: "alice@example.com", Groups: []string{"Ops Team", "dev"}}
	deploy = identity.Principal{Kind: identity.Federated, Provider: "github", Name: "repo:o/r",
		Attributes: map[string]string{"ref": "refs/heads/main", "repository_id": "42"}}
)

func service(name string) policy.Resource {
	return policy.Resource{Kind: policy.ServiceResource, Name: name}
}

func self(name string) policy.Resource {
	return policy.Resource{Kind: policy.AccountResource, Name: name}
}

func audience(name string) policy.Resource {
	return policy.Resource{Kind: policy.AudienceResource, Name: name}
}

// get is GET https://invoices.acme.internal/v1/a at 9 o'clock on a Monday.
func get(p identity.Principal) policy.Query {
	return policy.Query{
		Principal: p, Action: "http.get", Resource: service("invoices"), Peer: "10.0.0.1",
		Vars: policy.HTTP{Method: "GET", Path: "/v1/a", Host: "invoices.acme.internal"},
		Time: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC),
	}
}

func mint(p identity.Principal, r policy.Resource) policy.Query {
	return policy.Query{Principal: p, Action: "token.mint", Resource: r, Vars: policy.Mint{Audience: r.Name}}
}

func compile(t testing.TB, cfg policy.Config, w policy.World) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile(cfg, w)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// allow and deny are rules over GET on invoices.
func allow(name, member, when string) policy.Rule {
	return policy.Rule{Name: name, Allow: []string{member}, To: []string{"invoices"}, Actions: []string{"http.get"}, When: when}
}

func deny(name, member, when string) policy.Rule {
	return policy.Rule{Name: name, Deny: []string{member}, To: []string{"invoices"}, Actions: []string{"http.get"}, When: when}
}

func shadow(r policy.Rule) policy.Rule {
	r.Mode = "shadow"
	return r
}

func on(r policy.Rule, to string, actions ...string) policy.Rule {
	r.To, r.Actions = []string{to}, actions
	return r
}

const all = "anyAuthenticated"

// fails is a condition that fails for whoever lacks the attribute.
const fails = `principal.attributes.missing == "x"`

type rules = []policy.Rule

var decisions = []struct {
	name  string
	rules rules
	q     policy.Query
	want  string // "RULE REASON", or "RULE REASON near NEAR: WHY"
}{
	{"without rules nothing is allowed", nil, get(orders), " no_match"},
	{"a rule that names the account allows", rules{allow("a", "serviceAccount:orders", "")}, get(orders), "a allowed"},
	{"another account is not it", rules{allow("a", "serviceAccount:billing", "")}, get(orders), " no_match"},
	{"another service is not it", rules{on(allow("a", all, ""), "reports", "http.get")}, get(orders), " no_match"},
	{"deny wins over an earlier allow", rules{allow("a", all, ""), deny("d", "serviceAccount:orders", "")}, get(orders), "d denied_by_rule"},
	{"the first of two allows is named", rules{allow("a", all, ""), allow("b", "serviceAccount:orders", "")}, get(orders), "a allowed"},
	{"the first of two denies is named", rules{deny("d", all, ""), deny("e", "serviceAccount:orders", "")}, get(orders), "d denied_by_rule"},
	{"a deny of others is no matter", rules{allow("a", all, ""), deny("d", "serviceAccount:billing", "")}, get(orders), "a allowed"},

	{"a true condition allows", rules{allow("a", all, `request.path.startsWith("/v1/")`)}, get(orders), "a allowed"},
	{"a false condition does not", rules{allow("a", all, `request.path == "/"`)}, get(orders), " no_match near a: its condition is false"},
	{"a missing attribute fails, and an allow that fails does not match", rules{allow("a", all, fails)}, get(orders),
		" no_match near a: its condition failed: no such key: missing"},
	{"an allow that fails leaves others alone", rules{allow("a", all, fails), allow("b", all, "")}, get(orders), "b allowed"},
	{"a deny that fails denies", rules{allow("a", all, ""), deny("d", all, fails)}, get(orders),
		"d deny_rule_error near d: its condition failed: no such key: missing"},
	{"a deny whose condition is false is no matter", rules{allow("a", all, ""), deny("d", all, "false")}, get(orders), "a allowed"},
	{"or forgives a failure", rules{allow("a", all, fails+" || true")}, get(orders), "a allowed"},
	{"has() guards an attribute", rules{deny("d", all, "has(principal.attributes.missing) && "+fails), allow("a", all, "")}, get(orders), "a allowed"},
	{"variables of another kind of request fail", rules{deny("d", all, `request.path == ""`)},
		policy.Query{Principal: orders, Action: "http.get", Resource: service("invoices"), Vars: policy.Mint{}},
		"d deny_rule_error near d: its condition failed: no such attribute(s): request.path"},
	{"absent variables fail", rules{deny("d", all, `request.path == ""`)},
		policy.Query{Principal: orders, Action: "http.get", Resource: service("invoices")},
		"d deny_rule_error near d: its condition failed: no such attribute(s): request.path"},

	{"a rule without the action is near", rules{on(allow("a", all, ""), "invoices", "http.post")}, get(orders), " no_match near a: action http.get is not in it"},
	{"a failed condition is nearer", rules{on(allow("a", all, ""), "invoices", "http.post"), allow("b", all, "false")}, get(orders), " no_match near b: its condition is false"},
	{"the first failed condition is named", rules{allow("a", all, "false"), allow("b", all, fails)}, get(orders), " no_match near a: its condition is false"},
	{"a family's name is whole", rules{on(allow("a", all, ""), "invoices", "http.*")}, func() policy.Query {
		q := get(orders)
		q.Action = "https.get"
		return q
	}(), " no_match near a: action https.get is not in it"},
	{"a wildcard is every action of its family", rules{on(allow("a", all, ""), "invoices", "http.*")}, get(orders), "a allowed"},
	{"a wildcard is nothing of another family", rules{on(allow("a", all, ""), "serviceAccount:billing", "metadata.*")}, mint(orders, self("billing")),
		" no_match near a: action token.mint is not in it"},
	{"a longer action is another", rules{allow("a", all, "")}, func() policy.Query {
		q := get(orders)
		q.Action = "http.getx"
		return q
	}(), " no_match near a: action http.getx is not in it"},
	{"a role stands for its actions", rules{{Name: "a", Allow: []string{all}, To: []string{"invoices"}, Role: "reader"}}, get(orders), "a allowed"},

	{"a local group's member is named by it", rules{allow("a", "group:billing", "")}, get(orders), "a allowed"},
	{"a set in a local group counts", rules{allow("a", "group:billing", "")}, get(deploy), "a allowed"},
	{"others are not in the local group", rules{allow("a", "group:billing", "")}, get(alice), " no_match"},
	{"a provider's group has any name", rules{allow("a", "group:okta/Ops Team", "")}, get(alice), "a allowed"},
	{"a group is its provider's own", rules{allow("a", "group:github/dev", "")}, get(alice), " no_match"},
	{"a provider's set holds its principals", rules{allow("a", "principalSet:okta/*", "")}, get(alice), "a allowed"},
	{"a provider's set holds no other's", rules{allow("a", "principalSet:okta/*", "")}, get(deploy), " no_match"},
	{"an attribute makes a set", rules{allow("a", "principalSet:github/attribute.repository_id/42", "")}, get(deploy), "a allowed"},
	{"an attribute's value may have slashes", rules{allow("a", "principalSet:github/attribute.ref/refs/heads/main", "")}, get(deploy), "a allowed"},
	{"an attribute's value is whole", rules{allow("a", "principalSet:github/attribute.repository_id/4", "")}, get(deploy), " no_match"},
	{"a federated subject is named whole", rules{allow("a", "principal:github/repo:o/r", "")}, get(deploy), "a allowed"},
	{"a user is not the federated subject", rules{allow("a", "user:github/repo:o/r", "")}, get(deploy), " no_match"},
	{"an e-mail matches nothing", rules{allow("a", "user:okta/alice@example.com", "")}, get(alice), " no_match"},
	{"a local user is named by uid", rules{allow("a", "user:local/1000", "")}, get(identity.Principal{Kind: identity.User, Provider: identity.Local, Name: "1000"}), "a allowed"},
	{"whoever is proven is anyAuthenticated", rules{allow("a", all, "")}, get(alice), "a allowed"},
	{"anonymous is not anyAuthenticated", rules{allow("a", all, ""), deny("d", all, "")}, get(identity.Principal{Kind: identity.AnonymousKind}), " no_match"},
	{"anonymous is denied by name", rules{deny("d", "anonymous", "")}, get(identity.Principal{Kind: identity.AnonymousKind}), "d denied_by_rule"},
	{"a proven caller is not anonymous", rules{deny("d", "anonymous", ""), allow("a", all, "")}, get(orders), "a allowed"},
	{"nobody matches nothing", rules{allow("a", all, ""), deny("d", all, "")}, get(identity.Principal{}), " no_match"},
	{"an account without a name is nobody", rules{allow("a", all, "")}, get(identity.Account("", "")), " no_match"},
	{"a subject without a provider is nobody", rules{allow("a", all, "")}, get(identity.Principal{Kind: identity.User, Name: "x"}), " no_match"},
	{"an unknown kind is nobody", rules{allow("a", all, "")}, get(identity.Principal{Kind: "robot", Provider: "okta", Name: "x"}), " no_match"},

	{"a shadow allow does not allow", rules{shadow(allow("a", all, ""))}, get(orders), " no_match shadow allow:a"},
	{"a shadow deny does not deny", rules{allow("a", all, ""), shadow(deny("d", all, ""))}, get(orders), "a allowed shadow deny:d"},
	{"a shadow rule that fails is recorded", rules{allow("a", all, ""), shadow(deny("d", all, fails))}, get(orders), "a allowed shadow error:d"},
	{"a shadow rule that does not match is silent", rules{allow("a", all, ""), shadow(deny("d", all, "false"))}, get(orders), "a allowed"},
	{"shadow rules are recorded after a denial too", rules{deny("d", all, ""), shadow(allow("a", all, "")), shadow(deny("e", all, ""))}, get(orders),
		"d denied_by_rule shadow deny:e allow:a"},

	{"an account mints for itself", nil, mint(orders, self("orders")), "sallyport:mint-own allowed"},
	{"an account reads its own metadata", nil, policy.Query{Principal: orders, Action: "metadata.get", Resource: self("orders")}, "sallyport:mint-own allowed"},
	{"an account does not mint for another", nil, mint(orders, self("billing")), " no_match near sallyport:mint-own: it is for oneself, and this is another account"},
	{"an account mints for a declared audience", nil, mint(orders, audience("https://invoices")), "sallyport:mint-own allowed"},
	{"an audience is exact", nil, mint(orders, audience("https://invoices/")),
		" no_match near sallyport:mint-own: the audience is of no declared service and matches none of issuer.audiences"},
	{"an account mints for a pattern", nil, mint(orders, audience("https://a.partner.example")), "sallyport:mint-own allowed"},
	{"a pattern's star stops at a slash", nil, mint(orders, audience("https://evil/.partner.example")),
		" no_match near sallyport:mint-own: the audience is of no declared service and matches none of issuer.audiences"},
	{"a user of the account's name mints nothing", nil, mint(identity.Principal{Kind: identity.User, Provider: "okta", Name: "orders"}, self("orders")), " no_match"},
	{"metadata of an audience is nothing", nil, policy.Query{Principal: orders, Action: "metadata.get", Resource: audience("https://invoices")}, " no_match"},
	{"mint-own is not about services", nil, mint(orders, service("orders")), " no_match"},
	{"mint-own can be switched off", rules{{Name: "sallyport:mint-own", Mode: "off"}}, mint(orders, self("orders")), " no_match"},
	{"a written deny wins over mint-own", rules{on(deny("d", "serviceAccount:orders", ""), "serviceAccount:orders", "token.mint")}, mint(orders, self("orders")), "d denied_by_rule"},
	{"a written allow is named before mint-own", rules{on(allow("a", "serviceAccount:orders", ""), "serviceAccount:orders", "token.*")}, mint(orders, self("orders")), "a allowed"},
	{"a rule allows to mint as another", rules{on(allow("a", all, ""), "serviceAccount:billing", "token.mint")}, mint(alice, self("billing")), "a allowed"},
	{"a rule names an audience", rules{on(allow("a", all, ""), "audience:https://x", "token.mint")}, mint(alice, audience("https://x")), "a allowed"},
	{"a rule names audiences by pattern", rules{on(allow("a", all, ""), "audience:https://*.x", "token.mint")}, mint(alice, audience("https://a.x")), "a allowed"},
	{"the pattern * is every audience", rules{on(allow("a", all, ""), "audience:*", "token.mint")}, mint(alice, audience("any/thing at all")), "a allowed"},
	{"an audience is not the service of its name", rules{on(allow("a", all, ""), "audience:invoices", "token.mint")}, mint(alice, service("invoices")), " no_match"},
	{"mint.audience is read", rules{on(allow("a", all, `glob(mint.audience, "https://*")`), "audience:*", "token.mint")}, mint(alice, audience("https://x")), "a allowed"},
}

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, tt := range decisions {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, policy.Config{
				Groups: []policy.Group{{Name: "billing", Members: []string{"serviceAccount:orders", "principalSet:github/*"}}},
				Roles:  map[string]policy.Role{"reader": {Actions: []string{"http.get", "http.head"}}}, Policies: tt.rules,
			}, world)
			d := s.Decide(&tt.q)
			got := d.Rule + " " + string(d.Reason)
			if d.Near != "" {
				got += " near " + d.Near + ": " + d.NearWhy
			}
			if d.Shadow != nil {
				got += " shadow " + strings.Join(d.Shadow, " ")
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if d.Allow != (d.Reason == policy.Allowed) || d.Allow && d.Rule == "" || d.Near == "" && d.NearWhy != "" {
				t.Errorf("the parts disagree: %+v", d)
			}
		})
	}
}

func TestMintPatternStarIsAnyText(t *testing.T) {
	t.Parallel()
	w := world
	w.MintPatterns = []string{"*"}
	q := mint(orders, audience("urn:any text/at all"))
	if d := compile(t, policy.Config{}, w).Decide(&q); !d.Allow {
		t.Errorf("%+v", d)
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, when string
		p          identity.Principal
		want       bool
	}{
		{"matches is whole", `request.path.matches("/v1/.")`, orders, true},
		{"matches is whole in front", `request.path.matches("v1/a")`, orders, false},
		{"matches is whole at the end", `request.path.matches("/v1")`, orders, false},
		{"an alternative is anchored too", `"a-evil".matches("a|b")`, orders, false},
		{"an alternative is anchored in front too", `"evil-b".matches("a|b")`, orders, false},
		{"a new line is no end", `"a\n".matches("a")`, orders, false},
		{"the function is the method", `matches("a-evil", "a|b") || !matches("b", "a|b")`, orders, false},
		{"glob takes the text first", `glob(request.host, "*.acme.internal")`, orders, true},
		{"glob stops at a slash", `glob(request.path, "/*")`, orders, false},
		{"glob's lone star is everything", `glob(request.path, "*")`, orders, true},
		{"a path is under itself", `under(request.path, "/v1/a")`, orders, true},
		{"a path is under its folder", `under(request.path, "/v1")`, orders, true},
		{"a path is under its folder with a slash", `under(request.path, "/v1/")`, orders, true},
		{"everything is under the root", `under(request.path, "/")`, orders, true},
		{"a segment is whole", `under("/publicity", "/public")`, orders, false},
		{"nothing is under nothing", `under(request.path, "")`, orders, false},
		{"an account's id is qualified", `principal.id == "serviceAccount:orders" && principal.kind == "serviceAccount"`, orders, true},
		{"an account's name is bare", `principal.name == "orders" && principal.provider == "" && principal.email == "orders@sa.acme.internal"`, orders, true},
		{"a subject is the name", `principal.name == "7" && principal.provider == "okta" && principal.id == "user:okta/7"`, alice, true},
		{"groups are a list", `"Ops Team" in principal.groups && principal.groups.exists(g, g == "dev")`, alice, true},
		{"no groups are an empty list", `principal.groups.size() == 0`, orders, true},
		{"attributes are a map", `principal.attributes.ref == "refs/heads/main" && "repository_id" in principal.attributes`, deploy, true},
		{"no attributes are an empty map", `principal.attributes.size() == 0`, orders, true},
		{"the clock is the query's", `request.time.getHours() == 9 && request.time.getDayOfWeek() == 1 && request.time < timestamp("2027-01-01T00:00:00Z")`, orders, true},
		{"the peer is the query's", `peer.address == "10.0.0.1"`, orders, true},
		{"the method is as written", `request.method == "GET"`, orders, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, policy.Config{Policies: []policy.Rule{allow("a", all, tt.when)}}, world)
			q := get(tt.p)
			if d := s.Decide(&q); d.Allow != tt.want || strings.Contains(d.NearWhy, "failed") {
				t.Errorf("got %+v, want %v", d, tt.want)
			}
		})
	}
}

func TestReadHoldsWhatCandidatesRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		rules []policy.Rule
		p     identity.Principal
		want  string
	}{
		{"no condition reads nothing", []policy.Rule{allow("a", all, "")}, deploy, ""},
		{"a variable is read", []policy.Rule{allow("a", all, `request.path == "/"`)}, deploy, "request.path=/v1/a"},
		{"rules that were not needed count", []policy.Rule{allow("a", all, ""), allow("b", all, `request.path == "/"`), shadow(deny("c", all, `request.host == ""`))}, deploy,
			"request.host=invoices.acme.internal request.path=/v1/a"},
		{"rules of others do not", []policy.Rule{allow("a", "group:okta/x", `request.path == "/"`), on(allow("b", all, `request.host == ""`), "invoices", "http.put")}, deploy, ""},
		{"one attribute is read", []policy.Rule{allow("a", all, `principal.attributes.ref == "" || has(principal.attributes.none) || principal.attributes["ref"] == "x"`)}, deploy,
			"principal.attributes.ref=refs/heads/main"},
		{"a computed key reads all", []policy.Rule{allow("a", all, `principal.attributes[request.method] == ""`)}, deploy,
			"principal.attributes.ref=refs/heads/main principal.attributes.repository_id=42 request.method=GET"},
		{"reading all outweighs reading one", []policy.Rule{allow("a", all, `principal.attributes.size() == 0`), allow("b", all, `principal.attributes.ref == ""`)}, deploy,
			"principal.attributes.ref=refs/heads/main principal.attributes.repository_id=42"},
		{"parts of the id are the id", []policy.Rule{allow("a", all, `principal.name == "" || principal.kind == "" || principal.provider == ""`)}, deploy, "principal.id=principal:github/repo:o/r"},
		{"e-mail and groups are never kept", []policy.Rule{allow("a", all, `principal.email == "" || "x" in principal.groups`)}, alice, ""},
		{"time and peer", []policy.Rule{allow("a", all, `request.time < timestamp("2027-01-01T00:00:00Z") && peer.address == ""`)}, alice, "peer.address=10.0.0.1 request.time=2026-11-23T09:00:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := get(tt.p)
			d := compile(t, policy.Config{Policies: tt.rules}, world).Decide(&q)
			var got []string
			for _, r := range d.Read {
				got = append(got, r.Name+"="+r.Value)
			}
			if strings.Join(got, " ") != tt.want || !slices.IsSorted(got) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
