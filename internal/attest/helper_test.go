package attest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// TestMain takes away what the tests built.
func TestMain(m *testing.M) {
	status := m.Run()
	if dir := programs.dir; dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(status)
}

// programs are what is in testdata/peer, built once, and copied to where every user
// can run it.
var programs struct {
	sync.Mutex
	dir   string
	image []byte
}

// program returns a copy of the peer under a name of its own; each is another file
// with another hash.
func program(t testing.TB, name string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if programs.dir == "" {
		buildPeer(t)
	}
	exe := filepath.Join(programs.dir, name)
	if _, err := os.Stat(exe); err == nil {
		return exe
	}
	// a child that is forked meanwhile would hold the file open for writing, and it
	// could not be run ("text file busy")
	syscall.ForkLock.RLock()
	err := os.WriteFile(exe, append(programs.image, name...), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func buildPeer(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "attest")
	if err != nil {
		t.Fatal(err)
	}
	programs.dir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "peer")
	cmd := exec.Command("go", "build", "-o", exe, "./testdata/peer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if programs.image, err = os.ReadFile(exe); err != nil {
		t.Fatal(err)
	}
}

// started is a program that runs, and says "ok" for each thing done.
type started struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	once sync.Once
}

// elsewhere, among the variables of a program, starts it in a network namespace of
// its own; then it has to have a cgroup.
const elsewhere = "ATTEST_ELSEWHERE=1"

// start runs a program as a user, in a cgroup if that is not "".
func start(t testing.TB, exe, role, call string, uid int, cgroup string, environ ...string) *started {
	t.Helper()
	s := &started{t: t, cmd: exec.Command(exe)}
	s.cmd.Env = append([]string{"ATTEST_ROLE=" + role, "ATTEST_CALL=" + call}, environ...)
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if uid != os.Getuid() {
		s.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if cgroup != "" { // by a shell that moves there first: the caller is never elsewhere
		s.cmd.Args = []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$1"`, cgroup, exe}
		s.cmd.Path = "/bin/sh"
		s.cmd.SysProcAttr.Credential = nil
		if uid != os.Getuid() {
			s.cmd.Args = []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec setpriv --reuid "$2" --regid "$2" --clear-groups "$1"`, cgroup, exe, strconv.Itoa(uid)}
		}
		if slices.Contains(environ, elsewhere) {
			s.cmd.Args[2] = strings.Replace(s.cmd.Args[2], "exec ", "exec unshare --net ", 1)
		}
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

func (s *started) wait() {
	s.t.Helper()
	if line, err := s.out.ReadString('\n'); err != nil || line != "ok\n" {
		s.t.Fatalf("%s said %q: %v", s.cmd.Path, line, err)
	}
}

func (s *started) do(action string) {
	s.t.Helper()
	if action == "exit" {
		s.end()
		return
	}
	if _, err := fmt.Fprintln(s.in, action); err != nil {
		s.t.Fatal(err)
	}
	s.wait()
}

func (s *started) end() {
	s.once.Do(func() {
		_ = s.in.Close()
		_ = s.cmd.Wait()
	})
}

// connected is a caller, and its connection as a door sees it.
type connected struct {
	*started
	conn attest.Conn
}

// connect starts exe as a caller and returns its connection.
func connect(t testing.TB, network, exe string, uid int, cgroup string, environ ...string) connected {
	t.Helper()
	address, call := "127.0.0.1:0", network
	switch network {
	case "mapped": // the caller has an IPv6 socket
		network = "tcp"
	case "tcp6":
		address = "[::1]:0"
	case "unix":
		address = socketPath(t)
	}
	inner, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	l := attest.Listen(inner, nil)
	t.Cleanup(func() { _ = l.Close() })
	s := start(t, exe, "caller", call+"!"+l.Addr().String(), uid, cgroup, environ...)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s.wait()
	conn, ok := attest.Of(c)
	if !ok {
		t.Fatal("not a connection of our listener")
	}
	return connected{s, conn}
}

// socketPath is short enough for a socket, and open to every user.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "s")
}

// otherUID is a user that is not us; switching to it needs root.
const otherUID = 4711

// privileged stops a test that has to switch users, make cgroups, or look into other
// users' processes.
func privileged(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test switches users and looks into their processes: it needs root, and CI has to run it as root")
	}
	t.Skip("needs root to switch users and look into their processes")
}

// cgroupOf makes a cgroup of the hierarchy that attestation reads, and returns its
// path and its folder.
func cgroupOf(t testing.TB, name string) (path, dir string) {
	t.Helper()
	path = fmt.Sprintf("/sallyport-%d-%s", os.Getpid(), name)
	for _, root := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir = filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatalf("make a cgroup, as attestation by cgroup is tested with real ones: %v", err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) }) // fails while somebody is in it, and the next run's cleanup is its own
		return path, dir
	}
	t.Fatal("no cgroup hierarchy is mounted at /sys/fs/cgroup: attestation by cgroup cannot be tested")
	return "", ""
}

func u32(n int) *uint32 {
	v := uint32(n)
	return &v
}

func uid(n int) attest.Rule { return attest.Rule{UID: u32(n)} }

func attestor(accounts ...attest.Account) *attest.Attestor {
	return attest.New(accounts, func(n string) string { return n + "@sa.test" })
}

func code(err error) string {
	if e, ok := errors.AsType[*attest.Error](err); ok {
		return e.Code()
	}
	return fmt.Sprint(err)
}

func account(name string, rules ...attest.Rule) attest.Account {
	return attest.Account{Name: name, Attest: rules}
}
