// Package sallyporttest runs a Sallyport in a test process: the program itself, on
// loopback, with throw-away keys. A service's tests get good tokens from it as the
// service's callers will, and bad ones that the service must refuse.
//
//	func TestOnlyOrdersMayRead(t *testing.T) {
//		issuer := sallyporttest.NewIssuer(t, "orders", "reports")
//		service := httptest.NewServer(newService(issuer.URL()))
//		get(t, service, issuer.Token("orders", "https://invoices.test"), 200)
//		get(t, service, issuer.Token("reports", "https://invoices.test"), 403)
//		for c := range issuer.Corpus("https://invoices.test") {
//			…
//		}
//	}
//
// Tokens are minted by the same code that mints them in production, and verified by
// package verifier, which is the same everywhere. What is not here: the gateway, whose
// tests are its own.
package sallyporttest

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/forgery"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// TrustDomain is that of the accounts: serviceAccount:orders has the subject
// spiffe://sallyport.test/sa/orders.
const TrustDomain = "sallyport.test"

// An Issuer is a running server. Its accounts are whoever asks at their doors: the
// test itself.
type Issuer struct {
	t     testing.TB
	url   string
	doors map[string]string // account to HOST:PORT
	keys  forgery.Keys
}

// NewIssuer starts a server with these service accounts, one at least, and ends it
// with the test. It fails the test when it cannot.
func NewIssuer(t testing.TB, accounts ...string) *Issuer {
	t.Helper()
	if len(accounts) == 0 {
		t.Fatal("sallyporttest: name an account at least")
	}
	i := &Issuer{t: t, doors: map[string]string{}}
	listeners := map[string]net.Listener{}
	listen := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("sallyporttest: %v", err)
		}
		t.Cleanup(func() { _ = l.Close() })
		listeners[l.Addr().String()] = l
		return l.Addr().String()
	}
	uid := uint32(os.Getuid())
	dir := folder(t)
	c := &config.Config{
		TrustDomain: TrustDomain, Replica: "test", DataDir: dir, Telemetry: config.Telemetry{Listen: listen()},
		Issuer: issuer.Config{Listen: listen(), Audiences: []string{"*"}},
	}
	c.Issuer.URL = "http://" + c.Issuer.Listen
	i.url = c.Issuer.URL
	for _, name := range accounts {
		i.doors[name] = listen()
		c.ServiceAccounts = append(c.ServiceAccounts, config.ServiceAccount{Account: attest.Account{Name: name, Attest: []attest.Rule{{UID: &uid}}}})
		c.Metadata = append(c.Metadata, metadata.Config{Listen: i.doors[name], ServiceAccounts: []string{name}})
	}
	if err := c.Complete("/"); err != nil {
		t.Fatalf("sallyporttest: %v", err)
	}
	i.plant(dir, c.Store)
	i.run(c, listeners)
	return i
}

// folder is removed with the test, and its name is short enough for the sockets in it.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyporttest-")
	if err != nil {
		t.Fatalf("sallyporttest: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "data")
}

// plant puts keys of ours into the server's store before it starts, so that forged
// tokens carry signatures that verify.
func (i *Issuer) plant(dir string, c store.Config) {
	i.t.Helper()
	fail := func(err error) {
		i.t.Helper()
		if err != nil {
			i.t.Fatalf("sallyporttest: %v", err)
		}
	}
	fail(os.MkdirAll(dir, 0o711))
	kek, err := sealing.ReadOrMake(app.KEKFile(dir))
	fail(err)
	i.keys, err = forgery.NewKeys()
	fail(err)
	db, err := store.Open(i.t.Context(), c, dir)
	fail(err)
	defer db.Close()
	var rows []keys.Sealed
	for _, k := range []struct {
		key     *forgery.Key
		purpose keys.Purpose
	}{{&i.keys.RS256, keys.Tokens}, {&i.keys.ES256, keys.Tokens}, {&i.keys.Assertion, keys.Assertions}} {
		row, err := keys.Import(kek, k.purpose, k.key.Signer, time.Now())
		fail(err)
		k.key.ID = row.ID
		rows = append(rows, row)
	}
	fail(db.SaveKeys(i.t.Context(), rows, nil))
}

func (i *Issuer) run(c *config.Config, listeners map[string]net.Listener) {
	i.t.Helper()
	a, err := app.New(i.t.Context(), c, app.Options{Version: "test", Dev: true, Logger: slog.New(slog.DiscardHandler),
		Listen: func(address string) (net.Listener, error) { return listeners[address], nil }})
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background()) // the test's own ends before its clean-up
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	i.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			i.t.Errorf("sallyporttest: %v", err)
		}
	})
}

