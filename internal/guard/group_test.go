package guard_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Rules that put somebody into a group that is revoked end sessions, which are counted
// before the rules are in force: what was held against the earlier groups says nothing.
func TestTheTrialOfRulesSeesRevokedGroups(t *testing.T) {
	t.Parallel()
	rules := twoRules()
	rules.Groups = append(rules.Groups, policy.Group{Name: "lost", Members: []string{"serviceAccount:reports"}})
	w := newWorldOf(t, rules, audit.Written)
	if _, _, err := w.Revoke(guard.Revocation{Kind: guard.RevokeMember, Value: "group:lost"}); err != nil {
		t.Fatal(err)
	}
	raw := w.bearer(t, nil)
	for range 21 {
		if _, err := w.Admit(t.Context(), socket(raw)); err != nil {
			t.Fatal(err)
		}
	}
	rules.Groups[1].Members = []string{"serviceAccount:orders"}
	if loss, ok := w.Reload(w.rules(t, rules), 10, false); ok || loss != (guard.Loss{Ends: 21, Live: 21}) {
		t.Errorf("loss %+v, %v", loss, ok)
	}
}

// A public request whose routes are of earlier rules than those that admit it, because
// both are swapped one after the other, ends with the next sweep.
func TestAPublicSessionOfEarlierRoutesEnds(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, twoRules(), audit.Written)
	r := w.rules(t, twoRules())
	s := r.Services["invoices"]
	s.Public = "now"
	r.Services["invoices"] = s
	w.Reload(r, 10, true)
	for routes, goesOn := range map[string]bool{"now": true, "before": false} {
		a := socket("")
		a.Credentials, a.Public = []guard.Credential{guard.Anonymous()}, routes
		p, err := w.Admit(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if w.Sweep(w.now()); ended(p) == goesOn {
			t.Errorf("by the routes of %s: ended %v", routes, !goesOn)
		}
	}
}
