package main_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/cli"
)

// The test binary runs itself as `sallyport`.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// Each script is what an operator types. Beside testscript's own commands there are
// `ready`, which waits until a server has said so, and `fill`, which copies a file
// with $NAMES filled in (addresses that are free, our uid, an upstream) and without
// the line break at its end.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/stream" { // until somebody hangs up
					_, _ = fmt.Fprintln(w, "the stream begins")
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
					return
				}
				_, _ = fmt.Fprintf(w, "upstream saw %s %s authorization=%q user=%q\n", r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("X-Forwarded-User"))
			}))
			e.Defer(upstream.Close)
			e.Setenv("UPSTREAM", upstream.URL)
			e.Setenv("UID", fmt.Sprint(os.Getuid()))
			for _, name := range []string{"ISSUER", "DOOR", "GATEWAY", "TELEMETRY"} {
				e.Setenv(name, freeAddress(t))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"ready": ready, "fill": fill},
	})
}

// nextPort is the port that freeAddress tries next. Those below 32768 the system gives to
// nobody who does not ask for one, so that what is free stays so until a server has it; and
// none is given out twice.
var nextPort atomic.Int32

func freeAddress(t testing.TB) string {
	t.Helper()
	for range 20000 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+(int(nextPort.Add(1))+os.Getpid()*61)%20000)
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

func ready(ts *testscript.TestScript, _ bool, _ []string) {
	if err := awaitReady(ts.Getenv("TELEMETRY")); err != nil {
		ts.Fatalf("%v", err)
	}
}

func awaitReady(telemetry string) error {
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + telemetry + "/readyz")
		if err != nil {
			last = err
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("/readyz answers %s", resp.Status)
	}
	return fmt.Errorf("the server does not get ready: %w", last)
}

func fill(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: fill FROM TO")
	}
	text := os.Expand(ts.ReadFile(args[0]), func(name string) string {
		if v := ts.Getenv(name); v != "" {
			return v
		}
		return "$" + name
	})
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.TrimSpace(text)), 0o600))
}
