package httpproxy

import (
	"net/http"
	"strconv"

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
		x.w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		x.answer(http.StatusMethodNotAllowed, f.Public, f.Decision)
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
	case fault.Busy:
		status = http.StatusServiceUnavailable
		x.w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
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

// answer writes a problem. detail is one of our own constant clauses.
func (x *exchange) answer(status int, detail, decision string) {
	h := x.w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if decision != "" {
		h.Set(DecisionHeader, decision)
	}
	body, _ := json.Marshal(problem{http.StatusText(status), status, detail, decision}) // strings and a number
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(append(body, '\n')) // the client has gone; nothing to add
}
