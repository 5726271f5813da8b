package verifier_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

var now = time.Unix(1_800_000_000, 0)

type claims = map[string]any

type issuer struct {
	id  string
	pub ed25519.PublicKey
	key ed25519.PrivateKey
}

func newIssuer(t testing.TB, id string) issuer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{id, pub, key}
}

func (i issuer) public() token.Key {
	return token.Key{ID: i.id, Algorithm: token.EdDSA, Public: i.pub}
}

func (i issuer) sign(t testing.TB, typ string, c claims) string {
	t.Helper()
	in, err := token.SigningInput(token.EdDSA, i.id, typ, c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Seal(in, ed25519.Sign(i.key, in))
}

// with returns good claims, changed; a nil value removes one.
func with(changes claims) claims {
	c := claims{"iss": "https://id", "sub": "s", "aud": "https://a", "iat": now.Unix() - 5, "exp": now.Unix() + 3600}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func reason(err error) verifier.Reason {
	if e, ok := errors.AsType[*verifier.Error](err); ok {
		return e.Reason
	}
	if err != nil {
		return verifier.Reason("untyped: " + err.Error())
	}
	return ""
}

func TestVerify(t *testing.T) {
	t.Parallel()
	key, evil := newIssuer(t, "k"), newIssuer(t, "k")
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, tt := range []struct {
		name   string
		rules  verifier.Rules
		signer issuer
		typ    string
		claims claims
		want   verifier.Reason
	}{
		{"our own token", verifier.OwnRules(token.TypeID), key, "JWT", with(nil), ""},
		{"our own token needs its typ", verifier.OwnRules(token.TypeID), key, "", with(nil), verifier.TypeNotAllowed},
		{"an assertion is no bearer token", verifier.OwnRules(token.TypeID), key, token.TypeAssertion, with(nil), verifier.TypeNotAllowed},
		{"an access token is no ID token", verifier.OwnRules(token.TypeID), key, token.TypeAccess, with(nil), verifier.TypeNotAllowed},
		{"our own token with an array", verifier.OwnRules(token.TypeID), key, "JWT", with(claims{"aud": []string{"https://a"}}), verifier.AudienceWrong},
		{"our own token for 65 minutes", verifier.OwnRules(token.TypeID), key, "JWT", with(claims{"iat": at(0), "exp": at(65 * time.Minute)}), ""},
		{"our own token for a second more", verifier.OwnRules(token.TypeID), key, "JWT", with(claims{"iat": at(0), "exp": at(65*time.Minute + time.Second)}), verifier.LifetimeTooLong},
		{"a provider's token without typ", verifier.ProviderRules(), key, "", with(nil), ""},
		{"a provider's access token", verifier.ProviderRules(), key, "application/AT+jwt", with(nil), ""},
		{"a logout token", verifier.ProviderRules(), key, "logout+jwt", with(nil), verifier.TypeNotAllowed},
		{"audience last in an array", verifier.ProviderRules(), key, "", with(claims{"aud": []string{"x", "https://a"}}), ""},
		{"no audience", verifier.ProviderRules(), key, "", with(claims{"aud": nil}), verifier.AudienceWrong},
		{"audience with a slash more", verifier.ProviderRules(), key, "", with(claims{"aud": "https://a/"}), verifier.AudienceWrong},
		{"other issuer", verifier.ProviderRules(), key, "", with(claims{"iss": "https://id/"}), verifier.IssuerUnknown},
		{"other key of the same name", verifier.ProviderRules(), evil, "", with(nil), verifier.SignatureInvalid},
		{"unknown key", verifier.ProviderRules(), newIssuer(t, "x"), "", with(nil), verifier.KeyUnknown},
		{"expired within the leeway", verifier.ProviderRules(), key, "", with(claims{"exp": at(-59 * time.Second)}), ""},
		{"expired at the end of the leeway", verifier.ProviderRules(), key, "", with(claims{"exp": at(-60 * time.Second)}), verifier.Expired},
		{"no exp", verifier.ProviderRules(), key, "", with(claims{"exp": nil}), verifier.NoExpiry},
		{"exp 0 is long ago, not absent", verifier.ProviderRules(), key, "", with(claims{"exp": 0}), verifier.Expired},
		{"nbf within the leeway", verifier.ProviderRules(), key, "", with(claims{"nbf": at(60 * time.Second)}), ""},
		{"nbf beyond the leeway", verifier.ProviderRules(), key, "", with(claims{"nbf": at(61 * time.Second)}), verifier.NotYetValid},
		{"issued in the future", verifier.ProviderRules(), key, "", with(claims{"iat": at(2 * time.Hour), "exp": at(3 * time.Hour)}), verifier.NotYetValid},
		{"24 hours are the most", verifier.ProviderRules(), key, "", with(claims{"iat": at(0), "exp": at(24 * time.Hour)}), ""},
		{"without iat they count from now", verifier.ProviderRules(), key, "", with(claims{"iat": nil, "exp": at(24*time.Hour + time.Second)}), verifier.LifetimeTooLong},
		{"no subject", verifier.ProviderRules(), key, "", with(claims{"sub": nil}), verifier.SubjectMissing},
		{"made for somebody who acts for the subject", verifier.ProviderRules(), key, "", with(claims{"act": claims{"sub": "x"}}), verifier.ActorUnread},
		{"bound to a key, shown as bearer", verifier.ProviderRules(), key, "", with(claims{"cnf": claims{"jkt": "x"}}), verifier.SenderConstrained},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := verifier.New(verifier.Config{Issuer: "https://id", Keys: verifier.StaticKeys{key.public()}, Rules: tt.rules, Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			got, err := v.Verify(t.Context(), tt.signer.sign(t, tt.typ, tt.claims), "https://other", "https://a")
			if reason(err) != tt.want {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if (got != nil) != (err == nil) {
				t.Errorf("a verdict and an error, or neither: %v, %v", got, err)
			}
		})
	}
}

func TestVerifyNeedsAnAudienceAndAnAllowedAlgorithm(t *testing.T) {
	t.Parallel()
	key := newIssuer(t, "k")
	c := verifier.Config{Issuer: "https://id", Keys: verifier.StaticKeys{key.public()}, Rules: verifier.ProviderRules(), Now: func() time.Time { return now }}
	v, _ := verifier.New(c)
	if _, err := v.Verify(t.Context(), key.sign(t, "", with(nil))); reason(err) != verifier.AudienceWrong {
		t.Errorf("no audience expected: got %v", err)
	}
	c.Algorithms = []token.Algorithm{token.RS256}
	v, _ = verifier.New(c)
	if _, err := v.Verify(t.Context(), key.sign(t, "", with(nil)), "https://a"); reason(err) != verifier.AlgorithmNotAllowed {
		t.Errorf("algorithm outside the list: got %v", err)
	}
	for _, c := range []verifier.Config{{}, {Issuer: "x"}, {Issuer: "x", Keys: verifier.StaticKeys{}}} {
		if _, err := verifier.New(c); err == nil {
			t.Errorf("New(%+v) succeeded", c)
		}
	}
}

// remote serves a key set that a test changes.
type remote struct {
	doc     atomic.Pointer[[]byte]
	status  atomic.Int32
	fetches atomic.Int32
}

func (r *remote) set(t testing.TB, keys ...token.Key) {
	t.Helper()
	doc, err := token.JWKS(keys)
	if err != nil {
		t.Fatal(err)
	}
	r.doc.Store(&doc)
}

func (r *remote) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r.fetches.Add(1)
	w.Header().Set("Cache-Control", "public, max-age=600")
	if s := r.status.Load(); s != 0 {
		w.Header().Set("Location", "http://169.254.169.254/")
		w.WriteHeader(int(s))
		return
	}
	_, _ = w.Write(*r.doc.Load())
}

func TestRemoteKeys(t *testing.T) {
	t.Parallel()
	one, two := newIssuer(t, "one"), newIssuer(t, "two")
	srv := &remote{}
	srv.set(t, one.public())
	ts := httptest.NewServer(srv)
	defer ts.Close()
	var clock atomic.Int64
	clock.Store(now.Unix())
	tick := func(d time.Duration) { clock.Add(int64(d.Seconds())) }
	keys := verifier.NewRemoteKeys(ts.URL, nil, func() time.Time { return time.Unix(clock.Load(), 0) }, nil)
	v, err := verifier.New(verifier.Config{Issuer: "https://id", Keys: keys, Rules: verifier.ProviderRules(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	check := func(i issuer, want verifier.Reason) *verifier.Verified {
		t.Helper()
		got, err := v.Verify(context.Background(), i.sign(t, "", with(nil)), "https://a")
		if reason(err) != want {
			t.Fatalf("key %s: got %v, want %q", i.id, err, want)
		}
		return got
	}
	kept := check(one, "")
	check(two, verifier.KeyUnknown)
	if n := srv.fetches.Load(); n != 1 {
		t.Fatalf("an unknown kid at once after a fetch asked again: %d fetches", n)
	}
	srv.set(t, one.public(), two.public())
	tick(31 * time.Second)
	check(two, "")
	if err := kept.Still(t.Context()); err != nil {
		t.Fatalf("a kept verdict fails though its key is still there: %v", err)
	}

	srv.status.Store(http.StatusFound) // never followed, never taken for a key set
	tick(time.Hour)
	check(one, "") // starts a fetch in the background, serves the last good set
	srv.status.Store(0)
	srv.set(t, two.public())
	tick(time.Hour)
	for i := 0; kept.Still(t.Context()) == nil; i++ { // until the refresh ahead has ended
		if i > 1000 {
			t.Fatal("a withdrawn key is still believed")
		}
		time.Sleep(time.Millisecond)
		tick(time.Minute)
	}
	check(one, verifier.KeyUnknown)

	srv.status.Store(http.StatusInternalServerError)
	tick(25 * time.Hour)
	check(two, verifier.KeysUnavailable)
}

func BenchmarkVerifyCold(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	in, _ := token.SigningInput(token.RS256, "k", "JWT", with(claims{"email": "orders@sa.dev.internal", "azp": "spiffe://dev.internal/sa/orders", "jti": "abcdefghijklmnopqrstuv"}))
	digest, hash := token.RS256.Digest(in)
	sig, _ := rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
	raw := token.Seal(append([]byte(nil), in...), sig)
	v, _ := verifier.New(verifier.Config{Issuer: "https://id", Keys: verifier.StaticKeys{{ID: "k", Algorithm: token.RS256, Public: &key.PublicKey}},
		Rules: verifier.OwnRules(token.TypeID), Now: func() time.Time { return now }})
	b.Run("raw", func(b *testing.B) { // the floor: one signature, nothing read
		for b.Loop() {
			d, h := token.RS256.Digest(in)
			if rsa.VerifyPKCS1v15(&key.PublicKey, h, d, sig) != nil {
				b.Fatal("refused")
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.Verify(context.Background(), raw, "https://a"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func ExampleVerifier() {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	v, _ := verifier.New(verifier.Config{
		Issuer: "https://id.acme.internal",
		Keys:   verifier.StaticKeys{{ID: "k", Algorithm: token.EdDSA, Public: key.Public()}},
		Rules:  verifier.OwnRules(token.TypeID),
	})
	_, err := v.Verify(context.Background(), "not a token", "https://invoices.acme.internal")
	fmt.Println(err)
	// Output: token malformed (token_malformed)
}
