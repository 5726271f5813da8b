package attest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// needed is the sentence that the file's mistakes, doctor and the documentation
// share.
const needed = "the executable, hash, group and cgroup of other users' processes need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH " +
	"(deploy/sallyport.service grants them; uid alone needs neither)"

// Able tries each kind of look once, at ourselves.
func Able() Ability {
	out := Ability{Sockets: trySockets(), Unix: tryUnix(), Processes: tryProcesses()}
	if out.Processes == nil {
		out.Hidden = hidden()
	}
	return out
}

func trySockets() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on loopback: %w", err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return fmt.Errorf("connect over loopback: %w", err)
	}
	defer c.Close()
	f, err := newDiag().inet(&Conn{Peer: addrPort(c.LocalAddr()), Here: addrPort(c.RemoteAddr())})
	if err == nil && f.UID != uint32(os.Geteuid()) {
		err = fmt.Errorf("it says that our own connection is of uid %d, and we are %d", f.UID, os.Geteuid())
	}
	if err != nil {
		return fmt.Errorf("the kernel does not say who owns a loopback connection (inet_diag, tcp_diag): %w", err)
	}
	return nil
}

func addrPort(a net.Addr) netip.AddrPort {
	out, _ := netip.ParseAddrPort(a.String()) // zero for what is none
	return out
}

func tryUnix() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a pair of Unix sockets: %w", err)
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	var p unixPeer
	defer p.close()
	p.read(pair[0])
	if err = cmp.Or(p.err, p.gone); err == nil {
		_, err = newDiag().unixPeerInode(p.ours)
	}
	if err != nil {
		return fmt.Errorf("over Unix sockets, entries with cgroup, gid, executable or sha256 match nobody here: %w", err)
	}
	return nil
}

// tryProcesses asks for the two capabilities without which other users' descriptors
// are closed to us.
func tryProcesses() error {
	if err := capable(capability{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE}, capability{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH}); err != nil {
		return fmt.Errorf("%s; this process lacks %w", needed, err)
	}
	return nil
}

// hidden counts the processes that we cannot look into with all privileges that we
// have: a security module keeps them from us.
func hidden() int {
	pids, err := allPIDs()
	if err != nil {
		return 0
	}
	n := 0
	for _, pid := range pids {
		h, err := openProcess(pid)
		if err != nil {
			continue // it ended
		}
		if _, err := h.list("fd"); denied(err) {
			n++
		} else if _, err := h.link("exe"); denied(err) {
			n++
		}
		h.close()
	}
	return n
}

// capability is one of capabilities(7).
type capability struct {
	name string
	bit  uint
}

// capable fails with the names of those that are not effective.
func capable(caps ...capability) error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 2 || f[0] != "CapEff:" {
			continue
		}
		have, err := strconv.ParseUint(f[1], 16, 64)
		if err != nil {
			return err
		}
		var missing []string
		for _, c := range caps {
			if have&(1<<c.bit) == 0 {
				missing = append(missing, c.name)
			}
		}
		if missing != nil {
			return errors.New(strings.Join(missing, " and "))
		}
		return nil
	}
	return errors.New("/proc/self/status does not tell our capabilities")
}
