package private

import (
	"io"
	"net/http"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// RefusedPath, below Prefix + ACCOUNT, is where a Door tells the server whom it turned
// away: POST, with why for a body and the reason as the query. The answer is the decision.
const RefusedPath = "/refused"

// reasons are those that a Door has.
var reasons = []guard.Reason{guard.NoDescendant, guard.HostRefused, guard.Forwarded, guard.MethodNotAllowed, guard.PathUnknown}

// maxReport bounds a reason, and its answer, in bytes.
const maxReport = 1 << 10

// Refused returns the server's end of RefusedPath. What it is told nobody vouches for but
// the user whose door it is, and the record says so.
func Refused(g door.Guard, account string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := door.Caller(r.Context())
		why, err := io.ReadAll(io.LimitReader(r.Body, maxReport))
		reason := guard.Reason(r.URL.RawQuery)
		if !ok || err != nil || r.Method != http.MethodPost || !slices.Contains(reasons, reason) {
			http.NotFound(w, r)
			return
		}
		a := guard.Attempt{Action: guard.ActionMetadata, Resource: guard.ToAccount(account), Caller: &c, Unverified: map[string]string{"reported": string(why)}}
		f := g.Refuse(r.Context(), a, reason, c.Origin()+" says that its door of `sallyport run` turned a caller away")
		_, _ = io.WriteString(w, f.Decision)
	})
}

// Unknown answers whoever runs as an account that is not there: it is refused, as who may
// not run as one that is, and recorded.
func Unknown(g door.Guard, account string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := door.Caller(r.Context())
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, err := g.Admit(r.Context(), guard.Attempt{Action: guard.ActionMetadata, Resource: guard.ToItself(), Caller: &c,
			Credentials: []guard.Credential{guard.RunAs(c, account)}})
		f := fault.Of(err)
		why := f.Public
		if f.Decision != "" {
			why += " (decision " + f.Decision + ")"
		}
		refuse(w, door.Status(w.Header(), f), why)
	})
}
