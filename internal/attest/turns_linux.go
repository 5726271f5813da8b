package attest

import (
	"context"
	"slices"
	"sync"
)

// turns shares out work between the uids that make us do it, so much at a time: each uid
// that waits has its turn before any has its next, so that whoever asks in a loop delays
// itself.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting map[uint32][]chan struct{} // by uid, who came first first
	order   []uint32                   // of waiting: whose turn is next
}

func newTurns(n int) *turns { return &turns{free: n, waiting: map[uint32][]chan struct{}{}} }

// begin waits for a turn on behalf of uid, which end ends. It fails when ctx is done.
func (s *turns) begin(ctx context.Context, uid uint32) error {
	s.mu.Lock()
	if s.free > 0 { // then nobody waits
		s.free--
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if len(s.waiting[uid]) == 0 {
		s.order = append(s.order, uid)
	}
	s.waiting[uid] = append(s.waiting[uid], turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	at := slices.Index(s.waiting[uid], turn)
	if at >= 0 {
		s.keep(uid, slices.Delete(s.waiting[uid], at, at+1))
	}
	s.mu.Unlock()
	if at < 0 { // the turn came meanwhile
		s.end()
	}
	return ctx.Err()
}

// end hands the turn on to the uid whose turn it is.
func (s *turns) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		s.free++
		return
	}
	uid := s.order[0]
	s.order = append(s.order[1:], uid)
	first := s.waiting[uid][0]
	s.keep(uid, s.waiting[uid][1:])
	close(first)
}

// keep is who waits of uid now; called with mu held.
func (s *turns) keep(uid uint32, waiting []chan struct{}) {
	if len(waiting) > 0 {
		s.waiting[uid] = waiting
		return
	}
	delete(s.waiting, uid)
	s.order = slices.DeleteFunc(s.order, func(u uint32) bool { return u == uid })
}
