package httpproxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sallyport-dev/sallyport/internal/guard"
)

// A Route is one entry of "services[i].http.routes": how the paths below it are asked for.
// Of several the longest is meant; a path below none is judged as if there were no routes.
type Route struct {
	// Path is a canonical path: "/v1" is itself and what is below it, "/v1/" only what
	// is below it. Required.
	Path string `yaml:"path"`

	// Public lets anybody ask, without a credential: one that is shown is neither judged
	// nor forwarded, and the service is told of no identity. A rule that denies
	// anonymous still refuses. Default: false.
	Public bool `yaml:"public,omitempty"`

	// Methods that are served here; others are 405. Default: all.
	Methods []string `yaml:"methods,omitempty"`

	// Action is what is asked for, in place of the method's: http. and a name, such as
	// http.approve. Default: from the method.
	Action string `yaml:"action,omitempty"`

	// Timeout is how long an answer may take to its last byte; WebSocket and gRPC are
	// not meant. Default: no limit but max_session.
	Timeout time.Duration `yaml:"timeout,omitempty"`

	// MaxBody is the largest request body, in bytes; a larger one is 413. Default: none.
	MaxBody guard.Size `yaml:"max_body,omitempty"`

	// CORS is how a browser's question for another site's page is answered. Default: it
	// is a request like others.
	CORS *CORS `yaml:"cors,omitempty"`

	prefix string // Path, decoded
}

// CORS is how preflights are answered (Fetch standard, section 3.3.2): exactly one of its
// fields.
type CORS struct {
	// Pass forwards preflights without a credential, for the service to answer.
	Pass bool `yaml:"pass,omitempty"`

	// Answer answers them here, and says so in the answers that follow.
	Answer *Preflight `yaml:"answer,omitempty"`
}

// Preflight is what pages of other sites may ask.
type Preflight struct {
	// Origins whose pages may ask, such as https://app.acme.example. Required.
	Origins []string `yaml:"origins"`

	// Methods that they may use. Required.
	Methods []string `yaml:"methods"`

	// Headers that they may send, besides those that are safe. Default: authorization,
	// content-type.
	Headers []string `yaml:"headers,omitempty"`

	// MaxAge is how long a browser may remember the answer. Default: 10m.
	MaxAge time.Duration `yaml:"max_age,omitempty"`
}

