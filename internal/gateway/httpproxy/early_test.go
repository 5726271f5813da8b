package httpproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// A client whose body was answered early sends the rest of it, and its next request over
// the same connection, or is told that the connection ends.
func TestAnsweredEarlyAndOn(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_ = http.NewResponseController(w).EnableFullDuplex()
		}
		_, _ = io.WriteString(w, r.Method)
	}})
	raw := good(t)
	for _, wait := range []time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond} {
		conn, err := net.Dial("tcp", b.gateway)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		answers := bufio.NewReader(conn)
		rest := strings.Repeat("x", 50_000)
		_, _ = io.WriteString(conn, request("POST /v1", bearer(raw), fmt.Sprint("Content-Length: ", 2*len(rest)))+rest)
		for i, method := range []string{"POST", "GET"} {
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Errorf("after %v, %s: %v", wait, method, err)
				break
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != method {
				t.Errorf("after %v, %s: %q %v", wait, method, body, err)
			}
			if resp.Close {
				break
			}
			if i == 0 {
				time.Sleep(wait)
				_, _ = io.WriteString(conn, rest+request("GET /v1", bearer(raw)))
			}
		}
	}
}

// What is left of a body when its request was answered for another reason is no request:
// neither when the route's time is over, nor when the client itself took too long.
func TestTheRestOfABodyIsNoRequest(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]settings{
		"timeout": {routes: []httpproxy.Route{{Path: "/v1", Timeout: 200 * time.Millisecond}}},
		"stall":   {stall: 200 * time.Millisecond},
	} {
		b := newRig(t, s)
		raw := good(t)
		conn, err := net.Dial("tcp", b.gateway)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		answers := bufio.NewReader(conn)
		rest := request("GET /v1/smuggled", bearer(raw))
		_, _ = io.WriteString(conn, request("POST /v1", bearer(raw), fmt.Sprint("Content-Length: ", 40_000+len(rest)))+strings.Repeat("x", 40_000))
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_, _ = io.WriteString(conn, rest)
		if again, err := http.ReadResponse(answers, nil); err == nil {
			t.Errorf("%s: after %d the rest of its body is answered: %d", name, resp.StatusCode, again.StatusCode)
		}
		for _, r := range b.take() {
			if r.method == http.MethodGet {
				t.Errorf("%s: the upstream got %s %s", name, r.method, r.uri)
			}
		}
	}
}
