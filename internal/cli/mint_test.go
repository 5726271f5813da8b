package cli

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// answering serves handler on a socket, as a server does on its workload.sock.
func answering(t *testing.T, handler http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("audience") != "elsewhere" {
			w.Header().Set("Metadata-Flavor", "Google")
		}
		handler(w, r)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

// tokenUntil returns what reads as a token that ends then.
func tokenUntil(t *testing.T, ends time.Time) string {
	t.Helper()
	in, err := token.SigningInput(token.ES256, "k", token.TypeID, map[string]any{"aud": "a", "exp": ends.Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return token.Seal(in, []byte("signature"))
}

// What a server answers is told by the exit status: no is 1, and what may be otherwise
// later is 3, which is what a supervisor starts again.
func TestMintTellsNoFromLater(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		body   string
		exit   int // 0: a token
		want   string
	}{
		{"a token", 200, tokenUntil(t, time.Unix(1, 0)), 0, ""},
		{"a refusal", 403, "not allowed (decision a-7)", exitNo, "no token: not allowed (decision a-7); whoever runs the server finds out why with: sallyport audit show --data-dir DIR a-7"},
		{"not found", 404, "not found", exitNo, "no token: not found"},
		{"too much at once", 429, "too many requests", exitFailed, "cannot give a token now: too many requests"},
		{"a fault", 503, "try again", exitFailed, "cannot give a token now: try again"},
		{"no token", 200, "<html>", exitFailed, "the server's answer is no token"},
		{"text that would write on the terminal", 403, "no\x1b[2J", exitNo, "no token: no"},
	} {
		socket := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		})
		var out, problem bytes.Buffer
		if got := Main([]string{"token", "mint", "--audience", "elsewhere", "--socket", socket}, strings.NewReader(""), &out, &problem); got != exitFailed || !strings.Contains(problem.String(), "is no workload.sock of a server") {
			t.Errorf("%s, of what is no door: exit status %d, %q", tt.name, got, problem.String())
		}
		out.Reset()
		problem.Reset()
		got := Main([]string{"token", "mint", "--audience", "a", "--socket", socket}, strings.NewReader(""), &out, &problem)
		if got != tt.exit || !strings.Contains(problem.String(), tt.want) || strings.Contains(problem.String(), "\x1b") || (out.String() == tt.body) != (tt.exit == 0) {
			t.Errorf("%s: exit status %d, %q, %q, want %d, %q", tt.name, got, out.String(), problem.String(), tt.exit, tt.want)
		}
	}
}

// An account that the caller is can be named, and one that it is to act as.
func TestMintByName(t *testing.T) {
	t.Parallel()
	var asked string
	socket := answering(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		_, _ = w.Write([]byte(tokenUntil(t, time.Unix(1, 0))))
	})
	for flag, want := range map[string]string{
		"":                 "/computeMetadata/v1/instance/service-accounts/default/identity",
		"--account=orders": "/computeMetadata/v1/instance/service-accounts/orders/identity",
		"--as=orders":      "/run/orders/computeMetadata/v1/instance/service-accounts/default/identity",
	} {
		args := []string{"token", "mint", "--audience", "a", "--socket", "unix:" + socket}
		if flag != "" {
			args = append(args, flag)
		}
		var problem bytes.Buffer
		if status := Main(args, strings.NewReader(""), &bytes.Buffer{}, &problem); status != 0 || asked != want {
			t.Errorf("%s: status %d, %s, asked %s", flag, status, problem.String(), asked)
		}
	}
	if status := Main([]string{"token", "mint", "--audience", "a", "--account", "a", "--as", "b"}, strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}); status != exitMisuse {
		t.Errorf("both: status %d", status)
	}
}

// The file is replaced while its token has twenty minutes left; what fails is told, tried
// again, and leaves the old token where it is.
func TestRenewal(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	one, two, three := tokenUntil(t, now.Add(time.Hour)), tokenUntil(t, now.Add(2*time.Hour)), tokenUntil(t, now.Add(10*time.Minute))
	answers := []string{one, "", two, three}
	var asked atomic.Int64
	socket := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		if a := answers[min(int(asked.Add(1)), len(answers))-1]; a != "" {
			_, _ = w.Write([]byte(a))
			return
		}
		http.Error(w, "not allowed", http.StatusForbidden)
	})
	file := filepath.Join(t.TempDir(), "token")
	type step struct {
		pause time.Duration
		held  string
	}
	want := []step{{40 * time.Minute, one}, {15 * time.Second, one}, {100 * time.Minute, two}, {15 * time.Second, three}}
	var got []step
	ctx, stop := context.WithCancel(t.Context())
	m := &mint{endpoint: endpoint{socket: socket}, audience: "a", file: file, name: "T", renew: true, now: func() time.Time { return now }}
	m.after = func(d time.Duration) <-chan time.Time {
		held, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		if got = append(got, step{d, string(held)}); len(got) == len(want) {
			stop()
			return nil
		}
		c := make(chan time.Time, 1)
		c <- now
		return c
	}
	var out, problem bytes.Buffer
	e := &env{out: &out, err: &problem, output: "file"}
	if err := e.mint(ctx, m); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d pauses, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("pause %d is %v with %.60s, want %v with %.60s", i, got[i].pause, got[i].held, want[i].pause, want[i].held)
		}
	}
	if p := problem.String(); strings.Count(p, "\n") != 1 || !strings.Contains(p, "ends at 2027-01-15T09:00:00Z and was not replaced: no token: not allowed") || out.Len() != 0 {
		t.Errorf("told %q, printed %q", p, out.String())
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("beside the file lies %v, %v", left, err)
	}
}
