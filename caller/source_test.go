package caller_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/caller"
	"github.com/sallyport-dev/sallyport/token"
)

func TestNew(t *testing.T) {
	for _, tt := range []struct {
		name    string
		config  caller.Config
		environ string
		want    []string // in the error, in this order; none for a good one
	}{
		{"a URL and a door", caller.Config{Audience: audience, Door: "127.0.0.1:8401"}, "", nil},
		{"a door without a port", caller.Config{Audience: audience, Door: "metadata.google.internal"}, "", nil},
		{"a door on IPv6", caller.Config{Audience: audience, Door: "[::1]:8401"}, "", nil},
		{"a door behind a socket", caller.Config{Audience: audience, Door: "unix:///run/sallyport/workload.sock"}, "", nil},
		{"the door that the environment names", caller.Config{Audience: audience}, "127.0.0.1:8401", nil},
		{"free text, and hosts", caller.Config{Audience: "32555.apps", Door: "x:1", Hosts: []string{"app.test", "[::1]:8443"}}, "", nil},
		{"free text for other means than HTTP", caller.Config{Audience: "32555.apps", Door: "x:1"}, "", nil},
		{"no door anywhere", caller.Config{Audience: audience}, "", []string{"Door: is empty, and so is the variable GCE_METADATA_HOST"}},
		{"a door as a URL", caller.Config{Audience: audience, Door: "http://127.0.0.1:8401"}, "", []string{`Door: "http://127.0.0.1:8401": want HOST:PORT`}},
		{"a door with a path", caller.Config{Audience: audience, Door: "127.0.0.1:8401/x"}, "", []string{"want HOST:PORT"}},
		{"a door behind a user", caller.Config{Audience: audience, Door: "me@127.0.0.1"}, "", []string{"want HOST:PORT"}},
		{"a socket by a relative path", caller.Config{Audience: audience, Door: "unix://workload.sock"}, "", []string{"absolute path"}},
		{"all mistakes at once", caller.Config{Audience: "a b", Door: ":8401", Hosts: []string{"ok.test", "https://app.test", "a/b", ""}}, "",
			[]string{`Audience: "a b"`, "Door:", "Hosts[1]:", "Hosts[2]:", "Hosts[3]:"}},
		{"no audience", caller.Config{Door: "x:1"}, "", []string{`Audience: ""`}},
		{"an audience URL that names no host", caller.Config{Audience: "https:///x", Door: "x:1"}, "", []string{"names a host"}},
		{"hosts beyond ASCII", caller.Config{Audience: "https://bücher.test", Door: "x:1", Hosts: []string{"İx.test"}}, "", []string{"as the DNS has it, xn--", "Hosts[0]:"}},
		{"an audience URL with a user, who reads like a host", caller.Config{Audience: "https://app.test@evil.test", Door: "x:1"}, "", []string{"names a host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GCE_METADATA_HOST", tt.environ)
			s, err := caller.New(tt.config)
			if (err == nil) != (tt.want == nil) || (s == nil) != (err != nil) {
				t.Fatalf("got %v, %v", s, err)
			}
			if err == nil {
				return
			}
			rest := err.Error()
			for _, w := range tt.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("got %q, want in it %q, in this order", err, tt.want)
				}
				rest = after
			}
		})
	}
}

// What is asked is what the contract says, and nothing more.
func TestTheRequest(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not be used
	d := newDoor(t, newClock())
	_, port, err := net.SplitHostPort(d.host())
	if err != nil {
		t.Fatal(err)
	}
	// 0.0.0.0 is this machine, and none of the hosts that net/http knows no proxy for
	s, err := caller.New(caller.Config{Audience: "https://invoices.test/a&b=c#d+e", Door: "0.0.0.0:" + port, Now: d.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	get(t, s)
	r := d.asked[0]
	if r.Method != http.MethodGet || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" || r.ContentLength != 0 {
		t.Errorf("asked %s %s", r.Method, r.URL)
	}
	if got := r.Header["Metadata-Flavor"]; len(got) != 1 || got[0] != "Google" {
		t.Errorf("Metadata-Flavor is %q", got)
	}
	q := query(t, r)
	if len(q) != 2 || q.Get("audience") != "https://invoices.test/a&b=c#d+e" || q.Get("format") != "standard" {
		t.Errorf("the query is %v", q)
	}
	if !r.Close {
		t.Error("the connection would serve further requests, and who asks is attested when it is made")
	}
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "Origin", "Referer", "Accept-Encoding", "Cookie"} {
		if r.Header.Get(name) != "" {
			t.Errorf("it has %s", name)
		}
	}
}

