package httpproxy_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// What a route says holds for the paths that it names, and for no others.
func TestRoutes(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{identity: map[string]string{"X-Forwarded-User": "principal.id"}, routes: []httpproxy.Route{
		{Path: "/public/", Public: true},
		{Path: "/public/private", Methods: []string{"GET"}},
		{Path: "/v1", Methods: []string{"GET", "POST"}, Action: "http.get"},
	}})
	who := bearer(good(t))
	for _, tt := range []struct {
		name, line string
		header     []string
		status     int
		rule       string
		action     string
	}{
		{"a public path needs no credential", "GET /public/x", nil, 200, "sallyport:public", "http.get"},
		{"a bad credential there is not judged", "GET /public/x", []string{"Authorization: Bearer x", "X-Serverless-Authorization: Bearer y"}, 200, "sallyport:public", "http.get"},
		{"any method there", "POST /public/x", nil, 200, "sallyport:public", "http.post"},
		{"a name that begins alike is not public", "GET /publicity", nil, 401, "", "http.get"},
		{"the folder without its slash is not named", "GET /public", nil, 401, "", "http.get"},
		{"another case is another path", "GET /Public/x", nil, 401, "", "http.get"},
		{"a parameter makes another segment, to some", "GET /public;x/y", nil, 400, "", "http.get"},
		{"the longest route counts", "GET /public/private/x", nil, 401, "", "http.get"},
		{"and is of whole segments", "GET /public/privates", nil, 200, "sallyport:public", "http.get"},
		{"a method that a route lacks", "PUT /v1/x", []string{who}, 405, "", "http.put"},
		{"OPTIONS is not meant by GET", "OPTIONS /public/private", []string{who}, 405, "", "http.options"},
		{"the route's action counts", "POST /v1/x", []string{who}, 200, "orders-may", "http.get"},
		{"what no route names has its method's action", "POST /other", []string{who}, 200, "orders-may", "http.post"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request(tt.line, tt.header...))
			up := b.take()
			if got.status != tt.status || len(up) != map[bool]int{true: 1}[tt.status == 200] {
				t.Errorf("got %d, upstream got %d requests", got.status, len(up))
			}
			if e := b.record(t, ""); e.Rule != tt.rule || e.Payload.Action != tt.action || (e.Decision == audit.Allow) != (tt.status == 200) {
				t.Errorf("the record is %+v %+v", e.Header, e.Payload)
			}
			if tt.status == 405 && got.header.Get("Allow") == "" {
				t.Error("no Allow")
			}
			if tt.rule == "sallyport:public" && len(up) == 1 {
				for _, name := range []string{"Authorization", "X-Serverless-Authorization", "X-Forwarded-User", httpproxy.AssertionHeader} {
					if v := up[0].header.Get(name); v != "" {
						t.Errorf("upstream got %s: %s", name, v)
					}
				}
			}
		})
	}
}

// A rule that denies anonymous closes what is public.
func TestPublicDenied(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{routes: []httpproxy.Route{{Path: "/", Public: true}}, denyAnonymous: true})
	got := b.send(t, request("GET /x"))
	if e := b.refused(t, got); got.status != http.StatusForbidden || e.Rule != "nobody" || e.Payload.Principal != "anonymous" {
		t.Errorf("got %d, the record is %+v %+v", got.status, e.Header, e.Payload)
	}
}

