package policy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// outcome is a condition's answer, worked out here without CEL.
type outcome int

const (
	no outcome = iota
	yes
	failure
)

// conditions are CEL texts beside what they mean.
var conditions = map[string]func(q *policy.Query) outcome{
	"":      func(*policy.Query) outcome { return yes },
	"true":  func(*policy.Query) outcome { return yes },
	"false": func(*policy.Query) outcome { return no },
	fails:   func(*policy.Query) outcome { return failure },
	`principal.attributes.team == "a"`: func(q *policy.Query) outcome {
		v, ok := q.Principal.Attributes["team"]
		if !ok {
			return failure
		}
		return is(v == "a")
	},
	`principal.kind == "user" || "dev" in principal.groups`: func(q *policy.Query) outcome {
		return is(q.Principal.Kind == identity.User || slices.Contains(q.Principal.Groups, "dev"))
	},
}

func is(b bool) outcome {
	if b {
		return yes
	}
	return no
}

// naive decides by reading the rules one by one, as the documentation puts it:
// nothing is indexed, compiled or taken apart.
func naive(cfg policy.Config, w policy.World, q *policy.Query) policy.Decision {
	d := policy.Decision{Reason: policy.NoMatch}
	if q.Principal.ID() == "" {
		return d
	}
	own, failed := true, false
	for _, effect := range []string{"deny", "allow"} {
		for _, r := range cfg.Policies {
			if r.Mode == "off" {
				own = false
			}
			named := r.Allow
			if effect == "deny" {
				named = r.Deny
			}
			if !meansPrincipal(cfg, named, q.Principal) || !slices.ContainsFunc(r.To, func(to string) bool { return meansResource(to, q.Resource) }) {
				continue
			}
			if !slices.ContainsFunc(actionsOf(cfg, r), func(a string) bool { return pattern(a, ".*").MatchString(q.Action) }) {
				if effect == "allow" && r.Mode == "" && d.Near == "" && d.Reason == policy.NoMatch {
					d.Near = r.Name
				}
				continue
			}
			got := conditions[r.When](q)
			switch {
			case r.Mode == "shadow" && got == failure:
				d.Shadow = append(d.Shadow, "error:"+r.Name)
			case r.Mode == "shadow" && got == yes:
				d.Shadow = append(d.Shadow, effect+":"+r.Name)
			case r.Mode == "shadow" || d.Reason != policy.NoMatch:
			case effect == "deny" && got == failure:
				d.Rule, d.Reason, d.Near = r.Name, policy.DenyRuleError, r.Name
			case effect == "deny" && got == yes:
				d.Rule, d.Reason = r.Name, policy.DeniedByRule
			case effect == "deny":
			case got == yes:
				d.Allow, d.Rule, d.Reason, d.Near = true, r.Name, policy.Allowed, ""
			case !failed:
				d.Near, failed = r.Name, true
			}
		}
	}
	if d.Reason == policy.NoMatch && own && naiveOwn(w, q) {
		d.Allow, d.Rule, d.Reason, d.Near = true, "sallyport:mint-own", policy.Allowed, ""
	}
	return d
}

func actionsOf(cfg policy.Config, r policy.Rule) []string {
	if r.Role != "" {
		return cfg.Roles[r.Role].Actions
	}
	return r.Actions
}

func meansPrincipal(cfg policy.Config, named []string, p identity.Principal) bool {
	var flat []string
	for _, m := range named {
		flat = append(flat, m)
		for _, g := range cfg.Groups {
			if m == "group:"+g.Name {
				flat = append(flat, g.Members...)
			}
		}
	}
	return slices.ContainsFunc(p.Members(), func(m string) bool { return slices.Contains(flat, m) })
}

func meansResource(to string, r policy.Resource) bool {
	if p, ok := strings.CutPrefix(to, "audience:"); ok && r.Kind == policy.AudienceResource {
		return p == "*" || pattern(p, "[^/]*").MatchString(r.Name)
	}
	return to == r.String()
}

func pattern(s, star string) *regexp.Regexp {
	return regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, star) + `$`)
}

func naiveOwn(w policy.World, q *policy.Query) bool {
	if q.Principal.Kind != identity.ServiceAccount {
		return false
	}
	if q.Resource.String() == q.Principal.ID() {
		return q.Action == "token.mint" || q.Action == "metadata.get"
	}
	return q.Resource.Kind == policy.AudienceResource && q.Action == "token.mint" &&
		(slices.Contains(w.Audiences, q.Resource.Name) || slices.ContainsFunc(w.MintPatterns, func(p string) bool {
			return meansResource("audience:"+p, q.Resource)
		}))
}

