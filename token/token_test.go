package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/token"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func raw(header, claims string) string { return b64(header) + "." + b64(claims) + "." + b64("sig") }

const goodHeader = `{"alg":"RS256","kid":"k","typ":"JWT"}`

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		raw  string
		want string // part of the error, "" for none
	}{
		{"a plain token", raw(goodHeader, `{"iss":"i"}`), ""},
		{"white space and escapes in JSON", raw(` {"alg" : "RS256"} `, "\n{\"\\u0069ss\":\"i\"}\r\n"), ""},
		{"unknown header parameters and claims are kept out of the way", raw(`{"alg":"RS256","x":[1]}`, `{"groups":["a"],"n":null}`), ""},
		{"empty", "", "three parts"},
		{"four parts", raw(goodHeader, `{}`) + ".e30", "three parts"},
		{"longer than the limit", raw(goodHeader, `{"x":"`+strings.Repeat("x", token.MaxLength)+`"}`), "longer than"},
		{"padding", b64(goodHeader) + "." + b64(`{}`) + ".c2ln==", "signature is not base64url"},
		{"a line break, which the decoder would skip", b64(goodHeader) + "." + b64(`{}`) + ".c2\nln", "signature is not base64url"},
		{"unused bits that are set", b64(goodHeader) + ".e31." + b64("sig"), "claims are not base64url"},
		{"a header that is an array", raw(`["RS256"]`, `{}`), "header: not a JSON object"},
		{"no alg", raw(`{"kid":"k"}`, `{}`), "alg is missing"},
		{"ALG is not alg", raw(`{"ALG":"RS256"}`, `{}`), "alg is missing"},
		{"alg is null", raw(`{"alg":null}`, `{}`), "alg: not a string"},
		{"alg twice", raw(`{"alg":"none","alg":"RS256"}`, `{}`), "twice"},
		{"kid is a number", raw(`{"alg":"RS256","kid":1}`, `{}`), "kid: not a string"},
		{"a critical extension", raw(`{"alg":"RS256","crit":["exp"]}`, `{}`), "crit: this parameter is not accepted"},
		{"a nested token", raw(`{"alg":"RS256","cty":"JWT"}`, `{}`), "cty: this parameter is not accepted"},
		{"an embedded key", raw(`{"alg":"RS256","jwk":{}}`, `{}`), "jwk: this parameter is not accepted"},
		{"a key to fetch", raw(`{"alg":"RS256","jku":"https://evil"}`, `{}`), "jku: this parameter is not accepted"},
		{"a certificate to fetch", raw(`{"alg":"RS256","x5u":"https://evil"}`, `{}`), "x5u: this parameter is not accepted"},
		{"a compressed payload", raw(`{"alg":"RS256","zip":"DEF"}`, `{}`), "zip: this parameter is not accepted"},
		{"text after the header", raw(goodHeader+"x", `{}`), "header: something follows"},
		{"a second value after the claims", raw(goodHeader, `{}{}`), "claims: something follows"},
		{"a byte order mark", raw("\ufeff"+goodHeader, `{}`), "header: not a JSON object"},
		{"sub twice", raw(goodHeader, `{"sub":"a","sub":"admin"}`), "twice"},
		{"a nested member twice", raw(goodHeader, `{"x":{"a":1,"a":2}}`), "twice"},
		{"invalid UTF-8", raw(goodHeader, "{\"sub\":\"a\xff\"}"), "claims: not well-formed"},
		{"a lone surrogate", raw(goodHeader, `{"sub":"\ud800"}`), "claims: not well-formed"},
		{"sub is a number", raw(goodHeader, `{"sub":42}`), "sub: not a string"},
		{"iss is an array", raw(goodHeader, `{"iss":["i"]}`), "iss: not a string"},
		{"aud is an object", raw(goodHeader, `{"aud":{"a":1}}`), "aud: neither"},
		{"aud holds a number", raw(goodHeader, `{"aud":["a",1]}`), "aud: neither"},
		{"exp is a string", raw(goodHeader, `{"exp":"1"}`), "exp: not a number"},
		{"exp is null", raw(goodHeader, `{"exp":null}`), "exp: not a number"},
		{"exp overflows", raw(goodHeader, `{"exp":1e400}`), "exp: not a time"},
		{"nbf wraps in 64 bits", raw(goodHeader, `{"nbf":9223372036854775808}`), "nbf: not a time"},
		{"exp is negative", raw(goodHeader, `{"exp":-1}`), "exp: not a time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := token.Parse(tt.raw)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, token.ErrMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ErrMalformed with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "admin") {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

func TestParseReadsClaims(t *testing.T) {
	t.Parallel()
	tok, err := token.Parse(raw(goodHeader, `{"iss":"i","sub":"s","aud":["a","b"],"exp":1700000000.5,"nbf":1,"iat":2,"jti":"j","email":"e@x","cnf":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	c := tok.Claims
	if c.Issuer != "i" || c.Subject != "s" || c.ID != "j" || c.Email != "e@x" || !c.Confirmation || c.SingleAudience ||
		!c.HasAudience("b") || c.HasAudience("") || c.HasAudience("c") ||
		!c.Expiry.Equal(time.Unix(1700000000, 5e8)) || c.NotBefore.Unix() != 1 || c.IssuedAt.Unix() != 2 {
		t.Errorf("got %+v", c)
	}
	if tok.Header != (token.Header{Algorithm: "RS256", KeyID: "k", Type: "JWT"}) {
		t.Errorf("got %+v", tok.Header)
	}
}

func signers(t testing.TB) map[token.Algorithm]crypto.Signer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e3, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	return map[token.Algorithm]crypto.Signer{token.RS256: r, token.PS256: r, token.ES256: e2, token.ES384: e3, token.EdDSA: ed}
}

// Tokens that another implementation made, verified by keys that went through
// our own key set; and under any other algorithm or key they are refused.
func TestSignaturesOfAnotherImplementation(t *testing.T) {
	t.Parallel()
	all := signers(t)
	for alg, key := range all {
		t.Run(string(alg), func(t *testing.T) {
			s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, nil)
			if err != nil {
				t.Fatal(err)
			}
			o, err := s.Sign([]byte(`{"sub":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			text, _ := o.CompactSerialize()
			tok, err := token.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := token.JWKS([]token.Key{{ID: "k", Algorithm: alg, Public: key.Public()}})
			if err != nil {
				t.Fatal(err)
			}
			keys, skipped, err := token.ParseJWKS(doc)
			if err != nil || len(keys) != 1 || len(skipped) != 0 {
				t.Fatalf("own key set read back: %v %v %v", keys, skipped, err)
			}
			if !tok.SignedBy(keys[0]) {
				t.Error("a good signature is refused")
			}
			for other, k := range all {
				if other != alg && tok.SignedBy(token.Key{ID: "k", Algorithm: other, Public: k.Public()}) {
					t.Errorf("accepted under %s", other)
				}
			}
		})
	}
}

func TestParseJWKS(t *testing.T) {
	t.Parallel()
	all := signers(t)
	rsaKey := token.Key{ID: "r", Algorithm: token.RS256, Public: all[token.RS256].Public()}
	doc, _ := token.JWKS([]token.Key{rsaKey})
	one := strings.TrimSuffix(strings.TrimPrefix(string(doc), `{"keys":[`), `]}`)
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	smallDoc, _ := token.JWKS([]token.Key{{ID: "s", Algorithm: token.RS256, Public: small.Public()}})
	for _, tt := range []struct {
		name, doc string
		keys      int
		skipped   string
		err       string
	}{
		{"one key", string(doc), 1, "", ""},
		{"a key for encryption is left out", `{"keys":[` + strings.Replace(one, `"use":"sig"`, `"use":"enc"`, 1) + `]}`, 0, "use is not sig", ""},
		{"a key for wrapping is left out", `{"keys":[` + strings.Replace(one, `"use":"sig"`, `"key_ops":["wrapKey"]`, 1) + `]}`, 0, "key_ops", ""},
		{"a symmetric key is left out", `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"x"}]}`, 0, "not a key of a kind", ""},
		{"an RSA key called ES256 is left out", `{"keys":[` + strings.Replace(one, "RS256", "ES256", 1) + `]}`, 0, "does not fit", ""},
		{"a small RSA key is left out", string(smallDoc), 0, "less than 2048", ""},
		{"two keys of one name cannot be told apart", `{"keys":[` + one + `,` + one + `]}`, 0, "", "second RS256 key"},
		{"not a set", `{"key":[]}`, 0, "", "not a JWK set"},
		{"keys twice", `{"keys":[],"keys":[]}`, 0, "", "not a JWK set"},
		{"not JSON", `<html>`, 0, "", "not a JWK set"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys, skipped, err := token.ParseJWKS([]byte(tt.doc))
			if len(keys) != tt.keys || !strings.Contains(strings.Join(skipped, ";"), tt.skipped) || (tt.skipped == "") != (len(skipped) == 0) {
				t.Errorf("got %d keys, skipped %q", len(keys), skipped)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
		})
	}
}

// What is signed need not be claims, and the header is read as strictly as
// Parse reads it.
func TestVerifyJWS(t *testing.T) {
	t.Parallel()
	all := signers(t)
	key := token.Key{Algorithm: token.EdDSA, Public: all[token.EdDSA].Public()}
	seal := func(header, payload string) string {
		in := []byte(b64(header) + "." + b64(payload))
		sig, err := all[token.EdDSA].Sign(rand.Reader, in, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		return token.Seal(in, sig)
	}
	for _, tt := range []struct {
		name, raw, payload string
		key                token.Key
		err                error
	}{
		{"a payload that is no JSON", seal(`{"alg":"EdDSA"}`, "It\u2019s"), "It\u2019s", key, nil},
		{"an empty payload", seal(`{"alg":"EdDSA"}`, ""), "", key, nil},
		{"a kid is the caller's business", seal(`{"alg":"EdDSA","kid":"other"}`, "x"), "x", key, nil},
		{"another key", seal(`{"alg":"EdDSA"}`, "x"), "", token.Key{Algorithm: token.ES256, Public: all[token.ES256].Public()}, token.ErrSignature},
		{"a header that names another algorithm", seal(`{"alg":"RS256"}`, "x"), "", key, token.ErrSignature},
		{"alg none with a good signature", seal(`{"alg":"none"}`, "x"), "", key, token.ErrSignature},
		{"another payload", strings.Replace(seal(`{"alg":"EdDSA"}`, "xx"), b64("xx"), b64("xy"), 1), "", key, token.ErrSignature},
		{"no signature", b64(`{"alg":"EdDSA"}`) + "." + b64("x") + ".", "", key, token.ErrSignature},
		{"a critical extension", seal(`{"alg":"EdDSA","crit":["x"],"x":1}`, "x"), "", key, token.ErrMalformed},
		{"an unencoded payload", seal(`{"alg":"EdDSA","b64":false}`, "x"), "", key, token.ErrMalformed},
		{"too long", seal(`{"alg":"EdDSA"}`, strings.Repeat("x", token.MaxLength)), "", key, token.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload, err := token.VerifyJWS(tt.raw, tt.key)
			if !errors.Is(err, tt.err) || string(payload) != tt.payload {
				t.Errorf("got %q, %v; want %q, %v", payload, err, tt.payload, tt.err)
			}
			if err != nil && payload != nil {
				t.Errorf("a payload that was not verified is handed out: %q", payload)
			}
		})
	}
}

func TestEncodeRoundTrip(t *testing.T) {
	t.Parallel()
	key := signers(t)[token.EdDSA]
	in, err := token.SigningInput(token.EdDSA, "k1", token.TypeID, map[string]any{"sub": "s", "aud": "a"})
	if err != nil {
		t.Fatal(err)
	}
	digest, hash := token.EdDSA.Digest(in)
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Parse(token.Seal(in, sig))
	if err != nil {
		t.Fatal(err)
	}
	if tok.Header.Type != token.TypeID || tok.Claims.Subject != "s" || !tok.Claims.SingleAudience ||
		!tok.SignedBy(token.Key{Algorithm: token.EdDSA, Public: key.Public()}) {
		t.Errorf("got %+v", tok)
	}
}

// Whatever Parse takes, it takes in one spelling only: written again from its
// parts it is the same text, and go-jose, with its own reader, agrees that it is
// a compact token.
func FuzzParse(f *testing.F) {
	f.Add(raw(goodHeader, `{"iss":"i","aud":["a"],"exp":1.5}`))
	f.Add(raw(`{"alg":"ES256"}`, `{"\u0069ss":"i"}`))
	f.Add("..")
	all := []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}
	f.Fuzz(func(t *testing.T, in string) {
		tok, err := token.Parse(in)
		if err != nil {
			return
		}
		if again, err := token.Parse(in); err != nil || again.Claims.Subject != tok.Claims.Subject {
			t.Fatalf("a second reading differs: %v", err)
		}
		if _, err := token.ParseAlgorithm(tok.Header.Algorithm); err != nil {
			return
		}
		if _, err := jose.ParseSignedCompact(in, all); err != nil {
			t.Fatalf("we read %q, go-jose does not: %v", in, err)
		}
	})
}