// URL is the issuer, `iss`; below it are the discovery document and the keys.
func (i *Issuer) URL() string { return i.url }

// JWKS is the URL of the keys of its ID tokens.
func (i *Issuer) JWKS() string { return i.url + discovery.JWKSPath }

// Door is the address of an account's metadata door, HOST:PORT, for GCE_METADATA_HOST
// and for caller.Config.Door. It fails the test when there is no such account.
func (i *Issuer) Door(account string) string {
	i.t.Helper()
	d, ok := i.doors[account]
	if !ok {
		i.t.Fatalf("sallyporttest: no account is called %q", account)
	}
	return d
}

// Token returns a good ID token of an account for an audience. It fails the test when
// there is none to be had.
func (i *Issuer) Token(account, audience string) string {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), http.MethodGet,
		"http://"+i.Door(account)+metadata.Base+"instance/service-accounts/default/identity?audience="+url.QueryEscape(audience), nil)
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, token.MaxLength+1))
	if err != nil || resp.StatusCode != http.StatusOK {
		i.t.Fatalf("sallyporttest: a token of %s for %s: status %d, %s (%v)", account, audience, resp.StatusCode, strings.TrimSpace(string(raw)), err)
	}
	return string(raw)
}

// Forge returns a token of type JWT with these claims and nothing else, signed by the
// issuer's own key: a token that has everything but the claims you left out. It fails
// the test when they cannot be encoded.
func (i *Issuer) Forge(claims map[string]any) string {
	i.t.Helper()
	k := i.keys.RS256
	input, err := token.SigningInput(k.Algorithm, k.ID, token.TypeID, claims)
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	digest, hash := k.Algorithm.Digest(input)
	sig, err := k.Signer.Sign(nil, digest, hash)
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	return token.Seal(input, sig)
}

// Verifier returns a Verifier of the issuer's ID tokens, with its keys read from its
// URL: what a service makes for itself.
func (i *Issuer) Verifier() *verifier.Verifier {
	i.t.Helper()
	v, err := verifier.New(verifier.Config{Issuer: i.url, Keys: verifier.NewRemoteKeys(i.JWKS(), nil, nil, nil), Rules: verifier.OwnRules(token.TypeID)})
	if err != nil {
		i.t.Fatalf("sallyporttest: %v", err)
	}
	return v
}

// A Case is a token of the corpus: one that a receiver must refuse, or take.
type Case struct {
	ID    string // stable, unique
	Class string // of what is wrong, such as "hmac" or "time"
	Token string
	Good  bool   // to be taken
	Must  bool   // a difference is a defect; else it is to be argued
	Why   string // what is special about it

	// Header says that an HTTP header can carry it: a receiver behind HTTP never
	// meets the others.
	Header bool
}

// Corpus yields about 400 tokens for an audience, signed by the issuer's keys where
// their badness is not the signature's: what a receiver does with them is what it will
// do with an attacker's. The order and the ids stay the same; the tokens are good or
// bad at the time they are yielded. For receivers in other languages there is
// `sallyport token corpus`.
func (i *Issuer) Corpus(audience string) iter.Seq[Case] {
	return func(yield func(Case) bool) {
		i.t.Helper()
		const account = "orders"
		for c, err := range forgery.Corpus(forgery.Config{Issuer: i.url, Audience: audience,
			Subject: identity.SPIFFEID(TrustDomain, account), Email: identity.Email(TrustDomain, account), Keys: i.keys}) {
			if err != nil {
				i.t.Fatalf("sallyporttest: %v", err)
			}
			if !yield(Case{ID: c.ID, Class: c.Class, Token: c.Token, Good: c.Expect == forgery.Accept, Must: c.Level == forgery.Must, Why: c.Why, Header: c.Transport == ""}) {
				return
			}
		}
	}
}
