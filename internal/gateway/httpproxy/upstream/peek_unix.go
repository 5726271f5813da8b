//go:build unix

package upstream

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket asks the kernel about a connection without waiting.
type socket struct {
	raw   syscall.RawConn
	ask   func(fd uintptr) bool // made once: one for each question would be an allocation
	alive bool
	one   [1]byte
}

func newSocket(c net.Conn) *socket {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.ask = func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), s.one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		s.alive = err == unix.EAGAIN || err == unix.EINTR
		return true
	}
	return s
}

// idle reports whether nothing has arrived: neither an end nor bytes that nobody asked
// for, which the next request would take for its answer.
func (s *socket) idle() bool {
	if s == nil {
		return true
	}
	return s.raw.Read(s.ask) == nil && s.alive
}
