package attest

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// kernel answers who a caller is.
type kernel struct {
	own   *diag // our own network namespace
	scans *scans
	sums  sums
}

func newKernel() *kernel { return &kernel{own: newDiag(), scans: newScans(), sums: newSums()} }

func (k *kernel) look(ctx context.Context, c Conn, d depth) (Facts, error) {
	if err := ctx.Err(); err != nil {
		return Facts{}, err
	}
	f, err := k.socket(&c)
	if err != nil || d == socketOnly {
		return f, err
	}
	if err := k.scans.begin(ctx, f.UID); err != nil {
		return Facts{}, err
	}
	defer k.scans.end()
	f.depth = d
	if c.unix != nil {
		return k.overUnix(ctx, &c, f)
	}
	f.Holders, err = k.processes(ctx, f.Inode, d)
	return f, err
}

// overUnix adds to f who holds the caller's end. Whoever connected must be among
// them, and still be who it was. Both ends are of the network namespace of who
// connected; those of another one cannot be asked about from here, and only who
// connected is known.
func (k *kernel) overUnix(ctx context.Context, c *Conn, f Facts) (Facts, error) {
	if err := c.unix.alive(); err != nil {
		return Facts{}, err
	}
	inode, err := k.diagOf(c).unixPeerInode(c.unix.ours)
	switch {
	case errors.Is(err, errGone):
		f.elsewhere = true
		f.Holders, err = c.unix.connector()
	case err == nil:
		f.Holders, err = k.processes(ctx, inode, f.depth)
	}
	if err != nil {
		return Facts{}, err
	}
	if !slices.ContainsFunc(f.Holders, func(p Process) bool { return p.PID == int(c.unix.cred.Pid) }) {
		return Facts{}, fmt.Errorf("process %d connected, and does not hold the connection any more", c.unix.cred.Pid)
	}
	return f, c.unix.alive()
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
	return k.diagOf(c).inet(c)
}
