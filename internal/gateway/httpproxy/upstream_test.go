package httpproxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// The token that was judged stays here; what the caller has for the upstream
// itself goes through.
func TestCredentialForwarded(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	raw := good(t)
	for _, tt := range []struct {
		name          string
		header        []string
		authorization string // upstream
	}{
		{"Authorization was judged and is removed", []string{bearer(raw)}, ""},
		{"the scheme in another case", []string{"authorization: bEaReR " + raw}, ""},
		{"several spaces", []string{"Authorization: Bearer   " + raw}, ""},
		{"X-Serverless-Authorization was judged, Authorization passes untouched", []string{"X-Serverless-Authorization: Bearer " + raw, basic}, strings.TrimPrefix(basic, "Authorization: ")},
		{"a token of ours too", []string{"X-Serverless-Authorization: Bearer " + raw, "Authorization: Bearer other"}, "Bearer other"},
		{"X-Serverless-Authorization alone", []string{"x-serverless-authorization: Bearer " + raw}, ""},
		{"other spellings are neither judged nor forwarded", []string{bearer(raw), "X_Serverless_Authorization: Bearer " + raw, "X.Serverless-Authorization: Bearer " + raw, "Proxy-Authorization: Bearer " + raw}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET /v1", tt.header...))
			up := b.only(t)
			if got.status != http.StatusOK || up.header.Get("Authorization") != tt.authorization {
				t.Errorf("got %d, upstream got Authorization %q", got.status, up.header["Authorization"])
			}
			for name, v := range up.header {
				if strings.Contains(strings.Join(v, " "), raw) || name != "Authorization" && strings.Contains(strings.ToLower(name), "authorization") {
					t.Errorf("upstream got %s: %q", name, v)
				}
			}
			if e := b.record(t, ""); e.Decision != audit.Allow || e.Payload.TokenID != "token-1" {
				t.Errorf("the record is %+v %+v", e.Header, e.Payload)
			}
		})
	}
}

// The assertion is good for the upstream, under its own key, and for nothing else.
func TestAssertion(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	b.send(t, request("GET /v1", bearer(good(t)), "X-Sallyport-Assertion: mallory"))
	values := b.only(t).header[httpproxy.AssertionHeader]
	if len(values) != 1 {
		t.Fatalf("upstream got %q", values)
	}
	verify := func(p keys.Purpose, iss, typ, aud string) (*verifier.Verified, error) {
		v, err := verifier.New(verifier.Config{Issuer: iss, Keys: ours().set.Source(p), Rules: verifier.OwnRules(typ)})
		if err != nil {
			t.Fatal(err)
		}
		return v.Verify(context.Background(), values[0], aud)
	}
	want := issuer.AssertionAudience(trustDomain, "app")
	v, err := verify(keys.Assertions, issuer.AssertionIssuer(issuerURL), token.TypeAssertion, want)
	if err != nil || v.Claims.Subject != "serviceAccount:orders" {
		t.Fatalf("the upstream cannot verify it: %v", err)
	}
	for _, tt := range []struct {
		name          string
		purpose       keys.Purpose
		iss, typ, aud string
	}{
		{"the key of tokens", keys.Tokens, issuer.AssertionIssuer(issuerURL), token.TypeAssertion, want},
		{"the issuer of tokens", keys.Assertions, issuerURL, token.TypeAssertion, want},
		{"the type of tokens", keys.Assertions, issuer.AssertionIssuer(issuerURL), token.TypeID, want},
		{"another service", keys.Assertions, issuer.AssertionIssuer(issuerURL), token.TypeAssertion, issuer.AssertionAudience(trustDomain, "other")},
		{"the service's audience for tokens", keys.Assertions, issuer.AssertionIssuer(issuerURL), token.TypeAssertion, audience},
	} {
		if _, err := verify(tt.purpose, tt.iss, tt.typ, tt.aud); err == nil {
			t.Errorf("it verifies under %s", tt.name)
		}
	}
	got := b.send(t, request("GET /v1", bearer(values[0])))
	if got.status != http.StatusUnauthorized {
		t.Errorf("played back as a bearer token: %d", got.status)
	}
	b.refused(t, got)
}

