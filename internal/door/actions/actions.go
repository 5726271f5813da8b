// Package actions is a door in the shape of GitHub Actions' ID token endpoint, so
// that tools which ask a workflow for its token get one here: @actions/core, and
// everything that reads ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN.
//
// GitHub gives each job a secret request token. Here the kernel says who asks, so the
// token may be any text: that the request has an Authorization field at all is what
// keeps out pages and tricked programs, which can set none. The ID token is ours, as
// everywhere; GitHub's own claims (repository, workflow) are not in it. Contract
// google-clients, section 5.
package actions

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// Path is where the door is. Clients append "&audience=", so the URL they are given
// has a query already: Path + "?api-version=2.0".
const Path = "/actions/id-token"

// Query is the query of the URL that clients are given.
const Query = "api-version=2.0"

// A Door serves Path.
type Door struct{ local *door.Local }

// New returns a Door.
func New(l *door.Local) *Door { return &Door{l} }

type reply struct {
	Value string `json:"value"`
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := d.token(r)
	if err != nil {
		d.fail(w, err)
		return
	}
	answer(w, http.StatusOK, reply{raw})
}

func (d *Door) token(r *http.Request) (string, error) {
	if reason, why := d.local.Check(r); reason != "" {
		return "", d.local.Refuse(r, reason, why)
	}
	if r.URL.Path != Path {
		return "", d.local.Refuse(r, guard.PathUnknown, "the one path here is "+Path)
	}
	if !bearer(r.Header["Authorization"]) {
		return "", d.local.Refuse(r, guard.CredentialMissing, "the request lacks Authorization: bearer TOKEN; any token will do, the kernel says who asks")
	}
	audience, err := readQuery(r.URL.RawQuery)
	if err != nil {
		return "", d.local.Parameter(r, err)
	}
	return d.local.IDToken(r, d.local.Among("default"), audience, true)
}

func bearer(fields []string) bool {
	if len(fields) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(fields[0], " ")
	return strings.EqualFold(scheme, "bearer") && strings.TrimSpace(token) != ""
}

// readQuery returns the audience. GitHub has one for those who name none; here a
// token without an audience is none.
func readQuery(raw string) (string, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return "", errors.New("the query string is malformed")
	}
	for name, values := range q {
		if !slices.Contains([]string{"audience", "api-version"}, name) {
			return "", errors.New("unknown parameter: this path takes audience; is & in it escaped?")
		}
		if len(values) > 1 {
			return "", errors.New(name + " is there twice")
		}
	}
	return q.Get("audience"), door.CheckAudience(q.Get("audience"))
}

type problem struct {
	Message  string `json:"message"`
	Decision string `json:"decision,omitzero"`
}

// fail is the only place this door writes an error.
func (d *Door) fail(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	status := door.Status(w.Header(), f)
	if f.Code == fault.Missing {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	answer(w, status, problem{f.Public, f.Decision})
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // never: strings alone
		status, body = http.StatusInternalServerError, nil
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone; nothing to add
}
