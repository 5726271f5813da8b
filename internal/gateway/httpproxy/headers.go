package httpproxy

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// The two headers that may carry a bearer token. The second is Cloud Run's: when
// it is there, it alone is judged and Authorization goes through untouched.
const (
	authorization = "Authorization"
	serverless    = "X-Serverless-Authorization"
)

// AssertionHeader carries the assertion upstream.
const AssertionHeader = "X-Sallyport-Assertion"

var errNoCredential = errors.New("no credential")

// bearer finds the one credential to judge and the header that held it. Of two
// headers of one name, or two credentials in one, none can be told to be meant.
func bearer(h http.Header) (raw, header string, err error) {
	header = authorization
	if _, there := h[serverless]; there {
		header = serverless
	}
	for _, name := range []string{authorization, serverless} {
		if len(h[name]) > 1 {
			return "", header, errors.New("there are two " + name + " headers")
		}
	}
	if len(h[header]) == 0 {
		return "", header, errNoCredential
	}
	scheme, raw, ok := strings.Cut(h[header][0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		if header == authorization {
			return "", header, errNoCredential // another scheme: not for us, and not enough
		}
		return "", header, errors.New(header + " is not a Bearer credential")
	}
	if raw = strings.TrimLeft(raw, " "); raw == "" || strings.ContainsAny(raw, " \t,\"") {
		return "", header, errors.New(header + " is not exactly one Bearer credential")
	}
	return raw, header, nil
}

// ownedHeaders are names, besides those that name a caller, in which upstreams believe
// to find what was asked or where from, in folded form. A caller's own copies never pass.
var ownedHeaders = map[string]bool{
	"x-real-ip": true, "forwarded": true, "x-original-url": true, "x-rewrite-url": true, "x-original-uri": true,
	"x-original-method": true, "x-http-method-override": true, "x-http-method": true, "x-method-override": true,
	"proxy-authorization": true, "proxy-connection": true, "proxy": true, // which CGI programs take for a proxy to use
	"true-client-ip": true, "x-client-ip": true, "cf-connecting-ip": true,
}

// ownedFamilies are whole families of such names.
var ownedFamilies = []string{"x-sallyport-", "x-forwarded-", "x-goog-iap-", "x-pomerium-", "x-amzn-oidc-", "cf-access-"}

// drops reports whether a caller's own copy of a field never goes upstream: what names a
// caller, in any spelling, what this service is told by us, other spellings of the
// authorization headers, and what concerns the caller's connection alone.
func (r *route) drops(name string) bool {
	if drop, known := r.known[name]; known {
		return drop
	}
	return hop[name] || dropped(name, r.own)
}

func dropped(name string, own map[string]bool) bool {
	if name == authorization || name == serverless {
		return false // the one that was judged is removed by its caller
	}
	f := identity.Fold(name)
	return ownedHeaders[f] || identity.NamesCaller(f) || own[f] || f == "authorization" || hasPrefix(f)
}

// common are fields that most requests have, for which drops has its answer ready.
var common = []string{"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length",
	"Content-Type", "Cookie", "Date", "Dnt", "Grpc-Accept-Encoding", "Grpc-Timeout", "If-Match", "If-Modified-Since", "If-None-Match", "Origin", "Pragma",
	"Priority", "Range", "Referer", "Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site",
	"Sec-Fetch-User", "Te", "Traceparent", "Tracestate", "Upgrade-Insecure-Requests", "User-Agent", "X-Request-Id", "X-Requested-With"}

// endToEnd returns the first option of a request's Connection headers that names a
// field meant for all recipients, "" if there is none. A sender must not do that
// (RFC 9110 section 7.6.1): removing the field, as asked, would hide it from checks
// that the upstream makes. Of other fields that are named the sender may dispose.
func endToEnd(connection []string) string {
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.ToLower(strings.TrimSpace(option))
			if endToEndFields[option] {
				return option
			}
			for _, p := range endToEndPrefixes {
				if strings.HasPrefix(option, p) {
					return option
				}
			}
		}
	}
	return ""
}

var endToEndFields = map[string]bool{
	"host": true, "authorization": true, "x-serverless-authorization": true, "cookie": true, "origin": true, "referer": true,
	"cache-control": true, "range": true, "expect": true, "traceparent": true, "tracestate": true, "x-csrf-token": true,
	"x-xsrf-token": true, "x-requested-with": true,
}

var endToEndPrefixes = []string{"content-", "if-", "accept", "access-control-", "sec-"}

func hasPrefix(folded string) bool {
	for _, p := range ownedFamilies {
		if strings.HasPrefix(folded, p) {
			return true
		}
	}
	return false
}
