package door

import (
	"net/http"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/fault"
)

// Status returns the status of an answer that tells f, and sets the fields that go with
// it. A policy's no is 403, never 429 or 5xx, which clients would try again and again
// (contract google-clients 0.14). 429 is for whoever asks for too much at once and 503
// for what is our fault and passes: those they shall try again.
func Status(h http.Header, f *fault.Error) int {
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	switch f.Code {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Denied, fault.Unproven, fault.Missing:
		return http.StatusForbidden
	case fault.Absent:
		return http.StatusNotFound
	case fault.Unsupported:
		h.Set("Allow", "GET, HEAD")
		return http.StatusMethodNotAllowed
	case fault.Busy:
		return http.StatusServiceUnavailable
	case fault.TooMany:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}
