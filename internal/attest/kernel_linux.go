package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg
// (linux/inet_diag.h); numbers are in host order, ports and addresses in network
// order.
const (
	diagByFamily  = 20 // SOCK_DIAG_BY_FAMILY
	requestSize   = 56
	replySize     = 72
	atSocketID    = 8 // in a request; 4 in a reply
	atReplyID     = 4
	sizePortsAddr = 2 + 2 + 16 + 16
	atCookie      = atReplyID + sizePortsAddr + 4
	atUID         = 64
	atInode       = 68
	established   = 1 // TCP_ESTABLISHED
)

// kernel asks the kernel who owns a socket, over a few sock_diag netlink sockets
// that are kept open: opening one costs more than asking.
type kernel struct{ idle chan *netlink.Conn }

func newKernel() *kernel { return &kernel{make(chan *netlink.Conn, 4)} }

func (k *kernel) lookup(ctx context.Context, c Conn) (Facts, error) {
	if !c.Peer.Addr().Unmap().IsLoopback() || !c.Here.Addr().Unmap().IsLoopback() {
		return Facts{}, errors.New("the connection is not a loopback one")
	}
	if err := ctx.Err(); err != nil {
		return Facts{}, err
	}
	var conn *netlink.Conn
	select {
	case conn = <-k.idle:
	default:
		var err error
		if conn, err = netlink.Dial(unix.NETLINK_SOCK_DIAG, nil); err != nil {
			return Facts{}, fmt.Errorf("open a sock_diag socket: %w", err)
		}
	}
	reply, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: diagByFamily, Flags: netlink.Request},
		Data:   request(c),
	})
	if errors.Is(err, fs.ErrNotExist) { // an answer, not a failure
		k.put(conn)
		return Facts{}, errors.New("the caller's socket is not there: closed, or in another network namespace")
	}
	if err != nil {
		_ = conn.Close() // whatever state it is in
		return Facts{}, fmt.Errorf("ask sock_diag: %w", err)
	}
	k.put(conn)
	if len(reply) != 1 {
		return Facts{}, fmt.Errorf("sock_diag gave %d answers, want 1", len(reply))
	}
	return read(c, reply[0].Data)
}

func (k *kernel) put(conn *netlink.Conn) {
	select {
	case k.idle <- conn:
	default:
		_ = conn.Close()
	}
}

// request asks for one socket by its four-tuple, seen from the caller: its own
// end is the source.
func request(c Conn) []byte {
	b := make([]byte, requestSize)
	b[0] = unix.AF_INET
	if c.Peer.Addr().Unmap().Is6() {
		b[0] = unix.AF_INET6
	}
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<established)
	putEnds(b[atSocketID:], c)
	for i := requestSize - 8; i < requestSize; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}

func putEnds(b []byte, c Conn) {
	binary.BigEndian.PutUint16(b[0:], c.Peer.Port())
	binary.BigEndian.PutUint16(b[2:], c.Here.Port())
	copy(b[4:], addr(c.Peer))
	copy(b[20:], addr(c.Here))
}

func addr(a netip.AddrPort) []byte { return a.Addr().Unmap().AsSlice() }

// read takes the owner from an answer. The kernel falls back to a listening
// socket on the caller's port when the connection is gone, and reports uid 0 and
// inode 0 for a socket that nobody holds any more: neither is the caller.
func read(c Conn, b []byte) (Facts, error) {
	if len(b) < replySize {
		return Facts{}, fmt.Errorf("sock_diag gave %d bytes, want %d", len(b), replySize)
	}
	want := make([]byte, sizePortsAddr)
	putEnds(want, c)
	f := Facts{UID: binary.NativeEndian.Uint32(b[atUID:]), Inode: binary.NativeEndian.Uint32(b[atInode:]), Cookie: binary.NativeEndian.Uint64(b[atCookie:])}
	switch {
	case b[1] != established:
		return Facts{}, fmt.Errorf("the caller's socket is in TCP state %d, want %d (established): it was closed, or half of it", b[1], established)
	case string(b[atReplyID:atReplyID+sizePortsAddr]) != string(want):
		return Facts{}, errors.New("sock_diag answered for another socket")
	case f.Inode == 0:
		return Facts{}, errors.New("no process holds the caller's socket")
	}
	return f, nil
}
