package guard_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// socket is an upgrade to WebSocket on invoices.
func socket(raw string) guard.Attempt {
	a := get(raw, "/v1/live")
	a.Action = "http.websocket"
	return a
}

// twoRules let orders and reports open sockets, reports through a local group.
func twoRules(require ...string) policy.Config {
	return policy.Config{
		Groups: []policy.Group{{Name: "readers", Members: []string{"serviceAccount:reports"}}},
		Policies: []policy.Rule{
			{Name: "orders-live", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: []string{"http.websocket"}, Require: require},
			{Name: "readers-live", Allow: []string{"group:readers"}, To: []string{"invoices"}, Actions: []string{"http.websocket"}},
		},
	}
}

// live is a session of orders, which something is done to, and one of reports, which
// must not notice.
type live struct {
	*world
	orders, reports *guard.Pass
}

func newLive(t *testing.T, rules policy.Config) *live {
	t.Helper()
	l := &live{world: newWorldOf(t, rules, audit.Written)}
	admit := func(account, id string) *guard.Pass {
		p, err := l.Admit(t.Context(), socket(l.bearer(t, map[string]any{"sub": "spiffe://test/sa/" + account, "jti": id})))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	l.orders, l.reports = admit("orders", "j-orders"), admit("reports", "j-reports")
	return l
}

func ended(p *guard.Pass) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

func (l *live) revoke(t *testing.T, r guard.Revocation) {
	t.Helper()
	if _, n, err := l.Revoke(r); err != nil || n != 1 {
		t.Errorf("Revoke: %d ended, %v", n, err)
	}
}

// What a live session hangs on goes: it ends at the next sweep, says why in its closing
// record, and nobody else notices.
func TestALiveSessionEndsWithWhatItHangsOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		rules  policy.Config
		do     func(*testing.T, *live)
		code   fault.Code
		public string
		reason string
		both   bool // the other session ends, too
	}{
		{"its token is revoked", twoRules(), func(t *testing.T, l *live) {
			l.revoke(t, guard.Revocation{Kind: guard.RevokeToken, Value: "j-orders", Reason: "T-1"})
		}, fault.Unproven, "credential revoked", "revoked", false},
		{"its account is revoked", twoRules(), func(t *testing.T, l *live) {
			l.revoke(t, guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:orders"})
		}, fault.Unproven, "credential revoked", "revoked", false},
		{"what its account was issued so far is revoked", twoRules(), func(t *testing.T, l *live) {
			l.clock.Add(10)
			l.revoke(t, guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:orders", Issued: true})
		}, fault.Unproven, "credential revoked", "revoked", false},
		{"its session is revoked", twoRules(), func(t *testing.T, l *live) {
			a, _ := l.orders.Admission()
			l.revoke(t, guard.Revocation{Kind: guard.RevokeSession, Value: a.ID})
		}, fault.Unproven, "credential revoked", "revoked", false},
		{"its session is killed", twoRules(), func(t *testing.T, l *live) {
			a, _ := l.orders.Admission()
			if !l.Kill(a.ID, "maintenance") || l.Kill(a.ID, "again") || l.Kill("r-99", "") {
				t.Error("Kill says something else")
			}
		}, fault.Denied, "session ended by an operator", "session_killed", false},
		{"its key is revoked", twoRules(), func(t *testing.T, l *live) {
			if _, n, err := l.Revoke(guard.Revocation{Kind: guard.RevokeKey, Value: "k"}); n != 2 || err != nil {
				t.Errorf("%d ended, %v", n, err)
			}
		}, fault.Unproven, "credential revoked", "revoked", true},
		{"its key is withdrawn", twoRules(), func(_ *testing.T, l *live) { l.keys.withdraw(); l.Sweep(l.now()) }, fault.Unproven, "token not trusted", "key_unknown", true},
		{"its provider is revoked", twoRules(), func(t *testing.T, l *live) {
			if _, n, err := l.Revoke(guard.Revocation{Kind: guard.RevokeProvider, Value: "self"}); n != 2 || err != nil {
				t.Errorf("%d ended, %v", n, err)
			}
		}, fault.Unproven, "credential revoked", "revoked", true},
		{"other rules would refuse it", twoRules(), func(t *testing.T, l *live) {
			rules := twoRules()
			rules.Policies = rules.Policies[1:]
			l.reload(t, rules, nil)
		}, fault.Denied, "not allowed", "policy_changed", false},
		{"its service takes other tokens", twoRules(), func(t *testing.T, l *live) {
			l.reload(t, twoRules(), func(r *guard.Rules) {
				r.Services["invoices"] = guard.Service{Audiences: []string{audience}, Accept: []string{"lab"}}
			})
		}, fault.Unproven, "token not trusted", "issuer_not_accepted", true},
		{"its service is for another audience", twoRules(), func(t *testing.T, l *live) {
			l.reload(t, twoRules(), func(r *guard.Rules) {
				r.Services["invoices"] = guard.Service{Audiences: []string{"elsewhere"}, Accept: []string{"self"}}
			})
		}, fault.Unproven, "token not trusted", "issuer_not_accepted", true},
		{"its service is gone", twoRules(), func(t *testing.T, l *live) {
			l.reload(t, policy.Config{}, func(r *guard.Rules) { delete(r.Services, "invoices") })
		}, fault.Absent, "not found", "service_unknown", true},
		{"its provider has another entry", twoRules(), func(t *testing.T, l *live) {
			l.reload(t, twoRules(), func(r *guard.Rules) { r.Bearers = []guard.BearerProver{l.self(t)} })
		}, fault.Unproven, "token not trusted", "provider_changed", true},
		{"its token expires, and a rule demands a live one", twoRules("live_token"), func(_ *testing.T, l *live) {
			l.clock.Add(3600 + 61)
			l.Sweep(l.now())
		}, fault.Unproven, "token expired", "token_expired", false},
		{"its time is over", twoRules(), func(t *testing.T, l *live) {
			l.reload(t, twoRules(), func(r *guard.Rules) {
				s := r.Services["invoices"]
				s.MaxSession = 12 * time.Hour
				r.Services["invoices"] = s
			})
			l.clock.Add(12*3600 - 1)
			if l.Sweep(l.now()) != 0 {
				t.Error("too early")
			}
			l.clock.Add(1)
			l.Sweep(l.now())
		}, fault.Denied, "session is over its time", "max_session", true},
		{"a rule that reads the clock says no", policy.Config{Policies: []policy.Rule{
			{Name: "until", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: []string{"http.websocket"}, When: `request.time < timestamp("2027-01-15T08:00:02Z")`},
			{Name: "always", Allow: []string{"serviceAccount:reports"}, To: []string{"invoices"}, Actions: []string{"http.websocket"}},
		}}, func(t *testing.T, l *live) {
			l.clock.Add(1)
			if l.Sweep(l.now()) != 0 {
				t.Error("too early")
			}
			l.clock.Add(1)
			l.Sweep(l.now())
		}, fault.Denied, "not allowed", "policy_changed", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLive(t, tt.rules)
			if l.Sweep(l.now()) != 0 || ended(l.orders) || ended(l.reports) {
				t.Fatal("a session ended for nothing")
			}
			tt.do(t, l)
			if !ended(l.orders) || ended(l.reports) != tt.both {
				t.Fatalf("ended: %v and %v", ended(l.orders), ended(l.reports))
			}
			f := fault.Of(l.orders.Err())
			if a, _ := l.orders.Admission(); f.Code != tt.code || f.Public != tt.public || f.Decision != a.ID {
				t.Errorf("told %s %q of %q", f.Code, f.Public, f.Decision)
			}
			if err := l.orders.Close(guard.Summary{BytesIn: 3}); err != nil {
				t.Fatal(err)
			}
			e := l.last(t)
			if e.Kind != audit.Close || e.Payload.Reason != tt.reason || e.Payload.EndingMS < 1 || e.Payload.BytesIn != 3 || e.Payload.Principal != "serviceAccount:orders" {
				t.Errorf("closing record %s %+v", e.Kind, e.Payload)
			}
			if n := len(l.Sessions()); n != 1 && !tt.both || tt.both && n != 0 {
				t.Errorf("%d sessions are live", n)
			}
			if !slices.ContainsFunc(l.Counts(), func(c guard.Count) bool {
				return c.Ended && c.Service == "invoices" && c.Reason == tt.reason && c.N == 1
			}) {
				t.Errorf("not counted: %+v", l.Counts())
			}
		})
	}
}

