package attest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Reason codes of this package, short for the table below.
const (
	refused    = "no_account"        // the facts are others
	unattested = "caller_unattested" // there are none
	changed    = "caller_changed"    // they were the right ones at first
	given      = "orders"            // the account
)

// sumOf is what sha256sum prints.
func sumOf(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// answers are what each kind of entry gives a caller, in this order: uid, uid and
// gid, cgroup, uid and executable, cgroup and sha256.
type answers [5]string

func all(s string) answers { return answers{s, s, s, s, s} }

// What a caller does, before it is looked at and between the two looks, and what each
// kind of entry answers. Where an answer is the account although the caller was
// handed around, that is what uid and cgroup are: everything within one of them is
// one caller.
func TestAttacks(t *testing.T) {
	t.Parallel()
	privileged(t)
	caller, trusted := program(t, "caller"), program(t, "trusted")
	ours, oursDir := cgroupOf(t, "ours")
	_, theirsDir := cgroupOf(t, "theirs")
	_, likeOursDir := cgroupOf(t, "ours-too")
	_, belowDir := cgroupOf(t, "ours/below")
	const user = 4712
	const rootUID = -1 // in the table, where 0 is user
	for _, tt := range []struct {
		name    string
		network string // "": both
		uid     int    // of the caller; 0 here is user, and rootUID root
		cgroup  string // of the caller; "" is ours
		actions []string
		keeper  string // cgroup of who takes what is passed; its uid is user's, or otherUID's after "other "
		before  answers
		between answers
	}{
		{name: "nothing happens", before: all(given), between: all(given)},
		{name: "the caller is of another uid", uid: otherUID, before: answers{refused, refused, given, refused, given}},
		{name: "the caller is in another cgroup", cgroup: theirsDir, before: answers{given, given, refused, given, refused}},
		{name: "the caller is in a cgroup whose name begins as ours", cgroup: likeOursDir, before: answers{given, given, refused, given, refused}},
		{name: "the caller is in a cgroup below", cgroup: belowDir, before: all(given), between: all(given)},
		{name: "it closes", network: "tcp", actions: []string{"close"}, before: answers{changed, unattested, unattested, unattested, unattested}, between: all(changed)},
		{name: "it closes a Unix socket: only who connected is known", network: "unix", actions: []string{"close"},
			before: answers{given, unattested, unattested, unattested, unattested}, between: answers{given, changed, changed, changed, changed}},
		{name: "it closes its half", network: "tcp", actions: []string{"half-close"}, before: answers{changed, unattested, unattested, unattested, unattested}, between: all(changed)},
		{name: "it exits", network: "tcp", actions: []string{"exit"}, before: answers{changed, unattested, unattested, unattested, unattested}, between: all(changed)},
		{name: "it exits, over a Unix socket", network: "unix", actions: []string{"exit"},
			before: answers{given, unattested, unattested, unattested, unattested}, between: answers{given, changed, changed, changed, changed}},
		{name: "it forks: its child is a second holder, of the same uid and cgroup", actions: []string{"fork"},
			before: answers{given, given, given, refused, refused}, between: answers{given, given, given, changed, changed}},
		{name: "it forks, and leaves the socket to its child, which is the same program", network: "tcp", actions: []string{"fork", "close"},
			before: all(given), between: answers{given, given, given, changed, changed}},
		{name: "it forks, and leaves a Unix socket to its child: who connected holds it no more", network: "unix", actions: []string{"fork", "close"},
			before: answers{given, unattested, unattested, unattested, unattested}, between: answers{given, changed, changed, changed, changed}},
		{name: "it becomes another program", actions: []string{"exec " + trusted},
			before: answers{given, given, given, refused, refused}, between: answers{given, given, given, changed, changed}},
		{name: "it passes the socket on, within its uid and cgroup", actions: []string{"pass"}, keeper: oursDir,
			before: answers{given, given, given, refused, refused}, between: answers{given, given, given, changed, changed}},
		{name: "it passes the socket to another cgroup", actions: []string{"pass"}, keeper: theirsDir,
			before: answers{given, given, refused, refused, refused}, between: answers{given, given, changed, changed, changed}},
		{name: "it passes the socket to another uid: it was its own to give", actions: []string{"pass"}, keeper: "other " + theirsDir,
			before: answers{given, refused, refused, refused, refused}, between: answers{given, changed, changed, changed, changed}},
		{name: "it passes the socket to another uid, and lets go of it", network: "tcp", actions: []string{"pass", "close"}, keeper: "other " + theirsDir,
			before: answers{given, refused, refused, refused, refused}, between: answers{given, changed, changed, changed, changed}},
		{name: "it parks the socket in a queue, where nobody shows", network: "tcp", actions: []string{"park", "close"},
			before: answers{given, refused, refused, refused, refused}, between: answers{given, changed, changed, changed, changed}},
		{name: "it parks the socket and keeps it: the queue does not show", actions: []string{"park"}, before: all(given), between: all(given)},
		{name: "it passes the socket to another uid in its cgroup", actions: []string{"pass"}, keeper: "other " + oursDir,
			before: answers{given, refused, given, refused, refused}, between: answers{given, changed, given, changed, changed}},
		{name: "it is moved to another cgroup", actions: []string{"move " + theirsDir},
			before: answers{given, given, refused, given, refused}, between: answers{given, given, changed, given, changed}},
		{name: "it is moved to the cgroup after it connected: whoever can do that can run programs there", cgroup: theirsDir, actions: []string{"move " + oursDir},
			before: all(given)},
		{name: "it becomes another uid", uid: rootUID, actions: []string{"setuid 4712"},
			before: answers{refused, refused, given, refused, given}},
		{name: "it hides the socket in a thread's own descriptors: threads are looked at", actions: []string{"thread"}, before: all(given), between: all(given)},
	} {
		for _, network := range []string{"tcp", "unix"} {
			if tt.network != "" && tt.network != network {
				continue
			}
			t.Run(network+": "+tt.name, func(t *testing.T) {
				t.Parallel()
				as, group := tt.uid, tt.cgroup
				switch as {
				case 0:
					as = user
				case rootUID:
					as = 0
				}
				if group == "" {
					group = oursDir
				}
				rules := map[string]attest.Rule{
					"0 uid":        uid(user),
					"1 gid":        {UID: u32(user), GID: u32(user)},
					"2 cgroup":     {Cgroup: ours},
					"3 executable": {UID: u32(user), Executable: caller},
					"4 sha256":     {Cgroup: ours, SHA256: sumOf(t, caller)},
				}
				for name, rule := range rules {
					i := int(name[0] - '0')
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						a := attestor(account(given, rule))
						perform := func(c connected) {
							for _, action := range tt.actions {
								dir, move := strings.CutPrefix(action, "move ")
								switch {
								case move:
									if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(c.cmd.Process.Pid)), 0); err != nil {
										t.Fatal(err)
									}
									continue
								case action == "pass":
									action += " " + keep(t, tt.keeper, user)
								}
								c.do(action)
							}
						}
						c := connect(t, network, caller, as, group)
						perform(c)
						if err := settled(t, a, c.conn, tt.before[i]); answer(err) != tt.before[i] {
							t.Errorf("before the looks: got %s (%v), want %s", answer(err), err, tt.before[i])
						}
						if tt.between == (answers{}) {
							return
						}
						c = connect(t, network, caller, as, group)
						p, err := a.Prove(t.Context(), c.conn, []string{given})
						if err != nil {
							t.Fatalf("as it was: %v", err)
						}
						perform(c)
						var still error
						eventually(func() bool { still = p.Still(t.Context()); return answer(still) == tt.between[i] })
						if got := answer(still); got != tt.between[i] {
							t.Errorf("between the looks: got %s (%v), want %s", got, still, tt.between[i])
						}
					})
				}
			})
		}
	}
}

