package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

// program is dev mode on free ports, run in this process.
type program struct {
	addresses config.DevAddresses
	dir       string
	stop      context.CancelFunc
	done      chan error
	wait      func() error
	log       *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, dir string, upstream http.Handler, change ...func(*config.Config, *app.Options)) *program {
	t.Helper()
	p := &program{dir: dir, done: make(chan error, 1), log: &lockedBuffer{}}
	listeners := map[string]net.Listener{}
	for _, addr := range []*string{&p.addresses.Issuer, &p.addresses.Orders, &p.addresses.Reports, &p.addresses.Gateway, &p.addresses.Telemetry, &p.addresses.Demo} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*addr = l.Addr().String()
		listeners[*addr] = l
	}
	c := config.Dev(p.addresses, dir, uint32(os.Getuid()))
	c.Store.URL = "sqlite:"
	o := app.Options{Version: "test", Logger: slog.New(slog.NewJSONHandler(p.log, nil)),
		Listen: func(addr string) (net.Listener, error) {
			if l := listeners[addr]; l != nil {
				return l, nil
			}
			return nil, fmt.Errorf("no listener for %s", addr)
		}}
	ready := make(chan struct{})
	o.Ready = func() error { close(ready); return nil }
	for _, f := range change {
		f(c, &o)
	}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	a, err := app.New(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: upstream}
	if upstream == nil {
		demo := app.StartDemo(listeners[p.addresses.Demo], c)
		t.Cleanup(demo.Close)
	} else {
		go func() { _ = srv.Serve(listeners[p.addresses.Demo]) }()
		t.Cleanup(func() { _ = srv.Close() })
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.done <- a.Run(ctx) }()
	p.wait = sync.OnceValue(func() error { return <-p.done })
	t.Cleanup(func() { stop(); _ = p.wait() }) // before its folder goes
	select {
	case <-ready:
	case err := <-p.done:
		t.Fatalf("it did not start: %v\n%s", err, p.log)
	}
	return p
}

func (p *program) end(t *testing.T) {
	t.Helper()
	p.stop()
	if err := p.wait(); err != nil {
		t.Fatalf("the end was not clean: %v\n%s", err, p.log)
	}
}

func do(t *testing.T, method, address string, header http.Header, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header, req.Host = header, host
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (p *program) token(t *testing.T) string {
	t.Helper()
	status, raw := do(t, "GET", "http://"+p.addresses.Orders+"/computeMetadata/v1/instance/service-accounts/default/identity?audience="+config.DevAudience,
		http.Header{"Metadata-Flavor": {"Google"}}, "")
	if status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	return raw
}

func TestListeners(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil)
	for _, tt := range []struct {
		name, method, address, host string
		status                      int
		body                        string
	}{
		{"healthz", "GET", p.addresses.Telemetry + "/healthz", "", 200, "ok"},
		{"readyz names its checks", "GET", p.addresses.Telemetry + "/readyz", "", 200, `{"ready":true,"checks":{"audit log":"ok","running":"ok"}}`},
		{"nothing else on telemetry", "GET", p.addresses.Telemetry + "/", "", 404, ""},
		{"the issuer by its name", "GET", p.addresses.Issuer + "/.well-known/openid-configuration", "", 200, `"issuer"`},
		{"the issuer by a name that was rebound", "GET", p.addresses.Issuer + "/oauth2/v3/certs", "evil.test", 421, "does not answer to that host name"},
		{"keys of tokens", "GET", p.addresses.Issuer + "/oauth2/v3/certs", "", 200, `"RS256"`},
		{"keys of assertions", "GET", p.addresses.Issuer + "/assertion/jwks.json", "", 200, `"ES256"`},
		{"no checkpoint key among either", "GET", p.addresses.Issuer + "/oauth2/v1/certs", "", 200, `BEGIN PUBLIC KEY`},
	} {
		status, body := do(t, tt.method, "http://"+tt.address, http.Header{}, tt.host)
		if status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %s", tt.name, status, body)
		}
	}
	p.end(t)
}

// net/http answers "OPTIONS *" by itself unless it is told not to.
func TestNothingIsAnsweredPastTheHandlers(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil)
	for _, addr := range []string{p.addresses.Issuer, p.addresses.Orders, p.addresses.Gateway} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "OPTIONS * HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(c)
		_ = c.Close()
		if line, _, _ := strings.Cut(string(answer), "\r\n"); strings.Contains(line, "200") || line == "" {
			t.Errorf("%s answers %q", addr, line)
		}
	}
	p.end(t)
}

// A request that is under way when the server is told to stop gets its answer, and
// the log ends with the stop, all of it under the last checkpoint.
func TestShutdownLosesNoRequest(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	dir := t.TempDir()
	p := start(t, dir, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "finished")
	}))
	raw := p.token(t)
	answer := make(chan string, 1)
	go func() {
		status, body := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/slow", http.Header{"Authorization": {"Bearer " + raw}}, "")
		answer <- fmt.Sprint(status, " ", body)
	}()
	<-entered
	p.stop()
	close(release)
	if got := <-answer; got != "200 finished" {
		t.Errorf("got %q", got)
	}
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
	kek, err := sealing.Read(app.KEKFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(app.LogDir(dir), "", kek)
	if err != nil || report.Unsigned != 0 || report.TornBytes != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	r, err := audit.OpenReader(app.LogDir(dir), kek)
	if err != nil {
		t.Fatal(err)
	}
	last, err := r.Entry(report.Entries - 1)
	if err != nil || last.Payload.Action != "server.stop" {
		t.Errorf("last record %+v, %v", last, err)
	}
	if strings.Contains(p.log.String(), "eyJ") {
		t.Error("the server's own log holds a token")
	}
}

// A log that cannot be written is a refusal and an alarm, at once and everywhere.
func TestALogThatIsBrokenRefusesEverything(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test mounts a small file system and needs root; CI must run it")
		}
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	mount(t, dir)
	p := start(t, filepath.Join(dir, "data"), nil)
	raw := p.token(t)
	fill(t, filepath.Join(dir, "filler"))
	var status int
	for i := 0; i < 200 && status != http.StatusServiceUnavailable; i++ { // until the last page is used up
		status, _ = do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + raw}}, "")
	}
	if status != http.StatusServiceUnavailable {
		t.Fatalf("a full disk still gives %d", status)
	}
	if status, body := do(t, "GET", "http://"+p.addresses.Telemetry+"/readyz", http.Header{}, ""); status != 503 || !strings.Contains(body, "no space left") {
		t.Errorf("readyz: %d %s", status, body)
	}
	if !strings.Contains(p.log.String(), `"level":"ERROR"`) {
		t.Errorf("no alarm:\n%s", p.log)
	}
	if status, body := do(t, "GET", "http://"+p.addresses.Telemetry+"/metrics", http.Header{}, ""); status != 200 || !strings.Contains(body, "\nsallyport_audit_up 0\n") || strings.Contains(body, "\nsallyport_audit_failures_total 0\n") {
		t.Errorf("metrics: %d %s", status, body)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if status, body := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + raw}}, ""); status != 200 {
		t.Errorf("with space again: %d %s", status, body)
	}
	p.end(t)
}
