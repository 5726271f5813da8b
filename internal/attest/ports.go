package attest

import (
	"sync"
	"time"
)

// portsFor is for how long a port is remembered at least before the kernel is asked
// whether somebody still has a socket there.
const portsFor = 10 * time.Minute

// ports remembers from which ports somebody has connected. A socket that another's bytes
// could be taken for was connected from its port before, and may stay as long as its
// owner likes: of a port that is new since, nothing has to be looked up. It is safe for
// concurrent use.
type ports struct {
	clock func() time.Time
	inUse func() ([]uint16, error) // from which there are sockets towards ours

	mu    sync.Mutex
	live  map[uint16]int
	known [1 << 10]uint64 // one bit a port
	since time.Time       // when the kernel was asked
}

func newPorts(clock func() time.Time, inUse func() ([]uint16, error)) *ports {
	p := &ports{clock: clock, inUse: inUse, live: map[uint16]int{}}
	p.ask()
	return p
}

// open notes a connection from port, and reports whether there is one, or was one of late.
// It is over when done is called.
func (p *ports) open(port uint16) (done func(), again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clock().Sub(p.since) >= portsFor {
		p.ask()
	}
	again = p.known[port/64]&(1<<(port%64)) != 0
	p.note(port)
	p.live[port]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.note(port)
		if p.live[port]--; p.live[port] == 0 {
			delete(p.live, port)
		}
	}), again
}

func (p *ports) note(port uint16) { p.known[port/64] |= 1 << (port % 64) }

// ask forgets the ports from which there is no socket any more. When the kernel does not
// say, everything is known.
func (p *ports) ask() {
	p.since = p.clock()
	used, err := p.inUse()
	if err != nil {
		for i := range p.known {
			p.known[i] = 1<<64 - 1
		}
		return
	}
	clear(p.known[:])
	for _, port := range used {
		p.note(port)
	}
	for port := range p.live {
		p.note(port)
	}
}
