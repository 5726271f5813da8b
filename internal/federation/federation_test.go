package federation_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

var now = time.Unix(1_800_000_000, 0)

func clock() time.Time { return now }

type signer struct {
	key ed25519.PrivateKey
	pub token.Key
}

func newSigner(t *testing.T) signer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, token.Key{ID: "k", Algorithm: token.EdDSA, Public: pub}}
}

func (s signer) file(t *testing.T) string {
	t.Helper()
	doc, err := token.JWKS([]token.Key{s.pub})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(name, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s signer) token(t *testing.T, typ string, changes map[string]any) *token.Token {
	t.Helper()
	c := map[string]any{"iss": "https://lab", "sub": "repo:o/r", "aud": "https://a", "iat": now.Unix(), "exp": now.Unix() + 600, "jti": "j", "email": "x@y"}
	maps.Copy(c, changes)
	in, err := token.SigningInput(token.EdDSA, "k", typ, c)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Parse(token.Seal(in, ed25519.Sign(s.key, in)))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func lab(t *testing.T, s signer) *federation.Prover {
	t.Helper()
	c := federation.Config{Name: "lab", OIDC: &federation.OIDC{Issuer: "https://lab", JWKSFile: s.file(t), Audiences: []string{"https://a", "https://b"}}}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	p, err := federation.New(c, "acme", clock, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProvider(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	p := lab(t, s)
	proof, err := p.Prove(t.Context(), s.token(t, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	if id := proof.Principal.ID(); id != "principal:lab/repo:o/r" || proof.Provider != "lab" || proof.TokenID != "j" || proof.Expires.Unix() != now.Unix()+600 {
		t.Errorf("got %s %+v", id, proof)
	}
	for _, tt := range []struct {
		name string
		aud  any
		want []string
		ok   bool
	}{
		{"the service's audience, which the provider may speak for", "https://a", []string{"https://a"}, true},
		{"one of several of each", []string{"https://x", "https://b"}, []string{"https://c", "https://b"}, true},
		{"an audience of the service that the provider may not speak for", "https://c", []string{"https://c"}, false},
		{"an audience of the provider that is not the service's", "https://b", []string{"https://a"}, false},
		{"two audiences that do not meet", []string{"https://b", "https://c"}, []string{"https://a", "https://c"}, false},
		{"a service without audiences", "https://a", nil, false},
	} {
		proof, err := p.Prove(t.Context(), s.token(t, "", map[string]any{"aud": tt.aud}))
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.For(tt.want); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, email := range []string{"orders@sa.acme", "Orders@SA.Acme"} {
		_, err := p.Prove(t.Context(), s.token(t, "", map[string]any{"email": email}))
		if c, ok := err.(interface{ Code() string }); !ok || c.Code() != "email_reserved" {
			t.Errorf("%s was believed: %v", email, err)
		}
	}
	if _, err := p.Prove(t.Context(), newSigner(t).token(t, "", nil)); err == nil {
		t.Error("another's key was believed")
	}
}

func TestSelf(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	p, err := federation.NewSelf("https://lab", verifier.StaticKeys{s.pub}, "acme", []string{"orders"}, clock)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, typ, sub, want, code string }{
		{"a declared account", token.TypeID, "spiffe://acme/sa/orders", "serviceAccount:orders", ""},
		{"an account that is gone", token.TypeID, "spiffe://acme/sa/gone", "", "account_unknown"},
		{"another trust domain", token.TypeID, "spiffe://evil/sa/orders", "", "account_unknown"},
		{"a bare name", token.TypeID, "orders", "", "account_unknown"},
		{"an access token", token.TypeAccess, "spiffe://acme/sa/orders", "", "type_not_allowed"},
		{"an assertion", token.TypeAssertion, "spiffe://acme/sa/orders", "", "type_not_allowed"},
	} {
		proof, err := p.Prove(t.Context(), s.token(t, tt.typ, map[string]any{"sub": tt.sub}))
		if tt.code != "" {
			c, ok := err.(interface{ Code() string })
			if !ok || c.Code() != tt.code {
				t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
			}
			continue
		}
		if err != nil || proof.Principal.ID() != tt.want || proof.Principal.Email != "orders@sa.acme" || proof.Provider != identity.Self {
			t.Errorf("%s: got %+v, %v", tt.name, proof, err)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	good := func() federation.Config {
		return federation.Config{Name: "lab", OIDC: &federation.OIDC{Issuer: "https://lab", JWKSURL: "https://lab/keys", Audiences: []string{"a"}}}
	}
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte(`{"keys":[{"kty":"oct","k":"AA"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*federation.Config)
		want   string
	}{
		{"nothing", func(*federation.Config) {}, ""},
		{"http on loopback", func(c *federation.Config) { c.OIDC.JWKSURL = "http://[::1]:80/k" }, ""},
		{"http elsewhere", func(c *federation.Config) { c.OIDC.JWKSURL = "http://lab/k" }, "oidc.jwks_url: "},
		{"a password in the URL", func(c *federation.Config) { c.OIDC.JWKSURL = "https://a:b@lab/k" }, "oidc.jwks_url: "},
		{"a file URL", func(c *federation.Config) { c.OIDC.JWKSURL = "file:///etc/passwd" }, "oidc.jwks_url: "},
		{"self", func(c *federation.Config) { c.Name = "self" }, "name: "},
		{"local", func(c *federation.Config) { c.Name = "local" }, "name: "},
		{"no kind", func(c *federation.Config) { c.OIDC = nil }, "oidc: a provider is of one kind"},
		{"no issuer", func(c *federation.Config) { c.OIDC.Issuer = "" }, "oidc.issuer: "},
		{"no audiences", func(c *federation.Config) { c.OIDC.Audiences = nil }, "oidc.audiences: "},
		{"an empty audience", func(c *federation.Config) { c.OIDC.Audiences = []string{""} }, "oidc.audiences[0]: "},
		{"both keys", func(c *federation.Config) { c.OIDC.JWKSFile = "x" }, "oidc: needs jwks_file or jwks_url, one of them"},
		{"a key set without a key we use", func(c *federation.Config) { c.OIDC.JWKSURL, c.OIDC.JWKSFile = "", empty }, "oidc.jwks_file: "},
	} {
		c := good()
		tt.change(&c)
		err := c.Complete("/")
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := federation.ReadJWKS("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
