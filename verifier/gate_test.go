package verifier_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// keyring is a KeySource that a test changes, and that counts how often a key is
// asked for: once for each verification, never for a verdict that still holds.
type keyring struct {
	mu         sync.Mutex
	keys       []token.Key
	err        error
	generation uint64
	finds      int
}

func (k *keyring) Find(_ context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.finds++
	if k.err != nil {
		return token.Key{}, k.err
	}
	return token.FindKey(k.keys, kid, alg)
}

func (k *keyring) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

func (k *keyring) change(err error, keys ...token.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.err = keys, err
	k.generation++
}

// observed remembers reports.
type observed struct {
	mu      sync.Mutex
	reports []verifier.Report
}

func (o *observed) Observe(_ context.Context, r verifier.Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reports = append(o.reports, r)
}

func (o *observed) take() []verifier.Report {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.reports
	o.reports = nil
	return out
}

// world is a Gate of the service "app" for https://a, with a Sallyport
// ("https://id") and another issuer ("https://lab") whose keys a test changes.
type world struct {
	clock    atomic.Int64
	own, lab issuer
	ownKeys  *keyring
	labKeys  *keyring
	reports  *observed
	gate     *verifier.Gate
}

func (w *world) now() time.Time       { return time.Unix(w.clock.Load(), 0) }
func (w *world) tick(d time.Duration) { w.clock.Add(int64(d.Seconds())) }

