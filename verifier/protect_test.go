package verifier_test

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// served is a protected handler on a real socket, and what the handler was told.
type served struct {
	*world
	url  string
	runs []string // principal and header names of each request the handler got
	last http.Header
}

func serve(t testing.TB) *served {
	t.Helper()
	s := &served{world: newWorld(t)}
	srv := httptest.NewServer(s.gate.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := verifier.FromContext(r.Context())
		if !ok {
			t.Error("the handler runs, and nobody was verified")
			return
		}
		s.runs = append(s.runs, caller.Principal())
		s.last = r.Header
		_, _ = io.WriteString(w, "hello")
	})))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (s *served) send(t testing.TB, method, path string, h http.Header) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, h)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// What is let through and what is not: the gateway's answers, by RFC 6750 section 3
// (compare TestCredentialRefused in internal/gateway/httpproxy).
func TestProtect(t *testing.T) {
	t.Parallel()
	s := serve(t)
	good := s.orders(t, nil)
	const invalid = `, error="invalid_token", error_description=`
	const request = `, error="invalid_request", error_description="credential malformed"`
	for _, tt := range []struct {
		name      string
		header    []string // Authorization
		status    int
		challenge string // after the realm
		detail    string
		reason    string
	}{
		{"a good token", []string{"Bearer " + good}, 200, "", "", ""},
		{"a good token of another issuer", []string{"Bearer " + s.lab.sign(t, "", with(claims{"iss": "https://lab", "aud": []string{"x", "https://a"}}))}, 200, "", "", ""},
		{"for the service's other audience", []string{"Bearer " + s.orders(t, claims{"aud": "https://b"})}, 200, "", "", ""},
		{"the scheme in another case", []string{"bEARER " + good}, 200, "", "", ""},
		{"more than one space", []string{"Bearer   " + good}, 200, "", "", ""},
		{"no credential", nil, 401, "", "no credential", "credential_missing"},
		{"an empty header", []string{""}, 401, "", "no credential", "credential_missing"},
		{"another scheme is none", []string{"Basic eA=="}, 401, "", "no credential", "credential_missing"},
		{"another scheme with a good token", []string{"DPoP " + good}, 401, "", "no credential", "credential_missing"},
		{"Bearer without a token", []string{"Bearer"}, 401, "", "no credential", "credential_missing"},
		{"a token with a tab before it", []string{"Bearer\t" + good}, 401, "", "no credential", "credential_missing"},
		{"a token without a scheme", []string{good}, 401, "", "no credential", "credential_missing"},
		{"two headers", []string{"Bearer " + good, "Bearer " + good}, 400, request, "credential malformed", "credential_malformed"},
		{"a good one and an empty one", []string{"Bearer " + good, ""}, 400, request, "credential malformed", "credential_malformed"},
		{"another scheme beside a good one", []string{"Basic eA==", "Bearer " + good}, 400, request, "credential malformed", "credential_malformed"},
		{"two tokens in one header", []string{"Bearer " + good + ", Bearer " + good}, 400, request, "credential malformed", "credential_malformed"},
		{"a token and a parameter", []string{"Bearer " + good + " x"}, 400, request, "credential malformed", "credential_malformed"},
		{"a token in quotes", []string{`Bearer "` + good + `"`}, 400, request, "credential malformed", "credential_malformed"},
		{"no token at all", []string{"Bearer abc"}, 401, invalid + `"token malformed"`, "token malformed", "token_malformed"},
		{"longer than any token", []string{"Bearer " + strings.Repeat("x", token.MaxLength+1)}, 401, invalid + `"token malformed"`, "token malformed", "token_malformed"},
		{"expired", []string{"Bearer " + s.orders(t, claims{"exp": now.Unix() - 60})}, 401, invalid + `"token expired"`, "token expired", "token_expired"},
		{"not yet valid", []string{"Bearer " + s.orders(t, claims{"nbf": now.Unix() + 61})}, 401, invalid + `"token not yet valid"`, "token not yet valid", "token_not_yet_valid"},
		{"for another audience", []string{"Bearer " + s.orders(t, claims{"aud": "https://other"})}, 401, invalid + `"wrong audience"`, "wrong audience", "audience_wrong"},
		{"for several audiences", []string{"Bearer " + s.orders(t, claims{"aud": []string{"https://a"}})}, 401, invalid + `"wrong audience"`, "wrong audience", "audience_wrong"},
		{"of another issuer", []string{"Bearer " + s.orders(t, claims{"iss": "https://other"})}, 401, invalid + `"token not trusted"`, "token not trusted", "issuer_unknown"},
		{"by the key of another issuer", []string{"Bearer " + s.lab.sign(t, "JWT", with(nil))}, 401, invalid + `"token not trusted"`, "token not trusted", "key_unknown"},
		{"an assertion played back", []string{"Bearer " + s.own.sign(t, token.TypeAssertion, with(nil))}, 401, invalid + `"token not trusted"`, "token not trusted", "type_not_allowed"},
		{"changed by one character", []string{"Bearer " + flip(good)}, 401, invalid + `"token not trusted"`, "token not trusted", "signature_invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time something might be remembered
				s.runs = nil
				got := s.send(t, "GET", "/v1/x?access_token="+good, http.Header{"Authorization": tt.header})
				reports := s.reports.take()
				if len(reports) != 1 || reports[0].Reason != tt.reason {
					t.Errorf("reported %+v, want one for %q", reports, tt.reason)
				}
				if got.status != tt.status || (len(s.runs) == 1) != (tt.status == 200) {
					t.Fatalf("got %d, handler ran %d times, want %d", got.status, len(s.runs), tt.status)
				}
				if tt.status == 200 {
					continue
				}
				if c := got.header["Www-Authenticate"]; len(c) != 1 || c[0] != `Bearer realm="app"`+tt.challenge {
					t.Errorf("the challenge is %q", c)
				}
				checkProblem(t, got, tt.detail)
			}
		})
	}
}

