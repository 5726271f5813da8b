package caller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// When tokens are fetched.
const (
	renewBefore = 5 * time.Minute // a token's end; for a short life, half of what is left
	firstPause  = time.Second     // after a fetch that failed, doubled by each further one
	maxPause    = time.Minute
)

// A Source gives tokens for one audience. It is safe for concurrent use and needs
// no closing: it fetches when it is asked and owns nothing in between.
type Source struct {
	audience string
	door     *door
	to       destinations
	now      func() time.Time
	log      *slog.Logger

	mu     sync.Mutex
	raw    string    // the token that is served; "" if there is none
	ends   time.Time // of raw
	renew  time.Time // when to fetch ahead
	flight *flight   // the fetch that runs; nil when none does
	err    error     // of the last fetch
	failed int       // fetches, one after the other
	again  time.Time // no fetch before this

	dropped string    // the last token that was dropped
	keep    time.Time // until when it is not dropped once more, when the door gave it again
}

// A flight is one fetch. Its result may be read when done is closed.
type flight struct {
	done chan struct{}
	raw  string
	err  error
}

// Token returns a token for the audience, to be sent as it is and not to be kept.
// From five minutes before its end a token is renewed in the background, and
// served until it ends. Only when there is none does Token wait, for the one fetch
// that all callers share, or until ctx is done.
//
// An error wraps ErrUnavailable, ErrDenied, ErrAnswer or ctx's. After a fetch that
// failed none is made for a second, then two, four, up to a minute; until then its
// error is returned at once.
func (s *Source) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	now := s.now()
	paused := s.flight == nil && now.Before(s.again)
	if s.raw != "" && now.Before(s.ends) {
		raw := s.raw
		if !now.Before(s.renew) && !paused {
			s.start()
		}
		s.mu.Unlock()
		return raw, nil
	}
	if paused {
		err := s.err
		s.mu.Unlock()
		return "", err
	}
	f := s.start()
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.raw, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("caller: wait for a token of %s: %w", s.door.name, ctx.Err())
	}
}

// Drop makes the Source forget raw, if that is what it serves: for a service that
// answered that it is not good. Transport does this by itself. A door that has just
// made a token gives it again for some minutes: one that comes back after it was
// dropped is then served for a minute before it can be dropped once more.
func (s *Source) Drop(raw string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raw == raw && !(raw == s.dropped && s.now().Before(s.keep)) {
		s.raw, s.dropped, s.keep = "", raw, time.Time{}
	}
}

// start begins a fetch or joins the one that runs; called with mu held. The fetch
// is not tied to any caller's context: others wait for it too.
func (s *Source) start() *flight {
	if s.flight != nil {
		return s.flight
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	go func() {
		raw, err := s.door.fetch(context.Background(), s.audience)
		s.mu.Lock()
		s.land(f, raw, err)
		s.mu.Unlock()
		close(f.done)
	}()
	return f
}

// land takes in the result of a fetch; called with mu held.
func (s *Source) land(f *flight, raw string, err error) {
	now := s.now()
	var ends time.Time
	if err == nil {
		ends, err = check(raw, s.audience, now)
	}
	s.flight, s.err, f.err = nil, err, err
	if err != nil {
		s.again = now.Add(min(firstPause<<min(s.failed, 10), maxPause))
		s.failed++
		if s.raw != "" && now.Before(s.ends) {
			s.log.Warn("a token cannot be renewed; the old one is used until it ends", "audience", s.audience,
				"ends", s.ends, "error", err.Error())
		}
		return
	}
	s.failed, s.again = 0, time.Time{}
	if raw == s.dropped {
		s.keep = now.Add(maxPause)
	}
	f.raw, s.raw, s.ends = raw, raw, ends
	s.renew = ends.Add(-min(renewBefore, ends.Sub(now)/2))
}
