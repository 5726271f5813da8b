//go:build !unix

package upstream

import "net"

// socket would ask the kernel about a connection; this system is not asked, and an
// ended connection is found by the request that uses it.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (s *socket) idle() bool { return true }
