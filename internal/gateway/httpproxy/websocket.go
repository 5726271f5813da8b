package httpproxy

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/wire/websocket"
)

// Bounds of a WebSocket session. There is no bound on silence: a peer that is gone
// without a word is found by TCP's keep-alives, which net and net/http turn on, and a
// session that waits costs no more than its small buffers.
const (
	// webSocketStall is how long an end may take to take 16 KiB, and how long one may
	// leave the other's close frame unanswered.
	webSocketStall = time.Minute

	// webSocketFarewell is how long an ended session waits for the close frames of the
	// two ends before their connections are cut.
	webSocketFarewell = time.Second
)

// A duplex is one end of a session: a connection, or the Body of an upstream's 101.
// Close makes a Read or Write of another goroutine fail. Deadlines are not asked for,
// since a Body has none; CloseWrite is used where there is one.
type duplex = io.ReadWriteCloser

// A session is what ends a relay, as *guard.Pass does.
type session interface {
	Done() <-chan struct{}
	Err() error
}

// terms are what a relay keeps to.
type terms struct {
	deflate  bool          // permessage-deflate was agreed on
	limit    int64         // of a message's payload on the wire, in bytes; 0 is none
	stall    time.Duration // default webSocketStall
	farewell time.Duration // default webSocketFarewell
}

// relay carries frames between the two ends as they are until both have closed, one is
// lost or breaks the protocol, or the pass ends; then both connections are closed. It
// returns the bytes passed on from the client and to it, headers of frames and all.
// err is nil after both ends said goodbye or one simply went after the other had; the
// pass's own error when that ended it; otherwise what went wrong, for the log.
//
// Once pass.Done() is closed no more is passed on. The client is told 1008 with the
// safe class, or 1012 when the server drains, and the upstream 1001, between two
// frames. So that there is such a place soon, a frame of up to 16 KiB is passed on when
// it is there whole. A longer one is passed on as it comes, and one that is not through
// is cut by closing the connection: any byte more would be one after the end, and a
// close frame would be read as its payload.
func relay(client, upstream duplex, pass session, t terms) (in, out int64, err error) {
	if t.stall == 0 {
		t.stall = webSocketStall
	}
	if t.farewell == 0 {
		t.farewell = webSocketFarewell
	}
	done := pass.Done()
	c := &end{name: "client", conn: client, done: done, stall: t.stall}
	u := &end{name: "upstream", conn: upstream, done: done, stall: t.stall, masked: true}
	up, down := newPump(c, u, t), newPump(u, c, t)
	verdicts := make(chan verdict, 2) // one of each pump
	go up.run(verdicts)
	go down.run(verdicts)

	bye, err := decide(pass, verdicts, t.stall)
	cut := time.AfterFunc(t.farewell, func() {
		go func() { _ = c.conn.Close() }() // TLS may take its time over the last words
		_ = u.conn.Close()
	})
	defer cut.Stop()
	var both sync.WaitGroup
	both.Go(func() { c.leave(bye.client, bye.reason, up.over) })
	both.Go(func() { u.leave(bye.upstream, bye.reason, down.over) })
	both.Wait()
	return u.passed, c.passed, err
}

// A verdict is why a pump passes nothing on any more.
type verdict struct {
	of  *pump
	err error // errSaidClose, a *websocket.Violation, or what became of a connection
}

// errSaidClose is the good end: a close frame came and was passed on.
var errSaidClose = errors.New("close frame")

// A goodbye is what the two ends are told; no code means that nothing is said.
type goodbye struct {
	client, upstream websocket.Code
	reason           string
}

// decide waits until the session is over and says what is to be said.
func decide(pass session, verdicts <-chan verdict, patience time.Duration) (goodbye, error) {
	var unanswered <-chan time.Time
	closing := false
	for {
		select {
		case <-pass.Done():
			return ended(pass.Err())
		case <-unanswered:
			return goodbye{}, errors.New("a close frame was not answered")
		case v := <-verdicts:
			if broke, ok := errors.AsType[*websocket.Violation](v.err); ok {
				// Each end learns why this one stops, whoever made it.
				return goodbye{broke.Code, broke.Code, broke.Rule}, fmt.Errorf("the %s: %w", v.of.from.name, broke)
			}
			select {
			case <-pass.Done(): // which is why the pump stopped
				return ended(pass.Err())
			default:
			}
			if closing {
				return goodbye{}, nil
			}
			if v.err != errSaidClose {
				return goodbye{}, v.err // a connection that was lost is passed on as that
			}
			closing, unanswered = true, time.After(patience)
		}
	}
}

// ended says why the session may not go on: 1012 asks the client to come again
// (RFC 6455 section 7.4 and its registry).
func ended(err error) (goodbye, error) {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		f = fault.New(fault.Denied, err, "session ended")
	}
	b := goodbye{client: websocket.PolicyViolation, upstream: websocket.GoingAway, reason: f.Public}
	if f.Code == fault.Busy {
		b.client = websocket.ServiceRestart
	}
	if f.Decision != "" {
		b.reason += " (" + f.Decision + ")"
	}
	return b, f
}

// An end is one side's connection, with what was written to it.
type end struct {
	name   string
	conn   duplex
	done   <-chan struct{} // of the pass
	stall  time.Duration
	masked bool // frames of ours are masked: it is a server

	mu     sync.Mutex
	timer  *time.Timer // cuts a write that takes too long; made with the first
	left   bool        // nothing more is passed on
	told   bool        // the other end's close frame was passed on
	cut    bool        // what was passed on ends within a frame
	passed int64       // bytes
}

// errLeft says that the session is over and nothing was written.
var errLeft = errors.New("the session is over")

// pass writes b, which ends within a frame if cut says so, and with a close frame if
// last does.
func (e *end) pass(b []byte, cut, last bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.done:
		return errLeft
	default:
	}
	if e.left {
		return errLeft
	}
	n, err := e.write(b)
	e.passed += int64(n)
	e.cut, e.told = cut || err != nil, last
	return err
}

// write needs mu. A write that lasts for longer than stall fails, with the connection.
func (e *end) write(b []byte) (int, error) {
	if e.timer == nil {
		e.timer = time.AfterFunc(e.stall, func() { _ = e.conn.Close() })
	} else {
		e.timer.Reset(e.stall)
	}
	n, err := e.conn.Write(b)
	if inTime := e.timer.Stop(); err != nil && !inTime {
		return n, fmt.Errorf("the %s takes nothing: %w", e.name, err)
	} else if err != nil {
		return n, fmt.Errorf("the %s is lost: %w", e.name, err)
	}
	return n, nil
}

// leave says goodbye, waits until the end has said it too or is gone, and closes the
// connection. Somebody else cuts it when that takes too long.
func (e *end) leave(code websocket.Code, reason string, over <-chan struct{}) {
	e.mu.Lock()
	e.left = true
	switch {
	case e.cut:
		_ = e.conn.Close() // and it sees that a frame is not whole
	case e.told: // it owes an answer, or has given it
	case code != 0:
		_, _ = e.write(websocket.AppendClose(nil, code, reason, e.masked)) // it may be gone
	default:
		// What is on its way arrives, which the reset of a close with bytes unread could prevent.
		if half, ok := e.conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			_ = e.conn.Close()
		}
	}
	e.mu.Unlock()
	<-over
	_ = e.conn.Close()
}
