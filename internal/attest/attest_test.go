package attest_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// By uid, which needs no privilege: over TCP, IPv6 and Unix sockets.
func TestProveByUID(t *testing.T) {
	t.Parallel()
	me := os.Getuid()
	a := attestor(account("mine", uid(1), uid(me)), account("too", uid(me)), account("foreign", uid(otherUID)), account("none"))
	for _, tt := range []struct {
		name  string
		other bool // another uid calls
		among []string
		want  string // account, or reason code
	}{
		{"our own uid", false, []string{"mine", "foreign"}, "mine"},
		{"another uid is another account", true, []string{"mine", "foreign"}, "foreign"},
		{"another uid on the same door gets nothing", true, []string{"mine"}, "no_account"},
		{"an account that this door does not serve", false, []string{"foreign"}, "no_account"},
		{"an account without attest is nobody's", false, []string{"none"}, "no_account"},
		{"an account that is not in the file", false, []string{"ghost"}, "no_account"},
		{"no account at all", false, nil, "no_account"},
		{"two accounts on one door", false, []string{"mine", "too"}, "account_ambiguous"},
	} {
		for _, network := range []string{"tcp", "tcp6", "mapped", "unix"} {
			t.Run(network+": "+tt.name, func(t *testing.T) {
				t.Parallel()
				user := me
				if tt.other {
					privileged(t)
					user = otherUID
				}
				c := connect(t, network, program(t, "caller"), user, "")
				p, err := a.Prove(t.Context(), c.conn, tt.among)
				got := code(err)
				if err == nil {
					got = p.Principal.Name
				}
				if got != tt.want {
					t.Fatalf("got %s (%v), want %s", got, err, tt.want)
				}
				if e, ok := errors.AsType[*attest.Error](err); ok && (e.Class() == "this caller is several accounts here: name the one") != (got == "account_ambiguous") {
					t.Errorf("%s is told %q", got, e.Class())
				}
				if err == nil {
					if err := p.Still(t.Context()); err != nil {
						t.Errorf("an unchanged caller: %v", err)
					}
				}
			})
		}
	}
}

// Everybody local is a user of this machine, whatever accounts they may be besides.
func TestProveUser(t *testing.T) {
	t.Parallel()
	privileged(t)
	a := attestor(account("mine", uid(os.Getuid())))
	c := connect(t, "unix", program(t, "caller"), os.Getuid(), "")
	p, err := a.ProveUser(t.Context(), c.conn)
	if err != nil || !strings.HasPrefix(p.Principal.ID(), "user:local/") {
		t.Fatalf("got %v, %v", p, err)
	}
	if names, err := a.Which(t.Context(), c.conn, []string{"mine"}); err != nil || len(names) != 1 {
		t.Errorf("which: %v, %v", names, err)
	}
	unmapped := connect(t, "unix", program(t, "caller"), 65534, "")
	if _, err := a.ProveUser(t.Context(), unmapped.conn); code(err) != "caller_unattested" {
		t.Errorf("the uid that stands for anyone of another user namespace: %v", err)
	}
	if _, ok := a.Account("nobody"); ok {
		t.Error("an account that is not declared")
	}
}

// What callers hold is counted by uid, wherever on this machine they connect, and else by
// network.
func TestOrigin(t *testing.T) {
	t.Parallel()
	privileged(t)
	for _, network := range []string{"tcp", "tcp6", "mapped", "unix"} {
		if got := connect(t, network, program(t, "caller"), otherUID, "").conn.Origin(); got != "uid 4711" {
			t.Errorf("%s: %s", network, got)
		}
	}
	for peer, want := range map[string]string{"192.0.2.7:1": "192.0.2.0/24", "[::ffff:192.0.2.7]:1": "192.0.2.0/24", "[2001:db8:1:2::3]:1": "2001:db8:1::/48"} {
		if got := (attest.Conn{Peer: netip.MustParseAddrPort(peer), Here: netip.MustParseAddrPort("192.0.2.1:443")}).Origin(); got != want {
			t.Errorf("%s: %s, want %s", peer, got, want)
		}
	}
	if got := (attest.Conn{}).Origin(); got != "unknown" {
		t.Errorf("nobody: %s", got)
	}
}

