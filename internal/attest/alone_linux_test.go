package attest_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// client connects from a port, 0 for any, and may bind to the device lo first.
func client(t *testing.T, to netip.AddrPort, port int, device bool) (fd, from int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if device {
		must(unix.BindToDevice(fd, "lo"))
	}
	must(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}))
	name, err := unix.Getsockname(fd)
	must(err)
	return fd, name.(*unix.SockaddrInet4).Port
}

// A socket that is bound to the device lo is who it is. When it has the port that another
// connects from, the kernel takes the two for different connections and the bytes of both
// for ours: neither is anybody.
func TestSecondSocketOfOneAddressAndPort(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := attest.Listen(inner, nil)
	defer l.Close()
	to := netip.MustParseAddrPort(inner.Addr().String())
	a := attestor(account(given, uid(os.Getuid())))
	accept := func() attest.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conn, _ := attest.Of(c)
		return conn
	}
	_, port := client(t, to, 0, true)
	bound := accept()
	if _, err := a.Prove(t.Context(), bound, []string{given}); err != nil || bound.Origin() == "uid unknown" {
		t.Errorf("bound to a device, and alone: %v, of %s", err, bound.Origin())
	}
	client(t, to, port, false) // which resets the first one's connection here, and not its socket
	victim := accept()
	if int(victim.Peer.Port()) != port {
		t.Fatalf("from port %d, want %d", victim.Peer.Port(), port)
	}
	_, err = a.Prove(t.Context(), victim, []string{given})
	if answer(err) != unattested || !strings.Contains(err.Error(), "2 sockets have the caller's address and port") {
		t.Errorf("with a second socket: %v", err)
	}
	for name, rule := range entriesForUs(t) {
		if _, err := attestor(account(given, rule)).Prove(t.Context(), victim, []string{given}); err == nil {
			t.Errorf("%s: with a second socket it is the account", name)
		}
	}
	if _, err := a.ProveUser(t.Context(), victim); answer(err) != unattested {
		t.Errorf("as a user: %v", err)
	}
	kin, err := attest.NewKin(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := kin.Check(t.Context(), victim); err == nil {
		t.Error("as kin")
	}
}
