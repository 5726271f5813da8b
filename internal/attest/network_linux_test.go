package attest_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	conn, _ := attest.Of(c)
	return context.WithValue(ctx, connKey{}, conn)
}

// A door in another network namespace, which owns the well-known address there: who
// calls from inside is attested by uid, as on our own loopback, and nobody outside can
// call.
func TestNetworkNamespace(t *testing.T) {
	t.Parallel()
	privileged(t)
	// a container: a process with a network namespace of its own
	container := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && ip addr add 169.254.169.254/32 dev lo && echo ok && cat")
	in, err := container.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := container.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	container.Stderr = os.Stderr
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = container.Wait() }()
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("the namespace is not set up: %v", err)
	}
	path := "/proc/" + strconv.Itoa(container.Process.Pid) + "/ns/net"
	n, err := attest.OpenNetwork(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	inner, err := n.Listen("169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, n)
	var calls atomic.Int64
	a := attestor(account("inside", uid(otherUID)), account("root", uid(0)))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		conn := r.Context().Value(connKey{}).(attest.Conn)
		p, err := a.Prove(r.Context(), conn, []string{"inside", "root"})
		if err == nil {
			err = p.Still(r.Context())
		}
		if err != nil {
			_, _ = io.WriteString(w, err.Error())
			return
		}
		_, _ = io.WriteString(w, p.Principal.Name)
	}), ConnContext: withConn}
	go func() { _ = server.Serve(l) }()
	defer server.Close()

	call := func(user int) string {
		t.Helper()
		cmd := exec.Command("nsenter", "--net="+path, "setpriv", "--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(user), "--clear-groups", "curl", "-s", "-m", "10", "http://169.254.169.254/")
		got, err := cmd.Output()
		if err != nil {
			t.Fatalf("curl: %v", err)
		}
		return string(got)
	}
	if got := call(otherUID); got != "inside" {
		t.Errorf("the container's program is %q", got)
	}
	if got := call(0); got != "root" {
		t.Errorf("the container's root is %q", got)
	}
	if got := call(4712); !strings.Contains(got, "no_account") {
		t.Errorf("another user there is %q", got)
	}
	before := calls.Load()
	outside := http.Client{Timeout: 300 * time.Millisecond} // somebody else may have the address out here
	if resp, err := outside.Get("http://169.254.169.254/"); err == nil {
		_ = resp.Body.Close()
	}
	if calls.Load() != before || before != 3 {
		t.Errorf("the door was called %d times from inside, and from outside too", before)
	}
}

func TestOpenNetworkRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/run/netns/no-such-namespace", "/etc/passwd"} {
		if n, err := attest.OpenNetwork(path); err == nil {
			_ = n.Close()
			t.Errorf("%s is taken for a network namespace", path)
		}
	}
}

// A container that has workload.sock mounted connects from its own network namespace,
// in which we cannot ask who holds the socket: who connected is known, and no more.
func TestUnixCallerOfAnotherNetworkNamespace(t *testing.T) {
	t.Parallel()
	privileged(t)
	caller := program(t, "caller")
	ours, oursDir := cgroupOf(t, "container")
	_, theirsDir := cgroupOf(t, "another")
	const user = 4712
	for _, tt := range []struct {
		name            string
		rule            attest.Rule
		uid             int    // of the caller; 0 here is user
		cgroup          string // of the caller; "" is ours
		action          string
		before, between string
	}{
		{name: "uid", rule: uid(user), before: given, between: given},
		{name: "gid", rule: attest.Rule{UID: u32(user), GID: u32(user)}, before: given, between: given},
		{name: "another gid", rule: attest.Rule{UID: u32(user), GID: u32(0)}, before: refused},
		{name: "cgroup", rule: attest.Rule{Cgroup: ours}, before: given, between: given},
		{name: "another cgroup", rule: attest.Rule{Cgroup: ours}, cgroup: theirsDir, before: refused},
		{name: "cgroup and another uid", rule: attest.Rule{Cgroup: ours, UID: u32(user)}, uid: otherUID, before: refused},
		{name: "executable", rule: attest.Rule{UID: u32(user), Executable: caller}, before: refused},
		{name: "sha256", rule: attest.Rule{Cgroup: ours, SHA256: sumOf(t, caller)}, before: refused},
		{name: "it ends", rule: attest.Rule{Cgroup: ours}, action: "exit", before: unattested, between: changed},
		{name: "it leaves the socket to its child, and ends: who connected is gone", rule: attest.Rule{Cgroup: ours}, action: "orphan", before: unattested, between: changed},
		{name: "it becomes another program of the same cgroup", rule: attest.Rule{Cgroup: ours}, action: "exec " + program(t, "trusted"), before: given, between: given},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			as, group := tt.uid, tt.cgroup
			if as == 0 {
				as = user
			}
			if group == "" {
				group = oursDir
			}
			a := attestor(account(given, tt.rule))
			perform := func(c connected) {
				switch tt.action {
				case "":
				case "orphan":
					c.do("fork")
					_ = c.cmd.Process.Kill() // and is a zombie from now on
				default:
					c.do(tt.action)
				}
			}
			c := connect(t, "unix", caller, as, group, elsewhere)
			perform(c)
			err := settled(t, a, c.conn, tt.before)
			if answer(err) != tt.before {
				t.Errorf("before the looks: got %s (%v), want %s", answer(err), err, tt.before)
			}
			if narrow := tt.rule.Executable != "" || tt.rule.SHA256 != ""; narrow && !strings.Contains(err.Error(), "from another network namespace") {
				t.Errorf("the owner is not told why: %v", err)
			}
			if tt.between == "" {
				return
			}
			c = connect(t, "unix", caller, as, group, elsewhere)
			p, err := a.Prove(t.Context(), c.conn, []string{given})
			if err != nil {
				t.Fatalf("as it was: %v", err)
			}
			perform(c)
			var still error
			eventually(func() bool { still = p.Still(t.Context()); return answer(still) == tt.between })
			if got := answer(still); got != tt.between {
				t.Errorf("between the looks: got %s (%v), want %s", got, still, tt.between)
			}
		})
	}
}
