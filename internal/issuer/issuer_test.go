package issuer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

const (
	url      = "https://id.test"
	audience = "https://invoices.test"
)

type memory struct{ rows []keys.Sealed }

func (m *memory) ListKeys(context.Context) ([]keys.Sealed, error) { return m.rows, nil }
func (m *memory) SaveKeys(_ context.Context, put []keys.Sealed, _ []string) error {
	m.rows = append(m.rows, put...)
	return nil
}

type appendFunc func(*audit.Record, audit.Durability) (uint64, error)

func (f appendFunc) Append(r *audit.Record, d audit.Durability) (uint64, error) { return f(r, d) }

type localFunc func(attest.Conn, []string) (*identity.Proof, error)

func (localFunc) Which(_ context.Context, _ attest.Conn, among []string) ([]string, error) {
	return among, nil
}

func (localFunc) ProveUser(context.Context, attest.Conn) (*identity.Proof, error) {
	return nil, errors.New("not asked for here")
}

func (localFunc) Account(name string) (identity.Principal, bool) {
	return identity.Account(name, name+"@sa.test"), true
}

func (f localFunc) Prove(_ context.Context, c attest.Conn, among []string) (*identity.Proof, error) {
	return f(c, among)
}

// world is an issuer and the guard whose passes it takes.
type world struct {
	*issuer.Issuer
	keys  *keys.Set
	guard *guard.Guard
	lax   *guard.Guard // lets everybody mint for any audience
	clock atomic.Int64
	pid   atomic.Int64

	anywhere atomic.Bool // mint for any audience
	gone     atomic.Bool // the local caller
	last     *audit.Record
}

// facts are the caller's: the pid is new each time.
func (w *world) facts() map[string]string {
	return map[string]string{"uid": "5", "pid": strconv.FormatInt(w.pid.Add(1), 10)}
}

func (w *world) now() time.Time { return time.Unix(w.clock.Load(), 0) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.clock.Store(1_800_000_000)
	w.Reopen(t)
	return w
}

