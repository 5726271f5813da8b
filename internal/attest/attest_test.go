package attest_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// The test binary is also the caller: it connects, sends one byte, does what it
// was told, and waits for its standard input to end.
func TestMain(m *testing.M) {
	if addr := os.Getenv("ATTEST_CALL"); addr != "" {
		if err := call(addr, os.Getenv("ATTEST_DO")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func call(addr, do string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	switch do {
	case "close":
		_ = c.Close()
	case "half-close":
		_ = c.(*net.TCPConn).CloseWrite()
	case "exec": // the same uid goes on under another program, socket and all
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			return err
		}
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETFD, 0)
		sleep, err := exec.LookPath("cat")
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return syscall.Exec(sleep, []string{"cat"}, nil)
	}
	fmt.Println("ready")
	_, err = os.Stdin.Read(make([]byte, 1)) // until the test closes it
	_ = err
	return nil
}

type caller struct {
	conn attest.Conn
	end  func()
}

// connect starts a caller of the given uid and returns its connection once it has
// done what it was told.
func connect(t *testing.T, network, addr string, uid int, do string) caller {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	exe := copyForOthers(t)
	cmd := exec.Command(exe)
	cmd.Env = []string{"ATTEST_CALL=" + ln.Addr().String(), "ATTEST_DO=" + do, "PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
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
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatalf("the caller did not get ready: %v", err)
	}
	end := func() { _ = in.Close(); _ = cmd.Wait() }
	t.Cleanup(func() { end(); _ = server.Close() })
	return caller{attest.Conn{Peer: netip.MustParseAddrPort(server.RemoteAddr().String()), Here: netip.MustParseAddrPort(server.LocalAddr().String())}, end}
}

// copyForOthers puts the test binary where another uid can run it.
func copyForOthers(t *testing.T) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "attest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	exe := dir + "/caller"
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return exe
}

func uid(n uint32) attest.Rule { return attest.Rule{UID: &n} }

// otherUID is a user that is not us; switching to it needs root.
func otherUID(t *testing.T) int {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test switches users and needs root; CI must run it")
		}
		t.Skip("needs root to switch users")
	}
	return 4711
}

func attestor(accounts ...attest.Account) *attest.Attestor {
	return attest.New(accounts, func(n string) string { return n + "@sa.test" })
}

func code(err error) string {
	if e, ok := errors.AsType[*attest.Error](err); ok {
		return e.Code()
	}
	return fmt.Sprint(err)
}

func TestProve(t *testing.T) {
	t.Parallel()
	me := os.Getuid()
	mine := attest.Account{Name: "mine", Attest: []attest.Rule{uid(1), uid(uint32(me))}}
	too := attest.Account{Name: "too", Attest: []attest.Rule{uid(uint32(me))}}
	foreign := attest.Account{Name: "foreign", Attest: []attest.Rule{uid(4711)}}
	none := attest.Account{Name: "none"}
	a := attestor(mine, too, foreign, none)
	for _, tt := range []struct {
		name, addr, do string
		other          bool // another uid calls
		among          []string
		want           string // account, or reason code
	}{
		{"our own uid", "127.0.0.1:0", "", false, []string{"mine", "foreign"}, "mine"},
		{"over IPv6", "[::1]:0", "", false, []string{"mine"}, "mine"},
		{"another uid is another account", "127.0.0.1:0", "", true, []string{"mine", "foreign"}, "foreign"},
		{"another uid on the same port gets nothing", "127.0.0.1:0", "", true, []string{"mine"}, "no_account"},
		{"an account that this door does not serve", "127.0.0.1:0", "", false, []string{"foreign"}, "no_account"},
		{"an account without attest is nobody's", "127.0.0.1:0", "", false, []string{"none"}, "no_account"},
		{"two accounts on one door", "127.0.0.1:0", "", false, []string{"mine", "too"}, "account_ambiguous"},
		{"exec within one uid changes nothing", "127.0.0.1:0", "exec", false, []string{"mine"}, "mine"},
		{"a closed socket is not root's", "127.0.0.1:0", "close", false, []string{"mine"}, "caller_unattested"},
		{"half closed", "127.0.0.1:0", "half-close", false, []string{"mine"}, "caller_unattested"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user := me
			if tt.other {
				user = otherUID(t)
			}
			c := connect(t, "tcp", tt.addr, user, tt.do)
			p, err := a.Prove(t.Context(), c.conn, tt.among)
			got := code(err)
			if err == nil {
				got = p.Principal.Name
			}
			if got != tt.want {
				t.Fatalf("got %s (%v), want %s", got, err, tt.want)
			}
			if err == nil {
				if err := p.Still(t.Context()); err != nil {
					t.Errorf("an unchanged caller: %v", err)
				}
			}
		})
	}
}

func TestStillFailsWhenTheCallerIsGone(t *testing.T) {
	t.Parallel()
	me := attest.Account{Name: "me", Attest: []attest.Rule{uid(uint32(os.Getuid()))}}
	c := connect(t, "tcp", "127.0.0.1:0", os.Getuid(), "")
	p, err := attestor(me).Prove(t.Context(), c.conn, []string{"me"})
	if err != nil {
		t.Fatal(err)
	}
	c.end()
	for i := 0; ; i++ { // the kernel closes a dead process's sockets in its own time
		if err = p.Still(t.Context()); err != nil || i > 2000 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if code(err) != "caller_changed" {
		t.Errorf("got %v", err)
	}
}

// A listener on the caller's old port is what the kernel falls back to: it must
// not be taken for the caller.
func TestListenerOnTheCallersPortIsNotTheCaller(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	me := attest.Account{Name: "me", Attest: []attest.Rule{uid(uint32(os.Getuid()))}}
	conn := attest.Conn{Peer: netip.MustParseAddrPort(ln.Addr().String()), Here: netip.MustParseAddrPort("127.0.0.1:1")}
	if _, err := attestor(me).Prove(t.Context(), conn, []string{"me"}); code(err) != "caller_unattested" {
		t.Errorf("got %v", err)
	}
	conn.Peer = netip.MustParseAddrPort("192.0.2.1:99")
	if _, err := attestor(me).Prove(t.Context(), conn, []string{"me"}); err == nil || !strings.Contains(err.Error(), "not a loopback") {
		t.Errorf("got %v", err)
	}
}

func TestAccountComplete(t *testing.T) {
	t.Parallel()
	bad := attest.Account{Name: "Orders", Attest: []attest.Rule{{}, uid(65534), uid(0)}}
	err := bad.Complete()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"name: ", "attest[0]: needs uid", "attest[1].uid: 65534 is the kernel's overflow uid"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "attest[2]") {
		t.Errorf("root is a uid like any other: %v", err)
	}
	good := attest.Account{Name: "orders", Attest: []attest.Rule{uid(0)}}
	if err := good.Complete(); err != nil {
		t.Error(err)
	}
}

func BenchmarkProve(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	conn := attest.Conn{Peer: netip.MustParseAddrPort(c.LocalAddr().String()), Here: netip.MustParseAddrPort(c.RemoteAddr().String())}
	a := attestor(attest.Account{Name: "me", Attest: []attest.Rule{uid(uint32(os.Getuid()))}})
	for b.Loop() {
		if _, err := a.Prove(b.Context(), conn, []string{"me"}); err != nil {
			b.Fatal(err)
		}
	}
}
