package google_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// audience is that of the service behind the gateway.
const audience = "https://invoices.acme.test"

// A server is a running `sallyport serve`, and what the tests got from it.
type server struct {
	binary, dataDir, config          string
	network                          string // namespace of one more door
	issuer, gateway, healthy         string // HOST:PORT
	door, otherDoor, ecDoor, farDoor string // of orders, reports, ledger; orders in another universe
	upstream                         *httptest.Server
	cmd                              *exec.Cmd
	stderr                           syncBuffer
	exited                           chan error

	mu           sync.Mutex
	tokenIDs     []string // `jti` of every token a client showed us
	mintRefusals int
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start runs the program on free ports. Another process may take one of them
// before the program does; then all is tried again.
func start(t *testing.T, network string) *server {
	t.Helper()
	binary := build(t)
	// what it was told of the caller is what the upstream answers
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	t.Cleanup(upstream.Close)
	for range 5 {
		s := &server{binary: binary, upstream: upstream, dataDir: filepath.Join(t.TempDir(), "data"), exited: make(chan error, 1), network: network}
		err := s.try(t)
		if err == nil {
			return s
		}
		if !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("five times a port was taken before the server could listen on it")
	return nil
}

func build(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("SALLYPORT_BIN"); bin != "" {
		abs, err := filepath.Abs(bin)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	bin := filepath.Join(t.TempDir(), "sallyport")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/sallyport")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return bin
}

const file = `
trust_domain: acme.test
replica: a
data_dir: %[1]s
issuer:
  url: http://%[2]s
  listen: %[2]s
  audiences: ["https://*.partner.test", "https://two.partner.test/*"]
telemetry: {listen: %[3]s}
metadata:
  - {listen: %[4]s, service_accounts: [orders], project: {id: acme-project, number: 100000000042}}
  - {listen: %[5]s, service_accounts: [reports], project: {id: acme-project, number: 100000000042}}
  - {listen: %[11]s, service_accounts: [ledger], project: {id: acme-project, number: 100000000042}}
  - {listen: %[12]s, service_accounts: [orders], project: {id: acme-project, number: 100000000042}, universe_domain: acme.invalid}
service_accounts:
  - {name: orders, attest: [{uid: %[6]d}]}
  - {name: reports, attest: [{uid: %[7]d}]}
  - {name: ledger, attest: [{uid: %[6]d}], algorithm: ES256}
gateway: {listen: %[8]s}
services:
  - name: invoices
    audiences: [%[9]s]
    http: {hosts: [127.0.0.1], upstream: %[10]q, identity_headers: {X-Forwarded-User: principal.name}}
policies:
  - {name: two-read-invoices, allow: ["serviceAccount:orders", "serviceAccount:ledger"], to: [invoices], actions: [http.get]}
  - {name: we-may-run-as-orders, allow: ["user:local/%[6]d"], to: ["serviceAccount:orders"], actions: [workload.run]}
`

func (s *server) try(t *testing.T) error {
	t.Helper()
	var free []net.Listener
	for _, addr := range []*string{&s.issuer, &s.gateway, &s.healthy, &s.door, &s.otherDoor, &s.ecDoor, &s.farDoor} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free, *addr = append(free, l), l.Addr().String()
	}
	for _, l := range free { // all at once, or two could be the same
		_ = l.Close()
	}
	s.config = filepath.Join(filepath.Dir(s.dataDir), "sallyport.yaml")
	text := fmt.Sprintf(file, s.dataDir, s.issuer, s.healthy, s.door, s.otherDoor, os.Getuid(), otherUID, s.gateway, audience, s.upstream.URL, s.ecDoor, s.farDoor)
	if s.network != "" {
		text = strings.Replace(text, "metadata:\n", "metadata:\n  - {listen: 169.254.169.254:80, network_namespace: "+s.network+", service_accounts: [orders], project: {id: acme-project, number: 100000000042}}\n", 1)
	}
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(s.binary, "serve", "--config", s.config)
	s.cmd.Stderr = &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		s.exited <- s.cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended unless a test failed
		<-gone
		if t.Failed() {
			t.Logf("the server said:\n%s", s.stderr.String())
		}
	})
	return s.ready(t.Context(), gone)
}

// ready waits until /readyz says so.
func (s *server) ready(ctx context.Context, gone <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, _, err := get(ctx, "http://"+s.healthy+"/readyz", ""); err == nil && got.Status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-gone:
			return errors.New("the server ended before it was ready: " + s.stderr.String())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w: %s", ctx.Err(), s.stderr.String())
		}
	}
}

// stop ends the server as an init system does, and expects it to end well.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		if err != nil {
			t.Fatalf("after SIGTERM: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the server does not end after SIGTERM")
	}
}

// sallyport runs another command of the program, which must exit with 0.
func (s *server) sallyport(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.binary, args...)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sallyport %s: %v\n%s%s", strings.Join(args, " "), err, out, problem.String())
	}
	return string(out)
}

// record is what these tests read of one line of `audit search --output json`.
type record struct {
	ID       string `json:"id"`
	Decision string `json:"decision"`
	Payload  struct {
		Principal     string `json:"principal"`
		TokenID       string `json:"token_id"`
		IssuedTokenID string `json:"issued_token_id"`
		Reason        string `json:"reason"`
	} `json:"payload"`
}

func (s *server) search(t *testing.T, args ...string) []record {
	t.Helper()
	text := s.sallyport(t, append([]string{"audit", "search", "--data-dir", s.dataDir, "--output", "json"}, args...)...)
	var out []record
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		out = append(out, r)
	}
	return out
}

// us is a client that is an account at its own door, orders.
func (s *server) us() *client { return s.at(s.door) }

// An account is one that we are at a door.
type account struct{ name, door string }

// accounts are ours, by the algorithm that signs their tokens.
func (s *server) accounts() map[string]account {
	return map[string]account{"RS256": {"orders", s.door}, "ES256": {"ledger", s.ecDoor}}
}

func (s *server) at(door string) *client { return &client{door: door, uid: os.Getuid()} }

func (s *server) refused(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mintRefusals += n
}
