package httpproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
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
