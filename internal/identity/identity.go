// Package identity says who acts: a Principal, and the qualified member names
// that policy, records and the file use for principals and sets of them.
//
// It verifies nothing: package verifier and internal/attest do, and
// internal/guard is the only place that believes them.
package identity

import "strings"

// A Kind tells the sorts of principal apart. Its text is the prefix of the
// principal's qualified name.
type Kind string

const (
	// ServiceAccount is a workload's identity, declared in the file.
	ServiceAccount Kind = "serviceAccount"
	// User is a person, vouched for by a provider; provider "local" means an
	// attested local caller that matches no service account, by its uid.
	User Kind = "user"
	// Federated is an identity that a provider vouches for.
	Federated Kind = "principal"
	// AnonymousKind is nobody in particular: a public route's caller.
	AnonymousKind Kind = "anonymous"
)

// Local is the reserved provider name of attested local callers.
const Local = "local"

// A Principal is who acts. The zero value is nobody and matches no member.
type Principal struct {
	Kind Kind

	// Provider is the name of the provider that vouched; empty for service
	// accounts, Local for attested callers without one.
	Provider string

	// Name is a service account's bare name, for others the provider's subject.
	// It may hold any text, "/" included: everything after the provider.
	Name string

	// Email is for display only and is never matched.
	Email string

	// Groups holds group names as Provider vouches for them, without the
	// "group:PROVIDER/" in front.
	Groups []string

	// Attributes are the mapped attributes of the credential.
	Attributes map[string]string
}

// Account returns the principal of the service account called name.
func Account(name, email string) Principal {
	return Principal{Kind: ServiceAccount, Name: name, Email: email}
}

// ID returns the qualified member name: "serviceAccount:orders",
// "principal:github/repo:o/r", "user:local/1000", "anonymous"; "" for nobody.
func (p Principal) ID() string {
	switch p.Kind {
	case "":
		return ""
	case AnonymousKind:
		return string(AnonymousKind)
	case ServiceAccount:
		return string(ServiceAccount) + ":" + p.Name
	case User, Federated:
		return string(p.Kind) + ":" + p.Provider + "/" + p.Name
	}
	return ""
}

// Members returns every member name that p answers to, most specific first:
// its own, its provider's groups, its attribute sets, its provider's whole set,
// and anyAuthenticated. Local groups are resolved by policy, which knows them.
func (p Principal) Members() []string {
	id := p.ID()
	if id == "" || p.Kind == AnonymousKind {
		return []string{id}[:min(1, len(id))]
	}
	out := make([]string, 0, 3+len(p.Groups)+len(p.Attributes))
	out = append(out, id)
	if p.Provider != "" && p.Provider != Local {
		for _, g := range p.Groups {
			out = append(out, "group:"+p.Provider+"/"+g)
		}
		for k, v := range p.Attributes {
			out = append(out, "principalSet:"+p.Provider+"/attribute."+k+"/"+v)
		}
		out = append(out, "principalSet:"+p.Provider+"/*")
	}
	return append(out, AnyAuthenticated)
}

// SPIFFEID returns the `sub` of a service account's tokens,
// spiffe://TRUST-DOMAIN/sa/NAME. It is derived from the file alone, so that no
// lost disk changes it (SPIFFE-ID section 2).
func SPIFFEID(trustDomain, account string) string {
	return "spiffe://" + trustDomain + "/sa/" + account
}

// Email returns a service account's address, in a name space that no provider
// may assert.
func Email(trustDomain, account string) string {
	return account + "@sa." + trustDomain
}

// ValidName reports whether s may name an account, service, provider, group,
// role or policy: lower-case letters, digits and inner "-" or "_", at most 63.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 || strings.Trim(s, "-_") != s {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
