package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of connections.
const (
	dialTimeout = 5 * time.Second  // each, of connecting and of the TLS handshake
	idleTimeout = 90 * time.Second // of a connection that nobody uses
	idlePerHost = 1024             // connections that nobody uses, to one server
	pingAfter   = 15 * time.Second // of silence on an HTTP/2 connection; as long again ends it

	dialError = "dial" // net.OpError.Op, when nothing was sent
)

var errHTTP2 = errors.New("the server speaks HTTP/2")

// What an https server is known to speak.
const (
	unknown int32 = iota
	speaksHTTP1
	speaksHTTP2
)

// server is one upstream server: its connections and its health.
type server struct {
	url  *url.URL // as requests to it are addressed: http or https, and a host
	dial func(context.Context) (net.Conn, error)
	tls  *material // nil: in the clear
	wait time.Duration
	idle *Idle

	speaks atomic.Int32
	http1  *http.Transport // for what our own client does not do
	http2  *http.Transport

	health

	mu     sync.Mutex
	free   []*conn // oldest first
	sweep  *time.Timer
	closed bool
}

func newServer(s Server, wait time.Duration, idle *Idle) (*server, error) {
	u, err := parse(s.URL)
	if err != nil {
		return nil, err
	}
	out := &server{wait: wait, idle: idle}
	network, address := "tcp", u.Host
	switch u.Scheme {
	case "unix":
		network, address = "unix", u.Path
		u = &url.URL{Scheme: "http", Host: "unix"}
	case "https":
		if out.tls, err = newMaterial(s, u.Hostname()); err != nil {
			return nil, err
		}
	}
	if network == "tcp" && u.Port() == "" {
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		address = net.JoinHostPort(u.Hostname(), port)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	out.dial = func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, address) }
	switch u.Scheme {
	case "h2c":
		u = &url.URL{Scheme: "http", Host: u.Host}
		out.speaks.Store(speaksHTTP2)
	case "http":
		out.speaks.Store(speaksHTTP1)
	}
	out.url = u
	out.http1, out.http2 = out.transports()
	return out, nil
}

// transports returns the clients of net/http: one that keeps to HTTP/1.1, as upgrades
// must, and one for HTTP/2. An HTTP/2 answer may begin whenever it likes, since gRPC
// servers send no header fields before their first message; pings find a server that
// is gone.
func (s *server) transports() (http1, http2 *http.Transport) {
	client := func(protocols ...string) *http.Transport {
		return &http.Transport{
			Proxy:                  nil, // an upstream is where the file says, not where the environment does
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
			DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dialTLS(ctx, protocols...) },
			MaxIdleConns:           s.idle.share(),
			MaxIdleConnsPerHost:    idlePerHost,
			IdleConnTimeout:        idleTimeout,
			DisableCompression:     true, // the answer is the client's, byte for byte
			MaxResponseHeaderBytes: maxHeader,
			ExpectContinueTimeout:  time.Second,
			Protocols:              new(http.Protocols),
		}
	}
	http1 = client("http/1.1")
	http1.ResponseHeaderTimeout = s.wait
	http1.Protocols.SetHTTP1(true)
	http2 = client("h2", "http/1.1")
	http2.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter}
	if s.tls == nil {
		http2.Protocols.SetUnencryptedHTTP2(true)
	} else {
		http2.Protocols.SetHTTP1(true)
		http2.Protocols.SetHTTP2(true)
	}
	return http1, http2
}

func (s *server) dialTLS(ctx context.Context, protocols ...string) (net.Conn, error) {
	config, err := s.tls.config(protocols)
	if err != nil {
		return nil, &net.OpError{Op: dialError, Err: err}
	}
	raw, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, config)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &net.OpError{Op: dialError, Net: "tls", Err: err}
	}
	return c, nil
}

// justNow is how short a time ago a connection was used that needs no look: a system call
// for each request. Servers keep theirs for longer, and what is safe to repeat is repeated.
const justNow = 100 * time.Millisecond

