package attest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of struct nlmsghdr (linux/netlink.h), inet_diag_req_v2,
// inet_diag_msg (linux/inet_diag.h), unix_diag_req and unix_diag_msg
// (linux/unix_diag.h). Numbers are in host order, ports and addresses in network
// order.
const (
	headerSize = 16
	diagByID   = 20 // SOCK_DIAG_BY_FAMILY
	atSeq      = 8

	inetRequest   = 56
	inetReply     = 72
	atSocketID    = 8 // in a request; 4 in a reply
	atReplyID     = 4
	sizePortsAddr = 2 + 2 + 16 + 16
	atCookie      = atReplyID + sizePortsAddr + 4
	atDevice      = atSocketID + sizePortsAddr
	atUID         = 64
	atInode       = 68

	tcpDiag       = 18 // TCPDIAG_GETSOCK, with a struct inet_diag_req
	inetRequestV1 = 60
	atSocketIDV1  = 4
	atStatesV1    = 52

	unixRequest = 24
	unixReply   = 16
	atUnixInode = 4
	showPeer    = 4 // UDIAG_SHOW_PEER
	attrPeer    = 2 // UNIX_DIAG_PEER

	established = 1 // TCP_ESTABLISHED, also a connected Unix socket

	// all of TCP's but TIME_WAIT, which sends no more, LISTEN, and who has not yet connected
	anyState = 0xfff &^ (1<<6 | 1<<10)

	loopbackDevice = 1 // of every network namespace
)

// errGone is the kernel's answer when there is no such socket.
var errGone = errors.New("the caller's socket is not there: closed, or in another network namespace")

// diag asks one network namespace about its sockets, over a few netlink sockets
// that are kept open: opening one costs more than asking. The kernel answers within
// the call that asks, so that nothing ever waits.
type diag struct {
	seq  atomic.Uint32
	idle chan int
	open func() (int, error)
}

func newDiag() *diag {
	d := &diag{idle: make(chan int, 4), open: openDiag}
	runtime.AddCleanup(d, func(idle chan int) {
		for {
			select {
			case fd := <-idle:
				_ = unix.Close(fd)
			default:
				return
			}
		}
	}, d.idle)
	return d
}

func openDiag() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil { // to the kernel
		_ = unix.Close(fd)
		return -1, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	return fd, nil
}

// ask sends one request and returns the payload of its one answer, which lies in
// buf.
func (d *diag) ask(buf, request []byte) ([]byte, error) {
	var fd int
	select {
	case fd = <-d.idle:
	default:
		var err error
		if fd, err = d.open(); err != nil {
			return nil, err
		}
	}
	var message [headerSize + inetRequest]byte
	size := headerSize + copy(message[headerSize:], request)
	seq := d.seq.Add(1)
	binary.NativeEndian.PutUint32(message[0:], uint32(size))
	binary.NativeEndian.PutUint16(message[4:], diagByID)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(message[atSeq:], seq)
	n, err := exchange(fd, buf, message[:size])
	if err != nil {
		_ = unix.Close(fd) // whatever state it is in
		return nil, fmt.Errorf("ask sock_diag: %w", err)
	}
	select {
	case d.idle <- fd:
	default:
		_ = unix.Close(fd)
	}
	return payload(buf[:n], seq)
}

func exchange(fd int, buf, message []byte) (int, error) {
	if _, err := unix.Write(fd, message); err != nil {
		return 0, err
	}
	return unix.Read(fd, buf)
}

// payload takes the header off the answer to the request with this number; an error
// message becomes an error.
func payload(b []byte, seq uint32) ([]byte, error) {
	if len(b) < headerSize {
		return nil, fmt.Errorf("sock_diag gave %d bytes", len(b))
	}
	if binary.NativeEndian.Uint32(b[atSeq:]) != seq {
		return nil, errors.New("sock_diag answered another question")
	}
	size, kind := binary.NativeEndian.Uint32(b[0:]), binary.NativeEndian.Uint16(b[4:])
	if int64(size) > int64(len(b)) || size < headerSize {
		return nil, fmt.Errorf("sock_diag gave %d bytes of %d", len(b), size)
	}
	b = b[headerSize:size]
	switch {
	case kind == diagByID:
		return b, nil
	case kind == unix.NLMSG_ERROR && len(b) >= 4:
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b)))
		if errno == unix.ENOENT {
			return nil, errGone
		}
		return nil, fmt.Errorf("ask sock_diag: %w", errno)
	}
	return nil, fmt.Errorf("sock_diag gave a message of type %d", kind)
}

