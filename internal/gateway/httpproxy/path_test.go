package httpproxy_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// The path that policy judged and the one that the upstream received are one path.
func TestPath(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name, target string
		judged       string // by policy
		forwarded    string // "" for the target itself
	}{
		{"a plain path", "/v1/a-b_c.d~e", "/v1/a-b_c.d~e", ""},
		{"the root", "/", "/", ""},
		{"a trailing slash is kept", "/v1/", "/v1/", ""},
		{"sub-delimiters stay as they are", "/a!$&'()*+,;=:@b", "/a!$&'()*+,;=:@b", ""},
		{"an encoded letter is that letter", "/%61dm%69n2", "/admin2", "/admin2"},
		{"hex digits in lower case are written in upper case", "/%c3%a9", "/é", "/%C3%A9"},
		{"an encoded space", "/a%20b", "/a b", ""},
		{"an encoded question mark belongs to the path", "/a%3Fb", "/a?b", ""},
		{"an encoded hash belongs to the path", "/a%23b", "/a#b", ""},
		{"a percent sign that is no escape once decoded", "/100%25", "/100%", ""},
		{"raw UTF-8 is escaped", "/é", "/é", "/%C3%A9"},
		{"characters that need escaping are escaped", "/a|b\"<>^`{}[]", "/a|b\"<>^`{}[]", "/a%7Cb%22%3C%3E%5E%60%7B%7D%5B%5D"},
		{"three dots are a name", "/.../x", "/.../x", ""},
		{"dots with a name around them", "/a..b/.well-known", "/a..b/.well-known", ""},
		{"a matrix parameter", "/a;v=1/b", "/a;v=1/b", ""},
		{"absolute form", "http://app.test/v1/x?q", "/v1/x", "/v1/x?q"},
		{"absolute form without a path", "http://app.test", "/", "/"},
		{"absolute form without a path, with a query", "http://app.test?q=1", "/", "/?q=1"},
		{"absolute form with characters that need escaping", "http://app.test/a|%62", "/a|b", "/a%7Cb"},
		{"absolute form with an encoded letter", "http://app.test/%61", "/a", "/a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET "+tt.target, bearer(good(t))))
			e := b.record(t, "")
			up := b.only(t)
			want := tt.forwarded
			if want == "" {
				want = tt.target
			}
			judged := e.Payload.Vars["request.path"]
			if got.status != http.StatusOK || e.Decision != audit.Allow || judged != tt.judged || up.uri != want {
				t.Errorf("got %d, policy saw %q, upstream got %q; want %q and %q", got.status, judged, up.uri, tt.judged, want)
			}
		})
	}
}

// Who answers a request target that is not served: the status, and the reason in
// the record.
var (
	byUs     = refusal{http.StatusBadRequest, "path_not_canonical"}
	byPolicy = refusal{http.StatusForbidden, "no_match"}
	byServer = refusal{http.StatusBadRequest, ""} // net/http, before there is a request to record
)

type refusal struct {
	status int
	reason string
}