// A caller cannot say who it is, in any spelling that a server might fold.
func TestIdentityHeaders(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{identity: map[string]string{"X-Forwarded-User": "principal.name", "X-Caller-Id": "principal.id", "x-kind": "principal.kind", "X-Mail": "principal.email"}})
	for _, tt := range []struct{ name, header string }{
		{"ours", "X-Forwarded-User: mallory"},
		{"ours in lower case", "x-forwarded-user: mallory"},
		{"ours with underscores", "X_Forwarded_User: mallory"},
		{"ours with one underscore", "X-Forwarded_User: mallory"},
		{"ours with dots", "X.Forwarded.User: mallory"},
		{"one that only the file names", "x_caller-id: mallory"},
		{"one that only the file names, in lower case", "x.KIND: mallory"},
		{"others of the family", "X-Forwarded-Preferred-Username: mallory"},
		{"where from", "X-Forwarded-For: mallory"},
		{"which host", "X_Forwarded_Host: mallory"},
		{"which address", "X-Real-IP: mallory"},
		{"all of it", "Forwarded: for=mallory"},
		{"the environment's", "REMOTE_USER: mallory"},
		{"the same as a header", "Remote-User: mallory"},
		{"another gateway's", "X-Auth-Request-Email: mallory"},
		{"another cloud's", "X-Goog-Authenticated-User-Email: mallory"},
		{"a certificate's", "X-Forwarded-Client-Cert: mallory"},
		{"the assertion", "X-Sallyport-Assertion: mallory"},
		{"the assertion, folded", "x_sallyport.assertion: mallory"},
		{"another method", "X-HTTP-Method-Override: mallory"},
		{"another path", "X-Original-URL: mallory"},
		{"dropped by Connection", "Connection: X-Forwarded-User, X-Caller-Id, X-Kind, X-Sallyport-Assertion, X-Forwarded-For"},
		{"dropped by several", "Connection: close\r\nconnection: x-forwarded-user\r\nCONNECTION: X-Sallyport-Assertion , x-caller-id"},
		{"sent as a trailer's name", "Trailer: X-Forwarded-User"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET /v1", bearer(good(t)), tt.header))
			up := b.only(t).header
			if got.status != http.StatusOK {
				t.Errorf("got %d", got.status)
			}
			for name, v := range map[string]string{"X-Forwarded-User": "orders", "X-Caller-Id": "serviceAccount:orders", "X-Kind": "serviceAccount",
				"X-Mail": "orders@sa.acme.test", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "app.test", "X-Forwarded-Proto": "http"} {
				if len(up[name]) != 1 || up[name][0] != v {
					t.Errorf("upstream got %s: %q, want %q", name, up[name], v)
				}
			}
			if len(up[httpproxy.AssertionHeader]) != 1 {
				t.Errorf("upstream got the assertions %q", up[httpproxy.AssertionHeader])
			}
			for name, v := range up {
				if strings.Contains(strings.Join(v, " "), "mallory") {
					t.Errorf("upstream got %s: %q", name, v)
				}
			}
		})
	}
}

