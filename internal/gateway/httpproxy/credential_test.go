package httpproxy_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

const basic = "Authorization: Basic dXBzdHJlYW06cGFzc3dvcmQ="

func TestHost(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name, target, host string
		status             int
	}{
		{"its own name", "/", "app.test", 200},
		{"in another case", "/", "APP.Test", 200},
		{"with a port", "/", "app.test:8443", 200},
		{"with the root's dot", "/", "app.test.", 200},
		{"with all of it", "/", "App.Test.:80", 200},
		{"an IPv6 address", "/", "[::1]:8443", 200},
		{"absolute form goes before Host", "http://app.test/", "other.test", 200},
		{"absolute form of another service", "http://other.test/", "app.test", 421},
		{"a name that is not served", "/", "other.test", 421},
		{"a name below", "/", "x.app.test", 421},
		{"a name that only begins alike", "/", "app.test.evil.test", 421},
		{"two dots at the end", "/", "app.test..", 421},
		{"a port that is none", "/", "app.test:http", 421},
		{"a user in front", "/", "app.test@other.test", 400},
		{"another service behind a user", "/", "other.test:1@app.test", 400},
		{"a path in it", "/", "app.test/x", 400},
		{"empty", "/", "", 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET "+tt.target, "Host: "+tt.host, bearer(good(t))))
			if got.status != tt.status && !(tt.status == 400 && got.status == 421) { // net/http refuses some of these itself
				t.Errorf("got %d, want %d", got.status, tt.status)
			}
			switch got.status {
			case 200:
				judged := "app.test"
				if strings.HasPrefix(tt.host, "[") {
					judged = "::1"
				}
				if e := b.record(t, ""); len(b.take()) != 1 || e.Service != "app" || e.Payload.Vars["request.host"] != judged {
					t.Errorf("the record is %+v %+v", e.Header, e.Payload)
				}
			case 421:
				if e := b.refused(t, got); e.Service != "" || e.Payload.Reason != "host_unknown" {
					t.Errorf("the record is %+v %+v", e.Header, e.Payload)
				}
			default:
				if up := b.take(); len(up) != 0 {
					t.Errorf("upstream got %v", up)
				}
			}
		})
	}
}

// What is refused for its credential, with the challenge of RFC 6750 section 3,
// and a record that says more.
func TestCredentialRefused(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	now := time.Now().Unix()
	token := good(t)
	const invalid = `error="invalid_token", error_description=`
	for _, tt := range []struct {
		name      string
		header    []string
		status    int
		challenge string // after the realm
		reason    string
	}{
		{"no credential", nil, 401, "", "credential_missing"},
		{"another scheme is none", []string{basic}, 401, "", "credential_missing"},
		{"Bearer without a token", []string{"Authorization: Bearer"}, 401, "", "credential_missing"},
		{"two Authorization headers", []string{bearer(token), bearer(token)}, 400, `error="invalid_request", error_description="credential malformed"`, "credential_malformed"},
		{"a good one and an empty one", []string{bearer(token), "Authorization:"}, 400, `error="invalid_request", error_description="credential malformed"`, "credential_malformed"},
		{"two X-Serverless-Authorization headers", []string{"X-Serverless-Authorization: Bearer " + token, "X-Serverless-Authorization: Bearer " + token}, 400, `error="invalid_request"`, "credential_malformed"},
		{"two Authorization headers beside a good X-Serverless-Authorization", []string{"X-Serverless-Authorization: Bearer " + token, basic, basic}, 400, `error="invalid_request"`, "credential_malformed"},
		{"X-Serverless-Authorization alone is judged", []string{"X-Serverless-Authorization: Bearer x", bearer(token)}, 401, invalid + `"token malformed"`, "token_malformed"},
		{"X-Serverless-Authorization of another scheme", []string{"X-Serverless-Authorization: Basic eA==", bearer(token)}, 400, `error="invalid_request"`, "credential_malformed"},
		{"an empty X-Serverless-Authorization", []string{"X-Serverless-Authorization:", bearer(token)}, 400, `error="invalid_request"`, "credential_malformed"},
		{"two tokens in one header", []string{bearer(token + ", Bearer " + token)}, 400, `error="invalid_request"`, "credential_malformed"},
		{"a token and a parameter", []string{bearer(token + " x")}, 400, `error="invalid_request"`, "credential_malformed"},
		{"a token in quotes", []string{bearer(`"` + token + `"`)}, 400, `error="invalid_request"`, "credential_malformed"},
		{"a token with a tab before it", []string{"Authorization: Bearer\t" + token}, 401, "", "credential_missing"},
		{"no token at all", []string{bearer("abc")}, 401, invalid + `"token malformed"`, "token_malformed"},
		{"longer than any token", []string{bearer(strings.Repeat("x", 17<<10))}, 401, invalid + `"token malformed"`, "token_malformed"},
		{"expired", []string{bearer(sign(t, ours(), claims("iat", now-600, "exp", now-61)))}, 401, invalid + `"token expired"`, "token_expired"},
		{"not yet valid", []string{bearer(sign(t, ours(), claims("nbf", now+90)))}, 401, invalid + `"token not yet valid"`, "token_not_yet_valid"},
		{"for another audience", []string{bearer(sign(t, ours(), claims("aud", "https://other.test")))}, 401, invalid + `"wrong audience"`, "audience_wrong"},
		{"for several audiences", []string{bearer(sign(t, ours(), claims("aud", []string{audience})))}, 401, invalid + `"wrong audience"`, "audience_wrong"},
		{"of another issuer", []string{bearer(sign(t, ours(), claims("iss", "https://other.test")))}, 401, invalid + `"token not trusted"`, "issuer_not_accepted"},
		{"by another key", []string{bearer(sign(t, another(), claims()))}, 401, invalid + `"token not trusted"`, "key_unknown"},
		{"of an account that is no more", []string{bearer(sign(t, ours(), claims("sub", "spiffe://acme.test/sa/gone")))}, 401, invalid + `"token not trusted"`, "account_unknown"},
		{"changed by one character", []string{bearer(flip(token))}, 401, invalid + `"token not trusted"`, "signature_invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time something might be remembered
				got := b.send(t, request("GET /v1", tt.header...))
				want := `Bearer realm="app"`
				if tt.challenge != "" {
					want += ", " + tt.challenge
				}
				challenge := got.header.Get("WWW-Authenticate")
				if got.status != tt.status || !strings.HasPrefix(challenge, want) || tt.challenge == "" && challenge != want {
					t.Errorf("got %d with %q\nwant %d with %q", got.status, challenge, tt.status, want)
				}
				if e := b.refused(t, got); e.Payload.Reason != tt.reason || e.Kind != audit.Refuse {
					t.Errorf("the record says %s %q, want %q", e.Kind, e.Payload.Reason, tt.reason)
				}
			}
		})
	}
}

