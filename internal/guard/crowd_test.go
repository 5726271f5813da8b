package guard_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// from is an attempt without a credential, from an address.
func from(peer string) guard.Attempt {
	a := get("", "/x")
	a.Peer = netip.MustParseAddrPort(peer)
	return a
}

// counted are the records that stand for several refusals, those of one reason as one:
// how long a test takes decides over how many seconds they are spread.
func (w *world) counted(t *testing.T) map[string]audit.Payload {
	t.Helper()
	out := map[string]audit.Payload{}
	for _, e := range w.tail(t, w.size(t)) {
		if e.Payload.Count == 0 {
			continue
		}
		if e.Kind != audit.Refuse || e.Decision != audit.Deny {
			t.Errorf("recorded %+v", e)
		}
		p := *e.Payload
		p.Count += out[p.Reason].Count
		out[p.Reason] = p
	}
	return out
}

// Refusals of callers that nobody proved have records of their own up to a rate; more
// have one that counts them, and take nothing from other networks, or from callers that
// are known.
func TestRefusalsOfACrowdAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refused := func(a guard.Attempt) string {
		t.Helper()
		_, err := w.Admit(t.Context(), a)
		f, ok := errors.AsType[*fault.Error](err)
		if !ok {
			t.Fatalf("got %v", err)
		}
		return f.Decision
	}
	for i := range 2048 {
		if refused(from("192.0.2.1:99")) == "" {
			t.Fatalf("refusal %d has no record", i)
		}
	}
	for i := range 700 {
		if id := refused(from("192.0.2.77:99")); id != "" { // the same network
			t.Fatalf("refusal %d beyond the burst is %s", i, id)
		}
	}
	malformed := from("192.0.2.1:99")
	malformed.Credentials = []guard.Credential{guard.Bearer("x"), guard.Bearer("y")}
	if refused(malformed) != "" {
		t.Error("another class has a burst of its own")
	}
	for name, a := range map[string]guard.Attempt{"another network": from("192.0.3.1:99"), "IPv6": from("[2001:db8::1]:99"), "a caller that is known": get(w.bearer(t, nil), "/x")} {
		if refused(a) == "" {
			t.Errorf("%s: no record", name)
		}
	}
	w.clock.Add(1)
	for i := range 100 {
		if refused(from("192.0.2.1:99")) == "" {
			t.Errorf("after a second refusal %d has no record", i)
		}
	}
	if refused(from("192.0.2.1:99")) != "" {
		t.Error("more than the rate")
	}
	w.Close()
	counted := w.counted(t)
	for _, p := range counted {
		if p.Action != "http.get" || p.Peer != "192.0.2.0/24" {
			t.Errorf("recorded %+v", p)
		}
	}
	if missing, bad := counted["credential_missing"].Count, counted["credential_malformed"].Count; missing != 701 || bad != 1 {
		t.Errorf("counted %d and %d", missing, bad)
	}
}

// What a caller can choose makes no class of its own: each invented method would have a
// record.
func TestCrowdOfInventedActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := 0
	for i := range 2048 + 500 {
		a := from("192.0.2.1:99")
		a.Action = fmt.Sprintf("http.x%d", i)
		if _, err := w.Admit(t.Context(), a); fault.Of(err).Decision != "" {
			before++
		}
	}
	w.Close()
	if p := w.counted(t)["credential_missing"]; before != 2048 || p.Count != 500 || p.Action != "http.x2547" {
		t.Errorf("%d one by one, and %+v", before, p)
	}
	if n := w.size(t); n > 2048+5 {
		t.Errorf("%d records", n)
	}
}

// What was counted is in the log a second later, without anything that ends.
func TestCountedRefusalsAreRecordedInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 2048 + 5 {
		_, _ = w.Admit(t.Context(), from("192.0.2.1:99"))
	}
	for range 2000 {
		if w.last(t).Payload.Count > 0 && w.counted(t)["credential_missing"].Count == 5 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("the last record is %+v", w.last(t).Payload)
}

// Local callers are told apart by their uid, whatever the address, and callers that are
// refused by policy are no crowd.
func TestCrowdOfAUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.local = func(attest.Conn, []string) (*identity.Proof, error) { return nil, errors.New("nobody") }
	a := guard.Attempt{Action: guard.ActionMetadata, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})}, Peer: netip.MustParseAddrPort("127.0.0.1:9")}
	for range 2048 + 3 {
		_, _ = w.Admit(t.Context(), a)
	}
	other := from("127.0.0.1:9") // a bearer's, over loopback too
	if _, err := w.Admit(t.Context(), other); fault.Of(err).Decision == "" {
		t.Error("one over TCP is counted with one that the kernel knows")
	}
	refuse := guard.Attempt{Action: guard.ActionMetadata, Caller: &attest.Conn{}}
	if f := w.Refuse(t.Context(), refuse, guard.PathUnknown, "no such path"); f.Decision != "" || f.Public != "not found" {
		t.Errorf("a refusal before there is a credential: %+v", f)
	}
	w.local = func(attest.Conn, []string) (*identity.Proof, error) { return proof("reports", nil), nil }
	a.Action = "admin.keys.list"
	if _, err := w.Admit(t.Context(), a); fault.Of(err).Decision == "" {
		t.Error("a caller that is known is counted with those that are not")
	}
	w.Close()
	if got := w.counted(t); len(got) != 2 || got["prover_failed"].Count != 3 || got["path_unknown"].Count != 1 || got["prover_failed"].Peer != "unknown" {
		t.Errorf("counted %+v", got)
	}
}

