package httpproxy

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/wire/websocket"
)

// Sizes of a pump's buffers and frames, in bytes. A session that waits has two small
// buffers. A large one is lent once as much came at a time as fills a small one.
const (
	smallBuffer = 1 << 10
	wholeFrame  = 16 << 10 // payloads up to this are passed on in one piece
	largeBuffer = wholeFrame + websocket.MaxHeader
)

// largeBuffers are lent while there is data.
var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// A pump passes the frames of one end on to the other. Its fields belong to run.
type pump struct {
	from, to *end
	order    websocket.Order
	over     chan struct{} // closed when from said close, or is gone

	n      int                // bytes in the buffer, which begin with a frame's header or with rest
	filled bool               // the last read left no room
	head   websocket.Header   // checked, of a frame that is not there whole
	size   int                // of head on the wire; 0 when there is none
	rest   int64              // of the payload of a frame that is passed on as it comes
	large  *[largeBuffer]byte // nil: small is in use
	muted  bool               // to takes no more: frames are read, not passed on
	small  [smallBuffer]byte
}

func newPump(from, to *end, t terms) *pump {
	return &pump{from: from, to: to, over: make(chan struct{}),
		order: websocket.Order{Masked: !from.masked, Deflate: t.deflate, Limit: t.limit}}
}

// run passes frames on until from says close or is gone. The first thing that stops it
// is its verdict; what comes after is read all the same, for the answer to our own
// close frame may be among it, and unread bytes would make the kernel reset the
// connection, with what we said last in it.
func (p *pump) run(verdicts chan<- verdict) {
	defer close(p.over)
	defer p.giveBack()
	tell := func(err error) {
		if !p.muted {
			p.muted = true
			verdicts <- verdict{p, err}
		}
	}
	senseless := false // where a frame begins is not known any more
	for {
		if err := p.read(); err != nil {
			tell(fmt.Errorf("the %s is lost: %w", p.from.name, err))
			return
		}
		if senseless {
			p.n = 0
			continue
		}
		err := p.pass()
		switch {
		case err == nil:
		case err == errSaidClose:
			tell(err)
			return
		default:
			_, senseless = errors.AsType[*websocket.Violation](err)
			tell(err)
		}
	}
}

// read reads once.
func (p *pump) read() error {
	b := p.buffer()
	n, err := p.from.conn.Read(b[p.n:])
	p.n += n
	p.filled = p.n == len(b)
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// buffer returns the one to read into, with the n bytes that wait.
func (p *pump) buffer() []byte {
	coming := p.n > smallBuffer || p.rest > smallBuffer || int64(p.size)+p.head.Length > smallBuffer
	switch {
	case p.large == nil && p.filled:
		p.large = largeBuffers.Get().(*[largeBuffer]byte)
		copy(p.large[:], p.small[:p.n])
	case p.large != nil && !p.filled && !coming:
		copy(p.small[:], p.large[:p.n])
		p.giveBack()
	}
	return p.bytes()
}

func (p *pump) bytes() []byte {
	if p.large != nil {
		return p.large[:]
	}
	return p.small[:]
}

func (p *pump) giveBack() {
	if p.large != nil {
		largeBuffers.Put(p.large)
		p.large = nil
	}
}

// pass passes on what is in the buffer, up to the last frame that is there whole.
func (p *pump) pass() error {
	b := p.bytes()[:p.n]
	i, stop := p.frames(b)
	if i > 0 && !p.muted {
		if err := p.to.pass(b[:i], p.rest > 0, stop == errSaidClose); err != nil && stop == nil {
			stop = err
		}
	}
	p.n = copy(b, b[i:])
	return stop
}

// frames returns how many bytes of b may go on, and what stops everything after them:
// errSaidClose or a *websocket.Violation.
func (p *pump) frames(b []byte) (int, error) {
	for i := 0; ; {
		if p.rest > 0 {
			n := min(p.rest, int64(len(b)-i))
			p.rest -= n
			i += int(n)
			if p.rest > 0 {
				return i, nil
			}
		}
		if p.size == 0 {
			if err := p.header(b[i:]); err != nil || p.size == 0 {
				return i, err
			}
		}
		if p.head.Length > wholeFrame {
			i += p.size
			p.rest, p.head, p.size = p.head.Length, websocket.Header{}, 0
			continue
		}
		whole := p.size + int(p.head.Length)
		if len(b)-i < whole {
			return i, nil
		}
		head, payload := p.head, b[i+p.size:i+whole]
		p.head, p.size = websocket.Header{}, 0
		if head.Opcode == websocket.Close {
			if err := checkClose(head, payload); err != nil {
				return i, err
			}
			return i + whole, errSaidClose
		}
		i += whole
	}
}

// header reads the header of the next frame, if it is there.
func (p *pump) header(b []byte) error {
	h, n, err := websocket.Parse(b)
	if err == nil && n > 0 {
		err = p.order.Next(h)
	}
	if err == nil {
		p.head, p.size = h, n
	}
	return err
}

// checkClose judges a close frame and leaves it as it came.
func checkClose(h websocket.Header, payload []byte) error {
	var plain [websocket.MaxControl]byte
	n := copy(plain[:], payload)
	h.Mask(plain[:n])
	_, _, err := websocket.ParseClose(plain[:n])
	return err
}