// reload puts other rules in force, however many sessions they end.
func (l *live) reload(t *testing.T, rules policy.Config, change func(*guard.Rules)) {
	t.Helper()
	r := l.rules(t, rules)
	if change != nil {
		change(&r)
	}
	if _, ok := l.Reload(r, 10, true); !ok {
		t.Error("accepted rules were held")
	}
}

func TestTheEndOfATokenIsANewDecision(t *testing.T) {
	t.Parallel()
	l := newLive(t, twoRules())
	l.clock.Add(3600 + 61)
	if l.Sweep(l.now()) != 0 || ended(l.orders) {
		t.Error("a session ended with its token, which nobody demands")
	}
	l.revoke(t, guard.Revocation{Kind: guard.RevokeToken, Value: "j-orders"})
	if !ended(l.orders) {
		t.Error("a revoked token's session goes on after its expiry")
	}
}

// Rules that demand a live token end a session whose token has expired already.
func TestALiveTokenIsDemandedLater(t *testing.T) {
	t.Parallel()
	l := newLive(t, twoRules())
	l.clock.Add(3600 + 61)
	l.Sweep(l.now())
	l.reload(t, twoRules("live_token"), nil)
	if f := fault.Of(l.orders.Err()); !ended(l.orders) || f.Public != "token expired" || ended(l.reports) {
		t.Errorf("ended %v, %q; the other %v", ended(l.orders), f.Public, ended(l.reports))
	}
}