// flip changes the signature in its middle, where every bit counts.
func flip(raw string) string {
	i := len(raw) - 40
	c := byte('A')
	if raw[i] == c {
		c = 'B'
	}
	return raw[:i] + string(c) + raw[i+1:]
}

// What is refused for anything else.
func TestRequestRefused(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	auth := bearer(good(t))
	for _, tt := range []struct {
		name, line string
		header     []string
		status     int
		challenge  string
		reason     string
	}{
		{"policy does not allow it", "GET /admin/x", nil, 403, `Bearer realm="app", error="insufficient_scope", error_description="not allowed"`, "no_match"},
		{"TRACE, which would show the assertion", "TRACE /v1", nil, 405, "", "method_not_allowed"},
		{"CONNECT", "CONNECT app.test:443", nil, 405, "", "method_not_allowed"},
		{"a method in lower case", "get /v1", nil, 405, "", "method_not_allowed"},
		{"a method that is called like an upgrade", "WEBSOCKET /v1", nil, 405, "", "method_not_allowed"},
		{"a method of 33 letters", "GET" + strings.Repeat("X", 30) + " /v1", nil, 405, "", "method_not_allowed"},
		{"Connection would hide Origin from the upstream", "GET /v1", []string{"Connection: close, origin", "Origin: https://evil.test"}, 400, `Bearer realm="app", error="invalid_request", error_description="header is malformed"`, "header_malformed"},
		{"Connection would hide a cookie", "GET /v1", []string{"Connection: close", "Connection: Cookie"}, 400, "Bearer", "header_malformed"},
		{"Connection would hide Sec-Fetch-Site", "GET /v1", []string{"Connection: sec-fetch-site"}, 400, "Bearer", "header_malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := append([]string{auth}, tt.header...)
			if strings.HasPrefix(tt.line, "CONNECT") {
				header = append(header, "Host: app.test:443")
			}
			got := b.send(t, request(tt.line, header...))
			challenge := got.header.Get("WWW-Authenticate")
			if got.status != tt.status || !strings.HasPrefix(challenge, tt.challenge) || tt.challenge == "" && challenge != "" {
				t.Errorf("got %d with %q, want %d", got.status, challenge, tt.status)
			}
			if (got.status == http.StatusMethodNotAllowed) != (got.header.Get("Allow") != "") {
				t.Errorf("Allow is %q", got.header.Get("Allow"))
			}
			if e := b.refused(t, got); e.Payload.Reason != tt.reason || e.Service != "app" {
				t.Errorf("the record says %q, want %q", e.Payload.Reason, tt.reason)
			}
		})
	}
}

// A bearer credential that is found is the only one there is, whole.
func FuzzBearer(f *testing.F) {
	f.Add("Bearer a.b.c", "", "", "", uint8(1))
	f.Add("bearer  a", "Bearer b", "Basic x", "", uint8(3))
	f.Add("Bearer a", "", "Bearer b", "", uint8(5))
	f.Add("Bearer a, Bearer b", "", "Bearer c", "Bearer d", uint8(15))
	f.Fuzz(func(t *testing.T, a1, a2, s1, s2 string, which uint8) {
		h := http.Header{}
		for i, v := range []string{a1, a2, s1, s2} {
			if name := []string{"Authorization", "X-Serverless-Authorization"}[i/2]; which>>i&1 == 1 {
				h[name] = append(h[name], v)
			}
		}
		raw, header, err := httpproxy.Bearer(h)
		if err != nil {
			if raw != "" {
				t.Fatalf("refused (%v), with %q", err, raw)
			}
			return
		}
		want := "Authorization"
		if _, ok := h["X-Serverless-Authorization"]; ok {
			want = "X-Serverless-Authorization"
		}
		if header != want || len(h["Authorization"]) > 1 || len(h["X-Serverless-Authorization"]) > 1 {
			t.Fatalf("%v: took %s", h, strconv.Quote(header))
		}
		scheme, rest, _ := strings.Cut(h[header][0], " ")
		if !strings.EqualFold(scheme, "bearer") || strings.TrimLeft(rest, " ") != raw || raw == "" || strings.ContainsAny(raw, " \t,\"") {
			t.Fatalf("%q: took %q", h[header][0], raw)
		}
	})
}
