package identity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

func TestPrincipalNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		p    identity.Principal
		id   string
		want []string // members it answers to, in any order
	}{
		{"nobody matches nothing", identity.Principal{}, "", nil},
		{"the anonymous caller is only itself", identity.Principal{Kind: identity.AnonymousKind}, "anonymous", []string{"anonymous"}},
		{"an account is its bare name", identity.Account("orders", "e"), "serviceAccount:orders",
			[]string{"serviceAccount:orders", "anyAuthenticated"}},
		{"a local caller has no provider set", identity.Principal{Kind: identity.User, Provider: "local", Name: "1000", Groups: []string{"x"}}, "user:local/1000",
			[]string{"user:local/1000", "anyAuthenticated"}},
		{"a federated subject keeps its slashes", identity.Principal{Kind: identity.Federated, Provider: "github", Name: "repo:o/r",
			Groups: []string{"ops"}, Attributes: map[string]string{"ref": "refs/heads/main"}}, "principal:github/repo:o/r",
			[]string{"principal:github/repo:o/r", "group:github/ops", "principalSet:github/attribute.ref/refs/heads/main", "principalSet:github/*", "anyAuthenticated"}},
		{"an e-mail is never a member", identity.Principal{Kind: identity.User, Provider: "okta", Name: "7", Email: "a@b"}, "user:okta/7",
			[]string{"user:okta/7", "principalSet:okta/*", "anyAuthenticated"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.p.ID(); got != tt.id {
				t.Errorf("ID() = %q, want %q", got, tt.id)
			}
			got := tt.p.Members()
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("Members() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseMember(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"serviceAccount:orders", "user:okta/00u1", "user:local/1000", "group:billing", "group:okta/Ops Team", "principal:github/repo:o/r:ref:refs/heads/main",
		"principalSet:github/*", "principalSet:github/attribute.repository_id/424242", "anyAuthenticated", "anonymous",
	} {
		m, err := identity.ParseMember(good)
		if err != nil || m.Text != good {
			t.Errorf("ParseMember(%q) = %+v, %v", good, m, err)
		}
	}
	for bad, want := range map[string]string{
		"":                                 "is not a member",
		"orders":                           "is not a member",
		"serviceaccount:orders":            "is not a member",
		"serviceAccount:":                  "is not a member",
		"serviceAccount:Orders":            "bare name",
		"serviceAccount:orders@sa.x":       "bare name",
		"user:alice@example.com":           "qualified by its provider",
		"principal:github/":                "qualified by its provider",
		"principal:/x":                     "qualified by its provider",
		"principal:GitHub/x":               "qualified by its provider",
		"principalSet:github/x":            "attribute.NAME/VALUE",
		"principalSet:github/attribute.a/": "attribute.NAME/VALUE",
		"group:Ops Team":                   "local group",
		"allUsers":                         "is not a member",
		"*":                                "is not a member",
	} {
		if _, err := identity.ParseMember(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseMember(%q): got %v, want an error with %q", bad, err, want)
		}
	}
}

func TestDerivedNames(t *testing.T) {
	t.Parallel()
	if got := identity.SPIFFEID("acme.internal", "orders"); got != "spiffe://acme.internal/sa/orders" {
		t.Error(got)
	}
	if got := identity.Email("acme.internal", "orders"); got != "orders@sa.acme.internal" {
		t.Error(got)
	}
}
