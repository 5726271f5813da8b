// Package httpproxy is the gateway for HTTP/1.1: a reverse proxy by host name in
// which every request is admitted before anything of it goes upstream.
//
// A request is canonicalised or refused once, and what was judged is what is
// forwarded. Upstream it carries an assertion of who called in place of the
// caller's token. Not here yet: routes, TLS, HTTP/2, WebSocket, several upstreams,
// trusted proxies.
//
// Sources: RFC 9110, RFC 9112, RFC 6750, RFC 9457; docs/spec/rfc6750.md.
package httpproxy

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Limits of the listener and of upstream connections.
const (
	MaxHeaderBytes    = 64 << 10         // of a request's header fields together
	ReadHeaderTimeout = 10 * time.Second // from the first byte to the last header
	IdleTimeout       = 3 * time.Minute  // of a kept connection

	dialTimeout      = 5 * time.Second
	idlePerHost      = 1024
	maxResponseBytes = 64 << 10 // of an answer's header fields together
)

// Target is one service to proxy to.
type Target struct {
	Service string
	Config  Config
}

type route struct {
	service  string
	config   Config
	own      map[string]bool // folded names of config.IdentityHeaders
	realm    string
	upstream *url.URL
}

// A Proxy is an http.Handler for all HTTP services.
type Proxy struct {
	core    gateway.Core
	routes  map[string]*route     // by host
	forward httputil.ReverseProxy // copied for each request, whose hooks are its own
}

// New returns a Proxy for targets, whose Configs are complete. It keeps at most idle
// connections to upstreams that nobody uses; 0 is no bound.
func New(core gateway.Core, targets []Target, idle int) *Proxy {
	p := &Proxy{core: core, routes: map[string]*route{}}
	for _, t := range targets {
		r := &route{service: t.Service, config: t.Config, own: map[string]bool{}, realm: t.Service, upstream: t.Config.upstream}
		for name := range t.Config.IdentityHeaders {
			r.own[identity.Fold(name)] = true
		}
		for _, h := range t.Config.Hosts {
			p.routes[h] = r
		}
	}
	p.forward = httputil.ReverseProxy{
		Transport:  transport(idle),
		BufferPool: &buffers{},
		ErrorLog:   slog.NewLogLogger(core.Logger.Handler(), slog.LevelWarn),
	}
	return p
}

func transport(idle int) *http.Transport {
	return &http.Transport{
		MaxIdleConns:           idle,
		Proxy:                  nil, // an upstream is where the file says, not where the environment does
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // the answer is the client's, byte for byte
		MaxResponseHeaderBytes: maxResponseBytes,
		ExpectContinueTimeout:  time.Second,
	}
}

// ServeHTTP admits the request or refuses it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{p: p, w: w, r: r}
	if !x.admit() {
		return
	}
	defer x.close()
	forward := p.forward
	forward.Rewrite, forward.ErrorHandler = x.rewrite, x.upstreamFailed
	forward.ModifyResponse = notOurs
	if r.Body != nil && r.Body != http.NoBody {
		x.body.ReadCloser = r.Body
		r.Body = &x.body
	}
	forward.ServeHTTP(&x.count, r)
}

// exchange is one request on its way.
type exchange struct {
	p         *Proxy
	w         http.ResponseWriter
	r         *http.Request
	route     *route
	host      string // as policy saw it, and the port the client wrote
	path      canonicalPath
	header    string // that held the credential
	pass      *guard.Pass
	id        string // of the decision
	assertion string
	count     countingWriter
	body      countingReader
	identity  http.Header // set upstream
}

// maxMethod is the longest method that is an action, in bytes: longer than any that is
// registered (RFC 9110 section 16.1).
const maxMethod = 32

// action is what a method asks for, in policy's words.
func action(method string) string {
	if len(method) > maxMethod {
		method = "other"
	}
	return "http." + strings.ToLower(method)
}

// admit does everything that comes before the upstream is dialled, and answers
// the client when the answer is no.
func (x *exchange) admit() bool {
	a := guard.Attempt{Action: action(x.r.Method), Caller: attest.FromContext(x.r.Context())}
	a.Peer, _ = netip.ParseAddrPort(x.r.RemoteAddr)
	a.TraceID = traceID(x.r.Header.Get("Traceparent"))
	host, ok := hostName(x.r.Host)
	if ok {
		x.route, ok = x.p.routes[host], x.p.routes[host] != nil
	}
	if !ok {
		return x.turnAway(a, guard.HostUnknown, "the Host is none of this gateway's services")
	}
	x.host = host
	if port := (&url.URL{Host: x.r.Host}).Port(); port != "" {
		x.host = net.JoinHostPort(host, port)
	} else if strings.Contains(host, ":") {
		x.host = "[" + host + "]"
	}
	a.Service = x.route.service
	a.Resource = guard.ToService(x.route.service)
	if reason, why := x.read(&a, host); reason != "" {
		return x.turnAway(a, reason, why)
	}
	pass, err := x.p.core.Guard.Admit(x.r.Context(), a)
	if err != nil {
		x.refuse(err)
		return false
	}
	x.pass = pass
	return x.prepare()
}