// A body that is too large never looks whole to the upstream.
func TestMaxBody(t *testing.T) {
	t.Parallel()
	var whole atomic.Bool
	b := newRig(t, settings{discard: true, answer: func(_ http.ResponseWriter, r *http.Request) {
		_, err := new(bytes.Buffer).ReadFrom(r.Body)
		whole.Store(err == nil)
	}, routes: []httpproxy.Route{{Path: "/v1", MaxBody: 8}}})
	const head = "POST /v1 HTTP/1.1\r\nHost: app.test\r\n"
	for _, tt := range []struct {
		name, framed string
		status       int
	}{
		{"as large as it may be", "Content-Length: 8\r\n\r\n12345678", 200},
		{"as large as it may be, in chunks", "Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n0\r\n\r\n", 200},
		{"too large by its length", "Content-Length: 9\r\n\r\n123456789", 413},
		{"too large in chunks", "Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", 413},
		{"too large in two chunks", "Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n", 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole.Store(false)
			got := b.send(t, head+bearer(good(t))+"\r\n"+tt.framed)
			if got.status != tt.status || whole.Load() != (tt.status == 200) {
				t.Errorf("got %d, whole for the upstream: %v", got.status, whole.Load())
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		routes: []httpproxy.Route{{Path: "/v1", Timeout: 50 * time.Millisecond}}})
	if got := b.send(t, request("GET /v1", bearer(good(t)))); got.status != http.StatusGatewayTimeout || got.header.Get(httpproxy.DecisionHeader) == "" {
		t.Errorf("got %d %v", got.status, got.header)
	}
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	answer := &httpproxy.CORS{Answer: &httpproxy.Preflight{Origins: []string{"https://a.test"}, Methods: []string{"PUT"}, Headers: []string{"X-A"}, MaxAge: time.Minute}}
	b := newRig(t, settings{routes: []httpproxy.Route{{Path: "/answer", CORS: answer}, {Path: "/pass", Methods: []string{"PUT"}, CORS: &httpproxy.CORS{Pass: true}}}})
	asks := func(origin string) []string {
		return []string{"Origin: " + origin, "Access-Control-Request-Method: PUT"}
	}
	for _, tt := range []struct {
		name, line string
		header     []string
		status     int
		origin     string
		upstream   int
	}{
		{"answered here", "OPTIONS /answer", asks("https://a.test"), 204, "https://a.test", 0},
		{"another origin gets no permission", "OPTIONS /answer", asks("https://b.test"), 204, "", 0},
		{"OPTIONS that is no preflight needs a pass", "OPTIONS /answer", []string{"Origin: https://a.test"}, 401, "https://a.test", 0}, // whose page may read why
		{"passed on without a credential", "OPTIONS /pass", asks("https://a.test"), 200, "", 1},
		{"without a choice it needs a pass", "OPTIONS /other", asks("https://a.test"), 401, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request(tt.line, tt.header...))
			if up := b.take(); got.status != tt.status || got.header.Get("Access-Control-Allow-Origin") != tt.origin || len(up) != tt.upstream {
				t.Errorf("got %d %v, upstream got %d", got.status, got.header, len(up))
			}
		})
	}
}

// A browser gets a page, a program a problem.
func TestRefusalPage(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for accept, html := range map[string]bool{"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8": true, "*/*": false, "application/json, text/html;q=0.5": false,
		"text/html": true, "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2": false, "text/html;q=0": false, "application/problem+json": false} {
		got := b.send(t, request("GET /v1", "Accept: "+accept))
		if is := strings.HasPrefix(got.header.Get("Content-Type"), "text/html"); is != html || html && (!strings.Contains(got.body, got.header.Get(httpproxy.DecisionHeader)) ||
			strings.Contains(got.body, "<script") || !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'")) {
			t.Errorf("%s: got %v\n%s", accept, got.header, got.body)
		}
	}
}

func TestRoutesConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		route httpproxy.Route
		want  string
	}{
		{"no path", httpproxy.Route{}, "http.routes[0].path"},
		{"a path that is not canonical", httpproxy.Route{Path: "/a/../b"}, "http.routes[0].path"},
		{"an action of another family", httpproxy.Route{Path: "/", Action: "token.mint"}, "http.routes[0].action"},
		{"all actions", httpproxy.Route{Path: "/", Action: "http.*"}, "http.routes[0].action"},
		{"a method in lower case", httpproxy.Route{Path: "/", Methods: []string{"get"}}, "http.routes[0].methods[0]"},
		{"a time-out that is over", httpproxy.Route{Path: "/", Timeout: -1}, "http.routes[0].timeout"},
		{"cors without a choice", httpproxy.Route{Path: "/", CORS: &httpproxy.CORS{}}, "http.routes[0].cors"},
		{"an origin with a path", httpproxy.Route{Path: "/", CORS: &httpproxy.CORS{Answer: &httpproxy.Preflight{Origins: []string{"https://a/"}, Methods: []string{"GET"}}}}, "http.routes[0].cors.answer.origins[0]"},
	} {
		c := httpproxy.Config{Hosts: []string{"a.test"}, Config: upstream.Config{Upstream: "http://127.0.0.1:1"}, Routes: []httpproxy.Route{tt.route}}
		if err := c.Complete(); err == nil || !strings.Contains(err.Error(), tt.want+": ") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
