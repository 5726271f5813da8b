// Package httpproxy is the gateway for HTTP: a reverse proxy by host name in which every
// request, call and WebSocket is admitted before anything of it goes upstream, and ends
// when it may not go on.
//
// A request is canonicalised or refused once, and what was judged is what is forwarded.
// Upstream it carries an assertion of who called in place of the caller's token.
//
// Sources: RFC 9110, RFC 9112, RFC 9113, RFC 6750, RFC 9457, RFC 6455; docs/spec/rfc6750.md.
package httpproxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Limits of the listener and of upstream connections.
const (
	MaxHeaderBytes    = 64 << 10         // of a request's header fields together
	ReadHeaderTimeout = 10 * time.Second // from the first byte to the last header
	IdleTimeout       = 3 * time.Minute  // of a kept connection
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
	known    map[string]bool // what drops says of common names
	realm    string
	public   string // what of it is
	upstream *upstream.Pool
}

// A Proxy is an http.Handler for all HTTP services.
type Proxy struct {
	core   gateway.Core
	routes map[string]*route // by host
	pools  []*upstream.Pool
	stall  time.Duration // the constant, but for tests
}

// New returns a Proxy for targets, whose Configs are complete. It keeps at most idle
// connections to upstreams that nobody uses; 0 is no bound. An error is about a file that
// a Config names.
func New(core gateway.Core, targets []Target, idle int) (*Proxy, error) {
	p := &Proxy{core: core, routes: map[string]*route{}, stall: stall}
	o := upstream.Options{Idle: upstream.NewIdle(idle), SelfToken: core.SelfToken, Logger: core.Logger}
	for _, t := range targets {
		r := &route{service: t.Service, config: t.Config, own: map[string]bool{}, known: map[string]bool{}, realm: t.Service, public: t.Config.Public()}
		var err error
		if r.upstream, err = upstream.New(t.Config.Config, o); err != nil {
			p.Close()
			return nil, fmt.Errorf("services: %s: %w", t.Service, err)
		}
		p.pools = append(p.pools, r.upstream)
		if name := t.Config.CredentialHeader(); name != "" {
			r.own[identity.Fold(name)] = true
		}
		for name := range t.Config.IdentityHeaders {
			r.own[identity.Fold(name)] = true
		}
		for _, name := range common {
			r.known[name] = hop[name] || dropped(name, r.own)
		}
		for _, h := range t.Config.Hosts {
			p.routes[h] = r
		}
	}
	return p, nil
}

// Close ends the connections to upstreams that nobody uses. Requests that are under way
// go on.
func (p *Proxy) Close() {
	for _, pool := range p.pools {
		pool.Close()
	}
}

// ServeHTTP admits the request or refuses it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{p: p, w: w, r: r, scheme: "http", grpc: isGRPC(r)}
	if r.TLS != nil {
		x.scheme = "https"
	}
	x.count.ResponseWriter = w
	if x.grpc {
		x.began = time.Now()
	}
	if !x.admit() {
		return
	}
	defer x.close()
	switch {
	case !x.prepare():
	case x.preflight && !x.at.CORS.Pass:
		w.Header().Set(DecisionHeader, x.id)
		x.at.CORS.Answer.answer(w, r)
	default:
		x.forward()
	}
}