// inet returns who owns the caller's end of a TCP connection. A socket that is bound to a
// device is found by that alone.
func (d *diag) inet(c *Conn) (Facts, error) {
	request := inetRequestFor(c)
	var buf [512]byte
	reply, err := d.ask(buf[:], request[:])
	if errors.Is(err, errGone) {
		binary.NativeEndian.PutUint32(request[atDevice:], loopbackDevice)
		reply, err = d.ask(buf[:], request[:])
	}
	if err != nil {
		return Facts{}, err
	}
	return readInet(c, reply)
}

// count returns how many sockets there are at the caller's end of a TCP connection, in
// any state in which one can have sent, or can send. It asks in the first form of the
// request (struct inet_diag_req), which alone is about IPv4 and IPv6 at once: IPv6 sockets
// have IPv4 addresses, too. The kernel compares the ports, and goes through its whole
// table for it.
func (d *diag) count(c *Conn) (n int, err error) {
	err = d.towardsFrom(c.Here.Port(), c.Peer.Port(), func(b []byte) {
		var want [sizePortsAddr]byte
		putEnds(want[:], c, b[0] == unix.AF_INET6)
		if [sizePortsAddr]byte(b[atReplyID:]) == want {
			n++
		}
	})
	return n, err
}

// towards returns the ports of the sockets that are connected, or were, to this one.
func (d *diag) towards(port uint16) (from []uint16, err error) {
	err = d.towardsFrom(port, 0, func(b []byte) { from = append(from, binary.BigEndian.Uint16(b[atReplyID:])) })
	return from, err
}

// towardsFrom calls each with the sockets to a port, from another one if that is not 0.
func (d *diag) towardsFrom(to, from uint16, each func([]byte)) error {
	var request [inetRequestV1]byte
	binary.BigEndian.PutUint16(request[atSocketIDV1:], from)
	binary.BigEndian.PutUint16(request[atSocketIDV1+2:], to)
	binary.NativeEndian.PutUint32(request[atStatesV1:], anyState)
	return d.dump(tcpDiag, request[:], each)
}

// dump sends one request for many answers, and calls each with the payload of each.
func (d *diag) dump(kind uint16, request []byte, each func([]byte)) error {
	fd, err := d.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	message := make([]byte, headerSize, headerSize+len(request))
	message = append(message, request...)
	binary.NativeEndian.PutUint32(message[0:], uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], kind)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if _, err := unix.Write(fd, message); err != nil {
		return fmt.Errorf("ask sock_diag: %w", err)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return fmt.Errorf("ask sock_diag: %w", err)
		}
		for b := buf[:n]; len(b) >= headerSize; {
			size, got := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
			switch {
			case size < headerSize || size > len(b):
				return fmt.Errorf("sock_diag gave %d bytes of %d", len(b), size)
			case got == unix.NLMSG_DONE:
				return nil
			case got != kind || size < headerSize+inetReply:
				return fmt.Errorf("sock_diag gave a message of type %d with %d bytes", got, size)
			}
			each(b[headerSize:size])
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// established fails unless our end of a TCP connection is. The caller's end is asked
// about by addresses and ports alone; when it is gone, another socket may have them, and
// a connection that its caller has reset lies in the queue of those to be accepted as if
// it were whole. As long as our end is established nobody else can have the other.
func (c *Conn) established() error {
	if c.tcp == nil {
		return errors.New("the connection was not accepted by a listener that attests")
	}
	var info *unix.TCPInfo
	var ierr error
	err := c.tcp.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) })
	switch err := cmp.Or(err, ierr); {
	case err != nil:
		return fmt.Errorf("the connection is closed: %w", err)
	case info.State != established:
		return fmt.Errorf("our end of the connection is in TCP state %d, want %d (established): the caller has closed it", info.State, established)
	}
	return nil
}

