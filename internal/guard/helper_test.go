package guard_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

const (
	audience = "https://invoices.test"
	issuerID = "https://id.test"
)

// world is a guard over the real policy, verifier and log; the clock, the local
// prover and the log's failure are the test's.
type world struct {
	*guard.Guard
	clock  atomic.Int64
	local  localFunc
	keep   func([]guard.Revocation) error
	broken atomic.Bool
	room   atomic.Int32 // on the log's disk

	prover  guard.BearerProver
	durable audit.Durability // of invoices
	admins  []uint32

	durability atomic.Value // of the last record
	key        ed25519.PrivateKey
	keys       *keySource
	dir        string
	kek        *sealing.Key
	log        *audit.Log

	meanwhile func() // is called when something is recorded, before it is
}

type localFunc func(attest.Conn, []string) (*identity.Proof, error)

func (localFunc) Which(_ context.Context, _ attest.Conn, among []string) ([]string, error) {
	return among, nil
}

func (localFunc) ProveUser(context.Context, attest.Conn) (*identity.Proof, error) {
	return &identity.Proof{Principal: identity.Principal{Kind: identity.User, Provider: identity.Local, Name: "1000"}, Provider: identity.Local,
		Attested: map[string]string{"uid": "1000"}, Still: func(context.Context) error { return nil }}, nil
}

func (localFunc) Account(name string) (identity.Principal, bool) {
	return identity.Account(name, name+"@sa.test"), name == "orders"
}

func (f localFunc) Prove(_ context.Context, c attest.Conn, among []string) (*identity.Proof, error) {
	return f(c, among)
}

// keySource is a key set that can lose its key.
type keySource struct {
	mu         sync.Mutex
	keys       []token.Key
	generation uint64
}

func (k *keySource) Find(_ context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return token.FindKey(k.keys, kid, alg)
}

func (k *keySource) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

func (k *keySource) withdraw() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.generation = nil, k.generation+1
}

// gate is a log that can be made to fail.
type gate struct{ w *world }

func (g gate) Append(r *audit.Record, d audit.Durability) (uint64, error) {
	g.w.durability.Store(d)
	if f := g.w.meanwhile; f != nil {
		f()
	}
	if g.w.broken.Load() {
		return 0, errors.New("disk 7 is full")
	}
	return g.w.log.Append(r, d)
}

var _ verifier.KeySource = (*keySource)(nil)

func (w *world) now() time.Time { return time.Unix(w.clock.Load(), 0) }

func newWorld(t testing.TB, policies ...policy.Rule) *world {
	t.Helper()
	return newWorldOf(t, policy.Config{Policies: policies}, audit.Written)
}

// newWorldOf has the rules of a whole file, and a durability of invoices.
func newWorldOf(t testing.TB, rules policy.Config, durability audit.Durability, admins ...uint32) *world {
	t.Helper()
	w := &world{dir: filepath.Join(t.TempDir(), "log")}
	w.clock.Store(1_800_000_000)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.key, w.keys = key, &keySource{keys: []token.Key{{ID: "k", Algorithm: token.EdDSA, Public: pub}}}
	w.openLog(t)
	w.durable, w.admins = durability, admins
	of := w.rules(t, rules)
	w.local = func(attest.Conn, []string) (*identity.Proof, error) { return proof("orders", nil), nil }
	w.Guard = guard.New(guard.Config{
		Policy: of.Policy, Bearers: of.Bearers, Services: of.Services, Log: gate{w}, Room: func() audit.Room { return audit.Room(w.room.Load()) }, Replica: "r", Now: w.now,
		Local: localFunc(func(c attest.Conn, among []string) (*identity.Proof, error) { return w.local(c, among) }),
		Keep: func(all []guard.Revocation) error {
			if w.keep == nil {
				return nil
			}
			return w.keep(all)
		},
	})
	return w
}

