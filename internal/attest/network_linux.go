package attest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Network is a network namespace other than our own, such as a container's.
type Network struct {
	file *os.File
	diag *diag
}

// OpenNetwork opens the network namespace at path: /run/netns/NAME, or
// /proc/PID/ns/net. To listen in it needs CAP_SYS_ADMIN; a path that is none, or
// that may not be entered, is an error.
func OpenNetwork(path string) (*Network, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n := &Network{file: f, diag: newDiag()}
	n.diag.open = func() (fd int, err error) {
		ierr := n.inside(func() error { fd, err = openDiag(); return err })
		return fd, ierr
	}
	if err := n.inside(func() error { return nil }); err != nil {
		_ = f.Close()
		return nil, err
	}
	return n, nil
}

// Listen opens a TCP listener in the namespace.
func (n *Network) Listen(address string) (l net.Listener, err error) {
	ierr := n.inside(func() error { l, err = net.Listen("tcp", address); return err })
	return l, ierr
}

// Close lets go of the namespace; listeners in it stay.
func (n *Network) Close() error { return n.file.Close() }

// inside calls f on a thread that is in the namespace, and that ends afterwards:
// the runtime throws away a thread whose goroutine ended while locked to it.
func (n *Network) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
			if errors.Is(err, unix.EPERM) {
				err = fmt.Errorf("%w: it takes CAP_SYS_ADMIN, and under systemd RestrictNamespaces=net", err)
			}
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