func TestDoorBehindASocket(t *testing.T) {
	t.Parallel()
	c := newClock()
	path := filepath.Join(t.TempDir(), "workload.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, clock: c}
	srv := httptest.NewUnstartedServer(d)
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	s, err := caller.New(caller.Config{Audience: audience, Door: "unix://" + path, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	if got := jti(t, get(t, s)); got != "1" {
		t.Errorf("got token %s", got)
	}
	if h := d.asked[0].Host; h != "localhost" {
		t.Errorf("Host is %q", h)
	}
}

// What an answer can be, and which error the program gets for it.
func TestAnswers(t *testing.T) {
	t.Parallel()
	c := newClock()
	raw := func(changes map[string]any) http.HandlerFunc { return says(200, mint(t, c.now(), changes)) }
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		is     error
		text   string // in the error
	}{
		{"a token", raw(nil), nil, ""},
		{"a token with a second left", raw(map[string]any{"exp": c.now().Unix() + 1}), nil, ""},
		{"policy says no", says(403, "not allowed (decision a-7)\n"), caller.ErrDenied, "answered 403: not allowed (decision a-7)"},
		{"a parameter that it does not take", says(400, "unknown parameter"), caller.ErrDenied, "answered 400: unknown parameter"},
		{"no such path", says(404, "404"), caller.ErrDenied, "answered 404: 404"},
		{"it cannot record now", says(503, "decisions cannot be recorded now"), caller.ErrUnavailable, "answered 503: decisions"},
		{"too many requests", says(429, "slowly"), caller.ErrUnavailable, "answered 429: slowly"},
		{"an answer that is no success and has a token", says(202, mint(t, c.now(), nil)), caller.ErrAnswer, "answered 202"},
		{"a page of several lines and signs", says(500, "a\r\nb\x00c\xff"), caller.ErrUnavailable, "answered 500: a  b c\uFFFD"},
		{"a long text is cut", says(403, strings.Repeat("x", 257)), caller.ErrDenied, "answered 403: " + strings.Repeat("x", 256)},
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/computeMetadata/v1/elsewhere", http.StatusFound)
		}, caller.ErrAnswer, "answered 302"},
		{"what answers is no door", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Del("Metadata-Flavor")
			raw(nil)(w, r)
		}, caller.ErrAnswer, "answered 200 without Metadata-Flavor: Google"},
		{"of another flavor", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Vanilla")
			raw(nil)(w, r)
		}, caller.ErrAnswer, "it is no metadata door"},
		{"no token", says(200, "welcome"), caller.ErrAnswer, "three parts"},
		{"a token and a line break", says(200, mint(t, c.now(), nil)+"\n"), caller.ErrAnswer, "not base64url"},
		{"longer than any token", says(200, strings.Repeat("x", token.MaxLength+1)), caller.ErrAnswer, "longer than"},
		{"a token for another", raw(map[string]any{"aud": "https://other.test"}), caller.ErrAnswer, "not for " + audience + " alone"},
		{"a token for another as well", raw(map[string]any{"aud": []string{audience, "https://other.test"}}), caller.ErrAnswer, "not for " + audience + " alone"},
		{"a token for nobody", raw(map[string]any{"aud": nil}), caller.ErrAnswer, "not for"},
		{"a token that never ends", raw(map[string]any{"exp": nil}), caller.ErrAnswer, "never ends"},
		{"a token that has ended", raw(map[string]any{"exp": c.now().Unix()}), caller.ErrAnswer, "ended at 2027-01-15T08:00:00Z; is the clock right?"},
		{"it hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, caller.ErrUnavailable, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoor(t, c)
			d.set(tt.answer)
			got, err := newSource(t, d, caller.Config{}).Token(t.Context())
			if !errors.Is(err, tt.is) {
				t.Fatalf("got %v, want %v", err, tt.is)
			}
			if (got == "") != (err != nil) || d.count() != 1 {
				t.Errorf("got %q with %v, after %d requests", got, err, d.count())
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), tt.text+"x") || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("the error says %q, want in it %q", err, tt.text)
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error has the token: %q", err)
			}
		})
	}
}