// What some server could read as another path is refused, and so is what policy
// denies in any spelling of it.
func TestPathRefused(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name, target string
		by           refusal
	}{
		{"a denied path", "/admin", byPolicy},
		{"an encoded letter does not get past policy", "/%61dmin", byPolicy},
		{"a dot segment", "/v1/../admin", byUs},
		{"a single dot segment", "/v1/./x", byUs},
		{"a dot segment at the end", "/v1/..", byUs},
		{"an encoded dot segment", "/v1/%2e%2e/admin", byUs},
		{"an encoded dot segment in upper case", "/v1/%2E%2E/admin", byUs},
		{"a half-encoded dot segment", "/v1/.%2e/admin", byUs},
		{"the other half", "/v1/%2e./admin", byUs},
		{"a dot segment with a parameter", "/v1/..;x/admin", byUs},
		{"an encoded dot segment with an encoded parameter", "/v1/%2e%2e%3bx/admin", byUs},
		{"an encoded slash", "/v1%2Fadmin", byUs},
		{"a dot segment before an encoded slash", "/v1/..%2fadmin", byUs},
		{"a backslash", `/v1\..\admin`, byUs},
		{"an encoded backslash", "/v1/..%5cadmin", byUs},
		{"a double slash", "/v1//admin", byUs},
		{"a double slash at the start", "//evil.test/admin", byUs},
		{"two trailing slashes", "/v1//", byUs},
		{"an encoded NUL", "/v1%00", byUs},
		{"an encoded line break", "/v1%0d%0aX: y", byServer},
		{"an encoded line break without a space", "/v1%0d%0aX:y", byUs},
		{"an encoded DEL", "/v1%7f", byUs},
		{"an escape that is escaped", "/v1/%252e%252e/admin", byUs},
		{"a letter that is escaped twice", "/%2561dmin", byUs},
		{"a broken escape", "/v1/%zz", byServer},
		{"an escape cut off", "/v1/%2", byServer},
		{"a lone percent sign", "/%", byServer},
		{"a fragment", "/v1#x", byUs},
		{"bytes that are no UTF-8", "/v1/%ff", byUs},
		{"raw bytes that are no UTF-8", "/v1/\xff", byUs},
		{"an overlong dot", "/v1/%c0%ae%c0%ae/admin", byUs},
		{"absolute form with a dot segment", "http://app.test/v1/../admin", byUs},
		{"absolute form with an encoded dot segment", "http://app.test/v1/%2e%2e/admin", byUs},
		{"absolute form with a double slash", "http://app.test//admin", byUs},
		{"absolute form with an escape that is escaped beside an odd byte", "http://app.test/%252e%252e|/admin", byUs},
		{"absolute form with a fragment", "http://app.test/v1#x", byUs},
		{"absolute form with an encoded slash", "http://app.test/v1%2fadmin", byUs},
		{"absolute form of a denied path behind a user", "http://x:y@app.test/admin", byPolicy},
		{"no slash at the start", "v1", byServer},
		{"a path of more than 8 KiB", "/" + strings.Repeat("x", 8<<10), byUs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET "+tt.target, bearer(good(t))))
			if got.status != tt.by.status {
				t.Errorf("got %d, want %d", got.status, tt.by.status)
			}
			if tt.by == byServer {
				if up := b.take(); len(up) != 0 {
					t.Errorf("upstream got %v", up)
				}
				return
			}
			if e := b.refused(t, got); e.Payload.Reason != tt.by.reason {
				t.Errorf("the record says %q, want %q", e.Payload.Reason, tt.by.reason)
			}
		})
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name, query string
		forwarded   bool
	}{
		{"order, empty values and plus signs", "?b=2&a=1&&a=&c+d", true},
		{"a semicolon, which net/url would drop", "?a=1;b=2&c", true},
		{"escapes in either case, and dots, slashes and backslashes", `?p=%2f%2E%2e/../\..%5c`, true},
		{"an escape that is escaped", "?p=%252e", true},
		{"another question mark", "?a?b=?", true},
		{"an empty query", "?", true},
		{"a broken escape", "?a=1&b=%zz", false},
		{"an escape cut off", "?a=%2", false},
		{"a fragment", "?a#b", false},
		{"a raw byte that is not ASCII", "?a=\xe9", false},
		{"a raw DEL", "?a=\x7f", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET /v1"+tt.query, bearer(good(t))))
			if tt.forwarded {
				if up := b.only(t); got.status != http.StatusOK || up.uri != "/v1"+tt.query {
					t.Errorf("got %d, upstream %q", got.status, up.uri)
				}
				for _, v := range b.record(t, "").Payload.Vars {
					if tt.query != "?" && strings.Contains(v, tt.query[1:]) {
						t.Errorf("the record holds the query: %q", v)
					}
				}
				return
			}
			if up := b.take(); got.status != http.StatusBadRequest || len(up) != 0 {
				t.Errorf("got %d, upstream %v", got.status, up)
			}
		})
	}
}

// A path that is taken is taken in one form: its canonical form is read as the
// same path again, net/url decodes it to what policy judged, and nothing is in it
// that anybody could read as another path.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/", "/a/b/", "/%61%2e%2E", "/a;b/..;c", "/%252e", "/é%C3%A9", "//", "/a%2fb", `/\`, "/%", "/100%25", "/a?b#c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		decoded, escaped, err := httpproxy.Canonical(raw)
		if err != nil {
			if decoded != "" || escaped != "" {
				t.Fatalf("%q is refused and read as %q", raw, decoded)
			}
			return
		}
		again, same, err := httpproxy.Canonical(escaped)
		if err != nil || again != decoded || same != escaped {
			t.Fatalf("%q: %q, read again: %q %q %v", raw, escaped, again, same, err)
		}
		if want, err := url.PathUnescape(raw); err != nil || want != decoded {
			t.Fatalf("%q: net/url reads %q (%v), we read %q", raw, want, err, decoded)
		}
		if want, err := url.PathUnescape(escaped); err != nil || want != decoded {
			t.Fatalf("%q: net/url reads %q (%v), we judged %q", escaped, want, err, decoded)
		}
		if u := (&url.URL{Path: decoded, RawPath: escaped}); u.EscapedPath() != escaped {
			t.Fatalf("net/url would send %q, not %q", u.EscapedPath(), escaped)
		}
		if decoded[0] != '/' || strings.Contains(decoded, "//") || strings.Contains(decoded, `\`) || !utf8.ValidString(decoded) ||
			strings.ContainsFunc(decoded, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			t.Fatalf("%q is taken as %q", raw, decoded)
		}
		for segment := range strings.SplitSeq(decoded, "/") {
			if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
				t.Fatalf("%q is taken with the dot segment %q", raw, segment)
			}
		}
	})
}
