package httpproxy_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
)

const (
	trustDomain = "acme.test"
	issuerURL   = "https://id.acme.test"
	audience    = "https://app.acme.test"
	origin      = trustDomain + "/a"
)

type keyStore struct{ rows []keys.Sealed }

func (s *keyStore) ListKeys(context.Context) ([]keys.Sealed, error) { return s.rows, nil }
func (s *keyStore) SaveKeys(_ context.Context, put []keys.Sealed, _ []string) error {
	s.rows = append(s.rows, put...)
	return nil
}

type keyring struct {
	kek *sealing.Key
	set *keys.Set
}

// newKeyring makes the keys of one issuer; ours is made once, since RSA keys take
// their time.
func newKeyring() *keyring {
	kek, err := sealing.NewRandom()
	if err != nil {
		panic(err)
	}
	set, err := keys.Open(context.Background(), keys.Options{Store: &keyStore{}, KEK: kek, Now: time.Now, TrustDomain: trustDomain})
	if err != nil {
		panic(err)
	}
	return &keyring{kek, set}
}

var (
	ours    = sync.OnceValue(newKeyring)
	another = sync.OnceValue(newKeyring) // somebody who would like to be us
)

// claims of a good token, with changes: name and value in turn.
func claims(changes ...any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{"iss": issuerURL, "sub": identity.SPIFFEID(trustDomain, "orders"), "aud": audience,
		"iat": now, "exp": now + 600, "jti": "token-1"}
	for i := 0; i < len(changes); i += 2 {
		c[changes[i].(string)] = changes[i+1]
	}
	return c
}

