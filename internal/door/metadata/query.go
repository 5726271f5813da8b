package metadata

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/issuer"
)

// maxAudience is the longest audience minted for, in bytes: what Google's
// federation allows.
const maxAudience = 256

// expiresIn is what clients are told of an access token's life, in seconds: a
// second less than it has, as Google's server does.
var expiresIn = strconv.Itoa(int(issuer.TokenLifetime.Seconds()) - 1)

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
	out := identityQuery{audience: q["audience"], full: q["format"] == "full"}
	switch f, there := q["format"]; {
	case out.audience == "":
		return out, errors.New("non-empty audience parameter required")
	case len(out.audience) > maxAudience:
		return out, fmt.Errorf("audience: longer than %d bytes", maxAudience)
	case !utf8.ValidString(out.audience) || strings.ContainsFunc(out.audience, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return out, errors.New("audience: has white space, control characters or invalid UTF-8")
	case there && f != "standard" && f != "full":
		return out, errors.New("format: want standard or full")
	}
	for _, name := range []string{"licenses", "license"} {
		if v, there := q[name]; there && !strings.EqualFold(v, "true") && !strings.EqualFold(v, "false") {
			return out, fmt.Errorf("%s: want TRUE or FALSE", name)
		}
	}
	return out, nil
}

// checkTokenQuery accepts scopes, which change nothing, as on GCE. What would bind
// the token to a key or a transport is refused rather than ignored (contract 1.4).
func checkTokenQuery(raw string) error {
	_, err := parameters(raw, "scopes")
	return err
}

// parameters reads a query string; each name must be among known, once.
func parameters(raw string, known ...string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("the query string is malformed")
	}
	out := map[string]string{}
	for name, vs := range values {
		ok := false
		for _, k := range known {
			ok = ok || k == name
		}
		switch {
		case !ok:
			return nil, errors.New("unknown parameter: this path takes " + strings.Join(known, ", ") + "; is & in the audience escaped?")
		case len(vs) > 1:
			return nil, errors.New(name + " is there twice")
		}
		out[name] = vs[0]
	}
	return out, nil
}
