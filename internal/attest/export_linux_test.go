package attest

import (
	"context"
	"os"
)

// For tests of what is read from the kernel.
var (
	CgroupOf   = cgroupOf
	Effective  = effective
	StatFields = statFields
	Same       = (*Rule).same
)

// Place returns what a cgroup's path says of where a process runs.
func Place(cgroup string) (unit, container, pod string) {
	p := placeOf(cgroup)
	return p.unit, p.container, p.pod
}

// ReadReply reads a netlink message as an answer about the caller of c, and as one
// about the Unix socket with this inode.
func ReadReply(c *Conn, message []byte, inode uint64) (f Facts, inet error, peer uint64, overUnix error) {
	b, err := payload(message, 1)
	if err != nil {
		return Facts{}, err, 0, err
	}
	f, inet = readInet(c, b)
	peer, overUnix = readUnix(inode, b)
	return f, inet, peer, overUnix
}

// AskInet returns the message with which the kernel answers about the caller of c.
func AskInet(c *Conn) ([]byte, error) {
	d := newDiag()
	var kept [512]byte
	request := inetRequestFor(c)
	_, err := d.ask(kept[:], request[:])
	return kept[:], err
}

// SumAfter hashes a file that was changed after it was found.
func SumAfter(ctx context.Context, f *os.File, change func()) (string, error) {
	id, err := idOf(int(f.Fd()))
	if err != nil {
		return "", err
	}
	change()
	return newSums().of(ctx, id, 0, func() (*os.File, error) { return os.Open(f.Name()) })
}

// Turns are what is shared out.
type Turns struct{ *turns }

// NewTurns returns n turns of which nobody has one.
func NewTurns(n int) Turns { return Turns{newTurns(n)} }

// Begin waits for a turn.
func (t Turns) Begin(ctx context.Context, uid uint32) error { return t.begin(ctx, uid) }

// End ends a turn.
func (t Turns) End() { t.end() }

// Waiting returns how many uids are remembered.
func (t Turns) Waiting() int { return len(t.waiting) + len(t.order) }
