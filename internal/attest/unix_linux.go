package attest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// unixPeer is who connected to a Unix socket, as the kernel kept it: the
// credentials of that moment, and the process itself, whose number may be another's
// by now (SO_PEERCRED, SO_PEERPIDFD; unix(7)).
type unixPeer struct {
	ours  uint64 // inode of our end
	cred  unix.Ucred
	err   error // why cred is none
	pidfd *os.File
	gone  error // why pidfd is none
}

func unixPeerOf(c *net.UnixConn) *unixPeer {
	p := &unixPeer{}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { p.read(int(fd)) })
	}
	p.err = cmp.Or(p.err, err)
	return p
}

func (p *unixPeer) read(fd int) {
	var st unix.Stat_t
	if p.err = unix.Fstat(fd, &st); p.err != nil {
		return
	}
	p.ours = st.Ino
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		p.err = fmt.Errorf("ask who connected: %w", err)
		return
	}
	p.cred = *cred
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		p.gone = fmt.Errorf("the process that connected is gone, or this kernel cannot hold on to it (Linux 6.5 can): %w", err)
		return
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
}

func (p *unixPeer) close() {
	if p != nil && p.pidfd != nil {
		_ = p.pidfd.Close()
	}
}

// alive fails unless the process that connected still runs. os.File keeps the
// descriptor from being closed, and its number from being another's, meanwhile.
func (p *unixPeer) alive() error {
	if p.pidfd == nil {
		return p.gone
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var gone error
	err = raw.Control(func(fd uintptr) { gone = unix.PidfdSendSignal(int(fd), 0, nil, 0) })
	switch {
	case err != nil:
		return fmt.Errorf("the connection is closed: %w", err)
	case errors.Is(gone, unix.EPERM): // it is there, and another user's
		return nil
	case gone != nil:
		return fmt.Errorf("the process that connected has ended: %w", gone)
	}
	return nil
}

// facts returns who connected. That needs neither privilege nor help: the kernel
// took it down. The inode is of our end, which is one end of the caller's.
func (p *unixPeer) facts() (Facts, error) {
	if p.err != nil {
		return Facts{}, p.err
	}
	return Facts{UID: p.cred.Uid, Inode: p.ours}, nil
}

// connector returns the process that connected.
func (p *unixPeer) connector() ([]Process, error) {
	h, err := openProcess(int(p.cred.Pid))
	if err != nil {
		return nil, fmt.Errorf("look into process %d: %w", p.cred.Pid, err)
	}
	defer h.close()
	stat, err := h.read("stat")
	if err != nil {
		return nil, fmt.Errorf("look into process %d: %w", p.cred.Pid, err)
	}
	if state := statFields(stat); len(state) == 0 || state[0] == "Z" || state[0] == "X" {
		return nil, errors.New("the process that connected has ended")
	}
	out, err := h.describe()
	if err != nil {
		return nil, fmt.Errorf("look into process %d: %w", p.cred.Pid, err)
	}
	return []Process{*out}, nil
}