func answer(err error) string {
	if err == nil {
		return given
	}
	return code(err)
}

// settled asks twice, as for every answer, once the kernel has done what the caller
// asked it for: a dead process's sockets are closed in its own time.
func settled(t *testing.T, a *attest.Attestor, c attest.Conn, want string) error {
	t.Helper()
	var err error
	eventually(func() bool {
		var p *identity.Proof
		if p, err = a.Prove(t.Context(), c, []string{given}); err == nil {
			err = p.Still(t.Context())
		}
		return answer(err) == want
	})
	return err
}

// eventually asks until it is told yes, and not for ever.
func eventually(yes func() bool) {
	for range 1000 {
		if yes() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// keep starts a process that takes a descriptor, and returns its address.
func keep(t *testing.T, where string, user int) string {
	t.Helper()
	if rest, other := strings.CutPrefix(where, "other "); other {
		where, user = rest, otherUID
	}
	path := socketPath(t)
	start(t, program(t, "keeper"), "keeper", path, user, where).wait()
	return path
}

// A caller that was root when it connected, and is somebody else now: the socket is
// root's, and no entry for either of the two is met where the processes are looked at.
func TestCallerThatChangesItsUID(t *testing.T) {
	t.Parallel()
	privileged(t)
	exe := program(t, "caller")
	for _, tt := range []struct {
		name string
		rule attest.Rule
		want string
	}{
		{"the uid at connect", uid(0), given},
		{"the uid now", uid(otherUID), refused},
		{"the uid at connect, and its group", attest.Rule{UID: u32(0), GID: u32(0)}, refused},
		{"the uid at connect, and its program", attest.Rule{UID: u32(0), Executable: exe}, refused},
		{"the uid now, and its program", attest.Rule{UID: u32(otherUID), Executable: exe}, refused},
	} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(network+": "+tt.name, func(t *testing.T) {
				t.Parallel()
				c := connect(t, network, exe, 0, "")
				if tt.rule.UID != nil && *tt.rule.UID == 0 { // between the looks, too
					p, err := attestor(account(given, tt.rule)).Prove(t.Context(), c.conn, []string{given})
					if err != nil {
						t.Fatal(err)
					}
					defer func() {
						want := given
						if tt.want == refused {
							want = changed
						}
						if err := p.Still(t.Context()); answer(err) != want {
							t.Errorf("between the looks: %v, want %s", err, want)
						}
					}()
				}
				c.do("setuid " + strconv.Itoa(otherUID))
				_, err := attestor(account(given, tt.rule)).Prove(t.Context(), c.conn, []string{given})
				if got := answer(err); got != tt.want {
					t.Errorf("got %s (%v), want %s", got, err, tt.want)
				}
			})
		}
	}
}

