package discovery_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/token"
)

const (
	configuration = "/.well-known/openid-configuration"
	jwks          = "/oauth2/v3/certs"
	pems          = "/oauth2/v1/certs"
	assertions    = "/assertion/jwks.json"
)

// pairs are made once: RSA takes its time.
var pairs = sync.OnceValues(func() ([]crypto.PublicKey, error) {
	a, err1 := rsa.GenerateKey(rand.Reader, 2048)
	b, err2 := rsa.GenerateKey(rand.Reader, 2048)
	c, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return []crypto.PublicKey{&a.PublicKey, &b.PublicKey, &c.PublicKey}, nil
})

// issuer publishes a token key in use, the next one, and an assertion key.
type issuer struct{ tokens, assertions []token.Key }

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	p, err := pairs()
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{
		tokens:     []token.Key{{ID: "tok-current", Algorithm: token.RS256, Public: p[0]}, {ID: "tok-next", Algorithm: token.RS256, Public: p[1]}},
		assertions: []token.Key{{ID: "asrt-1", Algorithm: token.ES256, Public: p[2]}},
	}
}

func (i *issuer) ask(method, path, etag string) *httptest.ResponseRecorder {
	d := discovery.New(discovery.Config{URL: "https://id.test",
		Tokens: func() []token.Key { return i.tokens }, Assertions: func() []token.Key { return i.assertions }})
	r := httptest.NewRequest(method, path, nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// OpenID Connect Discovery 1.0 section 3; `issuer` is exactly the `iss` of tokens.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	got := newIssuer(t).ask("GET", configuration, "")
	var doc map[string]any
	if err := json.Unmarshal(got.Body.Bytes(), &doc); err != nil || got.Code != 200 {
		t.Fatalf("%d %s: %v", got.Code, got.Body, err)
	}
	for name, want := range map[string]string{
		"issuer":                                `"https://id.test"`,
		"jwks_uri":                              `"https://id.test/oauth2/v3/certs"`,
		"response_types_supported":              `["id_token"]`,
		"subject_types_supported":               `["public"]`,
		"id_token_signing_alg_values_supported": `["RS256"]`, // once, whatever the number of keys
		"claims_supported":                      `["iss","sub","aud","azp","email","email_verified","iat","nbf","exp","jti"]`,
	} {
		if b, _ := json.Marshal(doc[name]); string(b) != want {
			t.Errorf("%s is %s, want %s", name, b, want)
		}
		delete(doc, name)
	}
	if len(doc) > 0 {
		t.Errorf("it also says %v: only what is served may be there", doc)
	}
}

// Each key document holds its keys, all of them, and none of another purpose.
func TestKeys(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	for _, tt := range []struct {
		name, path string
		want       []token.Key
		read       func(*testing.T, []byte) map[string]crypto.PublicKey
	}{
		{"the JWK set of tokens", jwks, i.tokens, readJWKS},
		{"the PEM map of tokens", pems, i.tokens, readPEMs},
		{"the JWK set of assertions", assertions, i.assertions, readJWKS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := i.ask("GET", tt.path, "")
			keys := tt.read(t, got.Body.Bytes())
			if got.Code != 200 || len(keys) != len(tt.want) {
				t.Errorf("got %d with %d keys, want %d", got.Code, len(keys), len(tt.want))
			}
			for _, k := range tt.want {
				if pub, ok := keys[k.ID].(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(k.Public) {
					t.Errorf("%s is %v, want the public key", k.ID, keys[k.ID])
				}
			}
			for _, private := range []string{`"d"`, `"p"`, `"q"`, "PRIVATE"} {
				if strings.Contains(got.Body.String(), private) {
					t.Errorf("it has %s", private)
				}
			}
		})
	}
}

func readJWKS(t *testing.T, body []byte) map[string]crypto.PublicKey {
	t.Helper()
	keys, skipped, err := token.ParseJWKS(body)
	if err != nil || len(skipped) > 0 {
		t.Fatalf("%v %v: %s", err, skipped, body)
	}
	out := map[string]crypto.PublicKey{}
	for _, k := range keys {
		out[k.ID] = k.Public
	}
	var raw struct{ Keys []map[string]any }
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Fatal(err)
	}
	for _, k := range raw.Keys {
		if k["use"] != "sig" || k["alg"] == nil || k["kid"] == nil || k["kty"] == nil {
			t.Errorf("a key lacks use, alg, kid or kty: %v", k)
		}
	}
	return out
}