// read takes from the request what is judged; a reason means that it cannot be.
func (x *exchange) read(a *guard.Attempt, host string) (guard.Reason, string) {
	r := x.r
	vars := policy.HTTP{Method: r.Method, Host: host}
	if !validAction(r.Method) || r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		a.Action = ""
		return guard.MethodNotAllowed, "the method is not forwarded"
	}
	path, err := canonical(rawPath(r))
	if err != nil {
		return guard.PathRefused, err.Error()
	}
	x.path, vars.Path = path, path.decoded
	a.Request = vars
	if err := checkQuery(r.URL.RawQuery); err != nil {
		return guard.QueryRefused, err.Error()
	}
	if option := endToEnd(r.Header["Connection"]); option != "" {
		return guard.HeaderRefused, "Connection names " + option + ", which is meant for the upstream too"
	}
	if strings.Contains(strings.ToLower(strings.Join(r.Header["Upgrade"], ",")), "websocket") {
		return guard.UpgradeRefused, "websocket is not served by this version"
	}
	raw, header, err := bearer(r.Header)
	x.header = header
	switch {
	case err == errNoCredential:
		return guard.CredentialMissing, "neither Authorization nor X-Serverless-Authorization has a Bearer credential"
	case err != nil:
		return guard.CredentialMalformed, err.Error()
	}
	a.Credentials = []guard.Credential{guard.Bearer(raw)}
	return "", ""
}

// prepare makes what the upstream is told of the caller.
func (x *exchange) prepare() bool {
	a, err := x.pass.Admission()
	if err == nil {
		x.id = a.ID
		x.assertion, err = x.p.core.Assert.Assertion(x.pass)
	}
	if err == nil {
		x.identity = http.Header{}
		err = x.route.config.set(x.identity, &a.Principal)
	}
	if err != nil {
		f := *fault.Of(err)
		f.Decision = x.id
		x.p.core.Logger.Error("a request that was admitted cannot be forwarded", "decision", x.id, "service", x.route.service, "error", err.Error())
		x.refuse(&f)
		return false
	}
	x.count.ResponseWriter = x.w
	return true
}

// rawPath returns the path as it was sent: net/url has decoded it already. Of the
// absolute form (RFC 9112 section 3.2.2) that is what follows the authority.
func rawPath(r *http.Request) string {
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") {
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return "" // "*" and whatever else is no path: refused, not repaired
		}
		i := strings.IndexAny(rest, "/?")
		if i < 0 || rest[i] == '?' {
			return "/"
		}
		target = rest[i:]
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

func validAction(method string) bool {
	if method == "WEBSOCKET" { // http.websocket is an upgrade, and no method may pass for it
		return false
	}
	for i := range len(method) {
		if c := method[i]; !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return method != "" && len(method) <= 32
}

// rewrite builds the request for the upstream. ReverseProxy has removed the
// hop-by-hop headers, and what it removes afterwards is nothing of ours.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL = &url.URL{Scheme: x.route.upstream.Scheme, Host: x.route.upstream.Host,
		Path: x.path.decoded, RawPath: x.path.escaped, RawQuery: pr.In.URL.RawQuery, ForceQuery: pr.In.URL.ForceQuery}
	strip(out.Header, x.route.own)
	out.Header.Del(x.header)
	out.Header.Del("Upgrade") // no protocol is switched to
	out.Header.Del("Connection")
	out.Trailer = nil // fields that nobody judged
	out.Host = x.host
	pr.SetXForwarded()
	out.Header.Set(AssertionHeader, x.assertion)
	for name, v := range x.identity {
		out.Header[name] = v
	}
}

// notOurs takes from an upstream's answer what only we say.
func notOurs(r *http.Response) error {
	r.Header.Del(DecisionHeader)
	return nil
}

func (x *exchange) upstreamFailed(_ http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil { // else the client has gone
		x.p.core.Logger.Warn("the upstream did not answer", "decision", x.id, "service", x.route.service, "error", err.Error())
	}
	x.answer(http.StatusBadGateway, "the service did not answer", x.id)
}

func (x *exchange) close() {
	if err := x.pass.Close(guard.Summary{BytesIn: x.body.n.Load(), BytesOut: x.count.n}); err != nil {
		x.p.core.Logger.Error("the end of a request cannot be recorded", "decision", x.id, "error", err.Error())
	}
}

// traceID takes the trace id from a W3C traceparent header, "" if it has none.
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	for i := range len(parts[1]) {
		if !isHex(parts[1][i]) {
			return ""
		}
	}
	return parts[1]
}

// countingReader counts a request's bytes. The transport may still read when the
// answer is there already.
type countingReader struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// countingWriter counts an answer's bytes.
type countingWriter struct {
	http.ResponseWriter
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush.
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// buffers lends copy buffers to ReverseProxy.
type buffers struct{ pool sync.Pool }

// Get returns a buffer of 32 KiB.
func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

// Put takes one back.
func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
