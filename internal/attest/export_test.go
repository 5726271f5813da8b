package attest

import "time"

// Ports are what is remembered of ports.
type Ports struct{ *ports }

// NewPorts returns Ports of which none is known.
func NewPorts(clock func() time.Time) Ports { return Ports{newPorts(clock)} }

// Open notes a connection.
func (p Ports) Open(port uint16) (done func(), again bool) { return p.open(port) }
