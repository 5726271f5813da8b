package attest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Kin knows one process and its descendants. It needs no privilege: what it looks at
// belongs to its own user.
type Kin struct {
	kernel *kernel
	root   Process
	pidfd  *os.File
}

// NewKin returns the Kin of a running process of our own user.
func NewKin(pid int) (*Kin, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("hold on to process %d: %w", pid, err)
	}
	k := &Kin{kernel: newKernel(), pidfd: os.NewFile(uintptr(fd), "pidfd")}
	h, err := openProcess(pid)
	if err == nil {
		defer h.close()
		k.root, _, err = h.parent()
	}
	if err == nil && k.root.UID != uint32(os.Geteuid()) {
		err = fmt.Errorf("it is of uid %d, and we are %d", k.root.UID, os.Geteuid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at process %d: %w", pid, err), k.pidfd.Close())
	}
	return k, nil
}

// Wait returns when the process has ended, whatever its descendants do.
func (k *Kin) Wait() error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(k.pidfd.Fd()), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Check fails unless the caller at the other end of c is the process or one of its
// descendants, of the same uid, and so is everybody who holds the caller's socket and
// whom this process may look into. One whose parent has ended is nobody's descendant any more.
func (k *Kin) Check(ctx context.Context, c Conn) error {
	f, err := k.kernel.socket(&c)
	if err == nil {
		err = c.alone()
	}
	if err != nil {
		return err
	}
	if f.UID != k.root.UID {
		return fmt.Errorf("the caller's uid is %d, want %d", f.UID, k.root.UID)
	}
	holders, err := k.kernel.visible(ctx, f.Inode)
	if err != nil {
		return err
	}
	if len(holders) == 0 {
		return errors.New("no process that we can look into holds the caller's socket")
	}
	for _, pid := range holders {
		if err := k.descends(pid); err != nil {
			return err
		}
	}
	return nil
}

// descends climbs from parent to parent. A number that was given to another process
// on the way shows, since no child is older than its parent, and a climb ends, since
// each step goes to an older one or to process 1.
func (k *Kin) descends(pid int) error {
	youngest := uint64(1<<64 - 1)
	for at := pid; at > 0; {
		h, err := openProcess(at)
		if err != nil {
			return fmt.Errorf("climb from process %d: %w", pid, err)
		}
		p, up, err := h.parent()
		h.close()
		switch {
		case err != nil:
			return fmt.Errorf("climb from process %d: %w", pid, err)
		case p.Start > youngest || at == up:
			return fmt.Errorf("process %d: its ancestor %d is younger than its child: the number was given anew", pid, at)
		case at == k.root.PID && p.Start == k.root.Start && p.UID == k.root.UID:
			return nil
		case at == pid && p.UID != k.root.UID:
			return fmt.Errorf("process %d has uid %d, want %d", pid, p.UID, k.root.UID)
		}
		at, youngest = up, p.Start
	}
	return fmt.Errorf("process %d does not descend from process %d", pid, k.root.PID)
}

// parent returns what tells the process from others, and its parent's number.
func (p process) parent() (Process, int, error) {
	out := Process{PID: p.pid}
	stat, err := p.read("stat")
	if err != nil {
		return out, 0, err
	}
	if out.Start, err = startTime(stat); err != nil {
		return out, 0, err
	}
	up, err := strconv.Atoi(statFields(stat)[1]) // startTime found more of them
	if err != nil {
		return out, 0, err
	}
	status, err := p.read("status")
	if err == nil {
		out.UID, out.GID, err = effective(status)
	}
	return out, up, err
}

// visible returns who holds the socket with this inode among the processes that we
// may look into.
func (k *kernel) visible(ctx context.Context, inode uint64) ([]int, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	want := []byte("socket:[" + strconv.FormatUint(inode, 10) + "]")
	var out []int
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := openProcess(pid)
		if err != nil {
			continue // it ended
		}
		if has, _ := h.holds(ctx, want); has { // an error: it is not ours to look into
			out = append(out, pid)
		}
		h.close()
	}
	return out, nil
}
