package google_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// variables are what `sallyport run` sets for a program: the address of the door, as
// each language wants to be told it.
func variables(door string) []string {
	return []string{
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=attested",
		"ACTIONS_ID_TOKEN_REQUEST_URL=http://" + door + "/actions/id-token?api-version=2.0",
		"CLOUDSDK_CORE_CHECK_GCE_METADATA=true",
		"GCE_METADATA_HOST=" + door,
		"GCE_METADATA_IP=" + door,
		"GCE_METADATA_ROOT=" + door,
		"GOOGLE_CLOUD_PROJECT=acme-project",
		"METADATA_SERVER_DETECTION=assume-present",
		"NO_PROXY=127.0.0.1,localhost",
		"no_proxy=127.0.0.1,localhost",
	}
}

// A language runs programs: it is what a program's name and arguments are put behind.
// Nothing but the door's variables, an empty HOME and an empty PATH is in their
// environment: Node asks gcloud, where there is one, for a project.
type language []string

func (l language) run(t *testing.T, c *client, args ...string) result {
	t.Helper()
	got, err := l.try(t, c, args...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (l language) try(t *testing.T, c *client, args ...string) (result, error) {
	t.Helper()
	home := forEverybody(t)
	env := c.extra
	if env == nil {
		env = variables(c.door)
	}
	return c.process(t, home, slices.Concat(l, args), slices.Concat([]string{"HOME=" + home, "PATH=" + home}, env))
}

// otherUsers runs a program as another user and as us, at our door and at theirs. Who is
// nobody is refused so many tokens: none where the library first looks who it is.
func (l language) otherUsers(t *testing.T, s *server, refusals int, args ...string) {
	needsRoot(t)
	for _, tt := range s.users() {
		t.Run(tt.name+" with "+args[0], func(t *testing.T) {
			t.Parallel()
			got, err := l.try(t, &tt.c, args...)
			s.isWho(t, tt.who, refusals, got, err)
		})
	}
}

// absent ends a test that something is missing for: in CI it fails, where everything
// has to be tried.
func absent(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// needs ends a test unless a program (by name) or a file (by path) is here, and
// returns its path.
func needs(t *testing.T, name, install string) string {
	t.Helper()
	path, err := name, error(nil)
	if filepath.IsAbs(name) {
		_, err = os.Stat(name)
	} else {
		path, err = exec.LookPath(name)
	}
	if err != nil {
		absent(t, err.Error()+": please install "+install+", or let scripts/setup clients do it")
	}
	return path
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		absent(t, "running a client as another user needs root")
	}
}

// copyFile copies a file to where every user can read it.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The tests here give programs the variables that `sallyport run` gives them.
func TestVariablesAreThoseOfRun(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	cmd := exec.CommandContext(t.Context(), s.binary, "run", "--config", s.config, "--as", "orders", "--", "/usr/bin/env")
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	door := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if address, ok := strings.CutPrefix(line, "GCE_METADATA_HOST="); ok {
			door = address
		}
		if !strings.HasPrefix(line, "HOME=") {
			got = append(got, line)
		}
	}
	if _, _, err := net.SplitHostPort(door); err != nil {
		t.Errorf("the door is at %q: %v", door, err)
	}
	slices.Sort(got)
	if want := variables(door); !slices.Equal(got, want) {
		t.Errorf("sallyport run sets\n%s\nand the tests here\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s.stop(t)
}

// lock is what is read of npm's lock files: that of the folder, and that of what is
// installed.
type lock struct {
	Packages map[string]struct{ Version, Integrity string }
}

func readLock(path string) (lock, error) {
	var l lock
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	return l, json.Unmarshal(b, &l)
}
