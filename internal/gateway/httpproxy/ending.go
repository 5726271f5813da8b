package httpproxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
)

const (
	// stall is how long a client may leave an answer unread, or a body unsent, once it
	// has begun.
	stall = time.Minute

	// parting is how long an exchange that has to end may take to say so.
	parting = 300 * time.Millisecond
)

// errTimeout is why a route's timeout cut an exchange.
var errTimeout = errors.New("the route's timeout is over")

// watched is what can cut an exchange from outside: its pass, and its route's timeout.
type watched struct {
	control *http.ResponseController
	cancel  context.CancelCauseFunc
	streams bool          // over HTTP/2
	stall   time.Duration // the constant, but for tests

	mu    sync.Mutex
	begun bool // an answer is there, or none will be
	past  bool // who reads is told to stop: no deadline moves any more
	over  bool // the handler has returned: its connection serves another
}

// answered says that the upstream has answered for good.
func (w *watched) answered() {
	w.mu.Lock()
	w.begun = true
	w.mu.Unlock()
}

// cut makes whoever waits for the upstream or for the client's body return. What is said
// to the client then has a moment.
func (w *watched) cut(why error) {
	w.cancel(why)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.stopReading()
	time.AfterFunc(parting, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			_ = w.control.SetWriteDeadline(past)
		}
	})
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// stopReading makes whoever waits for the client's body return; called with mu held.
func (w *watched) stopReading() {
	w.past = true
	_ = w.control.SetReadDeadline(past) // HTTP/1 and 2 have both deadlines
}

// A pace bounds how long one read or write of the client's may take. HTTP/1 has deadlines
// for that, which only who waits runs into; those of HTTP/2 end a stream that nobody waits
// for, too, so there it is a timer.
type pace struct {
	*watched
	deadline func(time.Time) error
	armed    time.Time
	timer    *time.Timer
}

func (p *pace) begin() {
	if p.watched == nil {
		return // an exchange that does not keep to it
	}
	if !p.streams {
		if now := time.Now(); now.Sub(p.armed) > p.stall/6 {
			p.armed = now
			p.set(now.Add(p.stall))
		}
		return
	}
	if p.timer != nil {
		p.timer.Reset(p.stall)
		return
	}
	p.timer = time.AfterFunc(p.stall, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over {
			_ = p.deadline(past)
		}
	})
}

// set moves the deadline, unless that would keep somebody waiting who was told to stop, or
// the handler has returned: a transport may read on, and the connection serves another.
func (p *pace) set(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && !p.past {
		_ = p.deadline(at)
	}
}

// leave bounds how long what net/http still has of an answer may take when the handler has
// returned. Of HTTP/1 that is its end, for which the deadline of the last write may be
// over; of HTTP/2, what flow control keeps back.
func (p *pace) leave() { p.set(time.Now().Add(p.stall)) }

func (p *pace) end() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// clear takes a deadline back: nobody waits any more.
func (p *pace) clear() {
	if p.watched != nil && !p.streams {
		p.set(time.Time{})
	}
}

// done says that the handler returns.
func (w *watched) done() {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.cancel(nil)
}

// last says that the connection ends with this answer: the rest of the request is not read.
// Over HTTP/2 only the stream does, and others share the connection.
func (x *exchange) last() {
	if x.r.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close")
	}
}

// ended answers, as far as that can be done, an exchange that had to end.
func (x *exchange) ended(err error) {
	f := fault.Of(err)
	switch {
	case !x.count.begun:
		x.last()
		x.refuse(f)
	case x.grpc:
		endGRPC(x.w, grpcCode(f.Code), f.Public, f.Decision)
	default:
		panic(http.ErrAbortHandler) // so that no client takes a part for the whole
	}
}
