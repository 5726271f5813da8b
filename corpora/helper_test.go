package corpora_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/sallyport-dev/sallyport/internal/cli" // what is built in a child process is in the key of Go's test cache through this alone
)

const (
	issuer   = "https://issuer.example"
	audience = "https://sallyport.example"
)

// bin is where programs are built to, once for all tests.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "sallyport-corpora-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(bin)
	os.Exit(code)
}

// security returns the folder of the security corpora's tools, or leaves the test
// out: what says which cases that means.
func security(t *testing.T, what string) string {
	t.Helper()
	shared := os.Getenv("SALLYPORT_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "shared")
	}
	dir := filepath.Join(shared, "corpora", "security", "tool")
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		sentence := fmt.Sprintf("left out: %s, because the corpora are not at %s (set SALLYPORT_SHARED)", what, dir)
		if os.Getenv("CI") != "" {
			t.Fatal(sentence)
		}
		t.Skip(sentence)
	}
	return dir
}

var (
	buildTools   sync.Once
	buildProgram sync.Once
	errTools     error
	errProgram   error
)

// tool returns the path of one of the corpora's tools.
func tool(t *testing.T, dir, name string) string {
	t.Helper()
	buildTools.Do(func() {
		cmd := exec.Command("go", "build", "-C", dir, "-o", bin+"/", "./cmd/judge", "./cmd/jwtcases")
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off") // their module, not ours: nothing of ours may write to it
		errTools = run(cmd)
	})
	if errTools != nil {
		t.Fatal(errTools)
	}
	return filepath.Join(bin, name)
}

// sallyport returns the path of the program.
func sallyport(t *testing.T) string {
	t.Helper()
	out := filepath.Join(bin, "sallyport")
	buildProgram.Do(func() { errProgram = run(exec.Command("go", "build", "-C", "..", "-o", out, "./cmd/sallyport")) })
	if errProgram != nil {
		t.Fatal(errProgram)
	}
	return out
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// A tokenCase is one line of the corpus.
type tokenCase struct {
	ID        string          `json:"id"`
	Token     string          `json:"token"`
	Expect    string          `json:"expect"` // accept or reject
	Level     string          `json:"level"`  // must, should or either
	Reason    string          `json:"reason"`
	Kind      string          `json:"kind"`      // jwt, or jws for a signature without claims
	Transport string          `json:"transport"` // raw: no HTTP header can carry it
	Key       json.RawMessage `json:"key"`       // of a jws: the JWK to verify with
	Alg       string          `json:"alg"`       // that Key names
}

// hurried is judged first: it is good for fifteen seconds only.
const hurried = "jwt-ok-exp-in-leeway"

// generate makes the cases of one kind anew, signed now, and returns them with
// the files they and the issuer's keys are in.
func generate(t *testing.T, dir, kind, canary string) (cases []tokenCase, file, jwks string) {
	t.Helper()
	tmp := t.TempDir()
	all := filepath.Join(tmp, "all.jsonl")
	if err := run(exec.Command(tool(t, dir, "jwtcases"), "-keys", tmp, "-iss", issuer, "-aud", audience, "-canary", canary, "-out", all)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var c tokenCase
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		if c.Kind == kind {
			cases = append(cases, c)
		}
	}
	if len(cases) < 100 {
		t.Fatalf("the corpus has %d cases of kind %s: it cannot be whole", len(cases), kind)
	}
	slices.SortStableFunc(cases, func(a, b tokenCase) int {
		switch hurried {
		case a.ID:
			return -1
		case b.ID:
			return 1
		}
		return 0
	})
	var out bytes.Buffer
	for _, c := range cases {
		line, _ := json.Marshal(c) // strings and valid JSON
		out.Write(append(line, '\n'))
	}
	file = filepath.Join(tmp, kind+".jsonl")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return cases, file, filepath.Join(tmp, "jwks.json")
}

// verdict is what judge says at its end.
type verdict struct{ soft, notSent, passed, failed int }

// judge runs the judge and reports each of its differences.
func judge(t *testing.T, dir string, args ...string) verdict {
	t.Helper()
	out, err := exec.Command(tool(t, dir, "judge"), args...).Output()
	var v verdict
	s := bufio.NewScanner(bytes.NewReader(out))
	var last, before string
	for s.Scan() {
		before, last = last, s.Text()
		switch {
		case strings.HasPrefix(last, "FAIL "):
			t.Error(last)
		case strings.HasPrefix(last, "soft "):
			t.Log(last)
		}
	}
	_, err1 := fmt.Sscanf(before, "%d soft differences, %d not sent", &v.soft, &v.notSent)
	_, err2 := fmt.Sscanf(last, "%d passed, %d failed", &v.passed, &v.failed)
	if err1 != nil || err2 != nil {
		t.Fatalf("judge did not finish: %v\n%s", err, out)
	}
	return v
}

// canary returns an address that must never be connected to, and fails the test
// if somebody did.
func canary(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var visits atomic.Int64
	done := make(chan struct{})
	s := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			visits.Add(1)
		}
	}}
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends at Close
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
		if n := visits.Load(); n > 0 {
			t.Errorf("an address that only a token names was connected to %d times", n)
		}
	})
	return "http://" + l.Addr().String()
}
