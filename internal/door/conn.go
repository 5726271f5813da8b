package door

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/fault"
)

// ConnContext is for http.Server.ConnContext: it lets Caller find who is connected,
// if an attest.Listener accepted the connection.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*shared); ok {
		ctx, c = context.WithValue(ctx, sharedKey{}, l), l.Conn
	}
	if conn, ok := attest.Of(c); ok {
		return WithCaller(ctx, conn)
	}
	return ctx
}

type sharedKey struct{}

// Served says that a whole request came over the connection of ctx: it is not the first to
// make way for others any more.
func Served(ctx context.Context) {
	if c, ok := ctx.Value(sharedKey{}).(*shared); ok && !c.served.Load() {
		c.served.Store(true)
	}
}

// WithCaller returns a context in which Caller finds c.
func WithCaller(ctx context.Context, c attest.Conn) context.Context {
	return attest.NewContext(ctx, &c)
}

// Caller returns the connection that a request came over.
func Caller(ctx context.Context) (attest.Conn, bool) {
	if c := attest.FromContext(ctx); c != nil {
		return *c, true
	}
	return attest.Conn{}, false
}

// Limits of what one caller may hold, so that a client that is wrong, or hostile,
// is an outage of itself alone. They bound what is held at a time and not how often
// one may ask: whoever is alone has the whole server.
const (
	// maxTurns is how many tokens are made for one caller at a time. A signature of
	// RS256 takes up to a millisecond of one core: nobody waits longer for others than
	// for these. Fewer leave the processors idle while the disk syncs.
	maxTurns = 64

	// maxIdle is for how many callers their turns are kept while they want none.
	maxIdle = 1024

	// patience is how long a request waits for its turn before it is told to come
	// back later.
	patience = 5 * time.Second
)

// Places are what callers may hold of something at a time: so many of one uid, so
// many of all. It is safe for concurrent use.
type Places struct {
	each, all int

	mu   sync.Mutex
	held map[uint32]int
	sum  int
}

// How many requests may wait for a change at a time: of one uid, and of all. They
// cost memory and nothing else, and clients that are turned away come back.
const (
	maxWaiting    = 64
	maxWaitingAll = 4096
)

// NewWaiting returns the Places of those who wait for a change.
func NewWaiting() *Places { return NewPlaces(maxWaiting, maxWaitingAll) }

// NewPlaces returns Places of which nobody holds one; all is 0 for no bound.
func NewPlaces(each, all int) *Places { return &Places{each: each, all: all, held: map[uint32]int{}} }

// Enter takes a place for uid, if there is one for it; leave gives it back, once.
func (p *Places) Enter(uid uint32) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[uid] >= p.each || p.all > 0 && p.sum >= p.all {
		return nil, false
	}
	p.held[uid]++
	p.sum++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sum--
		if p.held[uid]--; p.held[uid] == 0 {
			delete(p.held, uid)
		}
	}), true
}

// Turns gives each caller a bounded number of tokens in the making. It is safe for
// concurrent use; doors of one server share it.
type Turns struct {
	mu   sync.Mutex
	held map[uint32]*queue
}

type queue struct {
	slots chan struct{}
	users int // requests that hold or wait for a slot
}

// NewTurns returns a Turns in which nobody is waiting.
func NewTurns() *Turns { return &Turns{held: map[uint32]*queue{}} }

// turn waits until the request's caller may have another token made. The function it
// returns ends the turn.
func (l *Local) turn(r *http.Request) (func(), error) {
	conn, ok := Caller(r.Context())
	if !ok {
		return func() {}, nil // refused when it is admitted
	}
	return l.Turns.Wait(r.Context(), conn.UID())
}

// Wait waits for uid's turn; end ends it. It fails with a *fault.Error when others of
// the same uid take too long.
func (t *Turns) Wait(ctx context.Context, uid uint32) (end func(), err error) {
	t.mu.Lock()
	q := t.held[uid]
	if q == nil {
		q = &queue{slots: make(chan struct{}, maxTurns)}
		t.held[uid] = q
	}
	q.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.users--; q.users == 0 && len(t.held) > maxIdle {
			delete(t.held, uid)
		}
	}
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots; leave() }, nil
	default:
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots; leave() }, nil
	case <-late.C:
	case <-ctx.Done():
	}
	leave()
	return nil, &fault.Error{Code: fault.TooMany, Public: "too many requests of this user at once", RetryAfter: time.Second}
}
