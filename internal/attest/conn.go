package attest

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A Conn names an accepted local connection: over loopback TCP by its ends, over a
// Unix socket by the socket itself.
type Conn struct {
	Peer netip.AddrPort // the caller's end; zero over a Unix socket
	Here netip.AddrPort // our end

	network *Network        // whose sockets are asked; nil is our own
	unix    *unixPeer       // who connected, over a Unix socket
	tcp     syscall.RawConn // our end, over TCP

	// first is what was seen when it was accepted, or why nothing was; nil of a Conn
	// that no Listener made.
	first *firstLook
}

type firstLook struct {
	facts    Facts
	attested map[string]string // of facts; never changed
	err      error
	origin   string
	alone    func() error // why the connection's bytes may be another's; looked at once
}

// nobody is the UID of a caller that was gone before it could be asked for.
const nobody = 1<<32 - 1

// UID returns the uid that connected, for sharing out what callers may hold. It
// proves nothing: that is Attestor's.
func (c Conn) UID() uint32 {
	if c.first == nil || c.first.err != nil {
		return nobody
	}
	return c.first.facts.UID
}

// Origin names what a connection is counted with, for sharing out what callers may hold:
// the uid of a local caller, the network of another. It proves nothing.
func (c Conn) Origin() string {
	if c.first == nil {
		return OriginOf(c.Peer.Addr())
	}
	return c.first.origin
}

// origin is Origin of a connection of which f and err were seen first. Whoever connects
// from a loopback address, or in a network namespace of its own, is on this machine,
// whether that address is one to be attested at or not.
func (l *Listener) origin(c *Conn, f Facts, err error) string {
	here := c.unix != nil || l.network != nil || c.Peer.Addr().Unmap().IsLoopback() || c.Peer.Addr().Unmap() == c.Here.Addr().Unmap()
	if err != nil && here && c.unix == nil {
		f, err = l.kernel.owner(c)
	}
	switch {
	case err == nil:
		return "uid " + strconv.FormatUint(uint64(f.UID), 10)
	case here:
		return "uid unknown" // gone before it could be asked for
	}
	return OriginOf(c.Peer.Addr())
}

// alone fails when more than one socket can write to the connection.
func (c *Conn) alone() error {
	if c.first == nil {
		return nil // no connection of a Listener: no look-up succeeds
	}
	return c.first.alone()
}

// OriginOf is Origin of an address, which does not tell local callers apart: a network
// of the size that one site has.
func OriginOf(ip netip.Addr) string {
	if !ip.IsValid() {
		return "unknown"
	}
	bits := 48
	if ip = ip.Unmap(); ip.Is4() {
		bits = 24
	}
	p, _ := ip.Prefix(bits) // fails for more bits than there are
	return p.String()
}

// A Listener accepts connections whose other ends can be attested.
type Listener struct {
	net.Listener
	network *Network
	kernel  kernelOf
	ports   *ports // nil of Unix sockets
}

// Listen makes callers of l attestable. l listens in the network namespace n; nil
// is our own.
func Listen(l net.Listener, n *Network) *Listener {
	out := &Listener{Listener: l, network: n, kernel: newKernel()}
	if at, ok := l.Addr().(*net.TCPAddr); ok {
		out.ports = newPorts(time.Now, func() ([]uint16, error) { return out.kernel.towards(n, uint16(at.Port)) })
	}
	return out
}

// Accept returns a connection of which Of knows the caller. Over a Unix socket the
// kernel is asked at once who connected.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	out := &accepted{Conn: c, conn: Conn{network: l.network}}
	switch s := c.(type) {
	case *net.UnixConn:
		out.conn.unix = unixPeerOf(s)
	case *net.TCPConn:
		out.conn.tcp, _ = s.SyscallConn()                               // without it no look-up will succeed
		out.conn.Peer, _ = netip.ParseAddrPort(c.RemoteAddr().String()) // zero: no look-up will find it
		out.conn.Here, _ = netip.ParseAddrPort(c.LocalAddr().String())
	}
	f, err := l.kernel.look(context.Background(), out.conn, shallow)
	conn := out.conn
	out.conn.first = &firstLook{facts: f, err: err, attested: f.attested(), origin: l.origin(&conn, f, err), alone: func() error { return nil }}
	if l.ports != nil {
		var again bool
		if out.done, again = l.ports.open(conn.Peer.Port()); again {
			out.conn.first.alone = sync.OnceValue(func() error { return l.kernel.alone(&conn) })
		}
	}
	return out, nil
}

// connKey is the context key of a request's connection: net/http hands it to a handler
// in no other way.
type connKey struct{}

// NewContext returns a context in which FromContext finds c.
func NewContext(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// FromContext returns the connection that a request came over, or nil.
func FromContext(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// kernelOf is what a Listener asks.
type kernelOf interface {
	look(context.Context, Conn, wants) (Facts, error)
	owner(*Conn) (Facts, error)
	alone(*Conn) error
	towards(*Network, uint16) ([]uint16, error)
}

type accepted struct {
	net.Conn
	conn Conn
	done func() // with its port; nil over a Unix socket
}

// Close ends the connection, and with it what was held to recognise the caller.
func (a *accepted) Close() error {
	a.conn.unix.close()
	if a.done != nil {
		a.done()
	}
	return a.Conn.Close()
}

// Of returns the Conn of a connection that a Listener accepted.
func Of(c net.Conn) (Conn, bool) {
	a, ok := c.(*accepted)
	if !ok {
		return Conn{}, false
	}
	return a.conn, true
}

// local reports whether both ends are this machine's, as far as addresses tell: on
// loopback, or on one address that both have, such as 169.254.169.254 where the
// network namespace owns it. Who is really there, the kernel says.
func (c *Conn) local() bool {
	p, h := c.Peer.Addr().Unmap(), c.Here.Addr().Unmap()
	return p.IsValid() && (p.IsLoopback() && h.IsLoopback() || p == h && h.IsLinkLocalUnicast())
}
