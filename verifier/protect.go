package verifier

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// retryKeys is when a caller may ask again whose issuer's keys could not be had.
const retryKeys = 5 * time.Second

// Protect returns a handler that passes to next what g admits: requests with
// exactly one Authorization header that holds one good bearer token. The handler
// finds the token by FromContext. Headers in which services look for a caller's
// name, such as X-Forwarded-User, are removed, since nobody vouched for them here;
// everything else reaches it as it came, Authorization included.
//
// What is not admitted is answered as Sallyport's gateway does, by RFC 6750 section
// 3 with a problem (RFC 9457) as body: 401 without a credential or with a token
// that is not good, 400 with a malformed credential, 503 with Retry-After when the
// issuer's keys cannot be had.
func (g *Gate) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, err := g.Admit(r.Context(), Attempt{
			Authorization: r.Header["Authorization"], Traceparent: r.Header["Traceparent"],
			Action: action(r.Method), Resource: r.URL.Path, Peer: r.RemoteAddr,
		})
		if err != nil {
			g.refuse(w, err)
			return
		}
		r = r.WithContext(NewContext(r.Context(), t))
		r.Header = nobodyElse(r.Header)
		next.ServeHTTP(w, r)
	})
}

// action is the record's word for a method, "" for one that no gateway forwards.
func action(method string) string {
	for i := range len(method) {
		if c := method[i]; !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return ""
		}
	}
	if method == "" || method == "WEBSOCKET" || len(method) > 32 { // http.websocket is an upgrade, no method
		return ""
	}
	return "http." + strings.ToLower(method)
}

// problem is the body of a refusal (RFC 9457 section 3).
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// refuse is the only place that answers a refusal: RFC 6750 section 3. A request
// without a credential gets a challenge without an error code (section 3.1); why a
// token was not taken is told in a safe class only.
func (g *Gate) refuse(w http.ResponseWriter, err error) {
	status, code, detail := http.StatusUnauthorized, "invalid_token", err.Error()
	e, isToken := errors.AsType[*Error](err)
	switch {
	case isToken:
		detail = e.Class()
		if e.Reason == KeysUnavailable {
			status = http.StatusServiceUnavailable
		}
	case errors.Is(err, ErrNoCredential):
		code = ""
	default:
		status, code = http.StatusBadRequest, "invalid_request"
	}
	h := w.Header()
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(int(retryKeys.Seconds())))
	} else {
		challenge := `Bearer realm="` + g.r.Realm + `"`
		if code != "" {
			challenge += `, error="` + code + `", error_description="` + detail + `"`
		}
		h.Set("WWW-Authenticate", challenge)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, _ := json.Marshal(problem{http.StatusText(status), status, detail}) // strings and a number
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client has gone; nothing to add
}

// nobodyElse returns h without the headers that name a caller in plain text. Where
// a request came from (X-Forwarded-For) names nobody, and a statement that is
// signed (X-Sallyport-Assertion) is for who reads it to verify: both stay.
func nobodyElse(h http.Header) http.Header {
	var out http.Header
	for name := range h {
		if !identity.NamesCaller(identity.Fold(name)) {
			continue
		}
		if out == nil {
			out = h.Clone()
		}
		delete(out, name)
	}
	if out == nil {
		return h
	}
	return out
}
