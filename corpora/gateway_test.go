package corpora_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const configuration = `
trust_domain: acme.internal
replica: a
data_dir: data
issuer: {url: "http://127.0.0.1:1", listen: "127.0.0.1:0"}
telemetry: {listen: "127.0.0.1:0"}
gateway: {listen: "127.0.0.1:0"}
providers:
  - name: lab
    oidc: {issuer: %q, jwks_file: %q, audiences: [%q]}
services:
  - name: app
    audiences: [%q]
    accept: [lab]
    http: {hosts: [127.0.0.1], upstream: %q}
policies:
  - {name: lab-reads, allow: ["principalSet:lab/*"], to: [app], actions: [http.get]}
`

// The same tokens through the gateway of a running server: only what is good goes
// upstream, every refusal is in the log, and no token is anywhere.
func TestGateway(t *testing.T) {
	t.Parallel()
	dir := security(t, "the answers of the gateway to about 150 attack tokens, and the records of them")
	cases, file, jwks := generate(t, dir, "jwt", canary(t))
	up := newUpstream(t)
	folder := t.TempDir()
	config := filepath.Join(folder, "sallyport.yaml")
	text := fmt.Sprintf(configuration, issuer, jwks, audience, audience, up.url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, config)
	got := judge(t, dir, "-cases", file, "-kind", "jwt", "-strict", "-url", "http://"+s.gateway+"/app/ok")
	s.stop(t)

	var good, raw []string
	bad := 0
	for _, c := range cases {
		switch {
		case c.Transport == "raw":
			raw = append(raw, c.ID)
		case c.Expect == "accept":
			good = append(good, c.ID)
		default:
			bad++
		}
	}
	t.Logf("no header can carry, and so not sent: %s", strings.Join(raw, ", "))
	if want := (verdict{notSent: len(raw), passed: len(good) + bad}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	slices.Sort(good)
	if !slices.Equal(up.ids(), good) {
		t.Errorf("upstream got %q\nwant %q", up.ids(), good)
	}
	data := filepath.Join(folder, "data")
	for decision, want := range map[string]int{"allow": len(good), "deny": bad} {
		if n := bytes.Count(audit(t, "search", "--data-dir", data, "--action", "http.get", "--decision", decision, "--output", "json"), []byte("\n")); n != want {
			t.Errorf("%d records of %s, want %d", n, decision, want)
		}
	}
	everything := append(audit(t, "search", "--data-dir", data, "--output", "json"), s.log.Bytes()...)
	noToken(t, cases, string(everything))
	audit(t, "verify", "--data-dir", data)
}

// noToken fails if any part of a token that is long enough to be told apart is in
// text.
func noToken(t *testing.T, cases []tokenCase, text string) {
	t.Helper()
	for _, c := range cases {
		for i, part := range strings.Split(c.Token, ".") {
			if len(part) >= 16 && strings.Contains(text, part) {
				t.Errorf("%s: part %d of the token is in the records or in the server's own log", c.ID, i+1)
			}
		}
	}
}

// audit runs an audit command that has to say yes.
func audit(t *testing.T, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(sallyport(t), append([]string{"audit"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("audit %s: %v\n%s", args[0], err, stderr.Bytes())
	}
	return out
}

// upstream remembers the cases whose requests arrived.
type upstream struct {
	url  string
	mu   sync.Mutex
	seen []string
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.seen = append(u.seen, r.Header.Get("X-Case-Id"))
		if r.Header.Get("Authorization") != "" || r.Header.Get("X-Sallyport-Assertion") == "" {
			u.seen = append(u.seen, "(with the caller's token, or without an assertion)")
		}
	}))
	t.Cleanup(s.Close)
	u.url = s.URL
	return u
}

func (u *upstream) ids() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Sorted(slices.Values(u.seen))
}

// server is a running `sallyport serve`.
type server struct {
	cmd     *exec.Cmd
	gateway string       // address
	log     bytes.Buffer // standard error; to be read after stop
	ended   chan error
}

// serve starts the program and waits until it says that it is ready.
func serve(t *testing.T, config string) *server {
	t.Helper()
	s := &server{cmd: exec.CommandContext(t.Context(), sallyport(t), "serve", "--config", config), ended: make(chan error, 1)}
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go s.read(stderr, ready)
	select {
	case <-ready:
	case err := <-s.ended:
		t.Fatalf("serve ended: %v\n%s", err, s.log.Bytes())
	}
	return s
}

func (s *server) read(stderr io.Reader, ready chan<- struct{}) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s.log.Write(append(lines.Bytes(), '\n'))
		var line struct{ Msg, What, Address string }
		_ = json.Unmarshal(lines.Bytes(), &line) // a line that is none says nothing of these
		switch {
		case line.Msg == "listening" && line.What == "gateway":
			s.gateway = line.Address
		case line.Msg == "ready":
			close(ready)
		}
	}
	s.ended <- errors.Join(lines.Err(), s.cmd.Wait())
}

func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-s.ended; err != nil {
		t.Fatalf("serve: %v\n%s", err, s.log.Bytes())
	}
}