// completeRoutes reports every mistake below "services[i].http.routes".
func (c *Config) completeRoutes() []error {
	var bad []error
	seen := map[string]bool{}
	for i := range c.Routes {
		r := &c.Routes[i]
		for _, err := range r.complete() {
			bad = append(bad, fmt.Errorf("http.routes[%d].%w", i, err))
		}
		if seen[r.prefix] && r.prefix != "" {
			bad = append(bad, fmt.Errorf("http.routes[%d].path: %q: is there twice", i, r.Path))
		}
		seen[r.prefix] = true
	}
	c.longest = make([]*Route, 0, len(c.Routes))
	for i := range c.Routes {
		c.longest = append(c.longest, &c.Routes[i])
	}
	slices.SortStableFunc(c.longest, func(a, b *Route) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return bad
}

func (r *Route) complete() []error {
	var bad []error
	path, err := canonical(r.Path)
	if err != nil || path.escaped != r.Path {
		bad = append(bad, fmt.Errorf("path: %q: want a canonical path, such as /v1/", r.Path))
	}
	r.prefix = path.decoded
	for i, m := range r.Methods {
		if !validAction(m) || m == http.MethodConnect || m == http.MethodTrace {
			bad = append(bad, fmt.Errorf("methods[%d]: %q: want a method in capitals, such as GET", i, m))
		}
	}
	if verb, ok := strings.CutPrefix(r.Action, "http."); r.Action != "" && (!ok || verb == "websocket" || verb != strings.ToLower(verb) || !validAction(strings.ToUpper(verb))) {
		bad = append(bad, fmt.Errorf("action: %q: want http. and a name in lower case, such as http.get", r.Action))
	}
	if r.Public && r.Action != "" {
		bad = append(bad, errors.New("action: of a public path there is nothing to allow: remove action, or public"))
	}
	if r.Timeout < 0 {
		bad = append(bad, fmt.Errorf("timeout: %v is negative", r.Timeout))
	}
	if r.MaxBody < 0 {
		bad = append(bad, fmt.Errorf("max_body: %d is negative", r.MaxBody))
	}
	if r.CORS != nil {
		bad = append(bad, r.CORS.complete()...)
	}
	return bad
}

func (c *CORS) complete() []error {
	if c.Pass == (c.Answer != nil) {
		return []error{errors.New("cors: write answer: {origins, methods}, or pass: true to let the service answer")}
	}
	if c.Answer == nil {
		return nil
	}
	p := c.Answer
	var bad []error
	if len(p.Origins) == 0 || len(p.Methods) == 0 {
		bad = append(bad, errors.New("cors.answer: needs origins and methods"))
	}
	for i, o := range p.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o || o != strings.ToLower(o) {
			bad = append(bad, fmt.Errorf("cors.answer.origins[%d]: %q: want scheme and host as browsers send them, such as https://app.acme.example", i, o))
		}
	}
	for i, m := range p.Methods {
		if !validAction(m) {
			bad = append(bad, fmt.Errorf("cors.answer.methods[%d]: %q: want a method in capitals, such as GET", i, m))
		}
	}
	for i, h := range p.Headers {
		if !httpguts.ValidHeaderFieldName(h) {
			bad = append(bad, fmt.Errorf("cors.answer.headers[%d]: %q: is no header name", i, h))
		}
	}
	if p.Headers == nil {
		p.Headers = []string{"authorization", "content-type"}
	}
	if p.MaxAge == 0 {
		p.MaxAge = 10 * time.Minute
	}
	if p.MaxAge < 0 {
		bad = append(bad, fmt.Errorf("cors.answer.max_age: %v is negative", p.MaxAge))
	}
	return bad
}

// everywhere is the route of paths below none.
var everywhere = &Route{}

// at returns the route that a decoded path is below.
func (c *Config) at(path string) *Route {
	for _, r := range c.longest {
		if rest, ok := strings.CutPrefix(path, r.prefix); ok && (rest == "" && !strings.HasSuffix(r.prefix, "/") || strings.HasSuffix(r.prefix, "/") && rest != "" || strings.HasPrefix(rest, "/")) {
			return r
		}
		if r.prefix == "/" && path == "/" {
			return r
		}
	}
	return everywhere
}

// Public names what of the service is public; it is the same text as long as that is.
func (c *Config) Public() string {
	var out strings.Builder
	for _, r := range c.longest {
		if r.Public || r.CORS != nil {
			fmt.Fprintf(&out, "%q%v;", r.prefix, r.Public)
		} else {
			fmt.Fprintf(&out, "%q;", r.prefix) // which may be a part of a public one
		}
	}
	return out.String()
}

// preflight reports whether r asks whether a page of another site may ask.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) == 1 && len(r.Header["Access-Control-Request-Method"]) == 1
}

// allowed says to a browser that the page may read the answer, if it may.
func (c *CORS) allowed(h http.Header, origin string) {
	if c != nil && c.Answer != nil {
		c.Answer.allowed(h, origin)
	}
}

func (p *Preflight) allowed(h http.Header, origin string) bool {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name) // here it is answered, and not by the service too
		}
	}
	h.Add("Vary", "Origin")
	if !slices.Contains(p.Origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", DecisionHeader+", WWW-Authenticate")
	return true
}

// answer answers a preflight. A page that may not ask is told nothing.
func (p *Preflight) answer(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if p.allowed(h, r.Header.Get("Origin")) {
		h.Set("Access-Control-Allow-Methods", strings.Join(p.Methods, ", "))
		h.Set("Access-Control-Allow-Headers", strings.Join(p.Headers, ", "))
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(p.MaxAge.Seconds())))
	}
	h.Add("Vary", "Access-Control-Request-Method")
	h.Add("Vary", "Access-Control-Request-Headers")
	w.WriteHeader(http.StatusNoContent)
}
