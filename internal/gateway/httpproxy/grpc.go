package httpproxy

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
)

// actionGRPC is asked by every call of gRPC, whatever its message says: which method it is
// of, the path says.
const actionGRPC = "grpc.call"

// isGRPC reports whether r is a call (gRPC over HTTP/2, "Requests").
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodPost && ofGRPC(r.Header.Get("Content-Type"))
}

// ofGRPC reports whether any server takes a content type for that of a call.
func ofGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(contentType), "application/grpc")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "+;, \t"))
}

// mistyped says what is wrong with a content type that servers read as one of a call, and
// others not; "" if nothing is. An upstream of HTTP/2 gets it in HTTP/2 in any case.
func mistyped(r *http.Request) string {
	types := r.Header["Content-Type"]
	switch {
	case len(types) > 1:
		return "there are two content types"
	case len(types) == 1 && r.ProtoMajor != 2 && ofGRPC(types[0]):
		return "a call of gRPC is made over HTTP/2"
	}
	return ""
}

// Codes of gRPC's status (grpc/doc/statuscodes.md).
const (
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

func grpcCode(c fault.Code) int {
	switch c {
	case fault.Invalid:
		return grpcInvalidArgument
	case fault.Missing, fault.Unproven:
		return grpcUnauthenticated
	case fault.Denied:
		return grpcPermissionDenied
	case fault.Absent, fault.Unsupported:
		return grpcUnimplemented
	case fault.Busy:
		return grpcUnavailable
	case fault.TooMany:
		return grpcResourceExhausted
	}
	return grpcInternal
}

// grpcOf is what a problem of this gateway is in gRPC. HTTP's own mapping would make a
// 421 or 502 of a proxy something else in each client library.
func grpcOf(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return grpcInvalidArgument
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusTooManyRequests:
		return grpcResourceExhausted
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMisdirectedRequest, http.StatusNotImplemented:
		return grpcUnimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return grpcUnavailable
	case http.StatusGatewayTimeout:
		return grpcDeadlineExceeded
	}
	return grpcInternal
}

// grpcTimeout reads grpc-timeout: how long the client waits, 0 if it does not say.
func grpcTimeout(value string) time.Duration {
	if len(value) < 2 || len(value) > 9 {
		return 0
	}
	n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[value[len(value)-1]]
	if err != nil || unit > 0 && n > uint64(math.MaxInt64/unit) {
		return 0
	}
	return time.Duration(n) * unit
}

// broke is what a call is told whose upstream broke off: that its own deadline is over, if
// it is, since then the upstream gives up, and maybe sooner than the client.
func (x *exchange) broke() (code int, detail string) {
	if t := grpcTimeout(x.r.Header.Get("Grpc-Timeout")); t > 0 && time.Since(x.began) >= t {
		return grpcDeadlineExceeded, "the deadline of the call is over"
	}
	return grpcUnavailable, "the service did not answer"
}

// answerGRPC answers a call that goes nowhere: header fields alone, which are the
// trailers, too ("Trailers-Only").
func answerGRPC(w http.ResponseWriter, code int, detail, decision string) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", grpcMessage(detail, decision))
	if decision != "" {
		h.Set(DecisionHeader, decision)
	}
	h.Del("Www-Authenticate")
	w.WriteHeader(http.StatusOK)
}

// endGRPC ends a call whose answer has begun.
func endGRPC(w http.ResponseWriter, code int, detail, decision string) {
	h := w.Header()
	for name, v := range map[string]string{"Grpc-Status": strconv.Itoa(code), "Grpc-Message": grpcMessage(detail, decision), DecisionHeader: decision} {
		h[http.TrailerPrefix+name] = []string{v}
	}
}

// grpcMessage is percent-encoded, as gRPC has it for what is no printable ASCII.
func grpcMessage(detail, decision string) string {
	if decision != "" {
		detail += " (decision " + decision + ")"
	}
	return strings.ReplaceAll(url.PathEscape(detail), "%20", " ")
}
