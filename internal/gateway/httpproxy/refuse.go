package httpproxy

import (
	"bytes"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// DecisionHeader names the record of a refusal, so that a caller can quote it.
const DecisionHeader = "Sallyport-Decision"

// problem is the body of an answer that is ours (RFC 9457 section 3).
type problem struct {
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Decision string `json:"decision,omitzero"`
}

// turnAway refuses what has no credential to judge. It returns false, the answer
// of admit.
func (x *exchange) turnAway(a guard.Attempt, reason guard.Reason, why string) bool {
	f := x.p.core.Guard.Refuse(x.r.Context(), a, reason, why)
	if f.Code == fault.Busy { // there is no record, which comes before what is wrong
		x.refuse(f)
		return false
	}
	switch reason {
	case guard.HostUnknown:
		x.answer(http.StatusMisdirectedRequest, f.Public, f.Decision) // RFC 9110 section 15.5.20
	case guard.MethodNotAllowed:
		methods := "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
		if x.at != nil && len(x.at.Methods) > 0 {
			methods = strings.Join(x.at.Methods, ", ")
		}
		x.w.Header().Set("Allow", methods)
		x.answer(http.StatusMethodNotAllowed, f.Public, f.Decision)
	case guard.BodyTooLarge:
		x.last()
		x.answer(http.StatusRequestEntityTooLarge, f.Public, f.Decision)
	default:
		x.refuse(f)
	}
	return false
}

// refuse is the only place where this gateway writes an error of the guard's: RFC
// 6750 section 3 for what concerns the credential. A request without one gets a
// challenge without an error code (section 3.1); why a token was not taken is told
// in a safe class only.
func (x *exchange) refuse(err error) {
	f := fault.Of(err)
	status, code := http.StatusInternalServerError, ""
	challenge := false
	switch f.Code {
	case fault.Invalid:
		status, code = http.StatusBadRequest, "invalid_request"
		challenge = true
	case fault.Missing:
		status = http.StatusUnauthorized
		challenge = true
	case fault.Unproven:
		status, code = http.StatusUnauthorized, "invalid_token"
		challenge = true
	case fault.Denied:
		status, code = http.StatusForbidden, "insufficient_scope"
		challenge = true
	case fault.Absent:
		status = http.StatusNotFound
	case fault.Unsupported:
		status = http.StatusNotImplemented
	case fault.Busy, fault.TooMany:
		status = http.StatusServiceUnavailable
		if f.Code == fault.TooMany {
			status = http.StatusTooManyRequests // RFC 6585 section 4
		}
		if f.RetryAfter > 0 {
			x.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
		}
	}
	if challenge {
		value := `Bearer realm="` + x.route.realm + `"`
		if code != "" {
			value += `, error="` + code + `", error_description="` + f.Public + `"`
		}
		x.w.Header().Set("WWW-Authenticate", value)
	}
	x.answer(status, f.Public, f.Decision)
}

// answer writes a problem: to programs as such, to browsers as a short page, to gRPC as its
// status. detail is one of our own constant clauses.
func (x *exchange) answer(status int, detail, decision string) {
	if x.grpc {
		answerGRPC(x.w, grpcOf(status), detail, decision)
		return
	}
	x.early()
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if x.at != nil && x.at.CORS != nil {
		x.at.CORS.allowed(h, x.r.Header.Get("Origin"))
	}
	if decision != "" {
		h.Set(DecisionHeader, decision)
	}
	var body []byte
	if wantsPage(x.r) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		body = page(status, detail, decision)
	} else {
		h.Set("Content-Type", "application/problem+json")
		body, _ = json.Marshal(problem{http.StatusText(status), status, detail, decision}) // strings and a number
		body = append(body, '\n')
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(x.p.stall)) // as pace.leave
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body) // the client has gone; nothing to add
	}
}

// wantsPage reports whether a person reads the answer. Browsers name text/html first when
// they load a page, and XHTML with it; so does Java's client without, for everything that
// it asks for.
func wantsPage(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	first, _, more := strings.Cut(accept, ",")
	return strings.TrimSpace(first) == "text/html" && (!more || strings.Contains(accept, "application/xhtml+xml"))
}

var pages = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title>
<style>body{font:1.1rem/1.6 system-ui,sans-serif;color-scheme:light dark;max-width:34rem;margin:18vh auto;padding:0 1.5rem}h1{font-size:1.5rem;margin:0 0 .5rem}code{font-size:1rem;user-select:all}p{margin:.4rem 0}</style>
<h1>{{.Status}} {{.Title}}</h1>
<p>The gateway in front of this page says: {{.Detail}}.</p>
{{with .Decision}}<p>If you think that this is wrong, tell whoever runs it this decision: <code>{{.}}</code></p>
{{end}}</html>
`))

func page(status int, detail, decision string) []byte {
	var out bytes.Buffer
	_ = pages.Execute(&out, problem{http.StatusText(status), status, detail, decision}) // into memory
	return out.Bytes()
}
