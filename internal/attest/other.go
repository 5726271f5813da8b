//go:build !linux

package attest

import (
	"context"
	"net"
)

type kernel struct{}

func newKernel() kernel { return kernel{} }

func (kernel) look(context.Context, Conn, wants) (Facts, error) { return Facts{}, ErrUnsupported }

func (kernel) owner(*Conn) (Facts, error) { return Facts{}, ErrUnsupported }

func (kernel) alone(*Conn) error { return ErrUnsupported }

func (kernel) towards(*Network, uint16) ([]uint16, error) { return nil, ErrUnsupported }

// Able says that nothing can be looked at.
func Able() Ability {
	return Ability{Sockets: ErrUnsupported, Unix: ErrUnsupported, Processes: ErrUnsupported}
}

func (fileID) isAt(string) bool { return false }

type unixPeer struct{}

func unixPeerOf(*net.UnixConn) *unixPeer { return &unixPeer{} }

func (*unixPeer) close() {}

// Kin knows one process and its descendants, on Linux.
type Kin struct{}

// NewKin fails with ErrUnsupported.
func NewKin(int) (*Kin, error) { return nil, ErrUnsupported }

// Wait fails with ErrUnsupported.
func (*Kin) Wait() error { return ErrUnsupported }

// Check fails with ErrUnsupported.
func (*Kin) Check(context.Context, Conn) error { return ErrUnsupported }

// A Network is a network namespace, which only Linux has.
type Network struct{}

// OpenNetwork fails with ErrUnsupported.
func OpenNetwork(string) (*Network, error) { return nil, ErrUnsupported }

// Listen fails with ErrUnsupported.
func (*Network) Listen(string) (net.Listener, error) { return nil, ErrUnsupported }

// Close does nothing.
func (*Network) Close() error { return nil }