// What is revoked is refused from then on, until it is lifted or over; what is proven anew
// is let in where only what was issued before is meant.
func TestRevokedCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		r            guard.Revocation
		again, other bool // a new token of the account, and of another one, is refused
	}{
		{"a token", guard.Revocation{Kind: guard.RevokeToken, Value: "j1"}, false, false},
		{"an account", guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:orders"}, true, false},
		{"an account, as far as issued", guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:orders", Issued: true}, false, false},
		{"everybody", guard.Revocation{Kind: guard.RevokeMember, Value: "anyAuthenticated"}, true, true},
		{"a provider", guard.Revocation{Kind: guard.RevokeProvider, Value: "self"}, true, true},
		{"a key", guard.Revocation{Kind: guard.RevokeKey, Value: "k"}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorldOf(t, twoRules(), audit.Written)
			raw := w.bearer(t, nil)
			admitted := func(raw string) error {
				p, err := w.Admit(t.Context(), socket(raw))
				if err == nil {
					_ = p.Close(guard.Summary{})
				}
				return err
			}
			if err := admitted(raw); err != nil {
				t.Fatal(err)
			}
			w.clock.Add(10)
			r, _, err := w.Revoke(tt.r)
			if err != nil {
				t.Fatal(err)
			}
			w.clock.Add(10)
			again, other := w.bearer(t, map[string]any{"jti": "j2"}), w.bearer(t, map[string]any{"sub": "spiffe://test/sa/reports", "jti": "j3"})
			for range 2 { // the second time from the cache
				if f := fault.Of(admitted(raw)); f.Code != fault.Unproven || f.Public != "credential revoked" || w.last(t).Payload.Reason != "revoked" {
					t.Errorf("with the old token: %v", f)
				}
				if err := admitted(again); (err != nil) != tt.again {
					t.Errorf("with a new token: %v", err)
				}
				if err := admitted(other); (err != nil) != tt.other {
					t.Errorf("with another's: %v", err)
				}
			}
			if err := w.Lift(r.ID); err != nil || admitted(raw) != nil || !errors.Is(w.Lift(r.ID), guard.ErrNotRevoked) {
				t.Errorf("after it was lifted: %v", err)
			}
		})
	}
}

