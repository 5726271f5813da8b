package door

import (
	"net"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// Shares are how many connections there may be, over one or more listeners: so many of
// one origin (attest.Conn.Origin), so many of all. When all are taken, who holds the most
// loses its oldest to whoever holds fewer, so that nobody is kept out by who came first.
// It is safe for concurrent use.
type Shares struct {
	each, all int

	mu   sync.Mutex
	held map[string]map[*shared]uint64 // by origin; when each was taken
	sum  int
	next uint64
}

// NewShares returns Shares of which nobody holds one; 0 is no bound.
func NewShares(each, all int) *Shares {
	return &Shares{each: each, all: all, held: map[string]map[*shared]uint64{}}
}

// take gives c a share, if there is one for its origin, and returns whose it was if that
// has to be closed for it.
func (s *Shares) take(c *shared) (evicted *shared, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := len(s.held[c.origin])
	if s.each > 0 && mine >= s.each {
		return nil, false
	}
	if s.all > 0 && s.sum >= s.all {
		if evicted = s.oldestOfMost(mine + 1); evicted == nil {
			return nil, false
		}
		s.drop(evicted)
	}
	if s.held[c.origin] == nil {
		s.held[c.origin] = map[*shared]uint64{}
	}
	s.next++
	s.held[c.origin][c] = s.next
	s.sum++
	return evicted, true
}

// oldestOfMost returns the oldest connection of who holds the most, if that is more than
// so many; called with mu held.
func (s *Shares) oldestOfMost(than int) *shared {
	var most map[*shared]uint64
	for _, of := range s.held {
		if len(of) > max(than, len(most)) {
			most = of
		}
	}
	var oldest *shared
	for c, at := range most {
		if oldest == nil || at < most[oldest] {
			oldest = c
		}
	}
	return oldest
}

// drop takes c's share back, if it has one; called with mu held.
func (s *Shares) drop(c *shared) {
	of := s.held[c.origin]
	if _, there := of[c]; !there {
		return
	}
	delete(of, c)
	s.sum--
	if len(of) == 0 {
		delete(s.held, c.origin)
	}
}

// A Listener accepts attestable connections, as far as there are shares for them.
type Listener struct {
	*attest.Listener
	shares *Shares
}

// Listen returns a Listener over l, which listens in the network namespace n; nil is
// our own.
func Listen(l net.Listener, n *attest.Network, shares *Shares) *Listener {
	return &Listener{attest.Listen(l, n), shares}
}

// Accept returns the next connection that there is a share for. Others are closed: there
// is nobody yet to say anything to.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn, _ := attest.Of(c)
		out := &shared{Conn: c, shares: l.shares, origin: conn.Origin()}
		evicted, ok := l.shares.take(out)
		if evicted != nil {
			_ = evicted.Conn.Close()
		}
		if ok {
			return out, nil
		}
		_ = c.Close()
	}
}

// shared is a connection that has a share.
type shared struct {
	net.Conn
	shares *Shares
	origin string
}

// Close gives the share back.
func (c *shared) Close() error {
	c.shares.mu.Lock()
	c.shares.drop(c)
	c.shares.mu.Unlock()
	return c.Conn.Close()
}
