package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// handed is RoundTrip with http.Transport, which has rules of its own for kept
// connections that ended. Another server is tried when nobody was reached.
func (p *Pool) handed(r *http.Request, s *server) (*http.Response, error) {
	if bare(r) {
		resp, err := p.hand(r, s)
		if other := p.other(r, s, err); other != nil {
			return p.hand(r, other)
		}
		return resp, err
	}
	held := &heldBody{ReadCloser: r.Body, held: len(p.servers) > 1}
	copied := *r
	copied.Body = held
	resp, err := p.hand(&copied, s)
	if other := p.other(r, s, err); other != nil && held.untouched() {
		held = &heldBody{ReadCloser: r.Body}
		copied.Body = held
		resp, err = p.hand(&copied, other)
	}
	held.release()
	return resp, err
}

// other returns another server than s if err came before anything could be sent.
func (p *Pool) other(r *http.Request, s *server, err error) *server {
	o, ok := errors.AsType[*net.OpError](err)
	if !ok || o.Op != dialError || r.Context().Err() != nil {
		return nil
	}
	if other := p.pick(s); other != s {
		return other
	}
	return nil
}

// hand sends r to s with http.Transport.
func (p *Pool) hand(r *http.Request, s *server) (*http.Response, error) {
	upgrade := r.Header.Get("Upgrade")
	transport := s.http1
	if upgrade == "" && s.speaks.Load() == speaksHTTP2 {
		transport = s.http2
	}
	address := *r.URL
	address.Scheme, address.Host = s.url.Scheme, s.url.Host
	copied := *r
	copied.URL = &address
	resp, err := transport.RoundTrip(&copied)
	if err == nil {
		resp.Request = r
		if err = acceptable(resp, upgrade); err != nil {
			_ = resp.Body.Close()
		}
	}
	if err != nil {
		if held, ok := r.Body.(*heldBody); !ok || held.failure() == nil {
			p.failed(r.Context(), s, err)
		}
		return nil, err
	}
	p.answered(s)
	return resp, nil
}

// acceptable refuses answers that cannot be passed on.
func acceptable(resp *http.Response, upgrade string) error {
	switch {
	case resp.StatusCode < 100:
		return fmt.Errorf("the answer has the status %d", resp.StatusCode)
	case resp.StatusCode == http.StatusSwitchingProtocols && (upgrade == "" || !strings.EqualFold(resp.Header.Get("Upgrade"), upgrade)):
		return errUnasked
	}
	return nil
}

// heldBody is a request's body that can be sent again as long as nothing was read from
// it, though http.Transport has closed it.
type heldBody struct {
	io.ReadCloser
	mu     sync.Mutex
	held   bool // Close waits for release
	closed bool
	read   bool
	err    error
}

// Read reads the body.
func (b *heldBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	closed := b.closed
	b.read = true
	b.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// Close closes the body, now or when it is released.
func (b *heldBody) Close() error {
	b.mu.Lock()
	b.closed = true
	held := b.held
	b.mu.Unlock()
	if held {
		return nil
	}
	return b.ReadCloser.Close()
}

// release ends the holding.
func (b *heldBody) release() {
	b.mu.Lock()
	due := b.held && b.closed
	b.held = false
	b.mu.Unlock()
	if due {
		_ = b.ReadCloser.Close() // as above, it is the client's
	}
}

func (b *heldBody) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.read
}

// failure is what reading it failed with: the client's failure, not the server's.
func (b *heldBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
