package audit

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// state is what Health says. It has a lock of its own, which is never held while
// the disk is asked for something.
type state struct {
	mu       sync.Mutex // guards the rest
	closed   bool
	broken   error // why nothing can be written until a restart
	failing  error // why the last Append failed; nil after one that worked
	unsigned error // why the last checkpoint failed; nil after one that worked
	stalled  bool  // the disk does not answer
}

func (s *state) fails(log *slog.Logger, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing == nil {
		log.Error("audit log cannot be written; every action that needs a record is refused", "err", err)
	}
	s.failing = err
}

func (s *state) worked(log *slog.Logger, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing != nil {
		s.failing = nil
		log.Info("audit log is written again", "seq", seq)
	}
}

func (s *state) breaks(log *slog.Logger, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	log.Error("audit log is broken until a restart; every action that needs a record is refused", "err", err)
}

// signing notes how making a checkpoint over size entries ended.
func (s *state) signing(log *slog.Logger, size uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.unsigned == nil:
		log.Error("audit log cannot be signed; it is tried again", "err", err)
	case err == nil && s.unsigned != nil:
		log.Info("audit log is signed again", "size", size)
	}
	s.unsigned = err
}

func (s *state) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// Health returns nil, or why records are refused (ErrUnavailable, ErrClosed) or
// are not being covered by checkpoints. It never waits for the disk.
func (l *Log) Health() error {
	s := &l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.broken != nil:
		return unavailable(s.broken)
	case s.stalled:
		return unavailable(errStalled)
	case s.failing != nil:
		return unavailable(s.failing)
	}
	return s.unsigned
}

// defaultPatience is how long the disk may take for one operation before those who
// wait are refused.
const defaultPatience = 5 * time.Second

var errStalled = errors.New("the disk does not answer")

// stall lets those who wait go when the disk does not answer.
type stall struct {
	born    time.Time
	writing atomic.Int64 // when what is done under mu began, in ns since born; 0: nothing is
	syncing atomic.Int64 // the same of fdatasync
	keying  atomic.Int64 // the same of making a period key

	ch atomic.Pointer[chan struct{}] // closed while the disk does not answer
}

func (s *stall) init() {
	s.born = time.Now() // of the monotonic clock, whatever the log's own says
	ch := make(chan struct{})
	s.ch.Store(&ch)
}

// signal returns a channel that is closed when the disk does not answer.
func (s *stall) signal() <-chan struct{} { return *s.ch.Load() }

// begin notes that an operation begins; the function it returns, that it has ended.
func (s *stall) begin(op *atomic.Int64) func() {
	op.Store(int64(time.Since(s.born)))
	return func() { op.Store(0) }
}

// longest returns for how long the oldest operation has been under way.
func (s *stall) longest() time.Duration {
	now := int64(time.Since(s.born))
	oldest := now
	for _, op := range []*atomic.Int64{&s.writing, &s.syncing, &s.keying} {
		if began := op.Load(); began != 0 {
			oldest = min(oldest, began)
		}
	}
	return time.Duration(now - oldest)
}

// watch closes and renews the stall's channel as the disk stops answering and
// answers again.
func (l *Log) watch() {
	tick := time.NewTicker(max(time.Millisecond, l.opt.patience/20))
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		is := l.stall.longest() > l.opt.patience
		l.state.mu.Lock()
		was := l.state.stalled
		l.state.stalled = is
		l.state.mu.Unlock()
		switch {
		case is && !was:
			close(*l.stall.ch.Load())
			l.opt.Logger.Error("audit log: the disk does not answer; every action that needs a record is refused", "for", l.opt.patience.String())
		case !is && was:
			ch := make(chan struct{})
			l.stall.ch.Store(&ch)
			l.opt.Logger.Info("audit log: the disk answers again")
		}
	}
}
