package httpproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// An exchange ends with its pass: with a refusal while there is no answer, by a cut where
// one has begun, and the upstream is not left waiting.
func TestEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		begun bool
	}{{"before the answer", false}, {"in the middle of the answer", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			came, gone := make(chan struct{}), make(chan struct{})
			b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, r *http.Request) {
				if tt.begun {
					_, _ = io.WriteString(w, "hello")
					_ = http.NewResponseController(w).Flush()
				}
				close(came)
				<-r.Context().Done()
				close(gone)
			}})
			conn, err := net.Dial("tcp", b.gateway)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, request("GET /v1", bearer(good(t))))
			<-came
			answer := bufio.NewReader(conn)
			var resp *http.Response
			if tt.begun {
				if resp, err = http.ReadResponse(answer, nil); err != nil {
					t.Fatal(err)
				}
				hello := make([]byte, 5)
				if _, err := io.ReadFull(resp.Body, hello); err != nil || string(hello) != "hello" {
					t.Fatalf("got %q %v", hello, err)
				}
			}
			b.guard.Close()
			<-gone
			if !tt.begun {
				if resp, err = http.ReadResponse(answer, nil); err != nil || resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusServiceUnavailable {
					t.Fatalf("got %v %v", resp, err)
				}
				return
			}
			if body, err := io.ReadAll(resp.Body); err == nil || len(body) > 0 {
				t.Errorf("got %q, which seems whole (%v)", body, err)
			}
		})
	}
}

// Endless bodies go both ways at once over HTTP/1.1.
func TestBothWays(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, strings.ToUpper(lines.Text())+"\n")
			_ = c.Flush()
		}
	}})
	from, to := io.Pipe()
	r, _ := http.NewRequest(http.MethodPost, "http://"+b.gateway+"/v1", from)
	r.Host = "app.test"
	r.Header.Set("Authorization", "Bearer "+good(t))
	go func() { _, _ = io.WriteString(to, "one\n") }()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, word := range []string{"one", "two", "three"} {
		if word != "one" {
			_, _ = io.WriteString(to, word+"\n")
		}
		if got, err := lines.ReadString('\n'); err != nil || got != strings.ToUpper(word)+"\n" {
			t.Fatalf("got %q %v", got, err)
		}
	}
	_ = to.Close()
	if _, err := lines.ReadString('\n'); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
	if e := b.record(t, ""); e.Kind != audit.Admit && e.Kind != audit.Close {
		t.Errorf("the record is %+v", e)
	}
}

// readFunc is a reader in one line.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// What comes of an answer after its pass has ended goes nowhere.
func TestNoByteAfterTheEnd(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	pass, err := b.guard.Admit(t.Context(), guard.Attempt{Credentials: []guard.Credential{guard.Bearer(good(t))}, Service: "app", Resource: guard.ToService("app"),
		Action: "http.get", Request: policy.HTTP{Method: "GET", Path: "/v1", Host: "app.test"}})
	if err != nil {
		t.Fatal(err)
	}
	w, reads := httptest.NewRecorder(), 0
	err = httpproxy.CopyBody(w, pass, readFunc(func(p []byte) (int, error) {
		if reads++; reads == 2 {
			b.guard.Close()
		}
		return copy(p, "x"), nil
	}))
	if err == nil || w.Body.String() != "x" || reads != 2 {
		t.Errorf("got %q after %d reads, %v", w.Body, reads, err)
	}
}

// An answer that breaks off does not seem whole, whatever frames it.
func TestAnAnswerThatBreaksOff(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"in chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"by its length": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
	} {
		b := newRig(t, settings{upstream: raw(t, answer)})
		conn, err := net.Dial("tcp", b.gateway)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request("GET /v1", bearer(good(t))))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			_ = conn.Close()
			continue // nothing at all is no whole answer either
		}
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: got %q, which seems whole", name, body)
		}
		_ = conn.Close()
	}
}

// A transport may read an answer that informs when the real one has been passed on.
func TestInformedLate(t *testing.T) {
	t.Parallel()
	for answered, want := range map[bool]int{false: http.StatusEarlyHints, true: http.StatusOK} {
		w := httptest.NewRecorder()
		if err := httpproxy.Informed(w, answered); err != nil || w.Code != want {
			t.Errorf("answered %v: %d, %v", answered, w.Code, err)
		}
	}
}

// Who may say where a request comes from decides what records and the upstream hear.
func TestClientBehindAProxy(t *testing.T) {
	t.Parallel()
	for network, want := range map[string][2]string{
		"127.0.0.0/8": {"198.51.100.7:0", "198.51.100.7, 127.0.0.1"},
		"10.0.0.0/8":  {"127.0.0.1:", "127.0.0.1"},
	} {
		b := newRig(t, settings{trusted: []string{network}})
		b.send(t, request("GET /v1", bearer(good(t)), "X-Forwarded-For: 192.0.2.66, 198.51.100.7"))
		if got := b.only(t).header["X-Forwarded-For"]; len(got) != 1 || got[0] != want[1] {
			t.Errorf("%s: upstream got %q, want %q", network, got, want[1])
		}
		if got := b.record(t, "").Payload.Peer; !strings.HasPrefix(got, want[0]) {
			t.Errorf("%s: the record says %s, want %s", network, got, want[0])
		}
	}
}

// What is over a limit is 429 with the time to come back.
func TestTooMany(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{limits: guard.Limits{PerPrincipal: guard.Limit{Rate: 0.001}}})
	if got := b.send(t, request("GET /v1", bearer(good(t)))); got.status != http.StatusOK {
		t.Fatalf("got %d", got.status)
	}
	got := b.send(t, request("GET /v1", bearer(good(t))))
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); got.status != http.StatusTooManyRequests || err != nil || wait < 900 || wait > 1000 {
		t.Errorf("got %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
	if n := len(b.take()); n != 1 {
		t.Errorf("upstream got %d requests", n)
	}
}
