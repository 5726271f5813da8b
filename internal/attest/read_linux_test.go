package attest_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// What /proc/PID/cgroup says, by the hierarchies that there are.
func TestCgroupOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"version 2", "0::/system.slice/orders.service\n", "/system.slice/orders.service"},
		{"both, where systemd keeps one of version 1", "9:name=systemd:/system.slice/a.service\n8:pids:/x\n0::/y\n", "/system.slice/a.service"},
		{"both, the order does not matter", "0::/y\n1:cpu,cpuacct:/z\n2:name=systemd:/a\n", "/a"},
		{"version 1 without systemd", "4:memory:/docker/1\n1:cpu,cpuacct:/z\n8:pids:/p\n", "/p"},
		{"controllers together", "1:cpu,cpuacct:/z\n", "/z"},
		{"a path with colons", "0::/a:b:c\n", "/a:b:c"},
		{"one that was removed", "0::/a (deleted)\n", "/a (deleted)"},
		{"none", "", ""},
		{"no such line", "0:/a\n\n:\n", ""},
		{"a hierarchy that tells nothing", "3:freezer:/x\n", ""},
	} {
		if got := attest.CgroupOf(tt.text); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Where a process runs, as systemd, Docker, containerd, CRI-O, podman and the kubelet
// name their cgroups; and what users can make to look like it.
func TestPlaceOf(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0123456789abcdef", 4)
	const pod = "8a3c1f4e-9d1b-4a53-8f5e-0b1c2d3e4f50"
	under := strings.ReplaceAll(pod, "-", "_")
	for _, tt := range []struct{ name, cgroup, unit, container, pod string }{
		{"a unit", "/system.slice/orders.service", "orders.service", "", ""},
		{"below it", "/system.slice/orders.service/sub", "orders.service", "", ""},
		{"in a slice of its own", "/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "", ""},
		{"no service", "/system.slice/a.socket", "", "", ""},
		{"Docker, by cgroupfs", "/docker/" + id, "", id, ""},
		{"Docker, by systemd", "/system.slice/docker-" + id + ".scope", "", id, ""},
		{"Docker, below a parent", "/sallyport/orders/" + id, "", id, ""},
		{"podman", "/machine.slice/libpod-" + id + ".scope/container", "", id, ""},
		{"containerd in a pod, by systemd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id + ".scope", "", id, pod},
		{"containerd in a pod, by cgroupfs", "/kubepods/besteffort/pod" + pod + "/" + id, "", id, pod},
		{"guaranteed", "/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + id + ".scope", "", id, pod},
		{"a pod without a container", "/kubepods/pod" + pod, "", "", pod},
		{"a short id", "/docker/" + id[:63], "", "", ""},
		{"a user's", "/user.slice/user-1000.slice/user@1000.service/app.slice/orders.service", "", "", ""},
		{"a user's that looks like Docker's", "/user.slice/user-1000.slice/user@1000.service/docker-" + id + ".scope", "", "", ""},
		{"a unit's that looks like a pod", "/system.slice/a.service/kubepods/pod" + pod, "a.service", "", ""},
		{"a unit's that looks like Docker's", "/system.slice/a.service/docker-" + id + ".scope", "a.service", "", ""},
		{"that of a unit of another slice", "/shop.slice/a.service/docker-" + id + ".scope", "", "", ""},
		{"a name that begins like a slice", "/system.slicer/orders.service", "", "", ""},
		{"the root", "/", "", "", ""},
	} {
		unit, container, p := attest.Place(tt.cgroup)
		if unit != tt.unit || container != tt.container || p != tt.pod {
			t.Errorf("%s: got %q, %q, %q", tt.name, unit, container, p)
		}
	}
}

// A program's name may hold anything, so that what follows it must not be read from it.
func TestStatusOfProcess(t *testing.T) {
	t.Parallel()
	if got := attest.StatFields("12 (a) R 1 (b) S 3 4"); !slices.Equal(got, []string{"S", "3", "4"}) {
		t.Errorf("got %q", got)
	}
	if got := attest.StatFields("12"); got != nil {
		t.Errorf("no name: %q", got)
	}
	uid, gid, err := attest.Effective("Name:\tUid:\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n")
	if err != nil || uid != 2 || gid != 6 {
		t.Errorf("got %d, %d, %v", uid, gid, err)
	}
	for _, text := range []string{"", "Uid:\t1\t2\t3\t4\n", "Uid:\t1\tx\t3\t4\nGid:\t5\t6\t7\t8\n", "Uid:\t1\nGid:\t2\n"} {
		if _, _, err := attest.Effective(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// A socket's address may be given anew: its number for good tells two apart.
func TestAnotherSocketIsAnotherCaller(t *testing.T) {
	t.Parallel()
	r := uid(1)
	was := attest.Facts{UID: 1, Inode: 2, Cookie: 3}
	for _, is := range []attest.Facts{{UID: 4, Inode: 2, Cookie: 3}, {UID: 1, Inode: 4, Cookie: 3}, {UID: 1, Inode: 2, Cookie: 4}} {
		if err := attest.Same(&r, &was, &is); err == nil {
			t.Errorf("%+v passes for %+v", is, was)
		}
	}
	if err := attest.Same(&r, &was, &was); err != nil {
		t.Error(err)
	}
}

// A hash is of what was found, or there is none.
func TestFileThatChangesWhileItIsHashed(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("good"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sum, err := attest.SumAfter(t.Context(), f, func() {}); err != nil || sum != sumOf(t, name) {
		t.Errorf("got %s, %v", sum, err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	_, err = attest.SumAfter(t.Context(), f, func() { err = os.WriteFile(name, []byte("evil!"), 0o700) })
	if err == nil || !strings.Contains(err.Error(), "was changed while we read it") {
		t.Errorf("got %v", err)
	}
}

// loopback is a connection, seen from the end that accepted it.
func loopback(t testing.TB, network, address string) *attest.Conn {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = accepted.Close(), c.Close() })
	return &attest.Conn{Peer: netip.MustParseAddrPort(c.LocalAddr().String()), Here: netip.MustParseAddrPort(c.RemoteAddr().String())}
}

// Addresses and ports alone are nobody's: a connection is one that a Listener accepted.
func TestAddressesAreNoConnection(t *testing.T) {
	t.Parallel()
	_, err := attestor(account("me", uid(os.Getuid()))).Prove(t.Context(), *loopback(t, "tcp4", "127.0.0.1:0"), []string{"me"})
	if code(err) != "caller_unattested" || !strings.Contains(err.Error(), "not accepted by a listener that attests") {
		t.Errorf("got %v", err)
	}
}

// Whatever the kernel is made to answer: a caller is known only by an answer that is
// about its connection, established, and held by somebody; and the uid is that in the
// answer.
func FuzzKernelAnswer(f *testing.F) {
	ours := loopback(f, "tcp4", "127.0.0.1:0")
	good, err := attest.AskInet(ours)
	if err != nil {
		f.Fatal(err)
	}
	copy(good[8:], []byte{1, 0, 0, 0}) // the number of the request
	if facts, err, _, _ := attest.ReadReply(ours, good, 1); err != nil || facts.Inode == 0 {
		f.Fatalf("what the kernel says of our own connection: %+v, %v", facts, err)
	}
	f.Add(good)
	f.Add(good[:80])
	f.Add([]byte{})
	for i := 0; i < 100; i += 7 {
		f.Add(append(append(append([]byte{}, good[:i]...), 0xff), good[i+1:]...))
	}
	orphaned := slices.Clone(good) // root's, says the kernel, of a socket that nobody holds
	clear(orphaned[16+64 : 16+72])
	f.Add(orphaned)
	// the ends of the connection in an answer, and as an IPv6 socket has them
	ends := slices.Clone(good[16+4 : 16+4+36])
	local := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	mapped := slices.Concat(ends[:4], local[:], local[:])
	f.Fuzz(func(t *testing.T, message []byte) {
		facts, inet, peer, overUnix := attest.ReadReply(ours, message, 7)
		if inet == nil {
			body := message[16:]
			want := ends
			if body[0] == syscall.AF_INET6 {
				want = mapped
			}
			if body[1] != 1 || facts.Inode == 0 || !bytes.Equal(body[4:40], want) {
				t.Errorf("known by %x as %+v", message, facts)
			}
		}
		if overUnix == nil && (peer == 0 || !bytes.Equal(message[16+4:16+8], []byte{7, 0, 0, 0})) {
			t.Errorf("a peer %d by %x", peer, message)
		}
	})
}
