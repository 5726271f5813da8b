package verifier

import (
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// own reports whether v has OwnRules, whatever the types.
func (v *Verifier) own() bool {
	r := v.c.Rules
	return r.SingleAudience && r.MaxLifetime == OwnRules("").MaxLifetime && !slices.Contains(r.Types, "")
}

// Principal returns who the token speaks for, by qualified name:
// "serviceAccount:NAME" when the verifier has OwnRules and the subject is an
// account's SPIFFE ID, else "principal:ISSUER/SUBJECT". The subject alone names
// nobody: every issuer chooses those of its own tokens.
func (t *Verified) Principal() string {
	c := &t.Claims
	if t.verifier.own() {
		if isAssertion(t.verifier.c.Rules.Types[0]) {
			return c.Subject // which is a qualified name already
		}
		if name := account(c.Subject); name != "" {
			return identity.Account(name, "").ID()
		}
	}
	return identity.Principal{Kind: identity.Federated, Provider: c.Issuer, Name: c.Subject}.ID()
}

// account returns the name in spiffe://TRUST-DOMAIN/sa/NAME, "" if sub is no such
// ID.
func account(sub string) string {
	rest, ok := strings.CutPrefix(sub, "spiffe://")
	domain, path, _ := strings.Cut(rest, "/")
	name, in := strings.CutPrefix(path, "sa/")
	if !ok || domain == "" || !in || !identity.ValidName(name) {
		return ""
	}
	return name
}
