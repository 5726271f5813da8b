package metadata

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/door"
)

type identityQuery struct {
	audience string
	full     bool
}

// readIdentityQuery takes exactly the parameters that contract 1.5 lists. Node
// and gcloud do not escape the audience, so that everything after "&" arrives as
// parameters of its own: anything unknown is refused, or a caller would get a
// token for half an audience.
func readIdentityQuery(raw string) (identityQuery, error) {
	q, err := parameters(raw, "audience", "format", "licenses", "license")
	if err != nil {
		return identityQuery{}, err
	}
	format, there := q.get("format")
	audience, _ := q.get("audience")
	out := identityQuery{audience: audience, full: format == "full"}
	if err := door.CheckAudience(out.audience); err != nil {
		return out, err
	}
	if there && format != "standard" && format != "full" {
		return out, errors.New("format: want standard or full")
	}
	for _, name := range []string{"licenses", "license"} {
		if _, err := q.flag(name, "TRUE", "FALSE"); err != nil {
			return out, err
		}
	}
	if len(q["licenses"])+len(q["license"]) > 1 {
		return out, errors.New("licenses is there twice: license is its old spelling")
	}
	return out, nil
}

// cloudPlatform is the one scope that accounts have; it stands for every scope of
// Google's kind.
const (
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
	covered       = "https://www.googleapis.com/auth/"
)

// errScope means that nothing is left of the scopes asked for.
var errScope = errors.New("none of these scopes is this account's: it has " + cloudPlatform + " and what that covers")

// maxScopes bounds how many scopes a token is asked for.
const maxScopes = 64

// readTokenQuery returns the scopes that the token is to have: those asked for, as
// far as the account has them, or else all of the account's. What would bind the
// token to a key or a transport is refused rather than ignored (contract 1.4).
func readTokenQuery(raw string) ([]string, error) {
	q, err := parameters(raw, "scopes")
	if err != nil {
		return nil, err
	}
	scopes, _ := q.get("scopes")
	if scopes == "" {
		return []string{cloudPlatform}, nil
	}
	asked := strings.Split(scopes, ",")
	if len(asked) > maxScopes {
		return nil, fmt.Errorf("scopes: more than %d", maxScopes)
	}
	var out []string
	for _, s := range asked {
		if !scopeToken(s) {
			return nil, errors.New("scopes: want scopes with commas between them (RFC 6749 section 3.3)")
		}
		if strings.HasPrefix(s, covered) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if out == nil {
		return nil, errScope
	}
	return out, nil
}

// scopeToken reports whether s is one of RFC 6749 section 3.3.
func scopeToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// valueQuery is how a value is asked for.
type valueQuery struct {
	recursive bool
	alt       string // "json", "text", or "" for the default
	wait      bool
	lastETag  string
	timeout   time.Duration
}

// maxWait is how long a request waits for a change that names no time of its own.
const maxWait = time.Hour

func readValueQuery(raw string) (valueQuery, error) {
	out := valueQuery{timeout: maxWait}
	if raw == "" {
		return out, nil
	}
	q, err := parameters(raw, "recursive", "alt", "wait_for_change", "last_etag", "timeout_sec")
	if err != nil {
		return out, err
	}
	if out.recursive, err = q.flag("recursive", "true", "false"); err != nil {
		return out, err
	}
	if out.wait, err = q.flag("wait_for_change", "true", "false"); err != nil {
		return out, err
	}
	out.lastETag, _ = q.get("last_etag")
	if alt, there := q.get("alt"); there {
		if out.alt = strings.ToLower(alt); out.alt != "json" && out.alt != "text" {
			return out, errors.New("alt: want json or text")
		}
	}
	if s, there := q.get("timeout_sec"); there {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return out, errors.New("timeout_sec: want a whole number of seconds")
		}
		out.timeout = min(time.Duration(n)*time.Second, maxWait)
	}
	return out, nil
}

// query is a query string in which each name is there once.
type query url.Values

func (q query) get(name string) (value string, there bool) {
	if v := q[name]; len(v) > 0 {
		return v[0], true
	}
	return "", false
}

// flag reads a parameter that is yes or no, without regard to case.
func (q query) flag(name, yes, no string) (bool, error) {
	v, there := q.get(name)
	if there && !strings.EqualFold(v, yes) && !strings.EqualFold(v, no) {
		return false, fmt.Errorf("%s: want %s or %s", name, yes, no)
	}
	return there && strings.EqualFold(v, yes), nil
}

// parameters reads a query string; each name must be among known, once.
func parameters(raw string, known ...string) (query, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("the query string is malformed")
	}
	for name, vs := range values {
		switch {
		case !slices.Contains(known, name):
			why := "unknown parameter: this path takes " + strings.Join(known, ", ")
			if slices.Contains(known, "audience") {
				why += "; is & in the audience escaped?"
			}
			return nil, errors.New(why)
		case len(vs) > 1:
			return nil, errors.New(name + " is there twice")
		}
	}
	return query(values), nil
}
