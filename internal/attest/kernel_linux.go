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
	scans chan struct{}
	sums  sums
}

func newKernel() *kernel {
	return &kernel{own: newDiag(), scans: make(chan struct{}, maxScans), sums: newSums()}
}

// maxScans is how many looks at all processes may run at a time, so that callers
// who make us look cannot take every core.
const maxScans = 2

func (k *kernel) look(ctx context.Context, c Conn, d depth) (Facts, error) {
	if err := ctx.Err(); err != nil {
		return Facts{}, err
	}
	f, err := k.socket(&c)
	if err != nil || d == socketOnly {
		return f, err
	}
	select {
	case k.scans <- struct{}{}:
		defer func() { <-k.scans }()
	case <-ctx.Done():
		return Facts{}, ctx.Err()
	}
	f.depth = d
	inode := f.Inode
	if c.unix != nil {
		if err := c.unix.alive(); err != nil {
			return Facts{}, err
		}
		if inode, err = k.diagOf(&c).unixPeerInode(c.unix.ours); err != nil {
			return Facts{}, err
		}
	}
	if f.Holders, err = k.processes(ctx, inode, d); err != nil {
		return Facts{}, err
	}
	if c.unix == nil {
		return f, nil
	}
	// whoever connected must still be among them, and still be who it was
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
