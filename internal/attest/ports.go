package attest

import (
	"sync"
	"time"
)

// portsFor is for how long a port is remembered at least. The sequence numbers that one
// who is not the caller would have to know come round once in 275 seconds.
const portsFor = 10 * time.Minute

// ports remembers from which ports somebody has connected. A socket that another's bytes
// could be taken for was connected from its port before: of a port that is new nothing
// has to be looked up. It is safe for concurrent use.
type ports struct {
	clock func() time.Time

	mu          sync.Mutex
	live        map[uint16]int
	now, before [1 << 10]uint64 // one bit a port
	since       time.Time       // of now
}

func newPorts(clock func() time.Time) *ports { return &ports{clock: clock, live: map[uint16]int{}} }

// open notes a connection from port, and reports whether there is one, or was one of late.
// It is over when done is called.
func (p *ports) open(port uint16) (done func(), again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn()
	word, bit := port/64, uint64(1)<<(port%64)
	again = p.live[port] > 0 || (p.now[word]|p.before[word])&bit != 0
	p.live[port]++
	p.now[word] |= bit
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.turn()
		p.now[word] |= bit
		if p.live[port]--; p.live[port] == 0 {
			delete(p.live, port)
		}
	}), again
}

// turn forgets what is old; called with mu held.
func (p *ports) turn() {
	switch age := p.clock().Sub(p.since); {
	case age >= 2*portsFor:
		clear(p.now[:])
		clear(p.before[:])
		p.since = p.clock()
	case age >= portsFor:
		p.before = p.now
		clear(p.now[:])
		p.since = p.clock()
	}
}