// inetRequestFor asks for one socket by its four-tuple, seen from the caller: its own
// end is the source.
func inetRequestFor(c *Conn) [inetRequest]byte {
	var b [inetRequest]byte
	b[0] = unix.AF_INET
	if c.Peer.Addr().Unmap().Is6() {
		b[0] = unix.AF_INET6
	}
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<established)
	putEnds(b[atSocketID:], c, false)
	for i := inetRequest - 8; i < inetRequest; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}

// putEnds writes the ends of a connection, seen from the caller; mapped writes IPv4
// addresses as an IPv6 socket has them.
func putEnds(b []byte, c *Conn, mapped bool) {
	binary.BigEndian.PutUint16(b[0:], c.Peer.Port())
	binary.BigEndian.PutUint16(b[2:], c.Here.Port())
	putAddr(b[4:], c.Peer, mapped)
	putAddr(b[20:], c.Here, mapped)
}

func putAddr(b []byte, a netip.AddrPort, mapped bool) {
	if ip := a.Addr().Unmap(); ip.Is4() && !mapped {
		v4 := ip.As4()
		copy(b, v4[:])
	} else {
		v6 := ip.As16()
		copy(b, v6[:])
	}
}

// readInet takes the owner from an answer. The kernel falls back to a listening
// socket on the caller's port when the connection is gone, and reports uid 0 and
// inode 0 for a socket that nobody holds any more: neither is the caller.
func readInet(c *Conn, b []byte) (Facts, error) {
	if len(b) < inetReply {
		return Facts{}, fmt.Errorf("sock_diag gave %d bytes, want %d", len(b), inetReply)
	}
	var want [sizePortsAddr]byte
	// Java and .NET use IPv6 sockets for IPv4, too: the kernel finds one by its IPv4
	// addresses, and then says ::ffff:127.0.0.1
	putEnds(want[:], c, b[0] == unix.AF_INET6)
	f := Facts{UID: binary.NativeEndian.Uint32(b[atUID:]), Inode: uint64(binary.NativeEndian.Uint32(b[atInode:])), Cookie: binary.NativeEndian.Uint64(b[atCookie:])}
	switch {
	case b[1] != established:
		return Facts{}, fmt.Errorf("the caller's socket is in TCP state %d, want %d (established): it was closed, or half of it", b[1], established)
	case [sizePortsAddr]byte(b[atReplyID:]) != want:
		return Facts{}, errors.New("sock_diag answered for another socket")
	case f.Inode == 0:
		return Facts{}, errors.New("no process holds the caller's socket")
	}
	return f, nil
}

// unixPeerInode returns the inode of the socket at the other end of the Unix socket
// with this inode.
func (d *diag) unixPeerInode(inode uint64) (peer uint64, err error) {
	var b [unixRequest]byte
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff) // any state
	binary.NativeEndian.PutUint32(b[8:], uint32(inode))
	binary.NativeEndian.PutUint32(b[12:], showPeer)
	for i := 16; i < unixRequest; i++ {
		b[i] = 0xff // UNIX_DIAG_NOCOOKIE
	}
	var buf [512]byte
	reply, err := d.ask(buf[:], b[:])
	if err != nil {
		return 0, err
	}
	return readUnix(inode, reply)
}

func readUnix(inode uint64, b []byte) (peer uint64, err error) {
	if len(b) < unixReply || uint64(binary.NativeEndian.Uint32(b[atUnixInode:])) != inode {
		return 0, errors.New("sock_diag answered for another socket")
	}
	for b = b[unixReply:]; len(b) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			break
		}
		if kind == attrPeer && size >= 8 {
			if peer = uint64(binary.NativeEndian.Uint32(b[4:])); peer != 0 {
				return peer, nil
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return 0, errors.New("no process holds the caller's socket")
}