// A process can send and then exec a trusted binary before it is looked at: that is
// not seen, and the documentation says so. What is seen is that it was another
// program at the second look.
func TestExecOfATrustedBinaryIsDetectedBetweenLooksOnly(t *testing.T) {
	t.Parallel()
	privileged(t)
	evil, trusted := program(t, "caller"), program(t, "trusted")
	a := attestor(account(given, attest.Rule{UID: u32(otherUID), Executable: trusted, SHA256: sumOf(t, trusted)}))
	c := connect(t, "tcp", evil, otherUID, "")
	if _, err := a.Prove(t.Context(), c.conn, []string{given}); answer(err) != refused {
		t.Errorf("the other program: %v", err)
	}
	c.do("exec " + trusted)
	p, err := a.Prove(t.Context(), c.conn, []string{given})
	if err != nil {
		t.Fatalf("after exec: %v", err)
	}
	if err := p.Still(t.Context()); err != nil {
		t.Errorf("unchanged since: %v", err)
	}
}

// The number of a process that connected and ended is given to a trusted one: the
// proof is of the process and not of its number.
func TestReusedPID(t *testing.T) {
	t.Parallel()
	privileged(t)
	exe := program(t, "caller")
	a := attestor(account(given, attest.Rule{UID: u32(otherUID), Executable: exe}))
	c := connect(t, "unix", exe, otherUID, "")
	p, err := a.Prove(t.Context(), c.conn, []string{given})
	if err != nil {
		t.Fatal(err)
	}
	pid := c.cmd.Process.Pid
	c.do("pass " + keep(t, "other ", 0)) // somebody holds the socket on
	c.do("exit")
	reuse(t, pid, exe)
	if err := p.Still(t.Context()); answer(err) != changed {
		t.Errorf("the process of that number is another: %v", err)
	}
	if _, err := a.Prove(t.Context(), c.conn, []string{given}); answer(err) != unattested {
		t.Errorf("asked anew: %v", err)
	}
}