func sign(t testing.TB, k *keyring, c map[string]any) string {
	t.Helper()
	raw, _, err := k.set.Sign(keys.Tokens, token.RS256, token.TypeID, c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// good is a token that is accepted.
func good(t testing.TB) string { t.Helper(); return sign(t, ours(), claims()) }

// logFunc is a log in one line.
type logFunc func(*audit.Record, audit.Durability) (uint64, error)

func (f logFunc) Append(r *audit.Record, d audit.Durability) (uint64, error) { return f(r, d) }

// received is a request as the upstream saw it.
type received struct {
	method, uri, host string
	header, trailer   http.Header
	body              []byte
}

// rig is a gateway on a real socket in front of a real upstream, with the real
// guard over a real log.
type rig struct {
	gateway, upstream string // addresses
	dir               string // of the log
	answer            http.HandlerFunc
	guard             *guard.Guard
	handler           http.Handler

	mu   sync.Mutex
	seen []received
}

// settings are what a test may change.
type settings struct {
	identity map[string]string
	upstream string           // default: the one that remembers
	answer   http.HandlerFunc // after remembering; default 200
	log      guard.Log        // default: a real one
	discard  bool             // remember nothing
	routes   []httpproxy.Route
	stall    time.Duration // default: as it is
	trusted  []string      // networks of proxies
	admitted func(*rig)    // is called between a request's admission and its way upstream

	denyAnonymous bool
	limits        guard.Limits
}

func newRig(t testing.TB, s settings) *rig {
	t.Helper()
	b := &rig{dir: filepath.Join(t.TempDir(), "log"), answer: s.answer}
	up := httptest.NewServer(http.HandlerFunc(b.remember))
	if s.discard {
		up.Config.Handler = s.answer
	}
	t.Cleanup(up.Close)
	b.upstream = up.URL
	if s.upstream == "" {
		s.upstream = up.URL
	}
	if s.log == nil {
		s.log = b.openLog(t)
	}
	config := httpproxy.Config{Hosts: []string{"app.test", "[::1]"}, Config: upstream.Config{Upstream: s.upstream}, IdentityHeaders: s.identity, Routes: s.routes}
	if err := config.Complete(); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	b.guard = newGuard(t, s.log, logger, s.denyAnonymous, s.limits)
	core := gateway.Core{Guard: b.guard, Logger: logger,
		Assert: issuer.New(issuer.Config{URL: issuerURL}, trustDomain, nil, ours().set, time.Now)}
	if s.trusted != nil {
		c := gateway.Config{TrustedProxies: gateway.TrustedProxies{Networks: s.trusted, Headers: []string{"x-forwarded-for"}}}
		if err := c.Complete("/"); err != nil {
			t.Fatal(err)
		}
		core.Trusted = &c.TrustedProxies
	}
	if s.admitted != nil {
		core.Assert = asserter{core.Assert, func() { s.admitted(b) }}
	}
	proxy, err := httpproxy.New(core, []httpproxy.Target{{Service: "app", Config: config}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	b.handler = proxy
	if s.stall > 0 {
		proxy.Stall(s.stall)
	}
	front := httptest.NewUnstartedServer(proxy)
	front.Config.Protocols = new(http.Protocols)
	front.Config.Protocols.SetHTTP1(true)
	front.Config.Protocols.SetUnencryptedHTTP2(true)
	front.Config.MaxHeaderBytes, front.Config.ReadHeaderTimeout = httpproxy.MaxHeaderBytes, httpproxy.ReadHeaderTimeout
	front.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	front.Start()
	t.Cleanup(front.Close)
	b.gateway = front.Listener.Addr().String()
	return b
}

// asserter does something before it asserts.
type asserter struct {
	gateway.Asserter
	before func()
}

func (a asserter) Assertion(p *guard.Pass) (string, error) {
	a.before()
	return a.Asserter.Assertion(p)
}

func (b *rig) openLog(t testing.TB) *audit.Log {
	t.Helper()
	signer, verifierKey, err := ours().set.NoteSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: b.dir, Origin: origin, Sealer: ours().kek, Signer: signer, VerifierKey: verifierKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// newGuard is wired as internal/app does it.
func newGuard(t testing.TB, log guard.Log, logger *slog.Logger, denyAnonymous bool, limits guard.Limits) *guard.Guard {
	t.Helper()
	accounts := []string{"orders"}
	self, err := federation.NewSelf(issuerURL, ours().set.Source(keys.Tokens), trustDomain, accounts, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	written := []policy.Rule{{Name: "orders-may", Allow: []string{"serviceAccount:orders"},
		To: []string{"app"}, Actions: []string{"http.*", "grpc.call"}, When: `!under(request.path, "/admin")`}}
	if denyAnonymous {
		written = append(written, policy.Rule{Name: "nobody", Deny: []string{"anonymous"}, To: []string{"app"}, Actions: []string{"http.*"}})
	}
	rules, err := policy.Compile(policy.Config{Policies: written},
		policy.World{Services: map[string]string{"app": "http"}, Accounts: accounts, Audiences: []string{audience}})
	if err != nil {
		t.Fatal(err)
	}
	return guard.New(guard.Config{Policy: rules, Bearers: []guard.BearerProver{self}, Log: log, Replica: "a", Now: time.Now, Logger: logger,
		Services: map[string]guard.Service{"app": {Audiences: []string{audience}, Accept: []string{identity.Self}, Durability: audit.Written, Limits: limits}}})
}

func (b *rig) remember(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a body that breaks off is shorter than was sent
	b.mu.Lock()
	b.seen = append(b.seen, received{r.Method, r.RequestURI, r.Host, r.Header, r.Trailer, body})
	b.mu.Unlock()
	if b.answer != nil {
		b.answer(w, r)
	}
}

// take returns what the upstream got since it was last asked.
func (b *rig) take() []received {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.seen
	b.seen = nil
	return out
}

// only returns the one request that the upstream got.
func (b *rig) only(t *testing.T) received {
	t.Helper()
	got := b.take()
	if len(got) != 1 {
		t.Fatalf("upstream got %d requests, want one", len(got))
	}
	return got[0]
}

// reply is what the gateway answered.
type reply struct {
	status int
	header http.Header
	body   string
}

// send writes raw bytes to the gateway and reads one answer.
func (b *rig) send(t *testing.T, raw string) reply {
	t.Helper()
	conn, err := net.Dial("tcp", b.gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a TCP connection has deadlines
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// request writes out a request without a body.
func request(line string, header ...string) string {
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		header = append([]string{"Host: app.test"}, header...)
	}
	return line + " HTTP/1.1\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n"
}

func bearer(raw string) string { return "Authorization: Bearer " + raw }

// record returns the record with that decision id, or the last one for "".
func (b *rig) record(t *testing.T, id string) *audit.Entry {
	t.Helper()
	r, err := audit.OpenReader(b.dir, ours().kek)
	if err != nil {
		t.Fatal(err)
	}
	var found *audit.Entry
	for e, err := range r.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if id == "" || id == "a-"+strconv.FormatUint(e.Seq, 10) {
			found = e
		}
	}
	if found == nil || found.Payload == nil {
		t.Fatalf("no record has the decision id %q", id)
	}
	return found
}

// refused checks what holds for every refusal: nothing went upstream, the body is
// a problem with the id of a record that says the same, and why is between the
// record and its owner.
func (b *rig) refused(t *testing.T, got reply) *audit.Entry {
	t.Helper()
	if up := b.take(); len(up) != 0 {
		t.Errorf("upstream got %s %s", up[0].method, up[0].uri)
	}
	var p struct {
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail"`
		Decision string `json:"decision"`
	}
	if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("not a problem: %v: %s", err, got.body)
	}
	if p.Status != got.status || p.Title != http.StatusText(got.status) || p.Detail == "" || p.Decision == "" || p.Decision != got.header.Get(httpproxy.DecisionHeader) {
		t.Errorf("got status %d, header %v, problem %+v", got.status, got.header, p)
	}
	e := b.record(t, p.Decision)
	if e.Decision != audit.Deny || e.Payload.Reason == "" {
		t.Errorf("the record is %+v %+v", e.Header, e.Payload)
	}
	shown := got.body + got.header.Get("WWW-Authenticate")
	for _, private := range []string{e.Payload.Detail, e.Payload.Near, e.Payload.Reason, issuerURL, audience, "orders", b.upstream, "/admin"} {
		if private != "" && strings.Contains(shown, private) {
			t.Errorf("the answer shows %q: %s", private, shown)
		}
	}
	return e
}
