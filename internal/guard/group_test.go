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
