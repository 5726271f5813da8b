package metadata_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

const (
	sa = "/computeMetadata/v1/instance/service-accounts"

	// ownAPI is the audience of our own APIs.
	ownAPI = "https://id.test"

	// host is what unmodified clients send, and flavor too.
	host   = "Host: 127.0.0.1:8401\r\n"
	flavor = "Metadata-Flavor: Google\r\n"
)

// secrets are in every cause that these tests make, and in no answer.
var secrets = []string{"disk 7", "uid 4711", "hidden-rule"}

// world is a door over a real guard and policy; who the caller is, whether the
// log can be written and whether tokens can be made is the test's.
type world struct {
	prove   proveFunc
	logFull bool
	noKey   bool
	runAs   string // the door's callers act as it
	config  metadata.Config

	mu      sync.Mutex
	records []audit.Record
}

type proveFunc func(conn attest.Conn, among []string) (*identity.Proof, error)

func (f proveFunc) Prove(_ context.Context, c attest.Conn, among []string) (*identity.Proof, error) {
	return f(c, among)
}

func (f proveFunc) Which(_ context.Context, _ attest.Conn, among []string) ([]string, error) {
	return among, nil
}

func (f proveFunc) ProveUser(context.Context, attest.Conn) (*identity.Proof, error) {
	return &identity.Proof{Principal: identity.Principal{Kind: identity.User, Provider: identity.Local, Name: "1000"}, Provider: identity.Local,
		Still: func(context.Context) error { return nil }}, nil
}

func (f proveFunc) Account(name string) (identity.Principal, bool) {
	return identity.Account(name, name+"@sa.test"), true
}

// Append implements guard.Log.
func (w *world) Append(r *audit.Record, _ audit.Durability) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logFull {
		return 0, errors.New("disk 7 is full")
	}
	w.records = append(w.records, *r)
	return uint64(len(w.records) - 1), nil
}

// IDToken implements door.Minter: the "token" says what it would hold.
func (w *world) IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error) {
	return w.mint(ctx, pass, fmt.Sprintf("id token for %s, full %v", audience, full))
}

// AccessToken implements door.Minter: it has half an hour left.
func (w *world) AccessToken(ctx context.Context, pass *guard.Pass, scopes []string) (string, time.Time, error) {
	raw, err := w.mint(ctx, pass, "access token for "+strings.Join(scopes, " "))
	return raw, w.now().Add(30 * time.Minute), err
}

// HeldIDToken and HeldAccessToken implement door.Minter.
func (w *world) HeldIDToken(*identity.Proof, string, bool) string { return "" }
func (w *world) HeldAccessToken(*identity.Proof, []string) string { return "" }
func (w *world) now() time.Time                                   { return time.Unix(1_800_000_000, 0) }

func (w *world) mint(ctx context.Context, pass *guard.Pass, what string) (string, error) {
	a, err := pass.Admission()
	if err != nil {
		return "", err
	}
	if w.noKey {
		return "", errors.New("disk 7 has lost the key")
	}
	return a.Principal.Name + ": " + what, pass.Still(ctx)
}

// private is a prover's error: its class may be shown, its text never.
type private struct{ code string }

func (p private) Error() string { return p.code + ": the caller is uid 4711" }
func (private) Class() string   { return "no identity for this caller" }
func (p private) Code() string  { return p.code }

func proof(account string, still error) *identity.Proof {
	return &identity.Proof{
		Principal: identity.Account(account, account+"@sa.test"), Provider: identity.Local,
		Still: func(context.Context) error { return still },
	}
}

// the caller is orders, if the door may ask for it
func isOrders(_ attest.Conn, among []string) (*identity.Proof, error) {
	if !slices.Contains(among, "orders") {
		return nil, private{"no_account"}
	}
	return proof("orders", nil), nil
}

func (w *world) door(t testing.TB, accounts ...string) http.Handler {
	t.Helper()
	snapshot, err := policy.Compile(policy.Config{Policies: []policy.Rule{{
		Name: "hidden-rule", Deny: []string{"serviceAccount:orders"}, To: []string{"audience:https://denied.test"}, Actions: []string{"token.mint"},
	}, {
		Name: "run", Allow: []string{"user:local/1000"}, To: []string{"serviceAccount:orders"}, Actions: []string{"workload.run"},
	}}}, policy.World{Accounts: []string{"orders", "reports"}, MintPatterns: []string{"https://svc.test", "https://svc.test/*", "https://denied.test", "a*"}})
	if err != nil {
		t.Fatal(err)
	}
	if w.prove == nil {
		w.prove = isOrders
	}
	g := guard.New(guard.Config{Policy: snapshot, Local: w.prove, Log: w, Replica: "r", Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if len(accounts) == 0 {
		accounts = []string{"orders"}
	}
	c := w.config
	c.Listen, c.ServiceAccounts, c.Project.ID, c.Project.Number = "127.0.0.1:8401", accounts, "acme", 42
	c.Instance.ID, c.Instance.Hostname, c.Instance.Zone = 7, "box.acme.internal", "acme-1-b"
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	ours := issuer.Config{URL: ownAPI, Audience: "own-api"}
	d := metadata.New(c, &door.Local{Guard: g, Mint: w, Turns: door.NewTurns(), Waiting: door.NewWaiting(), Accounts: accounts, RunAs: w.runAs, TrustDomain: "test",
		Ours: ours.Ours, Hosts: door.Hosts(c.Listen)}, w.now)
	t.Cleanup(d.Close)
	return d
}

// send gives the door a request as it is on the wire, so that header names and
// bodies are what net/http makes of them, and holds the answer to what every
// answer has.
func send(t testing.TB, h http.Handler, wire string) *httptest.ResponseRecorder {
	t.Helper()
	return sendIn(t, t.Context(), h, wire)
}

func sendIn(t testing.TB, ctx context.Context, h http.Handler, wire string) *httptest.ResponseRecorder {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		t.Fatalf("%q: %v", wire, err)
	}
	r.RemoteAddr = "127.0.0.1:50000"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(door.WithCaller(ctx, attest.Conn{})))
	for name, want := range map[string]string{
		"Metadata-Flavor": "Google", "Cache-Control": "no-store", "Server": "Metadata Server for VM",
		"X-XSS-Protection": "0", "X-Frame-Options": "SAMEORIGIN",
	} {
		if got := w.Result().Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("the answer has %s %q, want %q", name, got, want)
		}
	}
	for _, s := range secrets {
		if strings.Contains(w.Body.String(), s) || strings.Contains(fmt.Sprint(w.Result().Header), s) {
			t.Errorf("the answer shows a private cause, %q: %v %s", s, w.Result().Header, w.Body)
		}
	}
	return w
}

// get is a whole request for target as a client sends it.
func get(target string) string { return "GET " + target + " HTTP/1.1\r\n" + host + flavor + "\r\n" }
