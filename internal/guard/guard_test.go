package guard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Every answer has a record that says the same, and the decision id of the answer
// is that record's.
func TestAdmit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		attempt func(*testing.T, *world) guard.Attempt
		code    fault.Code // "" for a pass
		public  string
		kind    audit.Kind
		reason  string
		who     string
	}{
		{"a good token and a rule", func(t *testing.T, w *world) guard.Attempt { return get(w.bearer(t, nil), "/v1/x") }, "", "", audit.Admit, "allowed", "serviceAccount:orders"},
		{"the service's other audience", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"aud": "invoices"}), "/v1/x")
		}, "", "", audit.Admit, "allowed", "serviceAccount:orders"},
		{"no rule for the path", func(t *testing.T, w *world) guard.Attempt { return get(w.bearer(t, nil), "/v10") }, fault.Denied, "not allowed", audit.Admit, "no_match", "serviceAccount:orders"},
		{"another account", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"sub": "spiffe://test/sa/reports"}), "/v1/x")
		}, fault.Denied, "not allowed", audit.Admit, "no_match", "serviceAccount:reports"},
		{"no credential", func(*testing.T, *world) guard.Attempt { return get("", "/v1/x") }, fault.Missing, "no credential", audit.Refuse, "credential_missing", ""},
		{"two credentials", func(t *testing.T, w *world) guard.Attempt {
			a := get(w.bearer(t, nil), "/v1/x")
			a.Credentials = append(a.Credentials, a.Credentials[0])
			return a
		}, fault.Invalid, "credential malformed", audit.Refuse, "credential_malformed", ""},
		{"garbage", func(*testing.T, *world) guard.Attempt { return get("garbage", "/v1/x") }, fault.Unproven, "token malformed", audit.Refuse, "token_malformed", ""},
		{"2 MB", func(*testing.T, *world) guard.Attempt { return get(strings.Repeat("a", 2<<20), "/v1/x") }, fault.Unproven, "token malformed", audit.Refuse, "token_malformed", ""},
		{"expired", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"exp": w.clock.Load() - 61}), "/v1/x")
		}, fault.Unproven, "token expired", audit.Refuse, "token_expired", ""},
		{"another audience, and we know whose", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"aud": "x"}), "/v1/x")
		}, fault.Unproven, "wrong audience", audit.Refuse, "audience_wrong", "serviceAccount:orders"},
		{"another issuer", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"iss": "https://evil"}), "/v1/x")
		}, fault.Unproven, "token not trusted", audit.Refuse, "issuer_not_accepted", ""},
		{"an account that the file lost", func(t *testing.T, w *world) guard.Attempt {
			return get(w.bearer(t, map[string]any{"sub": "spiffe://test/sa/gone"}), "/v1/x")
		}, fault.Unproven, "token not trusted", audit.Refuse, "account_unknown", ""},
		{"a service that takes only the lab's", func(t *testing.T, w *world) guard.Attempt {
			a := get(w.bearer(t, map[string]any{"aud": "https://other.test"}), "/")
			a.Service, a.Resource = "other", guard.ToService("other")
			return a
		}, fault.Unproven, "token not trusted", audit.Refuse, "issuer_not_accepted", ""},
		{"a service that is not there", func(t *testing.T, w *world) guard.Attempt {
			a := get(w.bearer(t, nil), "/")
			a.Service = "nowhere"
			return a
		}, fault.Absent, "not found", audit.Refuse, "service_unknown", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, allowOrders())
			for range 2 { // the second time from the cache of tokens
				check(t, w, tt.attempt(t, w), tt.code, tt.public)
				e := w.last(t)
				if e.Kind != tt.kind || e.Payload.Reason != tt.reason || e.Payload.Principal != tt.who || (e.Decision == audit.Allow) != (tt.code == "") {
					t.Errorf("record: %s %s %q by %q, want %s %q by %q", e.Kind, e.Decision, e.Payload.Reason, e.Payload.Principal, tt.kind, tt.reason, tt.who)
				}
				if e.Payload.Peer != "192.0.2.1:99" || e.Payload.Vars["request.method"] != "GET" || e.Payload.Action != "http.get" || e.Policy == "" {
					t.Errorf("the record lacks what was asked: %+v", e.Payload)
				}
				if strings.Contains(string(e.PayloadText), "eyJ") || strings.Contains(string(e.PayloadText), "garbage") {
					t.Errorf("the record holds a token: %s", e.PayloadText)
				}
			}
		})
	}
}