// checkProblem holds an answer against RFC 9457 and the headers of the gateway's.
func checkProblem(t *testing.T, got answer, detail string) {
	t.Helper()
	var p struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal([]byte(got.body), &p, json.RejectUnknownMembers(true)); err != nil ||
		p.Title != http.StatusText(got.status) || p.Status != got.status || p.Detail != detail || !strings.HasSuffix(got.body, "}\n") {
		t.Errorf("the body is %q (%v)", got.body, err)
	}
	for name, want := range map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if v := got.header.Get(name); v != want {
			t.Errorf("%s is %q", name, v)
		}
	}
}

// flip changes the signature in its middle, where every bit counts.
func flip(raw string) string {
	i := len(raw) - 40
	c := "A"
	if raw[i] == 'A' {
		c = "B"
	}
	return raw[:i] + c + raw[i+1:]
}

// That an issuer is out of reach is not the token's fault: no challenge, and a time
// to come back.
func TestKeysOutOfReach(t *testing.T) {
	t.Parallel()
	s := serve(t)
	h := http.Header{"Authorization": {"Bearer " + s.orders(t, nil)}}
	for _, name := range []string{"never seen", "seen before"} {
		s.ownKeys.change(errors.New("dial tcp 192.0.2.7:443: no route to host"), s.own.public())
		got := s.send(t, "GET", "/", h)
		if got.status != 503 || got.header.Get("Retry-After") != "5" || got.header["Www-Authenticate"] != nil || len(s.runs) != 0 {
			t.Errorf("%s: got %d %v, handler ran %d times", name, got.status, got.header, len(s.runs))
		}
		checkProblem(t, got, "the issuer's keys cannot be reached")
		if r := s.reports.take(); len(r) != 1 || r[0].Reason != "keys_unavailable" {
			t.Errorf("%s: reported %+v", name, r)
		}
		s.ownKeys.change(nil, s.own.public())
		if got := s.send(t, "GET", "/", h); got.status != 200 {
			t.Errorf("%s: afterwards got %d", name, got.status)
		}
		s.runs = nil
		s.reports.take()
	}
}

