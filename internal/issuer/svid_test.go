package issuer_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// realNow lets the clock be the machine's, which go-spiffe asks.
func (w *world) realNow() { w.clock.Store(time.Now().Unix()) }

// What go-spiffe makes of our SVIDs and of our bundle, as they are published.
func TestSVIDsWithGoSPIFFE(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.realNow()
	w.Reopen(t)
	b, err := w.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("test"), doc)
	if err != nil {
		t.Fatal(err)
	}
	pass := w.admit(t, guard.ActionMint, guard.ToItself())
	got, err := w.X509SVID(t.Context(), pass)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := x509svid.ParseRaw(got.Certificate, got.Key)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := x509svid.Verify(svid.Certificates, bundle.X509Bundle())
	if err != nil || id.String() != "spiffe://test/sa/orders" || got.ID != id.String() {
		t.Errorf("verified as %s, %v", id, err)
	}
	leaf := svid.Certificates[0]
	serial, _ := base64.RawURLEncoding.DecodeString(w.last.Payload.IssuedTokenID)
	if leaf.SerialNumber.Cmp(new(big.Int).SetBytes(serial)) != 0 {
		t.Errorf("serial number %x, the record has %x", leaf.SerialNumber, serial)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != time.Hour+5*time.Second || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 || len(leaf.DNSNames) != 0 {
		t.Errorf("the certificate lives %v, CA %v, usage %v, names %v %v", life, leaf.IsCA, leaf.KeyUsage, leaf.URIs, leaf.DNSNames)
	}

	raw, err := w.JWTSVID(t.Context(), []*guard.Pass{w.admit(t, guard.ActionMint, guard.ToAudience(audience))})
	if err != nil {
		t.Fatal(err)
	}
	jwt, err := jwtsvid.ParseAndValidate(raw, bundle.JWTBundle(), []string{audience})
	if err != nil || jwt.ID.String() != "spiffe://test/sa/orders" || len(jwt.Audience) != 1 {
		t.Errorf("validated as %+v, %v", jwt, err)
	}
	if _, err := jwtsvid.ParseAndValidate(raw, bundle.JWTBundle(), []string{"https://other"}); err == nil {
		t.Error("taken for another audience")
	}
}

// A JWT-SVID is no ID token, and an ID token no JWT-SVID, for whoever looks closely
// enough at any one of key, issuer and type.
func TestSVIDsAndIDTokensAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	svid, err := w.JWTSVID(t.Context(), []*guard.Pass{w.admit(t, guard.ActionMint, guard.ToAudience(audience))})
	if err != nil {
		t.Fatal(err)
	}
	id := w.ask(t, "swift", audience, false) // ES256, as JWT-SVIDs are
	for _, tt := range []struct {
		name, raw, issuer, typ string
		keys                   keys.Purpose
		reason                 verifier.Reason
	}{
		{"a JWT-SVID where ID tokens are expected", svid, url, token.TypeID, keys.Tokens, verifier.IssuerUnknown},
		{"if the issuer were not looked at", svid, issuer.SVIDIssuer("test"), token.TypeID, keys.Tokens, verifier.TypeNotAllowed},
		{"nor the type", svid, issuer.SVIDIssuer("test"), token.TypeSVID, keys.Tokens, verifier.KeyUnknown},
		{"an ID token where JWT-SVIDs are expected", id, issuer.SVIDIssuer("test"), token.TypeSVID, keys.SVIDs, verifier.IssuerUnknown},
		{"if the issuer were not looked at, either", id, url, token.TypeSVID, keys.SVIDs, verifier.TypeNotAllowed},
		{"nor the type, either", id, url, token.TypeID, keys.SVIDs, verifier.KeyUnknown},
	} {
		v, err := verifier.New(verifier.Config{Issuer: tt.issuer, Keys: w.keys.Source(tt.keys), Rules: verifier.OwnRules(tt.typ), Now: w.now})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(t.Context(), tt.raw, audience)
		if bad, ok := errors.AsType[*verifier.Error](err); !ok || bad.Reason != tt.reason {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.reason)
		}
	}
}

// The bundle's keys say what they are for, and none is in the document of ID tokens.
func TestBundleDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, err := w.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct {
			Use string   `json:"use"`
			KID string   `json:"kid"`
			X5C []string `json:"x5c"`
			D   string   `json:"d"`
		} `json:"keys"`
		Sequence uint64 `json:"spiffe_sequence"`
		Hint     int    `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(doc, &set); err != nil {
		t.Fatal(err)
	}
	uses := map[string]int{}
	jwks, err := token.JWKS(w.keys.Public(keys.Tokens))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		uses[k.Use]++
		if k.D != "" {
			t.Error("a private key is published")
		}
		if k.Use == "jwt-svid" && (k.KID == "" || bytes.Contains(jwks, []byte(k.KID))) {
			t.Errorf("key %q has no name, or is among those of ID tokens", k.KID)
		}
		if k.Use == "x509-svid" && len(k.X5C) != 1 {
			t.Errorf("a root with %d certificates", len(k.X5C))
		}
	}
	if uses["jwt-svid"] != 1 || uses["x509-svid"] != 1 || len(uses) != 2 || set.Hint != 300 || set.Sequence == 0 {
		t.Errorf("uses %v, sequence %d, hint %d", uses, set.Sequence, set.Hint)
	}
	again, err := w.Bundle()
	if err != nil || !b.Equal(again) {
		t.Errorf("asked again it differs: %v", err)
	}
	w.clock.Add(10)
	if err := w.keys.Rotate(t.Context(), []keys.Purpose{keys.Authority}, func(keys.Event) error { return nil }); err != nil {
		t.Fatal(err)
	}
	after, err := w.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := b.SequenceNumber()
	if n, _ := after.SequenceNumber(); n <= before || len(after.X509Authorities()) != 2 {
		t.Errorf("after a rotation: sequence %d, was %d, %d roots", n, before, len(after.X509Authorities()))
	}
}

// SVIDs take their own passes only.
func TestSVIDsTakeOnlyTheirOwnPasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	forAudience := w.admit(t, guard.ActionMint, guard.ToAudience(audience))
	reading := w.admit(t, guard.ActionMetadata, guard.ToItself())
	swift := w.admitAs(t, "swift", guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience(audience)})
	for name, mint := range map[string]func() error{
		"a certificate for an audience's pass": func() error { _, err := w.X509SVID(t.Context(), forAudience); return err },
		"a certificate for having read":        func() error { _, err := w.X509SVID(t.Context(), reading); return err },
		"a token for having read":              func() error { _, err := w.JWTSVID(t.Context(), []*guard.Pass{reading}); return err },
		"a token for nothing":                  func() error { _, err := w.JWTSVID(t.Context(), nil); return err },
		"a token of two accounts": func() error {
			_, err := w.JWTSVID(t.Context(), []*guard.Pass{forAudience, swift})
			return err
		},
	} {
		if err := mint(); !errors.Is(err, issuer.ErrNotAdmitted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w.gone.Store(true)
	if _, err := w.X509SVID(t.Context(), w.admit(t, guard.ActionMint, guard.ToItself())); err == nil {
		t.Error("a certificate for a caller that changed")
	}
	if _, err := w.JWTSVID(t.Context(), []*guard.Pass{forAudience}); err == nil {
		t.Error("a token for a caller that changed")
	}
}
