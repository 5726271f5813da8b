package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/torchwood"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	_ "modernc.org/sqlite"
)

// sallyport is the binary under test.
func sallyport(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("SALLYPORT_BIN")
	if bin == "" {
		t.Fatal("SALLYPORT_BIN is not set: run `make test`, or set it to bin/sallyport")
	}
	return bin
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// output collects what a program says.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, out *output, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come\n%s", what, out)
		}
	}
}

// start runs a program until the test ends, or stop is called.
func start(t *testing.T, name string, args ...string) (out *output, stop func()) {
	t.Helper()
	out = &output{}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = cmd.Process.Signal(syscall.SIGINT)
			done := make(chan struct{})
			go func() { _ = cmd.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(15 * time.Second):
				_ = cmd.Process.Kill()
			}
		})
	}
	t.Cleanup(stop)
	return out, stop
}

// keyring serves an ssh-agent with one key, which litewitness signs with.
func keyring(t *testing.T, dir string) (socket, fingerprint string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c); _ = c.Close() }()
		}
	}()
	sum := sha256.Sum256(public)
	return socket, hex.EncodeToString(sum[:])
}

// litewitness starts one that knows a log, and returns its URL and key.
func litewitness(t *testing.T, origin, logKey string) (url, key string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin := filepath.Join(dir, "litewitness")
	if out, err := exec.Command("go", "build", "-o", bin, "filippo.io/torchwood/cmd/litewitness").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address := freeAddress(t)
	db := filepath.Join(dir, "db")
	socket, fingerprint := keyring(t, dir)
	out, _ := start(t, bin, "-name", "witness.example/w", "-db", db, "-ssh-agent", socket, "-key", fingerprint, "-listen", address)
	vkey := regexp.MustCompile(`vkey="?([^"\s]+)`)
	eventually(t, "the witness's key", out, func() bool { return vkey.MatchString(out.String()) })
	// what `witnessctl add-log` and `add-key` do; it cannot be built here, because a
	// module it needs is not served
	s, err := sql.Open("sqlite", db)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	empty := tlog.Hash{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
		0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}
	_, err1 := s.Exec(`INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)`, origin, base64.StdEncoding.EncodeToString(empty[:]))
	_, err2 := s.Exec(`INSERT INTO key (origin, key) VALUES (?, ?)`, origin, logKey)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return "http://" + address, vkey.FindStringSubmatch(out.String())[1]
}

type server struct {
	dir, file, data, telemetry string
}

func newServer(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{dir: dir, file: filepath.Join(dir, "sallyport.yaml"), data: filepath.Join(dir, "data"), telemetry: freeAddress(t)}
	s.configure(t, "")
	return s
}

func (s *server) configure(t *testing.T, more string) {
	t.Helper()
	issuer := freeAddress(t)
	text := fmt.Sprintf("trust_domain: acme.internal\nreplica: a\nissuer: {url: \"http://%s\", listen: \"%s\"}\ndata_dir: data\ntelemetry: {listen: \"%s\"}\n%s", issuer, issuer, s.telemetry, more)
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *server) serve(t *testing.T) (out *output, stop func()) {
	t.Helper()
	out, stop = start(t, sallyport(t), "serve", "--config", s.file)
	eventually(t, "the server", out, func() bool {
		resp, err := http.Get("http://" + s.telemetry + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return out, stop
}

func (s *server) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(sallyport(t), args...).CombinedOutput()
	return string(out), err
}

func (s *server) file1(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.data, "log", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A witness that others wrote signs our checkpoints, notices that the log was set back,
// and its signature verifies with its authors' code and with ours.
func TestLitewitness(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, stop := s.serve(t)
	stop()
	logKey := strings.TrimSpace(string(s.file1(t, "checkpoint.pub")))
	old := filepath.Join(s.dir, "old")
	if out, err := s.run(t, "audit", "backup", "--data-dir", s.data, old); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	url, key := litewitness(t, "acme.internal/a", logKey)
	s.configure(t, fmt.Sprintf("audit: {witnesses: [{url: %q, key: %q}], publish: [{file: kept, every: 1s}]}\n", url, key))
	out, stop := s.serve(t)
	cosigned := filepath.Join(s.data, "log", "cosigned")
	eventually(t, "a cosignature", out, func() bool { _, err := os.Stat(cosigned); return err == nil })
	stop() // whose last checkpoint is signed, too
	text := s.file1(t, "cosigned")
	theirs, err := fnote.NewVerifierForCosignatureV1(key)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := note.NewVerifier(logKey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(text, note.VerifierList(theirs, ours))
	if err != nil || len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 0 {
		t.Fatalf("their code reads %v, %v in\n%s", n, err, text)
	}
	if !bytes.HasPrefix(text, s.file1(t, "checkpoint")) {
		t.Errorf("the last checkpoint is not the one that is signed:\n%s\n%s", text, s.file1(t, "checkpoint"))
	}
	for _, args := range [][]string{{"--witness", key}, {"--checkpoint", filepath.Join(s.dir, "kept")}} {
		got, err := s.run(t, append([]string{"audit", "verify", "--data-dir", s.data, "--key", logKey}, args...)...)
		if err != nil || !strings.Contains(got, "still begins with") {
			t.Errorf("verify %v: %v\n%s", args, err, got)
		}
	}
	// the directory is set back: the server's own index notices, the kept checkpoints
	// do, and when all that is brushed aside the witness still does
	if err := errors.Join(os.RemoveAll(filepath.Join(s.data, "log")), os.CopyFS(filepath.Join(s.data, "log"), os.DirFS(old))); err != nil {
		t.Fatal(err)
	}
	if got, err := s.run(t, "audit", "verify", "--data-dir", s.data, "--key", logKey, "--checkpoint", filepath.Join(s.dir, "kept")); err == nil || !strings.Contains(got, "rolled back or cut") {
		t.Errorf("a log that was set back verifies: %v\n%s", err, got)
	}
	if got, err := s.run(t, "audit", "reindex", "--data-dir", s.data); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	out, _ = s.serve(t)
	eventually(t, "the alarm", out, func() bool { return strings.Contains(out.String(), "THE LOG WAS SET BACK") })
	resp, err := http.Get("http://" + s.telemetry + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "\nsallyport_audit_outside_up 0\n") {
		t.Errorf("the metric says nothing of it: %v", err)
	}
}

// The log directory, served as it lies, is a log to a client that others wrote.
func TestTorchwoodClient(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for range 3 { // a few records more each time
		_, stop := s.serve(t)
		stop()
	}
	files := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(s.data, "log"))))
	t.Cleanup(files.Close)
	fetcher, err := torchwood.NewTileFetcher(files.URL)
	if err != nil {
		t.Fatal(err)
	}
	text, err := fetcher.ReadEndpoint(t.Context(), "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(s.file1(t, "checkpoint.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	got := int64(0)
	for i, entry := range client.Entries(t.Context(), checkpoint.Tree, 0) {
		if i != got || !strings.HasPrefix(string(entry), fmt.Sprintf(`{"v":1,"seq":%d,`, i)) {
			t.Errorf("entry %d is %s", i, entry)
		}
		got++
	}
	if err := client.Err(); err != nil || got != checkpoint.N || got < 6 {
		t.Errorf("%d entries of %d, %v", got, checkpoint.N, err)
	}
	if _, proof, err := client.Entry(t.Context(), checkpoint.Tree, 2); err != nil || len(proof) == 0 {
		t.Errorf("entry 2: proof of %d hashes, %v", len(proof), err)
	}
}