func TestNobodyAtTheDoor(t *testing.T) {
	t.Parallel()
	s, err := caller.New(caller.Config{Audience: audience, Door: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Token(t.Context()); !errors.Is(err, caller.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// eventually returns when f is true: a fetch in the background has no end that a
// program could wait for. go test's own timeout is the limit.
func eventually(f func() bool) {
	for !f() {
		time.Sleep(time.Millisecond)
	}
}

// stays calls Token some times more, with room for a fetch in the background that
// should not be, and returns whether the door was still asked n times.
func stays(t testing.TB, s *caller.Source, d *door, n int) bool {
	t.Helper()
	for range 5 {
		get(t, s)
		time.Sleep(time.Millisecond)
	}
	return d.count() == n
}

// One token's life: kept, renewed ahead while the old one is served, replaced.
func TestRenewal(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	s := newSource(t, d, caller.Config{})
	first := get(t, s)
	c.tick(55*time.Minute - 1)
	if get(t, s) != first || !stays(t, s, d, 1) {
		t.Fatalf("before it is time the door was asked %d times", d.count())
	}
	release, second := make(chan struct{}), mint(t, c.now(), map[string]any{"jti": "second"})
	d.set(func(w http.ResponseWriter, r *http.Request) {
		<-release
		says(200, second)(w, r)
	})
	c.tick(1)
	if get(t, s) != first {
		t.Fatal("five minutes before its end a token is not served any more")
	}
	eventually(func() bool { return d.count() == 2 })
	for range 50 {
		if get(t, s) != first {
			t.Fatal("while it is renewed the old token is not served")
		}
	}
	close(release)
	eventually(func() bool { return get(t, s) == second })
	if d.count() != 2 || d.most != 1 {
		t.Errorf("the door was asked %d times, %d at once", d.count(), d.most)
	}
}

// A renewal that fails costs nothing until the old token ends, and is tried again
// ever less often.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	var mu sync.Mutex
	var log bytes.Buffer
	s := newSource(t, d, caller.Config{Logger: slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))})
	logged := func() int {
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(log.String(), "cannot be renewed")
	}
	first := get(t, s)
	d.set(says(503, "full"))
	c.tick(55 * time.Minute)
	for i, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if get(t, s) != first {
			t.Fatal("the old token is not served")
		}
		eventually(func() bool { return logged() == i+1 })
		c.tick(pause*time.Second - 1)
		if get(t, s) != first || !stays(t, s, d, i+2) {
			t.Fatalf("after failure %d the door was asked again within %d s", i+1, pause)
		}
		c.tick(1)
	}
	if !strings.Contains(log.String(), "answered 503: full") || strings.Contains(log.String(), first) {
		t.Errorf("the log is %s", log.String())
	}
	c.tick(2 * time.Minute) // the old token has ended
	if got, err := s.Token(t.Context()); !errors.Is(err, caller.ErrUnavailable) {
		t.Fatalf("got %q, %v", got, err)
	}
	d.set(nil)
	c.tick(time.Minute)
	if got := get(t, s); got == first {
		t.Error("an old token is served after its end")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// After a first fetch that failed its error is told until the pause is over.
func TestPauseAfterAFirstFailure(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	d.set(says(403, "not allowed"))
	s := newSource(t, d, caller.Config{})
	for range 3 {
		if _, err := s.Token(t.Context()); !errors.Is(err, caller.ErrDenied) || !strings.Contains(err.Error(), "answered 403: not allowed") {
			t.Fatalf("got %v", err)
		}
	}
	if d.count() != 1 {
		t.Errorf("the door was asked %d times at once", d.count())
	}
	c.tick(time.Second)
	if _, err := s.Token(t.Context()); err == nil || d.count() != 2 {
		t.Fatalf("got %v after %d requests", err, d.count())
	}
	c.tick(time.Second)
	if _, err := s.Token(t.Context()); err == nil || d.count() != 2 {
		t.Fatalf("after the second failure the pause was not longer: %v after %d requests", err, d.count())
	}
	d.set(nil)
	c.tick(time.Second)
	s.Drop(get(t, s))
	d.set(says(403, "not allowed")) // after a success it begins anew
	_, _ = s.Token(t.Context())
	d.set(nil)
	c.tick(time.Second)
	get(t, s)
}

// A token of a short life is renewed at half of what is left, not all the time.
func TestShortLife(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	d.set(func(w http.ResponseWriter, r *http.Request) {
		says(200, mint(t, c.now(), map[string]any{"exp": c.now().Unix() + 240, "jti": strconv.Itoa(d.count())}))(w, r)
	})
	s := newSource(t, d, caller.Config{})
	first := get(t, s)
	c.tick(119 * time.Second)
	if get(t, s) != first || !stays(t, s, d, 1) {
		t.Fatalf("the door was asked %d times", d.count())
	}
	c.tick(time.Second)
	eventually(func() bool { return get(t, s) != first })
}

// All who wait share one fetch, and each waits no longer than it wants to.
func TestOneFetchAtATime(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	release, raw := make(chan struct{}), mint(t, c.now(), nil)
	d.set(func(w http.ResponseWriter, r *http.Request) {
		<-release
		says(200, raw)(w, r)
	})
	s := newSource(t, d, caller.Config{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := s.Token(t.Context()); got != raw {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		if _, err := s.Token(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait got %v", err)
		}
	}
	eventually(func() bool { return d.count() > 0 })
	close(release)
	wg.Wait()
	if d.count() != 1 || d.most != 1 {
		t.Errorf("the door was asked %d times, %d at once", d.count(), d.most)
	}
	if got, err := s.Token(gone); got != raw { // what is there costs no waiting
		t.Errorf("got %q, %v", got, err)
	}
}

// Only the token that is served can be dropped: a late answer about an older one
// says nothing of the new.
// A door gives a token that it has just made again: that is no reason to ask it before
// each request.
func TestDropOfATokenThatComesBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	same := mint(t, c.now(), nil)
	d.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = io.WriteString(w, same)
	})
	s := newSource(t, d, caller.Config{})
	for range 5 {
		s.Drop(get(t, s))
	}
	if d.count() != 2 {
		t.Errorf("the door was asked %d times", d.count())
	}
	c.tick(time.Minute)
	s.Drop(same)
	if get(t, s) != same || d.count() != 3 {
		t.Errorf("after a minute: asked %d times", d.count())
	}
	d.set(nil)
	c.tick(time.Minute)
	s.Drop(same)
	if fresh := get(t, s); fresh == same || d.count() != 4 {
		t.Errorf("when the door has another: asked %d times", d.count())
	}
}

// A clock that goes back after a fetch that failed: there is a token or an error.
func TestClockThatGoesBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	d.set(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	s := newSource(t, d, caller.Config{})
	if _, err := s.Token(t.Context()); err == nil {
		t.Fatal("a token")
	}
	d.set(nil)
	c.tick(time.Minute)
	s.Drop(get(t, s))
	c.tick(-time.Minute)
	if raw, err := s.Token(t.Context()); raw == "" && err == nil {
		t.Error("neither a token nor an error")
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := newDoor(t, c)
	s := newSource(t, d, caller.Config{})
	first := get(t, s)
	s.Drop("another")
	if get(t, s) != first {
		t.Fatal("it dropped what it was not asked to")
	}
	s.Drop(first)
	second := get(t, s)
	s.Drop(first)
	if second == first || get(t, s) != second || d.count() != 2 {
		t.Errorf("the door was asked %d times", d.count())
	}
}
