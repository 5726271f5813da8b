package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runUser is who runs programs in these tests, besides root; stranger is another.
const (
	runUser  = 4713
	stranger = 4714
)

// runner is a server that lets runUser and root run as orders, and nobody as reports.
type runner struct {
	t       *testing.T
	exe     string // open to every user
	dir     string
	dataDir string
	config  string
	health  string
}

func newRunner(t *testing.T) *runner {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test runs programs as several users: it needs root, and CI has to run it as root")
		}
		t.Skip("needs root to run programs as several users")
	}
	dir, err := os.MkdirTemp("", "sprun")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &runner{t: t, dir: dir, dataDir: filepath.Join(dir, "data"), exe: filepath.Join(dir, "sallyport"), config: filepath.Join(dir, "sallyport.yaml"), health: freeAddress(t)}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock() // no child may hold it open for writing when it is run
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(r.exe, image, 0o755))
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	issuer := freeAddress(t)
	file := fmt.Sprintf(`
trust_domain: acme.internal
replica: a
issuer: {url: "http://%[1]s", listen: "%[1]s", audiences: ["*"]}
data_dir: data
telemetry: {listen: "%[2]s"}
service_accounts: [{name: orders}, {name: reports}]
policies:
  - {name: run, allow: ["user:local/%[3]d", "user:local/0"], to: ["serviceAccount:orders"], actions: [workload.run]}
  - {name: both, allow: ["user:local/0"], to: ["serviceAccount:reports"], actions: [workload.run]}
`, issuer, r.health, runUser)
	if err := os.WriteFile(r.config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// serve starts the server; what it returns ends it.
func (r *runner) serve() func() {
	r.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(r.exe, "serve", "--config", r.config)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	r.t.Cleanup(stop)
	if err := awaitReady(r.health); err != nil {
		r.t.Fatalf("%v\n%s", err, out.String())
	}
	return stop
}

// command is `sallyport run --as account -- sh -c script`, by uid.
func (r *runner) command(uid int, account string, args ...string) *exec.Cmd {
	cmd := exec.Command(r.exe, append([]string{"run", "--as", account, "--data-dir", r.dataDir, "--"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return cmd
}

// result is what a command printed, and how it ended.
func result(cmd *exec.Cmd) (out, problem string, status int) {
	var o, p bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &p
	err := cmd.Run()
	if x, ok := errors.AsType[*exec.ExitError](err); ok {
		return o.String(), p.String(), x.ExitCode()
	}
	if err != nil {
		return o.String(), err.Error(), -1
	}
	return o.String(), p.String(), 0
}

// who asks the door in the environment for the account's address.
const who = `curl -s -m 10 -H 'Metadata-Flavor: Google' "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email"`

func TestRun(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	r.serve()
	other := fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups", stranger, stranger)
	for _, tt := range []struct {
		name    string
		uid     int
		account string
		script  string
		out     string // all of it
		problem string // a part
		status  int
	}{
		{"the program is the account", runUser, "orders", who, "orders@sa.acme.internal", "", 0},
		{"its exit status is the command's", runUser, "orders", "exit 7", "", "", 7},
		{"its children are, too", runUser, "orders", "sh -c '" + strings.ReplaceAll(who, "'", `"`) + "'; true", "orders@sa.acme.internal", "", 0},
		{"grandchildren, through a pipe", runUser, "orders", "true | (true; (" + who + "))", "orders@sa.acme.internal", "", 0},
		{"it has no child that it did not make", runUser, "orders", `read c < /proc/$$/task/$$/children; echo "[$c]"`, "[]\n", "", 0},
		{"its process is the command's own", runUser, "orders", "ps -o comm= -p $$", "sh\n", "", 0},
		{"it has no descriptor that it was not given", runUser, "orders", descriptors, alone(t, descriptors), "", 0},
		{"it is in its own process group and session", runUser, "orders", `test "$(ps -o pgid= -p $$)" = "$(ps -o pgid= -p $PPID)" && echo same`, "same\n", "", 0},
		{"signals are not blocked or ignored", runUser, "orders", dispositions, alone(t, dispositions), "", 0},
		{"and those that were ignored are", runUser, "orders", "trap '' HUP INT TSTP; exec \"$SALLYPORT\" run --as orders -- sh -c '" + dispositions + "'", alone(t, "trap '' HUP INT TSTP; sh -c '"+dispositions+"'"), "", 0},
		{"an ID token", runUser, "orders", strings.Replace(who, "/email", "/identity?audience=https://x", 1) + " | cut -c1-3", "eyJ\n", "", 0},
		{"GitHub's variables", runUser, "orders", `curl -s -H "Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=x" | cut -c1-13`, `{"value":"eyJ` + "\n", "", 0},
		{"the project", runUser, "orders", "echo $GOOGLE_CLOUD_PROJECT", "sallyport\n", "", 0},
		{"a page's request", runUser, "orders", strings.Replace(who, "-s", "-s -H 'Origin: https://evil.test'", 1), "not allowed\n", "", 0},
		{"a POST", runUser, "orders", strings.Replace(who, "-s", "-s -X POST -w %{http_code}", 1), "method not allowed\n405", "", 0},
		{"a foreign name", runUser, "orders", strings.Replace(who, "-s", "-s -H 'Host: evil.test'", 1), "not allowed\n", "", 0},

		{"a child of another uid gets nothing", 0, "orders", other + " " + who, "no identity for this caller\n", "", 0},
		{"an orphaned grandchild of another uid gets nothing", 0, "orders", orphan(other + " sh -c \"$ASK\""), "no identity for this caller\n", "", 0},
		{"an orphaned grandchild is no descendant any more", runUser, "orders", orphan(`sh -c "$ASK"`), "no identity for this caller\n", "", 0},
		{"a grandchild whose parents live", runUser, "orders", `(sh -c "$ASK") | cat`, "orders@sa.acme.internal", "", 0},

		{"a user whom policy does not name", stranger, "orders", "echo ran", "", "user 4714 may not run as orders: not allowed (decision a-", 1},
		{"an account that policy does not name", runUser, "reports", "echo ran", "", "may not run as reports: not allowed", 1},
		{"an account that is not there", runUser, "ghost", "echo ran", "", "may not run as ghost: not allowed (decision a-", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := r.command(tt.uid, tt.account, "sh", "-c", tt.script)
			cmd.Env = append(cmd.Env, "ASK="+who, "SALLYPORT="+r.exe, "SPIFFE_ENDPOINT_SOCKET=unix://"+r.dataDir+"/workload.sock")
			out, problem, status := result(cmd)
			out = decision.ReplaceAllString(out, "")
			if out != tt.out || !strings.Contains(problem, tt.problem) || tt.problem == "" && problem != "" || status != tt.status {
				t.Errorf("got %q, %q, status %d\nwant %q, %q, status %d", out, problem, status, tt.out, tt.problem, tt.status)
			}
		})
	}
	t.Run("who was turned away is in the log", func(t *testing.T) {
		out, _, _ := result(r.command(0, "orders", "sh", "-c", other+" "+who))
		id := decision.FindStringSubmatch(out)
		if id == nil {
			t.Fatalf("no decision in %q", out)
		}
		show, problem, status := result(exec.Command(r.exe, "audit", "show", "--config", r.config, id[1]))
		for _, want := range []string{"decision   deny", "no_descendant", "serviceAccount:orders", "uid 0 says that its door", fmt.Sprintf(`{"reported":"the caller's uid is %d, want 0"}`, stranger)} {
			if !strings.Contains(regexp.MustCompile("decision +deny").ReplaceAllString(show, "decision   deny"), want) {
				t.Errorf("%q is missing in %s%s (%d)", want, show, problem, status)
			}
		}
	})
	t.Run("strangers are told of sixty times a minute", func(t *testing.T) {
		out, problem, status := result(r.command(0, "orders", "sh", "-c", "for i in $(seq 64); do "+other+" "+who+"; done"))
		if told, all := strings.Count(out, "(decision "), strings.Count(out, "no identity for this caller"); status != 0 || told != 60 || all != 64 {
			t.Errorf("%d of %d, %q, status %d", told, all, problem, status)
		}
	})
	t.Run("each reason is in the log", func(t *testing.T) {
		for reason, flags := range map[string]string{"host_refused": "-s -H 'Host: evil.test'", "request_was_forwarded": "-s -H 'Via: x'", "method_not_allowed": "-s -X POST"} {
			said, _, _ := result(r.command(runUser, "orders", "sh", "-c", strings.Replace(who, "-s", flags, 1)))
			out, problem, status := result(exec.Command(r.exe, "audit", "search", "--config", r.config, "--reason", reason))
			if id := decision.FindStringSubmatch(said); status != 0 || id == nil || !strings.Contains(out, id[1]+" ") {
				t.Errorf("%s: told %q, recorded %s%s (%d)", reason, said, out, problem, status)
			}
		}
		_, _, _ = result(r.command(runUser, "ghost", "true"))
		out, _, _ := result(exec.Command(r.exe, "audit", "search", "--config", r.config, "--reason", "account_unknown", "--output", "json"))
		if !strings.Contains(out, `no service account is called \"ghost\"`) || !strings.Contains(out, "user:local/4713") {
			t.Errorf("an account that is not there: %s", out)
		}
	})
	t.Run("a project that is set stays", func(t *testing.T) {
		cmd := r.command(runUser, "orders", "sh", "-c", "echo $GOOGLE_CLOUD_PROJECT")
		cmd.Env = append(cmd.Env, "GOOGLE_CLOUD_PROJECT=mine")
		if out, problem, status := result(cmd); out != "mine\n" || problem != "" || status != 0 {
			t.Errorf("got %q, %q, status %d", out, problem, status)
		}
	})
	t.Run("a folder by a relative path", func(t *testing.T) {
		cmd := r.command(runUser, "orders", "sh", "-c", who)
		cmd.Dir = r.dir
		cmd.Args[slices.Index(cmd.Args, "--data-dir")+1] = filepath.Base(r.dataDir)
		if out, problem, status := result(cmd); out != "orders@sa.acme.internal" || problem != "" || status != 0 {
			t.Errorf("got %q, %q, status %d", out, problem, status)
		}
	})
	t.Run("who waits for a change keeps nobody from a token", func(t *testing.T) {
		wait := strings.Replace(who, "instance/service-accounts/default/email", "project/project-id?wait_for_change=true", 1)
		script := `for i in $(seq 70); do ` + wait + ` > /dev/null & done; sleep 1; ` + strings.Replace(who, "-m 10", "-m 4", 1) + `; kill $(jobs -p) 2> /dev/null; true`
		if out, problem, status := result(r.command(runUser, "orders", "bash", "-c", script)); out != "orders@sa.acme.internal" || status != 0 {
			t.Errorf("got %q, %q, status %d", out, problem, status)
		}
	})
	t.Run("an escaped slash stays one", func(t *testing.T) {
		out, problem, status := result(r.command(runUser, "orders", "sh", "-c", strings.Replace(who, "instance/service-accounts/default/email", "project%2Fproject-id", 1)))
		if decision.ReplaceAllString(out, "") != "not found\n" || status != 0 {
			t.Errorf("got %q, %q, status %d", out, problem, status)
		}
	})
	t.Run("a target that is no path names no other account", func(t *testing.T) {
		for _, target := range []string{"a:http://sallyport/run/reports/computeMetadata/v1/instance/service-accounts/default/email", "http://sallyport/run/reports/computeMetadata/v1/instance/service-accounts/default/email", "*"} {
			script := `exec 3<>/dev/tcp/${GCE_METADATA_HOST%:*}/${GCE_METADATA_HOST#*:}; printf 'GET %s HTTP/1.1\r\nHost: %s\r\nMetadata-Flavor: Google\r\nConnection: close\r\n\r\n' "$0" "$GCE_METADATA_HOST" >&3; cat <&3`
			out, problem, status := result(r.command(0, "orders", "bash", "-c", script, target))
			if code, _, _ := strings.Cut(strings.TrimPrefix(out, "HTTP/1.1 "), " "); status != 0 || code < "400" || code > "499" || strings.Contains(out, "@sa.") {
				t.Errorf("%s: %q, %q, status %d", target, out, problem, status)
			}
		}
	})
	t.Run("a program that is not there", func(t *testing.T) {
		if _, problem, status := result(r.command(runUser, "orders", "no-such-program")); status != 127 || !strings.Contains(problem, "no-such-program") {
			t.Errorf("got %q, status %d", problem, status)
		}
	})
	t.Run("a program that cannot be run", func(t *testing.T) {
		if _, problem, status := result(r.command(runUser, "orders", "/etc/passwd")); status != 126 {
			t.Errorf("got %q, status %d", problem, status)
		}
	})
}

// decision is what a refusal's text ends in.
var decision = regexp.MustCompile(` \(decision (a-[0-9]+)\)`)

// dispositions prints the signals that are blocked, and of those that are ignored HUP,
// INT, TSTP, TTIN and TTOU: of others Go's runtime forgets it (docs/run-laptop.md), and
// libc ignores two of its own in children that it spawns.
const dispositions = `while read -r k v; do case $k in SigBlk:) echo $k $((0x$v & 0x7fffffff));; SigIgn:) echo $k $((0x$v & 0x380003));; esac; done < /proc/self/status`

// descriptors prints what a program has open.
const descriptors = "ls /proc/self/fd | tr '\\n' ' '"

// alone is what a script prints without us.
func alone(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// orphan runs a command as a grandchild whose parent has ended, and prints what it
// says. The first process waits for that without being its parent.
func orphan(command string) string {
	return `T=$(mktemp); chmod 666 $T
sh -c '(while test -d /proc/'$$'; do case $(cut -d" " -f4 /proc/self/stat) in '$$') sleep 0.01;; *) break;; esac; done; sleep 0.2; ` +
		strings.ReplaceAll(command, "'", `"`) + ` > '$T'; echo done >> '$T') &'
for i in $(seq 200); do grep -q done $T && break; sleep 0.05; done
sed '/^done$/d' $T; rm -f $T`
}

// The door ends with its program, whatever that leaves behind, and with a server that
// is gone it says so.
func TestRunDoorsEnd(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	stop := r.serve()
	cmd := r.command(runUser, "orders", "sh", "-c", "echo $GCE_METADATA_HOST; cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(string(line[:n]))
	if got := ask(t, address); !strings.HasPrefix(got, "403 no identity for this caller") {
		t.Errorf("we, who are not its program, got %q", got)
	}
	stop()
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for i := 0; ; i++ {
		c, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = c.Close()
		if i > 1000 {
			t.Fatal("the door is still open after its program has ended")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, problem, status := result(r.command(runUser, "orders", "true")); status != 3 || !strings.Contains(problem, "workload.sock cannot be asked") && !strings.Contains(problem, "no server is at") {
		t.Errorf("without a server: %q, status %d", problem, status)
	}
	stop = r.serve()
	out2, _, status := result(r.command(0, "orders", "sh", "-c", fmt.Sprintf("kill -TERM %s; sleep 0.3; %s", pidOfServer(t, r), who)))
	if status != 0 || out2 != "the Sallyport server cannot be reached\n" {
		t.Errorf("with a server that went away: %q, status %d", out2, status)
	}
	stop()
}

// pidOfServer finds it by its configuration; the script that uses it runs as root.
func pidOfServer(t *testing.T, r *runner) string {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", "serve --config "+r.config).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func ask(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+address+"/computeMetadata/v1/instance/service-accounts/default/email", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("Metadata-Flavor") != "Google" {
		t.Errorf("header %v, %v", resp.Header, err)
	}
	return strconv.Itoa(resp.StatusCode) + " " + string(body)
}

// Signals, stopping and going on, and the terminal are the program's own, as if it
// had been started alone: on a terminal of its own, by the keys that a person types.
func TestRunOnATerminal(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	r.serve()
	terminal, name := openTerminal(t)
	cmd := r.command(0, "orders", "sh", "-c", `trap 'echo caught' INT; echo ready; until read line; do :; done; `+who+`; trap - INT; echo going on; exec cat`)
	tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	await := func(text string) {
		t.Helper()
		var got strings.Builder
		b := make([]byte, 256)
		for end := time.Now().Add(20 * time.Second); !strings.Contains(got.String(), text); {
			_ = terminal.SetReadDeadline(end)
			n, err := terminal.Read(b)
			if err != nil {
				t.Fatalf("waiting for %q: %v, got %q", text, err, got.String())
			}
			got.Write(b[:n])
		}
	}
	state := func(want string) { // of the program that was started, which is the command's own process
		t.Helper()
		for range 1000 {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			if f := strings.Fields(string(b)); len(f) > 2 && f[2] == want && f[1] == "(cat)" {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("process %d is not in state %s", cmd.Process.Pid, want)
	}
	write := func(keys string) {
		t.Helper()
		if _, err := terminal.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	await("ready")
	write("\x03") // Ctrl-C goes to all who are in the foreground, and the door is not
	await("caught")
	write("ask\n")
	await("orders@sa.acme.internalgoing on") // in one: what is read beyond what is awaited is gone
	write("hello\n")
	await("hello\r\nhello") // the terminal's echo, and the program's
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	state("T")
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	state("S")
	write("again\n")
	await("again\r\nagain")
	write("\x03") // Ctrl-C
	err = cmd.Wait()
	x, ok := errors.AsType[*exec.ExitError](err)
	if !ok || !x.Sys().(syscall.WaitStatus).Signaled() || x.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("ended with %v, want SIGINT", err)
	}
}

// openTerminal makes a pseudo-terminal and returns its keyboard's side, and the name
// of the other.
func openTerminal(t *testing.T) (*os.File, string) {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var cerr error
	err = raw.Control(func(fd uintptr) {
		if cerr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); cerr == nil {
			n, cerr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	return f, fmt.Sprintf("/dev/pts/%d", n)
}

// A shell with job control: its own jobs stop and go on, as on any terminal.
func TestRunAShellWithJobControl(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	r.serve()
	script := filepath.Join(r.dir, "keys")
	if err := os.WriteFile(script, []byte(`set -m
sleep 100 & job=$!
kill -STOP %1
until now=$(jobs); [[ $now == *Stopped* ]]; do sleep 0.01; done; echo "$now"
bg %1 > /dev/null
until now=$(jobs); [[ $now == *Running* ]]; do sleep 0.01; done; echo "$now"
kill %1
wait $job
echo "status $?"
`), 0o644); err != nil {
		t.Fatal(err)
	}
	out, problem, status := result(r.command(runUser, "orders", "bash", script))
	if status != 0 || !strings.Contains(out, "Stopped") || !strings.Contains(out, "Running") || !strings.Contains(out, "status 143") {
		t.Errorf("got %q, %q, status %d", out, problem, status)
	}
}
