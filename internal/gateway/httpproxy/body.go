package httpproxy

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// countingReader reads a request's body: it counts and limits it, and does not wait for
// ever. The transport may still read when the answer is there already.
type countingReader struct {
	io.ReadCloser
	n     atomic.Int64
	limit int64 // 0 is none
	pace  pace
	atEnd func()
	whole atomic.Bool // it was read to its end

	mu   sync.Mutex // held by who reads
	left bool       // the handler returns
}

// Read implements io.Reader.
func (c *countingReader) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return 0, http.ErrBodyReadAfterClose
	}
	c.pace.begin()
	n, err := c.ReadCloser.Read(b)
	c.pace.end()
	if err == io.EOF {
		c.whole.Store(true)
	}
	if sum := c.n.Add(int64(n)); c.limit > 0 && sum > c.limit {
		return 0, &tooLarge{}
	}
	if err == io.EOF {
		c.pace.clear() // the answer may take its time
		c.atEnd()
	}
	return n, err
}

// Close implements io.Closer. Of HTTP/1 it leaves the body to net/http: who closes it in
// another goroutine, while its connection has a deadline in the past, has the rest of it
// read as the next request.
func (c *countingReader) Close() error {
	if c.pace.watched != nil && !c.pace.streams {
		return nil
	}
	return c.ReadCloser.Close()
}

// leave ends the transport's reading of HTTP/1, before net/http reads what is left.
func (c *countingReader) leave(w *watched) {
	if c.ReadCloser == nil || w.streams || c.whole.Load() {
		return
	}
	w.mu.Lock()
	w.stopReading()
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	_ = w.control.SetReadDeadline(time.Now().Add(w.stall))
}

// early says that the connection ends with the answer, when the request's body has not: who
// answers early does not know how far its client is, and where the next request begins.
func (x *exchange) early() {
	if x.body.ReadCloser != nil && !x.body.whole.Load() {
		x.last()
	}
}