// The owner is told the facts seen and the entry that came nearest; the caller, that
// it has no identity.
func TestRefusalSaysWhatWasSeen(t *testing.T) {
	t.Parallel()
	privileged(t)
	exe := program(t, "caller")
	c := connect(t, "tcp", exe, otherUID, "")
	a := attestor(
		account("far", uid(1)),
		account("near", attest.Rule{UID: u32(otherUID), Executable: "/usr/bin/other", SHA256: strings.Repeat("0", 64)}, attest.Rule{UID: u32(otherUID), Executable: "/usr/bin/near"}),
	)
	_, err := a.Prove(t.Context(), c.conn, []string{"far", "near"})
	e, ok := err.(*attest.Error)
	if !ok || e.Class() != "no identity for this caller" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"uid 4711", "gid 4711", `executable "` + exe + `"`, `cgroup "/`, "asked for one of far, near", "the nearest entry is attest[1] of near", `want "/usr/bin/near"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
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
	a := attestor(account("me", uid(os.Getuid())))
	for _, tt := range []struct {
		name       string
		peer, here string
		want       string
	}{
		{"a listener on the port", ln.Addr().String(), "127.0.0.1:1", "TCP state 10"},
		{"an address that is not local", "192.0.2.1:99", "127.0.0.1:1", "not a local one"},
		{"two addresses of this machine that are not one", "127.0.0.1:99", "169.254.169.254:80", "not a local one"},
		{"one address that both have, and is routed elsewhere", "10.0.0.1:99", "10.0.0.1:80", "not a local one"},
		{"the well-known address, where nobody has it", "169.254.169.254:99", "169.254.169.254:80", "is not there"},
		{"no address", "", "", "not a local one"},
	} {
		c := attest.Conn{}
		c.Peer, _ = netip.ParseAddrPort(tt.peer)
		c.Here, _ = netip.ParseAddrPort(tt.here)
		if _, err := a.Prove(t.Context(), c, []string{"me"}); code(err) != "caller_unattested" || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestAccountComplete(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("a", 64)
	bad := account("Orders",
		attest.Rule{}, uid(65534), uid(0),
		attest.Rule{Executable: "/bin/x", SHA256: sum, GID: u32(5)},
		attest.Rule{Cgroup: "/"}, attest.Rule{Cgroup: "orders.service"}, attest.Rule{Cgroup: "/a/../b"}, attest.Rule{Cgroup: "/a/"},
		attest.Rule{UID: u32(1), Executable: "x"}, attest.Rule{UID: u32(1), SHA256: "A" + sum[1:]},
	)
	err := bad.Complete()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"name: ", "attest[0]: needs uid or cgroup", "attest[1].uid: 65534 is the kernel's overflow uid", "attest[3]: needs uid or cgroup",
		`attest[4].cgroup: "/" is every process`, "attest[5].cgroup: ", "attest[6].cgroup: ", "attest[7].cgroup: ", "attest[8].executable: ", "attest[9].sha256: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "attest[2]") {
		t.Errorf("root is a uid like any other: %v", err)
	}
	good := account("orders", uid(0), attest.Rule{Cgroup: "/system.slice/orders.service"}, attest.Rule{UID: u32(5), GID: u32(6), Cgroup: "/x", Executable: "/usr/bin/orders", SHA256: sum})
	if err := good.Complete(); err != nil {
		t.Error(err)
	}
}

// What cannot be evaluated with the privileges at hand does not load, and says which
// capabilities it takes.
func TestCheck(t *testing.T) {
	t.Parallel()
	able := attest.Able()
	if able.Sockets != nil || able.Unix != nil {
		t.Errorf("this machine: %v; %v", able.Sockets, able.Unix)
	}
	accounts := []attest.Account{account("a", uid(1)), account("b", uid(2), attest.Rule{UID: u32(3), GID: u32(4), Cgroup: "/x", Executable: "/y", SHA256: "z"})}
	able = attest.Ability{Processes: attest.ErrUnsupported}
	err := able.Check(accounts)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"service_accounts[1].attest[1].cgroup: cannot be evaluated here", "[1].gid: ", "[1].executable: ", "[1].sha256: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "service_accounts[0]") || strings.Contains(err.Error(), "attest[0]") {
		t.Errorf("uid needs no privilege: %v", err)
	}
	if err := (attest.Ability{Sockets: attest.ErrUnsupported}).Check(accounts); err == nil || strings.Count(err.Error(), "only Linux can") != 3 {
		t.Errorf("a system that cannot attest: %v", err)
	}
	if err := (attest.Ability{}).Check(accounts); err != nil {
		t.Error(err)
	}
}

// Dev mode where the system cannot attest: loopback callers are believed, others not.
func TestBelieving(t *testing.T) {
	t.Parallel()
	a := attest.NewBelieving([]attest.Account{account("me", uid(7)), account("deep", attest.Rule{UID: u32(7), Executable: "/x"})}, func(string) string { return "" }, 7)
	c := attest.Conn{Peer: netip.MustParseAddrPort("127.0.0.1:1"), Here: netip.MustParseAddrPort("127.0.0.1:2")}
	p, err := a.Prove(t.Context(), c, []string{"me"})
	if err != nil || p.Principal.Name != "me" || p.Still(t.Context()) != nil {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := a.Prove(t.Context(), c, []string{"deep"}); code(err) != "no_account" {
		t.Errorf("an executable that nobody saw: %v", err)
	}
	c.Peer = netip.MustParseAddrPort("192.0.2.1:1")
	if _, err := a.Prove(t.Context(), c, []string{"me"}); code(err) != "caller_unattested" {
		t.Errorf("from elsewhere: %v", err)
	}
}

func TestStillFailsWhenTheCallerIsGone(t *testing.T) {
	t.Parallel()
	c := connect(t, "tcp", program(t, "caller"), os.Getuid(), "")
	p, err := attestor(account("me", uid(os.Getuid()))).Prove(t.Context(), c.conn, []string{"me"})
	if err != nil {
		t.Fatal(err)
	}
	c.do("exit")
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