func TestRevocationsAreKeptAndForgotten(t *testing.T) {
	t.Parallel()
	var kept [][]guard.Revocation
	w := newWorldOf(t, twoRules(), audit.Written)
	w.keep = func(all []guard.Revocation) error { kept = append(kept, all); return nil }
	if _, _, err := w.Revoke(guard.Revocation{Kind: guard.RevokeToken, Value: "j1", Reason: "lost laptop"}); err != nil {
		t.Fatal(err)
	}
	if len(kept) != 1 || len(kept[0]) != 1 || kept[0][0].Reason != "lost laptop" || kept[0][0].ID == "" {
		t.Fatalf("kept %+v", kept)
	}
	after := newWorldOf(t, twoRules(), audit.Written) // the same key would do; the token id is what counts
	if err := after.Restore(kept[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := after.Admit(t.Context(), socket(after.bearer(t, nil))); fault.Of(err).Public != "credential revoked" {
		t.Errorf("after a restart: %v", err)
	}
	w.clock.Add(26 * 3600) // nothing that it could match lives
	w.Sweep(w.now())
	if len(w.Revocations()) != 0 || len(kept) != 2 || len(kept[1]) != 0 {
		t.Errorf("not forgotten: %+v, kept %+v", w.Revocations(), kept)
	}
	w.keep = func([]guard.Revocation) error { return errors.New("disk 7 is full") }
	if _, _, err := w.Revoke(guard.Revocation{Kind: guard.RevokeToken, Value: "j1"}); err == nil || errors.Is(err, guard.ErrRevocation) {
		t.Errorf("nobody kept it: %v", err)
	}
	if _, err := w.Admit(t.Context(), socket(w.bearer(t, nil))); fault.Of(err).Public != "credential revoked" {
		t.Errorf("what could not be kept is in force all the same: %v", err)
	}
	for name, r := range map[string]guard.Revocation{
		"nothing":                    {Kind: guard.RevokeToken},
		"another kind":               {Kind: "user", Value: "x"},
		"no member":                  {Kind: guard.RevokeMember, Value: "orders"},
		"an unknown provider":        {Kind: guard.RevokeProvider, Value: "nowhere"},
		"no session":                 {Kind: guard.RevokeSession, Value: "r-99"},
		"over already":               {Kind: guard.RevokeToken, Value: "x", Until: w.now()},
		"a token issued before":      {Kind: guard.RevokeToken, Value: "x", Issued: true},
		"a value longer than a page": {Kind: guard.RevokeToken, Value: fmt.Sprintf("%01025d", 1)},
	} {
		_, _, err := w.Revoke(r)
		if !errors.Is(err, guard.ErrRevocation) {
			t.Errorf("%s: %v", name, err)
		}
		if absent := fault.Of(err).Code == fault.Absent; absent != (r.Kind == guard.RevokeSession) {
			t.Errorf("%s: absent: %v", name, absent)
		}
	}
}

// A token that is handed out once more could have been revoked meanwhile.
func TestARevokedTokenIsNotHandedOutAgain(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]guard.Revocation{
		"the token":              {Kind: guard.RevokeToken, Value: "held"},
		"what was issued so far": {Kind: guard.RevokeMember, Value: "serviceAccount:orders", Issued: true},
	} {
		w := newWorld(t)
		if _, _, err := w.Revoke(r); err != nil {
			t.Fatal(err)
		}
		pass, err := w.Admit(t.Context(), mint("held"))
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := pass.Admission(); a.IssuedTokenID == "held" || a.IssuedTokenID == "" {
			t.Errorf("%s: %q", name, a.IssuedTokenID)
		}
	}
}

// Rules that would end too many sessions are held, and nothing changes until somebody
// accepts that.
func TestRulesThatEndTooMuchAreHeld(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, twoRules(), audit.Written)
	var passes []*guard.Pass
	raw := w.bearer(t, nil)
	for range 21 {
		p, err := w.Admit(t.Context(), socket(raw))
		if err != nil {
			t.Fatal(err)
		}
		passes = append(passes, p)
	}
	none := w.rules(t, policy.Config{})
	if loss, ok := w.Reload(none, 10, false); ok || loss != (guard.Loss{Ends: 21, Live: 21}) {
		t.Errorf("loss %+v, %v", loss, ok)
	}
	if ended(passes[0]) {
		t.Error("a session ended by rules that were held")
	}
	if _, err := w.Admit(t.Context(), socket(raw)); err != nil {
		t.Errorf("rules that were held decide: %v", err)
	}
	_ = passes[20].Close(guard.Summary{})
	_ = passes[19].Close(guard.Summary{})
	if loss, ok := w.Reload(none, 10, false); !ok || loss.Ends != 20 {
		t.Errorf("of twenty nobody is asked: %+v, %v", loss, ok)
	}
	if !ended(passes[0]) {
		t.Error("a session that is not allowed goes on")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, twoRules(), audit.Written)
	r := w.rules(t, twoRules())
	s := r.Services["invoices"]
	s.Limits = guard.Limits{PerPrincipal: guard.Limit{Rate: 2, Burst: 3, Concurrent: 2}, All: guard.Limit{Concurrent: 3}}
	r.Services["invoices"] = s
	w.Reload(r, 10, true)
	orders, reports := w.bearer(t, nil), w.bearer(t, map[string]any{"sub": "spiffe://test/sa/reports", "jti": "j2"})
	admit := func(raw string) (*guard.Pass, *fault.Error) {
		p, err := w.Admit(t.Context(), socket(raw))
		if err != nil {
			return nil, fault.Of(err)
		}
		return p, nil
	}
	want := func(what string, f *fault.Error, wait time.Duration) {
		t.Helper()
		if f == nil || f.Code != fault.TooMany || f.RetryAfter != wait || f.Public != "too many requests" {
			t.Errorf("%s: %+v", what, f)
		}
	}
	one, f1 := admit(orders)
	_, f2 := admit(orders)
	if f1 != nil || f2 != nil {
		t.Fatal(f1, f2)
	}
	n := w.log.Size()
	_, f := admit(orders)
	want("a third at once", f, time.Second)
	if _, f := admit(reports); f != nil {
		t.Errorf("another principal: %v", f)
	}
	_, f = admit(reports)
	want("a fourth of all", f, time.Second)
	_ = one.Close(guard.Summary{})
	_ = one.Close(guard.Summary{})
	three, f := admit(orders)
	if f != nil {
		t.Fatal(f)
	}
	_ = three.Close(guard.Summary{})
	_, f = admit(orders)
	want("a fourth within the second", f, time.Second)
	if got := w.log.Size() - n; got != 2 {
		t.Errorf("%d records, want 2: what is over a limit is counted", got)
	}
	w.clock.Add(1)
	if _, f := admit(orders); f != nil {
		t.Errorf("a second later: %v", f)
	}
	w.Guard.Close()
	if e := w.last(t); e.Payload.Reason != "rate_limited" && e.Payload.Reason != "too_many_at_once" || e.Payload.Count == 0 {
		t.Errorf("record %+v", e.Payload)
	}
}

// A session that began while the rules changed is decided by the new ones.
func TestASweepSeesSessionsOfEarlierRules(t *testing.T) {
	t.Parallel()
	l := newLive(t, twoRules())
	held := l.orders
	_ = l.reports.Close(guard.Summary{})
	l.reload(t, policy.Config{}, nil)
	if !ended(held) {
		t.Error("it goes on")
	}
	if l.Live() != 1 || held.Close(guard.Summary{}) != nil || l.Live() != 0 {
		t.Errorf("%d are live", l.Live())
	}
}

func BenchmarkSweep(b *testing.B) {
	w := newWorldOf(b, twoRules(), audit.Written)
	raw := w.bearer(b, nil)
	for range 10_000 {
		if _, err := w.Admit(b.Context(), socket(raw)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		w.Sweep(w.now())
	}
}

// mint asks for a token of orders, of which one is held.
func mint(held string) guard.Attempt {
	return guard.Attempt{Credentials: []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})}, Action: guard.ActionMint,
		Resource: guard.ToAudience(audience), Request: policy.Mint{Audience: audience}, Reuse: func(*identity.Proof) string { return held }}
}
