package caller_test

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/caller"
	"github.com/sallyport-dev/sallyport/token"
)

const audience = "https://invoices.test"

// clock is a time that a test moves.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Unix(1_800_000_000, 0).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.ns.Load()) }
func (c *clock) tick(d time.Duration) { c.ns.Add(int64(d)) }

// mint returns a token that nobody signed: the caller does not verify. A nil value
// removes a claim.
func mint(t testing.TB, now time.Time, changes map[string]any) string {
	t.Helper()
	c := map[string]any{"iss": "https://id.test", "sub": "spiffe://test/sa/orders", "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	in, err := token.SigningInput(token.EdDSA, "k", token.TypeID, c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Seal(in, []byte("signature"))
}

// door is a metadata door whose answers a test chooses. By default each is a new
// token for the audience asked, good for an hour.
type door struct {
	t     testing.TB
	clock *clock
	url   string

	mu      sync.Mutex
	answer  http.HandlerFunc
	asked   []*http.Request
	running int
	most    int // requests at once
}

func newDoor(t testing.TB, c *clock) *door {
	t.Helper()
	d := &door{t: t, clock: c}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

func (d *door) host() string { return strings.TrimPrefix(d.url, "http://") }

func (d *door) set(answer http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

func (d *door) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r)
	d.running++
	d.most = max(d.most, d.running)
	n, answer := len(d.asked), d.answer
	d.mu.Unlock()
	w.Header().Set("Metadata-Flavor", "Google")
	if answer == nil {
		answer = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, mint(d.t, d.clock.now(), map[string]any{"aud": r.FormValue("audience"), "jti": strconv.Itoa(n)}))
		}
	}
	answer(w, r)
	d.mu.Lock()
	d.running--
	d.mu.Unlock()
}

// says answers with a status and a text.
func says(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newSource(t testing.TB, d *door, c caller.Config) *caller.Source {
	t.Helper()
	if c.Audience == "" {
		c.Audience = audience
	}
	c.Door, c.Now = d.host(), d.clock.now
	if c.Logger == nil {
		c.Logger = quiet()
	}
	s, err := caller.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get returns a token that must be there.
func get(t testing.TB, s *caller.Source) string {
	t.Helper()
	raw, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func jti(t testing.TB, raw string) string {
	t.Helper()
	p, err := token.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p.Claims.ID
}

func query(t testing.TB, r *http.Request) url.Values {
	t.Helper()
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	return q
}