func (w *world) verifier(t testing.TB, issuer string, keys verifier.KeySource, rules verifier.Rules) *verifier.Verifier {
	t.Helper()
	v, err := verifier.New(verifier.Config{Issuer: issuer, Keys: keys, Rules: rules, Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{own: newIssuer(t, "k"), lab: newIssuer(t, "l"), reports: &observed{}}
	w.clock.Store(now.Unix())
	w.ownKeys, w.labKeys = &keyring{keys: []token.Key{w.own.public()}}, &keyring{keys: []token.Key{w.lab.public()}}
	g, err := verifier.NewGate(verifier.Requirement{
		Verifiers: []*verifier.Verifier{
			w.verifier(t, "https://id", w.ownKeys, verifier.OwnRules(token.TypeID)),
			w.verifier(t, "https://lab", w.labKeys, verifier.ProviderRules()),
		},
		Audiences: []string{"https://b", "https://a"}, Service: "app", Observer: w.reports, Now: w.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.gate = g
	return w
}

// orders is a token of the account orders, changed.
func (w *world) orders(t testing.TB, changes claims) string {
	t.Helper()
	c := with(claims{"sub": "spiffe://test/sa/orders", "jti": "token-1"})
	for k, v := range changes {
		c[k] = v
	}
	return w.own.sign(t, "JWT", c)
}

func bearerHeader(raw string) verifier.Attempt {
	return verifier.Attempt{Authorization: []string{"Bearer " + raw}, Action: "http.get", Resource: "/v1"}
}

func TestNewGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := w.verifier(t, "https://id", w.ownKeys, verifier.OwnRules(token.TypeID))
	lab := w.verifier(t, "https://lab", w.labKeys, verifier.ProviderRules())
	good := func(change func(*verifier.Requirement)) verifier.Requirement {
		r := verifier.Requirement{Verifiers: []*verifier.Verifier{own, lab}, Audiences: []string{"https://a"}, Service: "app"}
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name string
		r    verifier.Requirement
		want []string // beginnings of the mistakes
	}{
		{"the least", good(func(*verifier.Requirement) {}), nil},
		{"nothing", verifier.Requirement{}, []string{"verifier: Verifiers is empty", "verifier: Audiences is empty", "verifier: Service is empty"}},
		{"a verifier that is nil", good(func(r *verifier.Requirement) { r.Verifiers[1] = nil }), []string{"verifier: Verifiers[1] is nil"}},
		{"an empty audience", good(func(r *verifier.Requirement) { r.Audiences = []string{"https://a", ""} }), []string{"verifier: Audiences"}},
		{"an issuer twice", good(func(r *verifier.Requirement) { r.Verifiers[0] = lab }), []string{"verifier: Verifiers[1]: a second one"}},
		{"two Sallyports whose accounts have the same names", good(func(r *verifier.Requirement) {
			r.Verifiers[1] = w.verifier(t, "https://other", w.ownKeys, verifier.OwnRules(token.TypeAccess))
		}), []string{"verifier: Verifiers: two have OwnRules"}},
		{"assertions are no bearer tokens", good(func(r *verifier.Requirement) {
			r.Verifiers[0] = w.verifier(t, "https://id/assertion", w.ownKeys, verifier.OwnRules("SALLYPORT-assertion+jwt"))
		}), []string{"verifier: Verifiers[0]: takes assertions"}},
		{"a realm with a quote", good(func(r *verifier.Requirement) { r.Realm = `a", error="x` }), []string{"verifier: Realm:"}},
		{"a realm with a line break", good(func(r *verifier.Requirement) { r.Realm = "a\r\nX: y" }), []string{"verifier: Realm:"}},
		{"a service that is no realm", good(func(r *verifier.Requirement) { r.Service = "app\n" }), []string{"verifier: Realm:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := verifier.NewGate(tt.r)
			if (g == nil) != (err != nil) {
				t.Fatalf("got %v, %v", g, err)
			}
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tt.want[i]) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// A verdict is remembered, and yet each use is judged by what holds then.
func TestVerdictsAreAskedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*world)
		again  verifier.Reason // on the second use
		finds  int             // verifications on the second use
	}{
		{"nothing has changed", func(*world) {}, "", 0},
		{"other keys were published, and its own still is", func(w *world) { w.ownKeys.change(nil, w.lab.public(), w.own.public()) }, "", 1},
		{"it is at the end of the leeway", func(w *world) { w.tick(time.Hour + time.Minute - time.Second) }, "", 0},
		{"it has expired", func(w *world) { w.tick(time.Hour + time.Minute) }, verifier.Expired, 1},
		{"its key was withdrawn", func(w *world) { w.ownKeys.change(nil) }, verifier.KeyUnknown, 2},
		{"its key is another of the same name", func(w *world) {
			k := w.lab.public()
			k.ID = "k"
			w.ownKeys.change(nil, k)
		}, verifier.SignatureInvalid, 2},
		{"its issuer is out of reach", func(w *world) { w.ownKeys.change(errors.New("no route")) }, verifier.KeysUnavailable, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			a := bearerHeader(w.orders(t, nil))
			first, err := w.gate.Admit(t.Context(), a)
			if err != nil || w.ownKeys.finds != 1 {
				t.Fatalf("got %v after %d verifications", err, w.ownKeys.finds)
			}
			tt.change(w)
			for _, lasting := range []bool{false, true} {
				w.ownKeys.finds = 0
				w.reports.take()
				if lasting {
					err = w.gate.Still(t.Context(), first, a)
				} else {
					var got *verifier.Verified
					if got, err = w.gate.Admit(t.Context(), a); (got != nil) != (err == nil) {
						t.Errorf("got %v with %v", got, err)
					}
				}
				if reason(err) != tt.again {
					t.Errorf("lasting %v: got %v, want %q", lasting, err, tt.again)
				}
				reports := w.reports.take()
				if wanted := !lasting || err != nil; len(reports) != map[bool]int{true: 1}[wanted] || wanted && reports[0].Reason != string(tt.again) {
					t.Errorf("lasting %v: reported %+v", lasting, reports)
				}
				if n := w.gate.Remembered(); (n == 0) != (tt.again != "") {
					t.Errorf("%d are remembered", n)
				}
				if !lasting && w.ownKeys.finds != tt.finds {
					t.Errorf("%d verifications, want %d", w.ownKeys.finds, tt.finds)
				}
			}
		})
	}
}

// A token that is good and for somebody else is remembered, and never let through.
func TestAudienceIsAskedOnEachUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := bearerHeader(w.orders(t, claims{"aud": "https://other"}))
	for range 3 {
		if got, err := w.gate.Admit(t.Context(), a); reason(err) != verifier.AudienceWrong || got != nil {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if w.ownKeys.finds != 1 {
		t.Errorf("it was verified %d times", w.ownKeys.finds)
	}
}

func TestRefusedTokensAreNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, raw := range []string{"x", strings.Repeat("x", token.MaxLength+1), w.orders(t, claims{"exp": now.Unix() - 60}),
		w.lab.sign(t, "JWT", with(nil)), w.lab.sign(t, "JWT", with(claims{"iss": "https://nobody"}))} {
		if got, err := w.gate.Admit(t.Context(), bearerHeader(raw)); err == nil {
			t.Errorf("admitted %+v", got.Claims)
		}
	}
	if n := w.gate.Remembered(); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

// However many good tokens there are, a bounded number is remembered, and what has
// expired goes first.
func TestVerdictsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admit := func(changes claims) *verifier.Verified {
		got, err := w.gate.Admit(t.Context(), bearerHeader(w.orders(t, changes)))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	soon, later := admit(claims{"exp": now.Unix() + 600}), admit(nil)
	for i := range 3 * verifier.MaxRemembered {
		w.gate.Remember(i, soon)
	}
	if n := w.gate.Remembered(); n != verifier.MaxRemembered {
		t.Fatalf("%d are remembered, at most %d", n, verifier.MaxRemembered)
	}
	w.tick(11 * time.Minute)
	const more = 200 // some for each part of the memory
	for i := range more {
		w.gate.Remember(-1-i, later)
	}
	if n := w.gate.Remembered(); n < more || n > more+1 { // one more, if it was not pushed out: later itself
		t.Errorf("after all but %d have expired %d are remembered", more+1, n)
	}
	if got, err := w.gate.Admit(t.Context(), bearerHeader(w.orders(t, nil))); err != nil || got.Claims.ID != later.Claims.ID {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestGateIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var tokens []string
	for i := range 8 {
		tokens = append(tokens, w.orders(t, claims{"jti": strconv.Itoa(i)}))
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				id := strconv.Itoa((i + j) % 8)
				got, err := w.gate.Admit(t.Context(), bearerHeader(tokens[(i+j)%8]))
				if err != nil || got.Claims.ID != id {
					t.Errorf("got %v, %v, want token %s", got, err, id)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(w.reports.take()); n != 16*50 {
		t.Errorf("%d outcomes were reported", n)
	}
}

func TestPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	assertions := verifier.OwnRules(token.TypeAssertion)
	both := verifier.Rules{Types: []string{token.TypeID, token.TypeAccess}, MaxLifetime: 65 * time.Minute, SingleAudience: true}
	for _, tt := range []struct {
		name  string
		rules verifier.Rules
		typ   string
		sub   string
		want  string
	}{
		{"an account of ours", verifier.OwnRules(token.TypeID), "JWT", "spiffe://test/sa/orders", "serviceAccount:orders"},
		{"by an access token", both, "at+jwt", "spiffe://test/sa/orders", "serviceAccount:orders"},
		{"rules of ours, but for a type that may be missing", verifier.Rules{Types: []string{"", "JWT"}, MaxLifetime: 65 * time.Minute, SingleAudience: true}, "JWT",
			"spiffe://test/sa/orders", "principal:https://id/spiffe://test/sa/orders"},
		{"another issuer that would like to be us", verifier.ProviderRules(), "JWT", "spiffe://test/sa/orders", "principal:https://id/spiffe://test/sa/orders"},
		{"a qualified name as another's subject", verifier.ProviderRules(), "JWT", "serviceAccount:orders", "principal:https://id/serviceAccount:orders"},
		{"a qualified name as a subject of ours", verifier.OwnRules(token.TypeID), "JWT", "serviceAccount:orders", "principal:https://id/serviceAccount:orders"},
		{"the subject of an assertion", assertions, token.TypeAssertion, "user:okta/7", "user:okta/7"},
		{"another kind of SPIFFE ID", verifier.OwnRules(token.TypeID), "JWT", "spiffe://test/ns/x/sa/orders", "principal:https://id/spiffe://test/ns/x/sa/orders"},
		{"more behind the name", verifier.OwnRules(token.TypeID), "JWT", "spiffe://test/sa/orders/2", "principal:https://id/spiffe://test/sa/orders/2"},
		{"no name", verifier.OwnRules(token.TypeID), "JWT", "spiffe://test/sa/", "principal:https://id/spiffe://test/sa/"},
		{"a name that is none", verifier.OwnRules(token.TypeID), "JWT", "spiffe://test/sa/Orders", "principal:https://id/spiffe://test/sa/Orders"},
		{"no trust domain", verifier.OwnRules(token.TypeID), "JWT", "spiffe:///sa/orders", "principal:https://id/spiffe:///sa/orders"},
		{"another scheme", verifier.OwnRules(token.TypeID), "JWT", "https://test/sa/orders", "principal:https://id/https://test/sa/orders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := w.verifier(t, "https://id", w.ownKeys, tt.rules)
			got, err := v.Verify(t.Context(), w.own.sign(t, tt.typ, with(claims{"sub": tt.sub})), "https://a")
			if err != nil {
				t.Fatal(err)
			}
			if got.Principal() != tt.want {
				t.Errorf("got %q, want %q", got.Principal(), tt.want)
			}
		})
	}
}