// Reopen makes everything anew, at the time that the clock shows.
func (w *world) Reopen(t *testing.T) {
	t.Helper()
	kek, err := sealing.NewRandom()
	if err != nil {
		t.Fatal(err)
	}
	if w.keys, err = keys.Open(t.Context(), keys.Options{Store: &memory{}, KEK: kek, Now: w.now, TrustDomain: "test"}); err != nil {
		t.Fatal(err)
	}
	c := issuer.Config{URL: url, Listen: "x"}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	w.Issuer = issuer.New(c, "test", map[string]token.Algorithm{"swift": token.ES256}, w.keys, w.now)
	self, err := federation.NewSelf(url, w.keys.Source(keys.Tokens), "test", []string{"orders", "swift"}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.guard, w.lax = w.newGuard(t, self, nil), w.newGuard(t, self, []string{"*"})
}

// newGuard returns a guard that lets accounts mint for audience, and for patterns.
func (w *world) newGuard(t *testing.T, self guard.BearerProver, patterns []string) *guard.Guard {
	t.Helper()
	snapshot, err := policy.Compile(policy.Config{Policies: []policy.Rule{{Name: "all", Allow: []string{"anyAuthenticated"}, To: []string{"invoices"}, Actions: []string{"http.*"}}}},
		policy.World{Services: map[string]string{"invoices": "http"}, Accounts: []string{"orders", "swift"}, Audiences: []string{audience}, MintPatterns: patterns})
	if err != nil {
		t.Fatal(err)
	}
	return guard.New(guard.Config{
		Policy: snapshot, Bearers: []guard.BearerProver{self}, Replica: "r", Now: w.now,
		Services: map[string]guard.Service{"invoices": {Audiences: []string{audience}, Accept: []string{"self"}, Durability: audit.Written}},
		Log:      appendFunc(func(r *audit.Record, _ audit.Durability) (uint64, error) { w.last = r; return 7, nil }),
		Local: localFunc(func(_ attest.Conn, among []string) (*identity.Proof, error) {
			return &identity.Proof{Principal: identity.Account(among[0], among[0]+"@sa.test"), Provider: "local", Attested: w.facts(),
				Still: func(context.Context) error {
					if w.gone.Load() {
						return errors.New("the caller is another now")
					}
					return nil
				}}, nil
		}),
	})
}

func (w *world) admit(t *testing.T, action string, on guard.Resource) *guard.Pass {
	t.Helper()
	return w.admitAs(t, "orders", guard.Attempt{Action: action, Resource: on})
}

func (w *world) admitAs(t *testing.T, account string, a guard.Attempt) *guard.Pass {
	t.Helper()
	a.Credentials = []guard.Credential{guard.Local(attest.Conn{}, []string{account})}
	g := w.guard
	if w.anywhere.Load() {
		g = w.lax
	}
	p, err := g.Admit(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) verify(t *testing.T, iss, typ string, p keys.Purpose, raw, aud string) map[string]any {
	t.Helper()
	v, err := verifier.New(verifier.Config{Issuer: iss, Keys: verifier.StaticKeys(w.keys.Public(p)), Rules: verifier.OwnRules(typ), Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(t.Context(), raw, aud)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(got.Payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIDToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, full := range []bool{false, true} {
		raw, err := w.IDToken(t.Context(), w.admit(t, guard.ActionMint, guard.ToAudience(audience)), audience, full)
		if err != nil {
			t.Fatal(err)
		}
		c := w.verify(t, url, token.TypeID, keys.Tokens, raw, audience)
		now := float64(w.clock.Load())
		want := map[string]any{"iss": url, "sub": "spiffe://test/sa/orders", "aud": audience, "azp": "spiffe://test/sa/orders", "email": "orders@sa.test",
			"email_verified": true, "iat": now - 5, "nbf": now - 5, "exp": now + 3600, "jti": w.last.Payload.IssuedTokenID}
		for name, v := range want {
			if c[name] != v {
				t.Errorf("%s is %v, want %v", name, c[name], v)
			}
		}
		own, has := c["sallyport"].(map[string]any)
		if has != full || full && fmt.Sprint(own["attested"]) != "map[uid:5]" {
			t.Errorf("full %v: sallyport is %v", full, c["sallyport"])
		}
		if has {
			delete(c, "sallyport")
		}
		if len(c) != len(want) {
			t.Errorf("claims %v: more than were meant", c)
		}
	}
}

func TestAccessToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	raw, expires, err := w.AccessToken(t.Context(), w.admit(t, guard.ActionMint, guard.ToItself()), []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if !expires.Equal(time.Unix(w.clock.Load()+3600, 0)) {
		t.Errorf("expires %v", expires)
	}
	c := w.verify(t, url, token.TypeAccess, keys.Tokens, raw, url)
	if c["client_id"] != c["sub"] || c["scope"] != "a b" || c["email"] != nil || c["exp"].(float64) != float64(w.clock.Load()+3600) {
		t.Errorf("claims %v", c)
	}
}

func access(w *world, t *testing.T, pass *guard.Pass) (string, error) {
	raw, _, err := w.AccessToken(t.Context(), pass, []string{"a"})
	return raw, err
}

// A pass is good for what it was given for, and for nothing else.
func TestMintingTakesOnlyItsOwnPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	forAudience := w.admit(t, guard.ActionMint, guard.ToAudience(audience))
	itself := w.admit(t, guard.ActionMint, guard.ToItself())
	reading := w.admit(t, guard.ActionMetadata, guard.ToItself())
	mint := func(f func() (string, error)) error { _, err := f(); return err }
	for name, err := range map[string]error{
		"another audience":           mint(func() (string, error) { return w.IDToken(t.Context(), forAudience, "https://other", false) }),
		"an ID token for itself":     mint(func() (string, error) { return w.IDToken(t.Context(), itself, audience, false) }),
		"an access token":            mint(func() (string, error) { return access(w, t, forAudience) }),
		"a token for having read":    mint(func() (string, error) { return access(w, t, reading) }),
		"an assertion of no service": mint(func() (string, error) { return w.Assertion(itself) }),
	} {
		if !errors.Is(err, issuer.ErrNotAdmitted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"ID token":     mint(func() (string, error) { return w.IDToken(t.Context(), new(guard.Pass), audience, false) }),
		"access token": mint(func() (string, error) { return access(w, t, nil) }),
		"assertion":    mint(func() (string, error) { return w.Assertion(new(guard.Pass)) }),
	} {
		if !errors.Is(err, guard.ErrUnissued) {
			t.Errorf("%s with a pass that nobody issued: got %v", name, err)
		}
	}
	w.gone.Store(true)
	if raw, err := w.IDToken(t.Context(), forAudience, audience, false); err == nil || raw != "" || fault.Of(err).Decision == "" {
		t.Errorf("the caller changed before the answer: got %q, %v", raw, err)
	}
}

func TestAssertion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bearer, err := w.IDToken(t.Context(), w.admit(t, guard.ActionMint, guard.ToAudience(audience)), audience, false)
	if err != nil {
		t.Fatal(err)
	}
	call := func() string {
		t.Helper()
		p, err := w.guard.Admit(t.Context(), guard.Attempt{Service: "invoices", Resource: guard.ToService("invoices"), Action: "http.get", Credentials: []guard.Credential{guard.Bearer(bearer)}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := w.Assertion(p)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one := call()
	c := w.verify(t, url+"/assertion", token.TypeAssertion, keys.Assertions, one, "//test/services/invoices")
	if c["sub"] != "serviceAccount:orders" || c["name"] != "orders" || c["exp"].(float64) != float64(w.clock.Load()+300) {
		t.Errorf("claims %v", c)
	}
	if strings.Contains(one, bearer) || call() != one {
		t.Error("not signed once for this token and service")
	}
	w.clock.Add(149)
	if call() != one {
		t.Error("signed again with more than half its life left")
	}
	w.clock.Add(2)
	if call() == one {
		t.Error("still used with less than half its life left")
	}
	w.clock.Store(1_800_000_000 + 3600 - 60) // a minute before the token ends
	c = w.verify(t, url+"/assertion", token.TypeAssertion, keys.Assertions, call(), "//test/services/invoices")
	if c["exp"].(float64) != 1_800_000_000+3600 {
		t.Errorf("it outlives the token: exp %v", c["exp"])
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, want string }{
		{"https://id.acme.internal", ""}, {"https://id.acme.internal:8443", ""}, {"http://127.0.0.1:8400", ""}, {"http://localhost:1", "url: "}, {"http://[::1]:1", ""},
		{"http://id.acme.internal", "url: "}, {"https://id/", "url: "}, {"https://id/x", "url: "}, {"https://id?x", "url: "}, {"https://id#x", "url: "},
		{"https://a@id", "url: "}, {"id.acme", "url: "}, {"", "url: "}, {"https://id#", "url: "},
	} {
		c := issuer.Config{URL: tt.url, Listen: "x"}
		err := c.Complete("/")
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v", tt.url, err)
		}
	}
	c := issuer.Config{URL: "https://id", Audiences: []string{""}}
	if err := c.Complete("/"); err == nil || !strings.Contains(err.Error(), "listen: ") || !strings.Contains(err.Error(), "audiences[0]: ") || c.Audience != "https://id" {
		t.Errorf("got %v, audience %q", err, c.Audience)
	}
}

func TestOurs(t *testing.T) {
	t.Parallel()
	c := issuer.Config{URL: "https://id.test", Listen: "x", Audience: "https://api.test"}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	for audience, want := range map[string]bool{
		"https://id.test": true, "https://id.test/": true, "https://id.test/v1/keys": true, "https://id.test?x": true, "https://id.test#x": true,
		"https://api.test": true, "https://api.test/v1": true,
		"https://id.test.evil": false, "https://id.tes": false, "http://id.test": false, "id.test": false, "": false,
	} {
		if got := c.Ours(audience); got != want {
			t.Errorf("%q: got %v", audience, got)
		}
	}
}
