// Command peer is every other program in this package's tests: the caller, whoever it
// hands its socket to, and the trusted program that it becomes. It says "ok" on its
// standard output for each thing done, and ends with its standard input.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch role := os.Getenv("ATTEST_ROLE"); role {
	case "caller":
		err = callerMain(os.Getenv("ATTEST_CALL"))
	case "keeper":
		err = keeperMain(os.Getenv("ATTEST_CALL"))
	case "holder": // of descriptor 3
		fmt.Println("ok")
		_, err = io.Copy(io.Discard, os.Stdin)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// callerMain connects, and does what each line of its standard input says.
func callerMain(call string) error {
	network, address, _ := strings.Cut(call, "!")
	f, err := dial(network, address)
	if err != nil {
		return err
	}
	fmt.Println("ok")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := act(f, strings.Fields(lines.Text())); err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		fmt.Println("ok")
	}
	return nil
}

// dial connects, and returns the one descriptor of the connection.
func dial(network, address string) (*os.File, error) {
	if network == "mapped" {
		return dialMapped(address)
	}
	c, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(interface{ File() (*os.File, error) }).File()
}

// dialMapped connects an IPv6 socket to an IPv4 address, as Java does.
func dialMapped(address string) (*os.File, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mapped"), unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
}

func act(f *os.File, words []string) error {
	switch words[0] {
	case "close":
		return f.Close()
	case "half-close":
		return unix.Shutdown(int(f.Fd()), unix.SHUT_WR)
	case "fork": // a child that holds the socket too
		return hold(f)
	case "exec": // become another program that holds it
		if err := unix.Dup3(int(f.Fd()), 3, 0); err != nil && f.Fd() != 3 {
			return err
		}
		return syscall.Exec(words[1], []string{words[1]}, []string{"ATTEST_ROLE=holder"})
	case "pass": // to whoever listens there, and wait until it has it
		return pass(f, words[1])
	case "park": // in a queue that nobody reads
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
	case "setuid":
		uid, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		return syscall.Setuid(uid)
	case "thread": // hold it in a thread with a table of descriptors of its own, and there alone
		return thread(f)
	}
	return errors.New("what is that?")
}

func hold(f *os.File) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.ExtraFiles = []string{"ATTEST_ROLE=holder"}, []*os.File{f}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	kept = append(kept, in) // closed with this process, which ends the child
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = out.Read(make([]byte, 3))
	return err
}

var kept []io.Closer // what must not be collected

func pass(f *os.File, path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
		return true
	})
	if err := errors.Join(err, serr); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func thread(f *os.File) error {
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FILES); err != nil {
			ready <- err
			return
		}
		ready <- nil
		select {} // keeps the thread, and its copy of the socket
	}()
	if err := <-ready; err != nil {
		return err
	}
	return f.Close()
}

// keeperMain takes a descriptor from whoever connects to its socket, and keeps it.
func keeperMain(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	fmt.Println("ok")
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		oob := make([]byte, 64)
		_, _, _, _, err = c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob) // the descriptor is ours from here on
		if err == nil {
			_, _ = c.Write([]byte{0})
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