// All networks together have a bound, too, and so have the records that count.
func TestCrowdOfEverybody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alone := 0
	refuse := func(network int) {
		a := from(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(network >> 8), byte(network), 1}), 9).String())
		if f := w.Refuse(t.Context(), a, guard.CredentialMissing, ""); f.Decision != "" {
			alone++
		}
	}
	for network := range 12 {
		for range 2048 {
			refuse(network)
		}
	}
	before := w.size(t)
	for network := range 600 {
		refuse(12 + network)
	}
	w.Close()
	if sum := w.counted(t)["credential_missing"].Count; alone != 20000 || sum != 12*2048+600-20000 {
		t.Errorf("%d one by one, %d counted", alone, sum)
	}
	if n := w.size(t) - before; n > 300 {
		t.Errorf("%d records of 600 networks", n)
	}
}

// Who has a token of a provider may be anybody: what policy denies them is counted too.
func TestCrowdOfAProvidersUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.local = func(attest.Conn, []string) (*identity.Proof, error) {
		return &identity.Proof{Principal: identity.Principal{Kind: identity.User, Provider: "ci", Name: "repo:x"}, Provider: "ci", Still: func(context.Context) error { return nil }}, nil
	}
	a := guard.Attempt{Action: guard.ActionMetadata, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, nil)}}
	for range 2048 + 7 {
		_, _ = w.Admit(t.Context(), a)
	}
	w.Close()
	if got := w.counted(t)["no_match"].Count; got != 7 {
		t.Errorf("counted %d", got)
	}
}

// Every process is a local user: what policy denies one costs it nothing either.
func TestCrowdOfWhatAUserMayNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]guard.Credential{"admin.keys.list": guard.LocalUser(attest.Conn{}), "workload.run": guard.RunAs(attest.Conn{}, "orders")} {
		w := newWorld(t)
		for i := range 2048 + 3 {
			_, err := w.Admit(t.Context(), guard.Attempt{Action: "admin.keys.list", Credentials: []guard.Credential{c}})
			if f := fault.Of(err); f.Code != fault.Denied || f.Public != "not allowed" || (f.Decision != "") != (i < 2048) {
				t.Fatalf("%s: refusal %d: %+v", name, i, f)
			}
		}
		w.Close()
		if p := w.counted(t)["no_match"]; p.Count != 3 || p.Action != name || p.Peer != "unknown" {
			t.Errorf("%s: counted %+v", name, p)
		}
	}
}

// Callers that are known are recorded one by one, however many: what they are allowed,
// what policy denies an account, and a credential that is for somebody else.
func TestCallersThatAreKnownAreNoCrowd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		attempt guard.Attempt
		allowed bool
	}{
		"a user who may":              {guard.Attempt{Action: guard.ActionMetadata, Resource: guard.ToItself(), Credentials: []guard.Credential{guard.RunAs(attest.Conn{}, "orders")}}, true},
		"an account that may not":     {guard.Attempt{Action: "admin.keys.list", Resource: guard.ToItself(), Credentials: []guard.Credential{guard.Local(attest.Conn{}, []string{"orders"})}}, false},
		"a token for another service": {get("wrong audience", "/x"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, policy.Rule{Name: "run", Allow: []string{"user:local/1000"}, To: []string{"serviceAccount:orders"}, Actions: []string{"workload.run"}})
			a := tt.attempt
			if a.Service != "" {
				a.Credentials = []guard.Credential{guard.Bearer(w.bearer(t, map[string]any{"aud": "https://other.test"}))}
			}
			for i := range 2048 + 20 {
				pass, err := w.Admit(t.Context(), a)
				if (err == nil) != tt.allowed || err != nil && fault.Of(err).Decision == "" {
					t.Fatalf("attempt %d: %v, %v", i, pass, err)
				}
			}
			w.Close()
			if p := w.last(t).Payload; len(w.counted(t)) != 0 || p.Principal == "" {
				t.Errorf("the last record is %+v", p)
			}
		})
	}
}

// Ever new networks do not fill the memory: those that are quiet are forgotten, and
// beyond what is kept they share one allowance.
func TestCrowdOfManyNetworks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alone := 0
	for i := range 7000 {
		a := from(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 9).String())
		if f := w.Refuse(t.Context(), a, guard.CredentialMissing, ""); f.Decision != "" {
			alone++
		}
	}
	if n := w.Networks(); n > 4097 || alone != 4096+2048 {
		t.Errorf("%d networks are kept, and %d refusals were recorded one by one", n, alone)
	}
	w.Close()
	if p := w.counted(t)["credential_missing"]; p.Peer != "others" || p.Count != 7000-4096-2048 {
		t.Errorf("recorded %+v", p)
	}
	w.clock.Add(60)
	w.Refuse(t.Context(), from("203.0.113.1:9"), guard.CredentialMissing, "")
	if n := w.Networks(); n != 1 {
		t.Errorf("%d networks are kept after a minute", n)
	}
}