func check(t *testing.T, w *world, a guard.Attempt, code fault.Code, public string) {
	t.Helper()
	pass, err := w.Admit(t.Context(), a)
	id := fmt.Sprintf("r-%d", w.log.Size()-1)
	if code == "" {
		if err != nil {
			t.Fatalf("refused: %v (%v)", err, errors.Unwrap(err))
		}
		if got, err := pass.Admission(); err != nil || got.ID != id || got.Principal.ID() != "serviceAccount:orders" {
			t.Errorf("admission %+v, %v, want id %s", got, err, id)
		}
		return
	}
	f := fault.Of(err)
	if pass != nil || err == nil || f.Code != code || f.Public != public || f.Decision != id {
		t.Errorf("got %v, %s %q decision %s; want %s %q decision %s", pass, f.Code, f.Public, f.Decision, code, public, id)
	}
}

// What is remembered of a token is asked again on every use.
func TestARememberedTokenIsJudgedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*world)
		reason string
	}{
		{"its time is over", func(w *world) { w.clock.Add(3600 + 61) }, "token_expired"},
		{"its key was withdrawn", func(w *world) { w.keys.withdraw() }, "key_unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, allowOrders())
			raw := w.bearer(t, nil)
			check(t, w, get(raw, "/v1/x"), "", "")
			tt.change(w)
			if _, err := w.Admit(t.Context(), get(raw, "/v1/x")); err == nil {
				t.Fatal("still admitted")
			}
			if got := w.last(t).Payload.Reason; got != tt.reason {
				t.Errorf("reason %s, want %s", got, tt.reason)
			}
		})
	}
}

// A token for one service, once seen, opens no other that shares the guard.
func TestARememberedTokenIsForItsAudienceOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, allowOrders())
	raw := w.bearer(t, nil)
	check(t, w, get(raw, "/v1/x"), "", "")
	a := get(raw, "/v1/x")
	a.Service, a.Resource = "other", guard.ToService("other")
	check(t, w, a, fault.Unproven, "token not trusted")
	a.Service, a.Resource = "third", guard.ToService("third")
	check(t, w, a, fault.Unproven, "wrong audience")
	check(t, w, get(raw, "/v1/x"), "", "")
}

func TestNoRecordNoPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, allowOrders())
	w.broken.Store(true)
	for name, a := range map[string]guard.Attempt{"allowed": get(w.bearer(t, nil), "/v1/x"), "denied": get(w.bearer(t, nil), "/"), "unproven": get("x", "/")} {
		pass, err := w.Admit(t.Context(), a)
		if f := fault.Of(err); pass != nil || f.Code != fault.Busy || f.RetryAfter == 0 || strings.Contains(f.Error(), "disk 7") {
			t.Errorf("%s: got %v, %v", name, pass, err)
		}
	}
	if f := w.Refuse(t.Context(), get("", "/"), guard.PathRefused, "x"); f.Code != fault.Busy {
		t.Errorf("Refuse without a record: %v", f)
	}
	if err := w.Note(t.Context(), guard.Event{Action: "server.start"}); err == nil {
		t.Error("Note without a record succeeded")
	}
}

func TestMintingHasATokenIDInItsRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pass, err := w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := pass.Admission()
	if err != nil || a.IssuedTokenID == "" || a.Resource.Name != "orders" || a.Attested["uid"] != "7" {
		t.Errorf("admission %+v, %v", a, err)
	}
	if e := w.last(t); e.Payload.IssuedTokenID != a.IssuedTokenID || e.Rule != "sallyport:mint-own" || e.Payload.Resource != "serviceAccount:orders" {
		t.Errorf("record %+v %+v", e.Header, e.Payload)
	}
	w.local = func(attest.Conn, []string) (*identity.Proof, error) { return nil, errors.New("netlink: boom") }
	_, err = w.Admit(t.Context(), guard.Attempt{Action: guard.ActionMint, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, nil)}})
	if f := fault.Of(err); f.Code != fault.Internal || strings.Contains(f.Public, "boom") || w.last(t).Payload.Reason != "prover_failed" {
		t.Errorf("an error without a code: %v, recorded as %s", err, w.last(t).Payload.Reason)
	}
}

func TestShadowRulesAreRecordedOnly(t *testing.T) {
	t.Parallel()
	shadow := policy.Rule{Name: "no-more", Deny: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: []string{"http.*"}, Mode: "shadow"}
	w := newWorld(t, allowOrders(), shadow)
	check(t, w, get(w.bearer(t, nil), "/v1/x"), "", "")
	if e := w.last(t); fmt.Sprint(e.Payload.Shadow) != "[deny:no-more]" || e.Rule != "orders-read" {
		t.Errorf("record %+v", e.Payload)
	}
}

