package attest

import "time"

// Ports are what is remembered of ports.
type Ports struct{ *ports }

// NewPorts returns Ports that ask inUse.
func NewPorts(clock func() time.Time, inUse func() ([]uint16, error)) Ports {
	return Ports{newPorts(clock, inUse)}
}

// Open notes a connection.
func (p Ports) Open(port uint16) (done func(), again bool) { return p.open(port) }
