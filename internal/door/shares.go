package door

import (
	"container/list"
	"net"
	"sync"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// Shares are how many connections there may be, over one or more listeners: so many of
// one origin (attest.Conn.Origin), so many of all. When all are taken, who holds the most
// loses its oldest to whoever holds fewer, so that nobody is kept out by who came first;
// whoever holds none gets one even of those who hold one each. It is safe for concurrent
// use.
type Shares struct {
	each, all int
	yields    bool

	mu   sync.Mutex
	held map[string]*list.List // of *shared by origin, the oldest first
	sum  int
	next uint64
}

// NewShares returns Shares of which nobody holds one; 0 is no bound.
func NewShares(each, all int) *Shares {
	return &Shares{each: each, all: all, held: map[string]*list.List{}}
}

// Yielding lets who would get none lose its own oldest connection that has not brought a
// whole request yet (Served): of one origin, too, who says nothing makes way.
func (s *Shares) Yielding() *Shares {
	s.yields = true
	return s
}

// Held returns how many connections have a share.
func (s *Shares) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}

// take gives c a share, if there is one for its origin, and returns whose it was if that
// has to be closed for it.
func (s *Shares) take(c *shared) (evicted *shared, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.held[c.origin]
	if mine == nil {
		mine = list.New()
	}
	if s.each > 0 && mine.Len() >= s.each {
		return nil, false
	}
	if s.all > 0 && s.sum >= s.all {
		more := mine.Len() + 1
		if more == 1 {
			more = 0
		}
		if evicted = s.oldestOfMost(more); evicted == nil && s.yields {
			evicted = oldestUnserved(mine)
		}
		if evicted == nil {
			return nil, false
		}
		s.drop(evicted)
	}
	s.held[c.origin] = mine
	s.next++
	c.taken, c.at = s.next, mine.PushBack(c)
	s.sum++
	return evicted, true
}

// oldestOfMost returns the oldest connection of who holds the most, if that is more than
// so many; called with mu held.
func (s *Shares) oldestOfMost(than int) *shared {
	var oldest *shared
	most := than
	for _, of := range s.held {
		first := of.Front().Value.(*shared)
		if n := of.Len(); n > most || oldest != nil && n == most && first.taken < oldest.taken {
			oldest, most = first, n
		}
	}
	return oldest
}

// oldestUnserved returns the oldest connection that has not brought a request yet.
func oldestUnserved(of *list.List) *shared {
	for e := of.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*shared); !c.served.Load() {
			return c
		}
	}
	return nil
}

// drop takes c's share back, if it has one; called with mu held.
func (s *Shares) drop(c *shared) {
	if c.at == nil {
		return
	}
	of := s.held[c.origin]
	of.Remove(c.at)
	c.at = nil
	s.sum--
	if of.Len() == 0 {
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

	served atomic.Bool   // a whole request came over it
	taken  uint64        // in the order of all
	at     *list.Element // nil when it has no share
}

// Close gives the share back.
func (c *shared) Close() error {
	c.shares.mu.Lock()
	c.shares.drop(c)
	c.shares.mu.Unlock()
	return c.Conn.Close()
}