// The handler is told of one caller, the one that was verified, and of the request
// everything else.
func TestOneIdentity(t *testing.T) {
	t.Parallel()
	s := serve(t)
	auth := "Bearer " + s.orders(t, nil)
	claimed := []string{"X-Forwarded-User", "x_forwarded_user", "X.Forwarded.User", "X-Forwarded-Email", "X-Forwarded-Groups", "Remote-User", "REMOTE_USER",
		"X-Remote-Group", "X-Webauth-User", "X-User", "X-Auth-Request-Email", "X-Goog-Authenticated-User-Email", "X-Ms-Client-Principal-Name",
		"Tailscale-User-Login", "Ssl-Client-S-Dn", "Client-Cert", "X-Serverless-Authorization", "X-Pomerium-Claim-Email", "X-Amzn-Oidc-Identity"}
	kept := []string{"Authorization", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "X-Sallyport-Assertion",
		"X-Goog-Iap-Jwt-Assertion", "Traceparent", "X-Request-Id", "X-Users", "Proxy-Hint"}
	h := http.Header{}
	for _, name := range append(slices.Clone(claimed), kept...) {
		h[name] = []string{"admin"}
	}
	h["Authorization"] = []string{auth}
	if got := s.send(t, "GET", "/", h); got.status != 200 || !slices.Equal(s.runs, []string{"serviceAccount:orders"}) {
		t.Fatalf("got %d, the handler was told %q", got.status, s.runs)
	}
	for name := range s.last {
		if slices.ContainsFunc(claimed, func(c string) bool { return http.CanonicalHeaderKey(c) == name }) {
			t.Errorf("the handler is told %s", name)
		}
	}
	for _, name := range kept {
		if len(s.last[name]) != 1 {
			t.Errorf("the handler is not told %s", name)
		}
	}
	if s.last.Get("Authorization") != auth {
		t.Error("the handler has not the token that was verified")
	}
}

// What stands around the middleware keeps its own request.
func TestTheOuterRequestIsNotChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+w.orders(t, nil))
	r.Header.Set("X-Forwarded-User", "alice")
	ran := false
	w.gate.Protect(http.HandlerFunc(func(_ http.ResponseWriter, inner *http.Request) {
		ran = inner.Header.Get("X-Forwarded-User") == ""
	})).ServeHTTP(httptest.NewRecorder(), r)
	if _, ok := verifier.FromContext(r.Context()); ok || !ran || r.Header.Get("X-Forwarded-User") != "alice" {
		t.Errorf("the handler ran %v, outside the header is %v", ran, r.Header)
	}
}

// The innermost gate says who calls: another verdict in the context is not its own.
func TestTheContextHasThisGatesVerdict(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	v := other.verifier(t, "https://id", other.ownKeys, verifier.OwnRules(token.TypeID))
	outer, err := v.Verify(t.Context(), other.orders(t, claims{"sub": "spiffe://test/sa/admin"}), "https://a")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil).WithContext(verifier.NewContext(t.Context(), outer))
	r.Header.Set("Authorization", "Bearer "+w.orders(t, nil))
	var got string
	w.gate.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t, _ := verifier.FromContext(r.Context())
		got = t.Principal()
	})).ServeHTTP(httptest.NewRecorder(), r)
	if got != "serviceAccount:orders" {
		t.Errorf("got %q", got)
	}
	if _, ok := verifier.FromContext(t.Context()); ok {
		t.Error("a context that no gate made has a caller")
	}
}

// An Observer that panics ends the request as a handler's panic does: nothing is
// let through that was not reported.
func TestAnObserverThatPanics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, err := verifier.NewGate(verifier.Requirement{Verifiers: []*verifier.Verifier{w.verifier(t, "https://id", w.ownKeys, verifier.OwnRules(token.TypeID))},
		Audiences: []string{"https://a"}, Service: "app", Observer: observeFunc(func(context.Context, verifier.Report) { panic("full") })})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(g.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") })))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	defer srv.Close()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	r.Header.Set("Authorization", "Bearer "+w.orders(t, nil))
	if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
		_ = resp.Body.Close()
		t.Errorf("got %d", resp.StatusCode)
	}
}

type observeFunc func(context.Context, verifier.Report)

func (f observeFunc) Observe(ctx context.Context, r verifier.Report) { f(ctx, r) }

func TestRealm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, err := verifier.NewGate(verifier.Requirement{Verifiers: []*verifier.Verifier{w.verifier(t, "https://id", w.ownKeys, verifier.OwnRules(token.TypeID))},
		Audiences: []string{"https://a"}, Service: "app", Realm: "the app, v2"})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	g.Protect(nil).ServeHTTP(rec, httptest.NewRequest("HEAD", "/", nil))
	if got := rec.Header().Get("WWW-Authenticate"); rec.Code != 401 || got != `Bearer realm="the app, v2"` {
		t.Errorf("got %d %q", rec.Code, got)
	}
}
