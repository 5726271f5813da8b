package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Limits of an exchange.
const (
	maxHeader = 64 << 10 // of an answer's header fields together, in bytes
	maxBody   = 32 << 10 // of a request's body that is read before the request is sent
)

var (
	errHeaderTooLarge = errors.New("the answer's header fields are larger than 64 KiB")
	errUnasked        = errors.New("the answer switches protocols, which nobody asked for")
)

// conn is one HTTP/1.1 connection. At most one exchange has it.
type conn struct {
	net.Conn
	server *server
	socket *socket // for idle; nil where it cannot be asked
	reader *bufio.Reader
	header int64     // how much more may be read; noLimit once the header fields are there
	got    bool      // anything was read in this exchange
	fresh  bool      // no exchange was finished on it
	since  time.Time // when it became idle
}

const noLimit = 1 << 62

// Read reads for conn.reader.
func (c *conn) Read(b []byte) (int, error) {
	if c.header <= 0 {
		return 0, errHeaderTooLarge
	}
	if int64(len(b)) > c.header {
		b = b[:c.header]
	}
	n, err := c.Conn.Read(b)
	c.got = c.got || n > 0
	c.header -= int64(n)
	return n, err
}

// requests lends buffers in which requests are put together.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// lend returns a buffer that holds r as it is sent, body included, so that one write
// sends it, it is known what was sent, and it can be sent again. The error is the
// caller's: its body broke off, or its fields cannot be written.
func lend(r *http.Request) (*bytes.Buffer, error) {
	buf := requests.Get().(*bytes.Buffer)
	buf.Reset()
	if err := r.Write(buf); err != nil {
		giveBack(buf)
		return nil, fmt.Errorf("write the request: %w", err)
	}
	return buf, nil
}

func giveBack(buf *bytes.Buffer) {
	if buf.Cap() <= 4*maxBody {
		requests.Put(buf)
	}
}

// plain reports whether our own client can do r: nothing of it has to be sent while
// the answer is read. Early answers, 100 Continue and upgrades need that.
func plain(r *http.Request) bool {
	small := r.Body == nil || r.Body == http.NoBody || r.ContentLength > 0 && r.ContentLength <= maxBody
	return small && len(r.TransferEncoding) == 0 && len(r.Trailer) == 0 && r.Method != http.MethodConnect &&
		len(r.Header["Expect"]) == 0 && len(r.Header["Upgrade"]) == 0
}

// check refuses a request that would be other bytes than were meant. http.Transport
// does the same.
func check(r *http.Request) error {
	if r.Method != "" && !httpguts.ValidHeaderFieldName(r.Method) {
		return fmt.Errorf("the method %q cannot be written", r.Method)
	}
	for _, fields := range []http.Header{r.Header, r.Trailer} {
		for name, values := range fields {
			if !httpguts.ValidHeaderFieldName(name) {
				return fmt.Errorf("the field name %q cannot be written", name)
			}
			for _, v := range values {
				if !httpguts.ValidHeaderFieldValue(v) {
					return fmt.Errorf("the value of the field %q cannot be written", name)
				}
			}
		}
	}
	return nil
}

// failure is an exchange without an answer.
type failure struct {
	err  error
	sent bool // of the request something may have reached the server
	dead bool // the connection had been used before and ended before a byte of the answer
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// exchange sends request, which is r, and reads the answer up to its body. When it
// fails, the connection is closed; else that is the body's to do.
func (c *conn) exchange(r *http.Request, request []byte, wait time.Duration) (*http.Response, *failure) {
	ctx := r.Context()
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { _ = c.Close() }) // which wakes who reads or writes
	}
	c.got, c.header = false, maxHeader
	fail := func(err error, sent bool) *failure {
		dead := !c.got && !c.fresh && !errors.Is(err, errUnasked)
		if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			dead = false
		}
		stop()
		_ = c.Close() // it is lost anyway
		if ctx.Err() != nil {
			return &failure{err: context.Cause(ctx), sent: sent}
		}
		return &failure{err: err, sent: sent, dead: dead}
	}
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, fail(err, false)
	}
	if n, err := c.Write(request); err != nil {
		return nil, fail(fmt.Errorf("send the request: %w", err), n > 0 || c.server.tls != nil)
	}
	resp, err := c.answer(r)
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, fail(fmt.Errorf("read the answer: %w", err), true)
	}
	c.header = noLimit
	b := &body{ReadCloser: resp.Body, conn: c, stop: stop, ctx: ctx, keep: !resp.Close && !r.Close}
	if resp.Body == http.NoBody {
		b.end(nil)
	} else {
		resp.Body = b
	}
	return resp, nil
}

// answer reads the answer to r, past those that only inform (RFC 9110 section 15.2).
func (c *conn) answer(r *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(c.reader, r)
		if err != nil {
			return nil, err
		}
		switch status := resp.StatusCode; {
		case status == http.StatusSwitchingProtocols:
			return nil, errUnasked
		case status < 100:
			return nil, fmt.Errorf("the answer has the status %d", status)
		case status >= 200:
			return resp, nil
		}
		if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
			c.header = maxHeader // who takes them limits them
		}
	}
}

// body is an answer's. At its end the connection is free for the next request; one
// that is closed before is closed with its connection.
type body struct {
	io.ReadCloser
	conn *conn
	stop func() bool
	ctx  context.Context
	keep bool

	over   atomic.Bool
	result atomic.Pointer[error] // of reads after the end
}

// Read reads the body.
func (b *body) Read(p []byte) (int, error) {
	if b.over.Load() {
		if err := b.result.Load(); err != nil {
			return 0, *err
		}
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// Close ends the exchange, whatever has been read.
func (b *body) Close() error {
	if b.over.CompareAndSwap(false, true) {
		b.stop()
		_ = b.conn.Close() // the rest of the answer is in it
	}
	return nil
}

// end gives the connection back, if it is at the answer's end and nothing has gone
// wrong, and returns what a reader is told.
func (b *body) end(err error) error {
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	if !b.over.CompareAndSwap(false, true) {
		return err
	}
	b.result.Store(&err)
	whole := err == nil || err == io.EOF
	if !b.stop() || !whole || !b.keep || b.conn.reader.Buffered() > 0 {
		_ = b.conn.Close()
		return err
	}
	b.conn.server.put(b.conn)
	return err
}
