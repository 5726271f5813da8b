package sallyport_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/modfile"
)

// A block is a fenced part of a page. Those tagged "sh" are run in order by one
// bash, "sh server" in the background until it is ready, in place of the page's
// server before it; a "text" block after one says what it prints, with … for anything. "console" is for what only a person,
// or CI itself, can run.
type block struct {
	tag, text string
}

func blocks(page string) []block {
	var out []block
	for _, m := range regexp.MustCompile("(?ms)^```([a-z ]*)\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

// Every page does what it says. Each runs in a network namespace of its own, so
// that the addresses it names are free.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) < 5 {
		t.Fatalf("pages: %v %v", pages, err)
	}
	bin := filepath.Join(t.TempDir(), "sallyport")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", bin, "./cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ran := 0
	for _, page := range append(pages, "README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		bs := blocks(string(text))
		for _, b := range bs {
			if b.tag == "sh" {
				ran++
			}
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			dir := root // the README's reader stands in the checkout
			if page != "README.md" {
				dir = t.TempDir()
			}
			runPage(t, root, dir, filepath.Dir(bin), bs)
		})
	}
	if ran < 15 {
		t.Errorf("only %d blocks are run: is the fence's tag still sh?", ran)
	}
}

func runPage(t *testing.T, root, dir, path string, bs []block) {
	t.Helper()
	work := t.TempDir()
	var script strings.Builder
	script.WriteString("set -euo pipefail\nip link set lo up\n")
	for i, b := range bs {
		text := strings.ReplaceAll(b.text, "/tmp/sallyport-dev-", work+"/sallyport-dev-")
		switch b.tag {
		case "sh server":
			fmt.Fprintf(&script, "if [ \"${SERVER:-}\" ]; then kill -TERM $SERVER; wait $SERVER || true; fi\n( exec %s ) >> %s/server.log 2>&1 &\nSERVER=$!\n"+
				"for i in $(seq 1200); do curl -sf http://127.0.0.1:8402/readyz >/dev/null && break; kill -0 $SERVER; sleep 0.05; done\ncurl -sf http://127.0.0.1:8402/readyz >/dev/null\n",
				strings.TrimSpace(text), work)
		case "sh":
			fmt.Fprintf(&script, "{\n%s\n} > %s/%d.out 2> %s/%d.err\n", text, work, i, work, i)
		case "text", "console", "yaml", "go":
		default:
			t.Fatalf("a block tagged %q: nobody runs it", b.tag)
		}
	}
	script.WriteString("trap '' TERM; kill -TERM 0; wait\n")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	page := filepath.Join(work, "page.sh")
	if err := os.WriteFile(page, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--map-root-user", "bash", page)
	if m := machineOf(t, bs); m != "" {
		cmd = exec.CommandContext(ctx, "bash", filepath.Join(root, "testdata", m), page)
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "TMPDIR="+work, "SALLYPORT_SRC="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(work, name)) // not there: the block was not reached
		return string(b)
	}
	for i, b := range bs {
		got := read(fmt.Sprintf("%d.out", i))
		if b.tag == "sh" && i+1 < len(bs) && bs[i+1].tag == "text" {
			if missing := says(got, bs[i+1].text); missing != "" {
				t.Errorf("the page says that this prints %q:\n%s\nit printed:\n%s%s", missing, b.text, got, read(fmt.Sprintf("%d.err", i)))
			}
		}
	}
	if err != nil {
		var last string
		for i := range bs {
			last += read(fmt.Sprintf("%d.err", i))
		}
		t.Fatalf("the page's commands failed: %v\n%s%s\nserver:\n%s", err, out, last, read("server.log"))
	}
}

// machines are for pages whose blocks have a command that this machine may not have
// running: each is a script of testdata that makes one for the page alone, and what it
// needs.
var machines = []struct {
	command, script string
	needs           []string
}{
	{"docker run", "docker.sh", []string{"dockerd", "docker", "ctr", "busybox"}},
	{"systemctl", "systemd.sh", []string{"systemctl", "nsenter", "pgrep"}},
}

// machineOf returns the script that makes a page's machine, "" if it needs none. It
// stops a test that cannot have it: in CI that is a failure.
func machineOf(t *testing.T, bs []block) string {
	t.Helper()
	for _, m := range machines {
		if !slices.ContainsFunc(bs, func(b block) bool { return b.tag == "sh" && strings.Contains(b.text, m.command) }) {
			continue
		}
		var why []string
		if os.Getuid() != 0 {
			why = append(why, "root")
		}
		for _, program := range m.needs {
			if _, err := exec.LookPath(program); err != nil {
				why = append(why, program)
			}
		}
		if why != nil && os.Getenv("CI") != "" {
			t.Fatalf("the page lacks %v: in CI it has to run (scripts/setup clients)", why)
		} else if why != nil {
			t.Skipf("the page lacks %v (scripts/setup clients)", why)
		}
		return m.script
	}
	return ""
}

// says looks for the lines of want in got, in order, and returns the first that is
// not there.
func says(got, want string) string {
	for line := range strings.Lines(want) {
		line = strings.TrimRight(line, "\n")
		parts := strings.Split(line, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		at := regexp.MustCompile(strings.Join(parts, `[^\n]*`)).FindStringIndex(got)
		if at == nil {
			return line
		}
		got = got[at[1]:]
	}
	return ""
}

func TestSays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, got, want, missing string }{
		{"all lines in order", "a\nb\nc\n", "a\nc\n", ""},
		{"a line that is not there", "a\n", "a\nb\n", "b"},
		{"in another order", "b\na\n", "a\nb\n", "b"},
		{"anything within a line", "x=1 y=2\n", "x=…y=2\n", ""},
		{"but not across lines", "x=1\ny=2\n", "x=…y=2\n", "x=…y=2"},
		{"signs are no patterns", "a.b\n", "a*b\n", "a*b"},
	} {
		if got := says(tt.got, tt.want); got != tt.missing {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.missing)
		}
	}
}

// Every dependency is somebody's decision: each direct requirement of each go.mod
// has its line in docs/dependencies.md, and each line is still needed.
func TestDependenciesAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, file := range []string{"go.mod", "tools/go.mod", "acceptance/google/go.mod", "acceptance/witness/go.mod"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mod, err := modfile.Parse(file, text, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range mod.Require {
			if r.Indirect && !tool(mod, r.Mod.Path) {
				continue
			}
			needed[r.Mod.Path] = true
			if !bytes.Contains(doc, []byte("| `"+r.Mod.Path+"` |")) {
				t.Errorf("%s requires %s, which has no line in docs/dependencies.md", file, r.Mod.Path)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		if !needed[m[1]] {
			t.Errorf("docs/dependencies.md has a line for %s, which nothing requires", m[1])
		}
	}
}

// tool reports whether a module holds a tool that mod names.
func tool(mod *modfile.File, path string) bool {
	for _, t := range mod.Tool {
		if strings.HasPrefix(t.Path, path+"/") {
			return true
		}
	}
	return false
}