// exchange is one request on its way.
type exchange struct {
	p         *Proxy
	w         http.ResponseWriter
	r         *http.Request
	route     *route
	at        *Route
	grpc      bool // it is a call of gRPC
	began     time.Time
	upgrade   *upgrade // to WebSocket; nil for others
	preflight bool
	host      string // as policy saw it, and the port the client wrote
	scheme    string // the client's
	from      string // X-Forwarded-For
	behind    bool   // a proxy that is trusted to say that: the connection is not the caller's
	path      canonicalPath
	judged    string // header that held the credential
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

// public reports whether x is for anybody.
func (x *exchange) public() bool { return x.at.Public || x.preflight }

// admit does everything that comes before the upstream is dialled, and answers
// the client when the answer is no.
func (x *exchange) admit() bool {
	a := guard.Attempt{Action: action(x.r.Method), Caller: attest.FromContext(x.r.Context())}
	a.Peer, _ = netip.ParseAddrPort(x.r.RemoteAddr)
	x.from = a.Peer.Addr().Unmap().String()
	if t := x.p.core.Trusted; t != nil {
		if client := t.Client(a.Peer, x.r.Header); client != a.Peer {
			x.from = client.Addr().String() + ", " + x.from
			a.Peer, a.Caller = client, nil
			x.behind = true
		}
	}
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
	return true
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
	if why := mistyped(r); why != "" {
		return guard.HeaderRefused, why
	}
	x.at = x.route.config.at(path.decoded)
	if bare := withoutParameters(path.decoded); bare != path.decoded && x.route.config.at(bare) != x.at {
		return guard.PathRefused, "without its parameters the path is of another route"
	}
	x.preflight = x.at.CORS != nil && preflight(r)
	if len(x.at.Methods) > 0 && !x.preflight && !slices.Contains(x.at.Methods, r.Method) {
		return guard.MethodNotAllowed, "the route " + x.at.Path + " has not that method"
	}
	if max := int64(x.at.MaxBody); max > 0 && r.ContentLength > max {
		return guard.BodyTooLarge, "the body is larger than max_body of the route " + x.at.Path
	}
	switch {
	case x.grpc:
		a.Action = actionGRPC
	case asksForWebSocket(r) && !x.preflight: // which is no beginning of one
		a.Action = actionWebSocket
	}
	if x.at.Action != "" && a.Action != actionWebSocket {
		a.Action = x.at.Action
	}
	if reason, why := x.credential(a); reason != "" {
		return reason, why
	}
	return "", ""
}

// credential takes what the caller shows. Where anybody may ask, nothing is looked at.
func (x *exchange) credential(a *guard.Attempt) (guard.Reason, string) {
	if x.public() {
		a.Credentials, a.Public = []guard.Credential{guard.Anonymous()}, x.route.public
		return "", ""
	}
	raw, header, err := bearer(x.r.Header)
	x.judged = header
	switch {
	case err == errNoCredential && !x.behind && x.r.TLS != nil && len(x.r.TLS.PeerCertificates) > 0:
		a.Credentials = []guard.Credential{guard.Certificate(x.r.TLS.PeerCertificates)}
		return "", ""
	case err == errNoCredential:
		return guard.CredentialMissing, "neither Authorization nor X-Serverless-Authorization has a Bearer credential"
	case err != nil:
		return guard.CredentialMalformed, err.Error()
	}
	a.Credentials = []guard.Credential{guard.Bearer(raw)}
	return "", ""
}

// actionWebSocket is asked by an upgrade, before it happens.
const actionWebSocket = "http.websocket"

// asksForWebSocket reports whether r would become a WebSocket, well-formed or not. Other
// protocols are not changed to: HTTP lets a server ignore the wish.
func asksForWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && strings.Contains(strings.ToLower(strings.Join(r.Header["Upgrade"], ",")), webSocket)
}

// prepare makes what the upstream is told of the caller, and of an upgrade.
func (x *exchange) prepare() bool {
	a, err := x.pass.Admission()
	if err == nil {
		x.id = a.ID
	}
	if err == nil && !x.public() {
		x.assertion, err = x.p.core.Assert.Assertion(x.pass)
		if err == nil && len(x.route.config.IdentityHeaders) > 0 {
			x.identity = http.Header{}
			err = x.route.config.set(x.identity, &a.Principal)
		}
	}
	if err != nil {
		f := *fault.Of(err)
		f.Decision = x.id
		x.p.core.Logger.Error("a request that was admitted cannot be forwarded", "decision", x.id, "service", x.route.service, "error", err.Error())
		x.refuse(&f)
		return false
	}
	if a.Action != actionWebSocket {
		return true
	}
	u, err := readUpgrade(x.r)
	switch {
	case errors.Is(err, errVersion):
		x.w.Header().Set("Sec-Websocket-Version", webSocketVersion)
		x.answer(http.StatusUpgradeRequired, "only version 13 of WebSocket is served", x.id)
	case err != nil:
		x.answer(http.StatusBadRequest, "the opening handshake is malformed", x.id)
	default:
		x.upgrade = &u
		return true
	}
	return false
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
