package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// ResponseHeader is the default of Options.ResponseHeader.
const ResponseHeader = 2 * time.Minute

// Options are what the file does not say.
type Options struct {
	// ResponseHeader is how long an HTTP/1.1 server may take until its answer's header
	// fields are there. Default: the constant of that name.
	ResponseHeader time.Duration

	// Idle bounds idle connections, of several Pools together. Default: no bound.
	Idle *Idle

	// SelfToken makes tokens of our own, for upstream_auth.id_token.from: self.
	SelfToken SelfToken

	// Logger gets servers that go out. Default: nobody.
	Logger *slog.Logger
}

// A Pool is the http.RoundTripper for one service. It may be used by several
// goroutines.
type Pool struct {
	servers []*server
	auth    authorizer // nil: none
	logger  *slog.Logger
	next    atomic.Uint32
}

// New returns a Pool for a Config that is complete. Files are read here for the first
// time; what is wrong with one is the error.
func New(c Config, o Options) (*Pool, error) {
	if o.ResponseHeader == 0 {
		o.ResponseHeader = ResponseHeader
	}
	if o.Idle == nil {
		o.Idle = NewIdle(0)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pool{logger: o.Logger}
	for i, s := range c.servers() {
		srv, err := newServer(s, o.ResponseHeader, o.Idle)
		if err != nil {
			return nil, fmt.Errorf("http.upstreams[%d]: %w", i, err)
		}
		p.servers = append(p.servers, srv)
	}
	if c.Auth != nil {
		var err error
		if p.auth, err = newAuthorizer(c.Auth, o.SelfToken); err != nil {
			return nil, fmt.Errorf("http.upstream_auth: %w", err)
		}
	}
	return p, nil
}

// Close ends the connections that nobody uses. Requests that are under way go on, and
// later ones are served without keeping anything.
func (p *Pool) Close() {
	for _, s := range p.servers {
		s.close()
	}
}

// RoundTrip sends r to one of the servers, whatever host its URL names, and returns the
// answer as http.RoundTripper has it. It is tried again once, on a fresh connection and
// if possible at another server, when nothing of it can have been acted upon.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	err := check(r)
	if err == nil && p.auth != nil {
		r, err = p.authorized(r)
	}
	if err != nil {
		closeBody(r)
		return nil, err
	}
	s, err := p.ready(r.Context())
	if err != nil {
		closeBody(r)
		return nil, err
	}
	if plain(r) && s.speaks.Load() == speaksHTTP1 {
		return p.own(r, s)
	}
	return p.handed(r, s)
}

func (p *Pool) authorized(r *http.Request) (*http.Request, error) {
	copied := *r
	copied.Header = r.Header.Clone()
	if err := p.auth.authorize(r.Context(), copied.Header); err != nil {
		return r, fmt.Errorf("upstream_auth: %w", err)
	}
	return &copied, nil
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close() // it is the client's, who hears of more than that
	}
}

// pick returns the server whose turn it is, of those that are not out; if all are, one
// of them. It returns except only if there is no other.
func (p *Pool) pick(except *server) *server {
	n := len(p.servers)
	if n == 1 {
		return p.servers[0]
	}
	now, turn := time.Now(), int(p.next.Add(1)%uint32(n))
	for i := range n {
		if s := p.servers[(turn+i)%n]; s != except && s.usable(now) {
			return s
		}
	}
	if except != nil {
		return except
	}
	return p.servers[turn]
}

// ready returns a server of which it is known what it speaks, which of an https server
// the first connection tells.
func (p *Pool) ready(ctx context.Context) (*server, error) {
	var first *server
	for {
		s := p.pick(first)
		if s.speaks.Load() != unknown {
			return s, nil
		}
		c, err := s.get(ctx, true, false)
		if err == nil {
			s.put(c)
			return s, nil
		}
		if err == errHTTP2 {
			return s, nil
		}
		p.failed(ctx, s, err)
		if first != nil || len(p.servers) == 1 {
			return nil, err
		}
		first = s
	}
}

// own is RoundTrip with our own client.
func (p *Pool) own(r *http.Request, s *server) (*http.Response, error) {
	if r.Host == "" {
		copied := *r
		copied.Host = s.url.Host
		r = &copied
	}
	request, err := lend(r)
	if err != nil {
		return nil, err
	}
	defer giveBack(request)
	resp, f := s.ask(r, request.Bytes(), false)
	if f != nil && r.Context().Err() == nil {
		if !f.dead {
			p.failed(r.Context(), s, f)
		}
		other := p.pick(s)
		if !again(r, f, other != s) {
			return nil, f.err
		}
		if s = other; s.speaks.Load() != speaksHTTP1 {
			if !bare(r) {
				return nil, f.err // its body has been read
			}
			return p.hand(r, s)
		}
		if resp, f = s.ask(r, request.Bytes(), true); f != nil {
			p.failed(r.Context(), s, f)
		}
	}
	if f != nil {
		return nil, f.err
	}
	p.answered(s)
	return resp, nil
}

// again reports whether a request that failed may be sent once more. If nothing of it
// was sent, it may, though there is no use in dialling a server again that has just not
// taken a call. If a kept connection ended before a byte of the answer, most likely the
// server had closed it before the request came; but it may have acted, so that only what
// is safe and has no body is repeated (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
func again(r *http.Request, f *failure, elsewhere bool) bool {
	if !f.sent {
		return elsewhere || f.dead
	}
	return f.dead && repeatable(r)
}

// repeatable reports whether r may be sent twice: it is safe, and there is no body that
// was read.
func repeatable(r *http.Request) bool {
	return (r.Method == "" || r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) && bare(r)
}

func bare(r *http.Request) bool { return r.Body == nil || r.Body == http.NoBody }

func (s *server) ask(r *http.Request, request []byte, fresh bool) (*http.Response, *failure) {
	c, err := s.get(r.Context(), fresh, repeatable(r))
	if err != nil {
		return nil, &failure{err: err, dead: err == errHTTP2}
	}
	return c.exchange(r, request, s.wait)
}

func (p *Pool) answered(s *server) {
	if len(p.servers) > 1 {
		s.answered()
	}
}

// failed counts a failure of s, unless it was the client who left.
func (p *Pool) failed(ctx context.Context, s *server, err error) {
	if ctx.Err() != nil {
		return
	}
	if out := s.failed(time.Now()); out > 0 && len(p.servers) > 1 {
		p.logger.Warn("an upstream server fails and gets no requests for a while", "server", s.url.String(), "for", out.String(), "error", err.Error())
	}
}
