package google_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// otherUID is a user that is neither root nor anybody else here.
const otherUID = 4711

// patience bounds everything that waits for another process.
const patience = 30 * time.Second

// The test binary is also the client program: the libraries cache per process
// what they found in the environment, so each test runs one of programs afresh.
func TestMain(m *testing.M) {
	name, ok := os.LookupEnv("ACCEPTANCE_PROGRAM")
	if !ok {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := programs[name](ctx, os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(got)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A client is a way to run a program: against a door, as a user.
type client struct {
	door  string // GCE_METADATA_HOST, HOST:PORT
	uid   int
	extra []string // further environment
}

func (c *client) run(t *testing.T, program string, args ...string) result {
	t.Helper()
	got, err := c.try(t, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// try runs a program whose whole environment is the address of the metadata door
// and its own name.
func (c *client) try(t *testing.T, program string, args ...string) (result, error) {
	t.Helper()
	dir := forEverybody(t)
	exe := filepath.Join(dir, "client")
	copyBinary(t, exe)
	env := append([]string{"GCE_METADATA_HOST=" + c.door, "ACCEPTANCE_PROGRAM=" + program}, c.extra...)
	return c.process(t, dir, append([]string{exe}, args...), env)
}

// process runs a program of any language, which prints its result as its last line.
func (c *client) process(t *testing.T, dir string, argv, env []string) (result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env // no credentials file can be in dir
	if c.uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}}
	}
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return result{}, fmt.Errorf("%s: %w: %s%s", argv, err, out.String(), problem.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var got result
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatalf("%s printed %q: %v", argv, out.String(), err)
	}
	return got, nil
}

// forEverybody returns a folder whose files every user can run, unlike t.TempDir's.
func forEverybody(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-acceptance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // MkdirTemp's is 0700
		t.Fatal(err)
	}
	return dir
}

// copyBinary links the running program where possible: it is large.
func copyBinary(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if os.Link(self, to) == nil {
		return
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
}

// suite runs every client of a language against one server, stops it, and holds its
// log against what the clients got: at least so many tokens.
func suite(t *testing.T, least int, tests map[string]func(*testing.T, *server)) *server {
	t.Helper()
	s := start(t, "")
	t.Run("clients", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	})
	s.stop(t)
	t.Run("the log verifies after the server was stopped", func(t *testing.T) {
		s.sallyport(t, "audit", "verify", "--data-dir", s.dataDir)
	})
	t.Run("the log has every token that was handed out", func(t *testing.T) { everyTokenIsRecorded(t, s, least) })
	return s
}

func TestGoLibraries(t *testing.T) {
	t.Parallel()
	s := suite(t, 10, map[string]func(*testing.T, *server){
		"metadata tells who and where we are":                metadataValues,
		"application default credentials":                    accessTokens,
		"identity tokens":                                    idTokens,
		"an audience that nothing allows":                    foreignAudience,
		"calls with idtoken.NewClient arrive":                callsArrive,
		"the gateway takes nothing else":                     callsRefused,
		"Go's validators take our tokens":                    validators,
		"an account that signs with ES256":                   elliptic,
		"another universe than Google's":                     universe,
		"another user gets another identity, or none at all": otherUser,
	})
	t.Run("the log has every refusal, once", func(t *testing.T) { everyRefusalIsRecorded(t, s) })
}

func everyTokenIsRecorded(t *testing.T, s *server, least int) {
	var minted, seen, refused []string
	for _, r := range s.search(t, "--action", "token.mint") {
		if r.Decision == "allow" {
			minted = append(minted, r.Payload.IssuedTokenID)
			continue
		}
		refused = append(refused, r.ID)
		if r.Payload.IssuedTokenID != "" {
			t.Errorf("%s was refused and issued %s", r.ID, r.Payload.IssuedTokenID)
		}
	}
	s.mu.Lock()
	seen = append(seen, s.tokenIDs...)
	wantRefused := s.mintRefusals
	s.mu.Unlock()
	// what idtoken.NewClient got is known from the calls that were made with it
	shown := map[string]int{}
	for _, r := range s.search(t, "--action", "http.get", "--decision", "allow") {
		if shown[r.Payload.TokenID]++; shown[r.Payload.TokenID] == 1 && !slices.Contains(seen, r.Payload.TokenID) {
			seen = append(seen, r.Payload.TokenID)
		}
	}
	if len(minted) < least {
		t.Errorf("only %d tokens were handed out: the tests above did not run", len(minted))
	}
	if len(minted) < len(seen) {
		t.Errorf("%d hand-outs are recorded, and clients saw %d", len(minted), len(seen))
	}
	slices.Sort(minted)
	slices.Sort(seen)
	minted, seen = slices.Compact(minted), slices.Compact(seen) // a fresh one is handed out more than once
	if !slices.Equal(minted, seen) {
		t.Errorf("recorded as minted:\n%s\nseen by clients:\n%s", strings.Join(minted, "\n"), strings.Join(seen, "\n"))
	}
	if len(refused) != wantRefused {
		t.Errorf("%d refusals to mint are recorded, want %d: a client that was refused tried again, or a record is missing: %v", len(refused), wantRefused, refused)
	}
}

func everyRefusalIsRecorded(t *testing.T, s *server) {
	got := map[string]int{}
	for _, r := range s.search(t, "--service", "invoices", "--decision", "deny") {
		got[r.Payload.Reason]++
	}
	for reason, want := range map[string]int{"audience_wrong": 1, "type_not_allowed": 1, "credential_missing": 1, "issuer_not_accepted": 1} {
		if got[reason] != want {
			t.Errorf("%d refusals because of %s, want %d: %v", got[reason], reason, want, got)
		}
	}
}