// reuse starts exe, for the same user, under a number that was another's.
func reuse(t *testing.T, pid int, exe string) {
	t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatalf("choose the next number: %v", err)
		}
		s := start(t, exe, "holder", "", otherUID, "")
		if s.cmd.Process.Pid == pid {
			return
		}
		s.end() // another process was faster
	}
	t.Fatalf("the number %d was not to be had", pid)
}

// LD_PRELOAD runs foreign code in a trusted binary, and gets what the binary gets:
// executable narrows, and carries nothing.
func TestPreloadGetsWhatItsUIDGets(t *testing.T) {
	t.Parallel()
	privileged(t)
	dir, err := os.MkdirTemp("", "preload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	trusted, foreign := filepath.Join(dir, "trusted"), filepath.Join(dir, "foreign.so")
	compile(t, trusted, `int main(void) { return 0; }`)
	compile(t, foreign, `
#include <stdlib.h>
#include <unistd.h>
#include <arpa/inet.h>
__attribute__((constructor)) static void run(void) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT"))), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	char c;
	if (connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a) == 0 && read(0, &c, 1) == 0) _exit(0);
	_exit(1);
}`, "-shared", "-fPIC")
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, nil)
	defer l.Close()
	cmd := exec.Command(trusted)
	cmd.Env = []string{"LD_PRELOAD=" + foreign, fmt.Sprintf("PORT=%d", inner.Addr().(*net.TCPAddr).Port)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUID, Gid: otherUID}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, _ := attest.Of(c)
	for _, tt := range []struct {
		name string
		uid  int
		want string
	}{{"its own uid", otherUID, given}, {"another uid", 4712, refused}} {
		_, err := attestor(account(given, attest.Rule{UID: u32(tt.uid), Executable: trusted, SHA256: sumOf(t, trusted)})).Prove(t.Context(), conn, []string{given})
		if got := answer(err); got != tt.want {
			t.Errorf("%s: got %s (%v), want %s", tt.name, got, err, tt.want)
		}
	}
}

func compile(t *testing.T, out, source string, flags ...string) {
	t.Helper()
	cmd := exec.Command("gcc", append(flags, "-x", "c", "-o", out, "-")...)
	cmd.Stdin = strings.NewReader(source)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, text)
	}
}

// Whoever comes through a relay is the relay: its uid, its cgroup, its program.
func TestRelayIsItselfThePeer(t *testing.T) {
	t.Parallel()
	privileged(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, nil)
	defer l.Close()
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	go func() { // as docker-proxy and ssh -L do
		in, err := relay.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		_, _ = io.Copy(out, in)
	}()
	start(t, program(t, "caller"), "caller", "tcp!"+relay.Addr().String(), otherUID, "").wait()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, _ := attest.Of(c)
	if _, err := attestor(account(given, uid(otherUID))).Prove(t.Context(), conn, []string{given}); answer(err) != refused {
		t.Errorf("who is behind the relay: %v", err)
	}
	if _, err := attestor(account(given, uid(os.Getuid()))).Prove(t.Context(), conn, []string{given}); err != nil {
		t.Errorf("the relay: %v", err)
	}
}