// get returns a connection for our own client: one that was kept, if it is as it was
// left, or a fresh one. For what may be repeated, that is not looked at when it was used
// just now. errHTTP2 says that the server speaks HTTP/2, whatever was known.
func (s *server) get(ctx context.Context, fresh, repeatable bool) (*conn, error) {
	for !fresh {
		c := s.take()
		if c == nil {
			break
		}
		if repeatable && time.Since(c.since) < justNow || c.socket.idle() {
			return c, nil
		}
		_ = c.Close()
	}
	if s.tls == nil {
		raw, err := s.dial(ctx)
		if err != nil {
			return nil, err
		}
		return s.newConn(raw, raw), nil
	}
	secure, err := s.dialTLS(ctx, "h2", "http/1.1")
	if err != nil {
		return nil, err
	}
	t := secure.(*tls.Conn)
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		s.speaks.Store(speaksHTTP2)
		_ = t.Close() // one for each server and start: http.Transport makes its own
		return nil, errHTTP2
	}
	s.speaks.Store(speaksHTTP1)
	return s.newConn(t, t.NetConn()), nil
}

func (s *server) newConn(c, raw net.Conn) *conn {
	out := &conn{Conn: c, server: s, socket: newSocket(raw), fresh: true}
	out.reader = bufio.NewReader(out)
	return out
}

func (s *server) take() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.free) - 1
	if last < 0 {
		return nil
	}
	c := s.free[last] // the one that was used last: the others may grow old and go
	s.free[last] = nil
	s.free = s.free[:last]
	s.idle.n.Add(-1)
	return c
}

// put keeps a connection for the next request, or closes it if there are enough.
func (s *server) put(c *conn) {
	c.since, c.fresh = time.Now(), false
	s.mu.Lock()
	if s.closed || len(s.free) >= idlePerHost || !s.idle.add() {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.free = append(s.free, c)
	if s.sweep == nil {
		s.sweep = time.AfterFunc(idleTimeout, s.expire)
	}
	s.mu.Unlock()
}

// expire closes what has been idle for too long, and comes back while anything is.
func (s *server) expire() {
	s.mu.Lock()
	n, now := 0, time.Now()
	for n < len(s.free) && now.Sub(s.free[n].since) >= idleTimeout {
		n++
	}
	old := append([]*conn(nil), s.free[:n]...)
	s.free = append(s.free[:0], s.free[n:]...)
	clear(s.free[len(s.free) : len(s.free)+n])
	s.sweep = nil
	if len(s.free) > 0 {
		s.sweep = time.AfterFunc(idleTimeout-now.Sub(s.free[0].since), s.expire)
	}
	s.mu.Unlock()
	s.drop(old)
}

func (s *server) drop(conns []*conn) {
	s.idle.n.Add(-int64(len(conns)))
	for _, c := range conns {
		_ = c.Close()
	}
}

// close ends what is idle; from now on nothing is kept.
func (s *server) close() {
	s.mu.Lock()
	old := s.free
	s.free, s.closed = nil, true
	if s.sweep != nil {
		s.sweep.Stop()
		s.sweep = nil
	}
	s.mu.Unlock()
	s.drop(old)
	s.http1.CloseIdleConnections()
	s.http2.CloseIdleConnections()
}

// Idle bounds the connections that nobody uses, of all Pools that share it.
type Idle struct {
	max int64
	n   atomic.Int64
}

// NewIdle returns an Idle of at most max connections; 0 is no bound.
func NewIdle(max int) *Idle { return &Idle{max: int64(max)} }

func (i *Idle) add() bool {
	if n := i.n.Add(1); i.max > 0 && n > i.max {
		i.n.Add(-1)
		return false
	}
	return true
}

// share is what each http.Transport may keep: they do not count together.
func (i *Idle) share() int {
	if i.max == 0 {
		return 0
	}
	return int(max(16, i.max/10))
}
