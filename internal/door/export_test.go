package door

import "net"

// Kept returns for how many uids something is kept.
func (p *Places) Kept() int { return len(p.held) }

// Kept returns for how many uids something is kept.
func (t *Turns) Kept() int { return len(t.held) }

// Kept returns how many origins hold something.
func (s *Shares) Kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// Take takes a share for a connection of origin; closed is called when it is closed for
// another.
func (s *Shares) Take(origin string, closed func(), served ...bool) bool {
	c := &shared{Conn: noConn{closed: closed}, shares: s, origin: origin}
	c.served.Store(len(served) > 0)
	evicted, ok := s.take(c)
	if evicted != nil {
		_ = evicted.Conn.Close()
	}
	return ok
}

type noConn struct {
	net.Conn
	closed func()
}

func (c noConn) Close() error { c.closed(); return nil }