func TestAPassThatNobodyIssuedFailsEveryMethod(t *testing.T) {
	t.Parallel()
	for _, p := range []*guard.Pass{new(guard.Pass), nil} {
		if _, err := p.Admission(); !errors.Is(err, guard.ErrUnissued) {
			t.Errorf("Admission: %v", err)
		}
		for name, err := range map[string]error{
			"Still": p.Still(t.Context()), "Check": p.Check(t.Context(), "http.get", nil), "Err": p.Err(), "Close": p.Close(guard.Summary{}),
		} {
			if !errors.Is(err, guard.ErrUnissued) {
				t.Errorf("%s: %v", name, err)
			}
		}
		select {
		case <-p.Done():
		default:
			t.Error("Done is open")
		}
	}
}

func TestPassCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, allowOrders())
	pass, err := w.Admit(t.Context(), get(w.bearer(t, nil), "/v1/x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := pass.Check(t.Context(), "http.get", policy.HTTP{Method: "GET", Path: "/v1/y"}); err != nil {
		t.Errorf("allowed further action: %v", err)
	}
	if e := w.last(t); e.Kind != audit.Check || e.Decision != audit.Allow || e.Payload.Vars["request.path"] != "/v1/y" {
		t.Errorf("record %+v %+v", e.Header, e.Payload)
	}
	err = pass.Check(t.Context(), "http.delete", policy.HTTP{Method: "DELETE", Path: "/v1/y"})
	if f := fault.Of(err); f.Code != fault.Denied || f.Decision != fmt.Sprintf("r-%d", w.last(t).Seq) {
		t.Errorf("further action without a rule: %v", err)
	}
	w.clock.Add(3600 + 61)
	if err := pass.Check(t.Context(), "http.get", policy.HTTP{Method: "GET", Path: "/v1/y"}); err != nil {
		t.Errorf("after the token's end, which is a new decision and no end: %v", err)
	}
	w.keys.withdraw()
	w.clock.Add(-3600 - 61)
	if f := fault.Of(pass.Check(t.Context(), "http.get", nil)); f.Code != fault.Unproven || f.Public != "token not trusted" {
		t.Errorf("after its key was withdrawn: %v", f)
	}
}

func TestPassEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, allowOrders())
	admit := func() *guard.Pass {
		t.Helper()
		p, err := w.Admit(context.Background(), get(w.bearer(t, nil), "/v1/x"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	short, long, drained, unwaited := admit(), admit(), admit(), admit()
	n := w.log.Size()
	if err := short.Close(guard.Summary{}); err != nil || w.log.Size() != n {
		t.Errorf("a short request left a closing record: %v", err)
	}
	if err := short.Check(t.Context(), "http.get", nil); err == nil {
		t.Error("a closed pass was checked")
	}
	done := drained.Done()
	w.clock.Add(2)
	if err := long.Close(guard.Summary{BytesIn: 3, BytesOut: 4}); err != nil {
		t.Fatal(err)
	}
	if e := w.last(t); e.Kind != audit.Close || e.Payload.BytesIn != 3 || e.Payload.BytesOut != 4 || e.Payload.DurationMS != 2000 || e.Payload.Principal != "serviceAccount:orders" {
		t.Errorf("closing record %+v %+v", e.Header, e.Payload)
	}
	if err := long.Close(guard.Summary{}); err != nil || w.last(t).Seq != n {
		t.Errorf("a second Close did something: %v", err)
	}
	w.Guard.Close()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a session outlives the guard")
	}
	if f := fault.Of(drained.Err()); f.Code != fault.Busy || f.Public != "shutting down" {
		t.Errorf("Err: %v", drained.Err())
	}
	for range 2 {
		if err := drained.Close(guard.Summary{}); err != nil || w.last(t).Seq != n+1 || w.last(t).Payload.Reason != "shutting_down" {
			t.Errorf("closing what was drained: %v, record %d", err, w.last(t).Seq)
		}
	}
	<-unwaited.Done() // asked for only now: must not wait for ever
	if _, err := w.Admit(t.Context(), get(w.bearer(t, nil), "/v1/x")); fault.Of(err).Code != fault.Busy {
		t.Errorf("admitted after Close: %v", err)
	}
}

func BenchmarkVerifyCached(b *testing.B) {
	w := newWorld(b, allowOrders())
	a := get(w.bearer(b, nil), "/v1/x")
	for b.Loop() {
		if err := w.ProveForTest(context.Background(), a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdmitWithRecord(b *testing.B) {
	w := newWorld(b, allowOrders())
	a := get(w.bearer(b, nil), "/v1/x")
	for b.Loop() {
		pass, err := w.Admit(context.Background(), a)
		if err != nil {
			b.Fatal(err)
		}
		if err := pass.Close(guard.Summary{}); err != nil {
			b.Fatal(err)
		}
	}
}