// rules are those of a file, over the services there are, with the prover there is.
func (w *world) rules(t testing.TB, rules policy.Config) guard.Rules {
	t.Helper()
	snapshot, err := policy.Compile(rules, policy.World{
		Services: map[string]string{"invoices": "http", "other": "http", "third": "http"}, Accounts: []string{"orders", "reports"}, Providers: []string{"lab"}, Audiences: []string{audience}, AdminUIDs: w.admins,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.prover == nil {
		w.prover = w.self(t)
	}
	return guard.Rules{Policy: snapshot, Bearers: []guard.BearerProver{w.prover}, Services: map[string]guard.Service{
		"invoices": {Audiences: []string{audience, "invoices"}, Accept: []string{"self"}, Durability: w.durable},
		"third":    {Audiences: []string{"https://third.test"}, Accept: []string{"self", "lab"}, Durability: audit.Written},
		"other":    {Audiences: []string{"https://other.test"}, Accept: []string{"lab"}, Durability: audit.Synced},
	}}
}

// self is a new prover of our own tokens.
func (w *world) self(t testing.TB) guard.BearerProver {
	t.Helper()
	self, err := federation.NewSelf(issuerID, w.keys, "test", []string{"orders", "reports"}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	return self
}

func (w *world) openLog(t testing.TB) {
	t.Helper()
	var err error
	if w.kek, err = sealing.NewRandom(); err != nil {
		t.Fatal(err)
	}
	secret, public, err := note.GenerateKey(rand.Reader, "test/r")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	w.log, err = audit.Open(audit.Options{Dir: w.dir, Origin: "test/r", Sealer: w.kek, Signer: signer, VerifierKey: public, Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.log.Close() })
}

func proof(account string, still func(context.Context) error) *identity.Proof {
	if still == nil {
		still = func(context.Context) error { return nil }
	}
	return &identity.Proof{Principal: identity.Account(account, account+"@sa.test"), Provider: "local", Attested: map[string]string{"uid": "7"}, Still: still}
}

// bearer returns a token of orders for audience, changed; nil removes a claim.
func (w *world) bearer(t testing.TB, changes map[string]any) string {
	t.Helper()
	c := map[string]any{"iss": issuerID, "sub": "spiffe://test/sa/orders", "aud": audience, "iat": w.clock.Load(), "exp": w.clock.Load() + 3600, "jti": "j1"}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	in, err := token.SigningInput(token.EdDSA, "k", token.TypeID, c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Seal(in, ed25519.Sign(w.key, in))
}

// get is a GET of path on invoices with raw.
func get(raw, path string) guard.Attempt {
	a := guard.Attempt{Service: "invoices", Resource: guard.ToService("invoices"), Action: "http.get",
		Request: policy.HTTP{Method: "GET", Path: path, Host: "invoices.test"}, Peer: netip.MustParseAddrPort("192.0.2.1:99")}
	if raw != "" {
		a.Credentials = []guard.Credential{guard.Bearer(raw)}
	}
	return a
}

// last returns the newest record.
func (w *world) last(t testing.TB) *audit.Entry {
	t.Helper()
	return w.tail(t, 1)[0]
}

// size returns how many records there are.
func (w *world) size(t testing.TB) uint64 {
	t.Helper()
	r, err := audit.OpenReader(w.dir, w.kek)
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.Size()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tail returns the newest n records, the oldest first.
func (w *world) tail(t testing.TB, n uint64) []*audit.Entry {
	t.Helper()
	r, err := audit.OpenReader(w.dir, w.kek)
	if err != nil {
		t.Fatal(err)
	}
	size, err := r.Size()
	if err != nil || size < n {
		t.Fatalf("%d records: %v", size, err)
	}
	var out []*audit.Entry
	for e, err := range r.Entries(t.Context(), size-n) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func allowOrders() policy.Rule {
	return policy.Rule{Name: "orders-read", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Actions: []string{"http.get"}, When: `under(request.path, "/v1")`}
}