// What concerns one connection stays on it.
func TestHopByHop(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name   string
		header []string
		gone   []string
	}{
		{"a change to h2c is not passed on", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"}, []string{"Upgrade", "Http2-Settings", "Connection"}},
		{"nor any other change", []string{"Connection: upgrade", "Upgrade: foo/1"}, []string{"Upgrade", "Connection"}},
		{"Upgrade alone says nothing", []string{"Upgrade: h2c"}, []string{"Upgrade"}},
		{"what Connection names", []string{"Connection: X-Secret-Hop", "X-Secret-Hop: 1", "Keep-Alive: 1", "Proxy-Connection: x"}, []string{"X-Secret-Hop", "Keep-Alive", "Proxy-Connection", "Connection"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET /v1", append([]string{bearer(good(t))}, tt.header...)...))
			up := b.only(t).header
			for _, name := range tt.gone {
				if len(up[name]) != 0 {
					t.Errorf("upstream got %s: %q", name, up[name])
				}
			}
			if got.status != http.StatusOK {
				t.Errorf("got %d", got.status)
			}
		})
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	large := strings.Repeat("0123456789abcdef", 64<<10)
	const head = "POST /v1 HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\n"
	for _, tt := range []struct {
		name, framed, want string
	}{
		{"by its length", "Content-Length: 5\r\n\r\nhello", "hello"},
		{"one megabyte by its length", "Content-Length: 1048576\r\n\r\n" + large, large},
		{"in chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", "hello world"},
		{"one megabyte in a chunk", "Transfer-Encoding: chunked\r\n\r\n100000\r\n" + large + "\r\n0\r\n\r\n", large},
		{"in chunks, with a trailer that nobody judged", "Trailer: X-Forwarded-User\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Forwarded-User: mallory\r\nX-Other: mallory\r\n\r\n", "hello"},
		{"none", "Content-Length: 0\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, head+bearer(good(t))+"\r\n"+tt.framed)
			up := b.only(t)
			if got.status != http.StatusOK || string(up.body) != tt.want {
				t.Errorf("got %d, upstream got %d bytes, want %d", got.status, len(up.body), len(tt.want))
			}
			if len(up.trailer) != 0 || up.header.Get("X-Forwarded-User") != "" {
				t.Errorf("upstream got the trailer %v", up.trailer)
			}
		})
	}
}

// raw is an upstream that answers each connection with the same bytes.
func raw(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 64<<10))
			_, _ = io.WriteString(c, answer)
			_ = c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// An upstream that does not answer as it should costs a 502 with the id of the
// admission, and no word of why.
func TestUpstreamFails(t *testing.T) {
	t.Parallel()
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = down.Close()
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
	for _, tt := range []struct{ name, upstream string }{
		{"it is down", "http://" + down.Addr().String()},
		{"it hangs up", raw(t, "")},
		{"it speaks something else", raw(t, "SSH-2.0-x\r\n")},
		{"its header fields are too large", raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 128<<10)+"\r\n\r\n")},
		{"it switches protocols without being asked", raw(t, upgrade+"Upgrade: websocket\r\n\r\nTUNNEL")},
		{"it switches to a protocol without a name", raw(t, upgrade+"\r\nTUNNEL")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newRig(t, settings{upstream: tt.upstream})
			got := b.send(t, request("GET /v1", bearer(good(t))))
			if got.status != http.StatusBadGateway || !strings.Contains(got.body, "the service did not answer") {
				t.Errorf("got %d %s", got.status, got.body)
			}
			for _, private := range []string{"127.0.0.1", "dial", "EOF", "malformed", "TUNNEL", "switch"} {
				if strings.Contains(got.body, private) {
					t.Errorf("the answer shows %q: %s", private, got.body)
				}
			}
			id := got.header.Get(httpproxy.DecisionHeader)
			if e := b.record(t, id); id == "" || e.Decision != audit.Allow {
				t.Errorf("decision %q is %+v", id, e.Header)
			}
		})
	}
}

// No record, no pass: whatever is asked, the answer is 503 and nothing happens.
func TestLogUnavailable(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{log: logFunc(func(*audit.Record, audit.Durability) (uint64, error) { return 0, io.ErrShortWrite })})
	for _, tt := range []struct{ name, raw string }{
		{"what would be allowed", request("GET /v1", bearer(good(t)))},
		{"what would be denied", request("GET /admin", bearer(good(t)))},
		{"what has no credential", request("GET /v1")},
		{"what is for nobody", request("GET /v1", "Host: other.test", bearer(good(t)))},
		{"what has no method of ours", request("TRACE /v1", bearer(good(t)))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, tt.raw)
			if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || got.header.Get(httpproxy.DecisionHeader) != "" {
				t.Errorf("got %d %v", got.status, got.header)
			}
			if up := b.take(); len(up) != 0 || strings.Contains(got.body, io.ErrShortWrite.Error()) {
				t.Errorf("upstream got %v, the answer is %s", up, got.body)
			}
		})
	}
}