// A program of the same uid puts its own file where ours is, for itself alone, in a
// mount namespace of its own: the name agrees, and the file does not.
func TestMountNamespaceTrick(t *testing.T) {
	t.Parallel()
	privileged(t)
	evil, trusted := program(t, "caller"), program(t, "trusted")
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, nil)
	defer l.Close()
	s := &started{t: t, cmd: exec.Command("setpriv", "--reuid", strconv.Itoa(otherUID), "--regid", strconv.Itoa(otherUID), "--clear-groups",
		"unshare", "--mount", "--map-current-user", "--keep-caps", "sh", "-c", `mount --bind "$0" "$1" && exec "$1"`, evil, trusted)}
	s.cmd.Env = []string{"ATTEST_ROLE=caller", "ATTEST_CALL=tcp!" + l.Addr().String(), "PATH=" + os.Getenv("PATH")}
	s.cmd.Stderr = os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, _ := attest.Of(c)
	_, err = attestor(account(given, attest.Rule{UID: u32(otherUID), Executable: trusted})).Prove(t.Context(), conn, []string{given})
	if answer(err) != refused || !strings.Contains(err.Error(), "another file than ours of that name") {
		t.Errorf("got %v", err)
	}
}

// Whoever connects, asks and resets leaves a connection that waits to be accepted with
// everything that was sent; the next to connect from the same port has the same addresses
// and ports. Its identity is not the dead one's.
func TestDeadConnectionIsNotTheNextOneOfThatPort(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, nil)
	defer l.Close()
	port, victim := afterReset(t, inner.Addr().String())
	defer victim.Close()
	for _, want := range []string{unattested, given} {
		conn := attest.Conn{}
		for conn.Peer.String() != port { // others are of ports that another process took
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conn, _ = attest.Of(c)
		}
		for name, rule := range entriesForUs(t) {
			if name != "uid" && want == given {
				continue // a child that is being forked holds the socket, too, for a moment
			}
			if _, err := attestor(account(given, rule)).Prove(t.Context(), conn, []string{given}); answer(err) != want {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
	}
}

// entriesForUs are an entry of each kind that this process meets.
func entriesForUs(t *testing.T) map[string]attest.Rule {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]attest.Rule{
		"uid":        uid(os.Getuid()),
		"gid":        {UID: u32(os.Getuid()), GID: u32(os.Getgid())},
		"executable": {UID: u32(os.Getuid()), Executable: exe},
	}
}

// afterReset connects to an address, asks and resets, and connects again from the same
// port, which it returns.
func afterReset(t *testing.T, address string) (port string, c net.Conn) {
	t.Helper()
	for range 50 {
		// from a port that nothing is bound to, not even what waits (TIME_WAIT)
		dead, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}).Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(dead, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(dead.(*net.TCPConn).SetLinger(0), dead.Close()); err != nil { // a reset
			t.Fatal(err)
		}
		c, err := (&net.Dialer{LocalAddr: dead.LocalAddr()}).Dial("tcp4", address)
		if err == nil {
			return dead.LocalAddr().String(), c
		}
		if !errors.Is(err, syscall.EADDRINUSE) { // another process was faster
			t.Fatal(err)
		}
	}
	t.Fatal("another process took each port that was free")
	return "", nil
}

// A program is read for nobody whom cheaper facts refuse, and none that is too large:
// hashing a stranger's program of 900 GB would take the server's time, and everybody's.
func TestWhoseProgramIsHashed(t *testing.T) {
	t.Parallel()
	privileged(t)
	exe := program(t, "sparse")
	if err := os.Truncate(exe, 900<<30); err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("a", 64)
	_, dir := cgroupOf(t, "sparse")
	for _, tt := range []struct {
		name string
		rule attest.Rule
		want string // in the error
	}{
		{"another cgroup", attest.Rule{Cgroup: "/sallyport-nowhere", SHA256: sum}, `want "/sallyport-nowhere" or one below it`},
		{"another uid", attest.Rule{UID: u32(1), SHA256: sum}, "want 1"},
		{"another group", attest.Rule{UID: u32(otherUID), GID: u32(1), SHA256: sum}, "gid is 4711, want 1"},
		{"another program", attest.Rule{UID: u32(otherUID), Executable: "/usr/bin/true", SHA256: sum}, `want "/usr/bin/true"`},
		{"that program", attest.Rule{UID: u32(otherUID), Executable: exe, SHA256: sum}, "at most 1073741824 are hashed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, "tcp", exe, otherUID, dir)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := attestor(account(given, tt.rule)).Prove(ctx, c.conn, []string{given}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
