package attest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// kernel answers who a caller is.
type kernel struct {
	own   *diag // our own network namespace
	scans *turns
	sums  *sums
}

// maxScans is how many looks at all processes may run at a time, so that callers
// who make us look cannot take every core.
const maxScans = 2

// scanTimeout bounds one look at all processes: users who hold millions of descriptors
// make it long.
const scanTimeout = 10 * time.Second

func newKernel() *kernel { return &kernel{own: newDiag(), scans: newTurns(maxScans), sums: newSums()} }

// look goes deeper only as long as w wants it: what it costs to hash a program is spent
// on nobody whom cheaper facts refuse.
func (k *kernel) look(ctx context.Context, c Conn, w wants) (Facts, error) {
	if err := ctx.Err(); err != nil {
		return Facts{}, err
	}
	f, err := k.socket(&c)
	if err != nil || w(&f) == socketOnly {
		return f, err
	}
	if err := k.holders(ctx, &c, &f); err != nil {
		return Facts{}, err
	}
	if w(&f) >= executables {
		if err := k.program(ctx, &f, w); err != nil {
			return Facts{}, err
		}
	}
	if c.unix != nil {
		return f, c.unix.alive()
	}
	return f, c.established()
}

// holders adds to f who holds the caller's socket. Over a Unix socket, whoever connected
// must be among them, and still be who it was. Both ends are of the network namespace of
// who connected; those of another one cannot be asked about from here, and only who
// connected is known.
func (k *kernel) holders(ctx context.Context, c *Conn, f *Facts) error {
	if err := k.scans.begin(ctx, f.UID); err != nil {
		return err
	}
	defer k.scans.end()
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	var err error
	f.depth = processes
	if c.unix == nil {
		f.Holders, err = k.processes(ctx, f.Inode)
		return err
	}
	if err := c.unix.alive(); err != nil {
		return err
	}
	inode, err := k.diagOf(c).unixPeerInode(c.unix.ours)
	switch {
	case errors.Is(err, errGone):
		f.elsewhere = true
		f.Holders, err = c.unix.connector()
	case err == nil:
		f.Holders, err = k.processes(ctx, inode)
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(f.Holders, func(p Process) bool { return p.PID == int(c.unix.cred.Pid) }) {
		return fmt.Errorf("process %d connected, and does not hold the connection any more", c.unix.cred.Pid)
	}
	return nil
}

// owner returns who owns the caller's end of a TCP connection, wherever that is.
func (k *kernel) owner(c *Conn) (Facts, error) { return k.diagOf(c).inet(c) }

// alone fails when a second socket has the caller's address and port. Any user may bind
// one to the device lo and connect before the caller does: the kernel takes the two for
// different connections, and the bytes of both for our end's (SO_BINDTODEVICE, socket(7);
// the other must know its sequence numbers, which a clock gives). None can be added
// later. Whose bytes are whose cannot be told then. It is asked of ports that somebody
// connected from before (ports).
func (k *kernel) alone(c *Conn) error {
	n, err := k.diagOf(c).count(c)
	switch {
	case err != nil:
		return fmt.Errorf("count the sockets of the caller's address and port: %w", err)
	case n != 1:
		return fmt.Errorf("%d sockets have the caller's address and port, want one alone: whose bytes came cannot be told", n)
	}
	return nil
}

// towards returns the ports from which there are sockets towards port, ours.
func (k *kernel) towards(n *Network, port uint16) ([]uint16, error) {
	return k.diagOf(&Conn{network: n}).towards(port)
}

func (k *kernel) diagOf(c *Conn) *diag {
	if c.network != nil {
		return c.network.diag
	}
	return k.own
}

func (k *kernel) socket(c *Conn) (Facts, error) {
	if c.unix != nil {
		return c.unix.facts()
	}
	if !c.local() {
		return Facts{}, errors.New("the connection is not a local one")
	}
	f, err := k.diagOf(c).inet(c)
	if err != nil {
		return f, err
	}
	return f, c.established()
}
