package guard_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

func mayRun(user string) policy.Rule {
	return policy.Rule{Name: "run", Allow: []string{"user:local/" + user}, To: []string{"serviceAccount:orders"}, Actions: []string{"workload.run"}}
}

// A user who acts as an account: two decisions and two records, and the user's
// permission asked for each time.
func TestRunAs(t *testing.T) {
	t.Parallel()
	denied := policy.Rule{Name: "never", Deny: []string{"serviceAccount:orders"}, To: []string{"audience:" + audience}, Actions: []string{"token.mint"}}
	for _, tt := range []struct {
		name     string
		account  string
		policies []policy.Rule
		want     fault.Code // "" for a pass
		records  string
	}{
		{"policy lets them", "orders", []policy.Rule{mayRun("1000")}, "",
			"allow user:local/1000 workload.run serviceAccount:orders; allow serviceAccount:orders token.mint audience:https://invoices.test by [user:local/1000]"},
		{"policy says nothing", "orders", nil, fault.Denied,
			"deny user:local/1000 workload.run serviceAccount:orders"},
		{"policy lets somebody else", "orders", []policy.Rule{mayRun("1001")}, fault.Denied,
			"deny user:local/1000 workload.run serviceAccount:orders"},
		{"the account itself may not", "orders", []policy.Rule{mayRun("1000"), denied}, fault.Denied,
			"allow user:local/1000 workload.run serviceAccount:orders; deny serviceAccount:orders token.mint audience:https://invoices.test by [user:local/1000]"},
		{"an account that is not there", "ghost", []policy.Rule{mayRun("1000")}, fault.Denied,
			"deny user:local/1000 token.mint audience:https://invoices.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.policies...)
			pass, err := w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience(audience), Request: policy.Mint{Audience: audience},
				Credentials: []guard.Credential{guard.RunAs(attest.Conn{}, tt.account)}})
			if tt.want != "" {
				if f := fault.Of(err); f.Code != tt.want || f.Public != "not allowed" || f.Decision == "" {
					t.Errorf("got %v, %+v", pass, f)
				}
			} else if a, err := pass.Admission(); err != nil || a.Principal.ID() != "serviceAccount:orders" || a.Principal.Email != "orders@sa.test" || a.Attested["uid"] != "1000" {
				t.Errorf("admission %+v, %v", a, err)
			}
			got := ""
			for _, e := range w.entries(t) {
				if got != "" {
					got += "; "
				}
				got += fmt.Sprintf("%s %s %s %s", e.Decision, e.Payload.Principal, e.Payload.Action, e.Payload.Resource)
				if e.Payload.Actors != nil {
					got += fmt.Sprintf(" by %v", e.Payload.Actors)
				}
				if e.Payload.Attested["uid"] != "1000" {
					t.Errorf("a record without the user's facts: %+v", e.Payload)
				}
			}
			if got != tt.records {
				t.Errorf("records:\n%s\nwant\n%s", got, tt.records)
			}
		})
	}
}

// When the first of the two records cannot be made, nothing is decided further.
func TestRunAsNeedsItsRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mayRun("1000"))
	w.broken.Store(true)
	_, err := w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience(audience), Credentials: []guard.Credential{guard.RunAs(attest.Conn{}, "orders")}})
	if f := fault.Of(err); f.Code != fault.Busy {
		t.Errorf("got %v", err)
	}
}

// A local user is nobody but that, and no list of accounts makes them one.
func TestLocalUserIsNoAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.local = func(_ attest.Conn, among []string) (*identity.Proof, error) {
		return nil, errors.New("asked for accounts")
	}
	_, err := w.Admit(t.Context(), guard.Attempt{Action: "admin.keys.list", Credentials: []guard.Credential{guard.LocalUser(attest.Conn{})}})
	if d := w.durability.Load(); d != audit.Synced {
		t.Errorf("recorded as %v", d)
	}
	if f := fault.Of(err); f.Code != fault.Denied || w.last(t).Payload.Principal != "user:local/1000" || w.last(t).Payload.Near != "sallyport:admin-uids" {
		t.Errorf("got %v, record %+v", err, w.last(t).Payload)
	}
	if _, err := w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, nil)}}); fault.Of(err).Code != fault.Internal {
		t.Errorf("a door that names no account got a user: %v", err)
	}
}

// A token that is handed out once more is recorded under its own id, and need not
// wait for the disk, since that it exists did. One that an attempt before has named
// has that id.
func TestTokenIDs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		attempt    guard.Attempt
		id         string // "" for a new one
		durability audit.Durability
	}{
		{"a new token", guard.Attempt{}, "", audit.Synced},
		{"nothing to hand out once more", guard.Attempt{Reuse: func(*identity.Proof) string { return "" }}, "", audit.Synced},
		{"handed out once more", guard.Attempt{Reuse: func(p *identity.Proof) string { return "of " + p.Principal.Name }}, "of orders", audit.Written},
		{"named before", guard.Attempt{TokenID: "named"}, "named", audit.Synced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := tt.attempt
			a.Action, a.Resource, a.Credentials = guard.ActionMint, guard.ToItself(), []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})}
			pass, err := w.Admit(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pass.Admission()
			if err != nil || tt.id != "" && got.IssuedTokenID != tt.id || tt.id == "" && len(got.IssuedTokenID) != 22 {
				t.Errorf("token id %q, %v", got.IssuedTokenID, err)
			}
			if d := w.durability.Load(); d != tt.durability || w.last(t).Payload.IssuedTokenID != got.IssuedTokenID {
				t.Errorf("recorded %s as %v", w.last(t).Payload.IssuedTokenID, d)
			}
		})
	}
}

// What is refused has no token to name.
func TestRefusedAttemptsAreNotAskedForATokenToReuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience("https://elsewhere"), Credentials: []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})},
		Reuse: func(*identity.Proof) string { t.Error("asked"); return "x" }})
	if fault.Of(err).Code != fault.Denied || w.last(t).Payload.IssuedTokenID != "" {
		t.Errorf("got %v, %+v", err, w.last(t).Payload)
	}
}

func TestWhich(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := w.Which(context.Background(), attest.Conn{}, []string{"a", "b"}); fmt.Sprint(got) != "[a b]" {
		t.Errorf("got %v", got)
	}
	if n := len(w.entries(t)); n != 0 {
		t.Errorf("it made %d records", n)
	}
}

// entries returns every record, the oldest first.
func (w *world) entries(t testing.TB) []*audit.Entry {
	t.Helper()
	r, err := audit.OpenReader(w.dir, w.kek)
	if err != nil {
		t.Fatal(err)
	}
	var out []*audit.Entry
	for e, err := range r.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