// some draws one to three different elements.
func some(t *rapid.T, label string, from []string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, 3, rapid.ID).Draw(t, label)
}

func drawConfig(t *rapid.T) policy.Config {
	cfg := policy.Config{Roles: map[string]policy.Role{"reader": {Actions: []string{"http.get", "http.head", "token.mint", "metadata.*"}}}}
	members := []string{"serviceAccount:a", "serviceAccount:b", "user:okta/u", "user:local/1", "principal:github/a/b", "group:okta/dev",
		"principalSet:github/*", "principalSet:okta/attribute.team/a", "anyAuthenticated"}
	for _, name := range []string{"g", "h"} {
		cfg.Groups = append(cfg.Groups, policy.Group{Name: name, Members: some(t, "group", members)})
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "rules") {
		r := policy.Rule{Name: fmt.Sprint("r", i), To: some(t, "to", []string{"invoices", "reports", "serviceAccount:a", "audience:https://x", "audience:https://*", "audience:*"})}
		named := some(t, "named", append(members, "group:g", "group:h"))
		if rapid.Bool().Draw(t, "deny") {
			r.Deny = named
			if rapid.Bool().Draw(t, "anonymous") {
				r.Deny = append(r.Deny, "anonymous")
			}
		} else {
			r.Allow = named
		}
		if rapid.Bool().Draw(t, "role") {
			r.Role = "reader"
		} else {
			// so that every resource has an action that can be done to it
			r.Actions = append(some(t, "actions", []string{"http.get", "http.*", "http.post"}), rapid.SampledFrom([]string{"token.mint", "token.*"}).Draw(t, "token"))
		}
		var texts []string
		for text := range conditions {
			texts = append(texts, text)
		}
		slices.Sort(texts)
		r.When = rapid.SampledFrom(texts).Draw(t, "when")
		r.Mode = rapid.SampledFrom([]string{"", "", "shadow"}).Draw(t, "mode")
		cfg.Policies = append(cfg.Policies, r)
	}
	if rapid.IntRange(0, 3).Draw(t, "off") == 0 {
		cfg = off(cfg)
	}
	return cfg
}

func drawQuery(t *rapid.T) policy.Query {
	p := rapid.SampledFrom([]identity.Principal{
		identity.Account("a", ""), identity.Account("b", ""), identity.Principal{Kind: identity.AnonymousKind}, {},
		{Kind: identity.User, Provider: "okta", Name: "u"}, {Kind: identity.User, Provider: "okta", Name: "a"},
		{Kind: identity.User, Provider: identity.Local, Name: "1"}, {Kind: identity.Federated, Provider: "github", Name: "a/b"},
	}).Draw(t, "principal")
	if p.Provider != "" {
		p.Groups = rapid.SampledFrom([][]string{nil, {"dev"}, {"x", "dev"}}).Draw(t, "groups")
		p.Attributes = rapid.SampledFrom([]map[string]string{nil, {"team": "a"}, {"team": "b", "a": "b"}}).Draw(t, "attributes")
	}
	return policy.Query{
		Principal: p, Vars: policy.HTTP{Method: "GET"},
		Action: rapid.SampledFrom([]string{"http.get", "http.post", "http.delete", "token.mint", "metadata.get", "sql.select"}).Draw(t, "action"),
		Resource: rapid.SampledFrom([]policy.Resource{service("invoices"), service("reports"), service("other"), self("a"), self("b"),
			audience("https://x"), audience("https://y"), audience("https://y/z"), audience("https://*"), audience("*"), audience("a"), audience("mine")}).Draw(t, "resource"),
	}
}

func TestDecideIsWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	w := policy.World{
		Services: map[string]string{"invoices": "http", "reports": "http"}, Accounts: []string{"a", "b"}, Providers: []string{"okta", "github"},
		Audiences: []string{"mine"}, MintPatterns: []string{"https://y/*"},
	}
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		s, err := policy.Compile(cfg, w)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			q := drawQuery(t)
			got, want := s.Decide(&q), naive(cfg, w, &q)
			if strings.HasPrefix(got.Near, "sallyport:") {
				got.Near = "" // a courtesy that the rules do not owe
			}
			if got.Allow != want.Allow || got.Rule != want.Rule || got.Reason != want.Reason || got.Near != want.Near || !slices.Equal(got.Shadow, want.Shadow) {
				t.Fatalf("%+v\n%+v\ngot  %+v\nwant %+v", cfg, q, got, want)
			}
			if again := s.Decide(&q); fmt.Sprint(again) != fmt.Sprint(s.Decide(&q)) {
				t.Fatalf("two answers to one question: %+v", again)
			}
		}
	})
}