func readPEMs(t *testing.T, body []byte) map[string]crypto.PublicKey {
	t.Helper()
	var flat map[string]string
	if err := json.Unmarshal(body, &flat); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	out := map[string]crypto.PublicKey{}
	for kid, text := range flat {
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
			t.Fatalf("%s is not one public key: %s", kid, text)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out[kid] = pub
	}
	return out
}

// Contract google-clients section 4: Go's library takes "max-age=N" alone between
// commas, and keeps the keys that long whatever `kid` it meets.
func TestCaching(t *testing.T) {
	t.Parallel()
	for _, path := range []string{configuration, jwks, pems, assertions} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			first := i.ask("GET", path, "")
			etag := first.Header().Get("ETag")
			if !strings.HasPrefix(etag, `"`) || len(etag) < 10 || first.Header().Get("Content-Type") != "application/json" {
				t.Errorf("ETag %s, Content-Type %s", etag, first.Header().Get("Content-Type"))
			}
			for name, tt := range map[string]struct {
				method, etag string
				status       int
			}{
				"no copy":              {"GET", "", 200},
				"the same copy":        {"GET", etag, 304},
				"compared weakly":      {"GET", "W/" + etag, 304},
				"one of several":       {"GET", `"x", ` + etag, 304},
				"another copy":         {"GET", `"0000000000000000"`, 200},
				"HEAD":                 {"HEAD", "", 200},
				"HEAD of a known copy": {"HEAD", etag, 304},
			} {
				got := i.ask(tt.method, path, tt.etag)
				if got.Code != tt.status || tt.status == 304 && got.Body.Len() > 0 {
					t.Errorf("%s: got %d with %d bytes, want %d", name, got.Code, got.Body.Len(), tt.status)
				}
				h := got.Result().Header
				if c := h["Cache-Control"]; len(c) != 1 || c[0] != "public, max-age=3600" || h.Get("ETag") != etag || h.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%s: %v", name, h)
				}
			}
		})
	}
	t.Run("a rotated key changes the document and its ETag", func(t *testing.T) {
		t.Parallel()
		i := newIssuer(t)
		before := i.ask("GET", jwks, "")
		i.tokens = i.tokens[1:]
		after := i.ask("GET", jwks, before.Header().Get("ETag"))
		if after.Code != 200 || after.Header().Get("ETag") == before.Header().Get("ETag") || strings.Contains(after.Body.String(), "tok-current") {
			t.Errorf("got %d %s", after.Code, after.Body)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, path string
		status             int
	}{
		{"POST", "POST", jwks, 405},
		{"PUT", "PUT", configuration, 405},
		{"DELETE", "DELETE", assertions, 405},
		{"OPTIONS", "OPTIONS", pems, 405},
		{"the root", "GET", "/", 404},
		{"a document that is not there", "GET", "/.well-known/jwks.json", 404},
		{"below a document", "GET", jwks + "/x", 404},
		{"a document with a slash", "GET", jwks + "/", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newIssuer(t).ask(tt.method, tt.path, "")
			if got.Code != tt.status || got.Header().Get("Cache-Control") != "" {
				t.Errorf("got %d %v, want %d that nobody keeps", got.Code, got.Header(), tt.status)
			}
			if allow := got.Header().Get("Allow"); tt.status == http.StatusMethodNotAllowed && allow != "GET, HEAD" {
				t.Errorf("Allow is %q", allow)
			}
		})
	}
}

// A key set that cannot be written is never half a document, nor one to keep.
func TestBrokenKey(t *testing.T) {
	t.Parallel()
	for _, path := range []string{jwks, pems} {
		i := newIssuer(t)
		i.tokens = append(i.tokens, token.Key{ID: "odd", Algorithm: token.RS256, Public: "not a key"})
		got := i.ask("GET", path, "")
		if got.Code != 500 || got.Header().Get("Cache-Control") != "" || got.Header().Get("ETag") != "" || got.Body.String() != "this document cannot be made now\n" {
			t.Errorf("%s: got %d %v %s", path, got.Code, got.Header(), got.Body)
		}
	}
}
