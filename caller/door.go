package caller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport-dev/sallyport/token"
)

// What can be wrong with a door. Each error of Source.Token wraps one of these, or
// the caller's own context error.
var (
	// ErrUnavailable means that the door cannot be reached, or cannot answer now:
	// asking again later can help.
	ErrUnavailable = errors.New("the metadata door is not available")

	// ErrDenied means that the door gives this program no token for the audience:
	// asking again helps only after somebody changed something.
	ErrDenied = errors.New("the metadata door refused")

	// ErrAnswer means that what answered is no metadata door, or that its token is
	// not one for the audience that is good now.
	ErrAnswer = errors.New("the metadata door's answer cannot be used")
)

// Limits of asking a door.
const (
	fetchTimeout = 10 * time.Second // of one fetch, whoever waits for it
	maxHeader    = 16 << 10         // bytes of an answer's header fields
	maxQuote     = 256              // bytes of a refusal that are quoted
)

const identityPath = "/computeMetadata/v1/instance/service-accounts/default/identity"

// The header that a request must have and every answer of a door has: a browser
// or a proxy that was tricked into asking does not send it.
const flavor = "Metadata-Flavor"

// A door is where tokens are asked for.
type door struct {
	name      string // as the program wrote it
	host      string
	transport *http.Transport
}

// newDoor reads "HOST:PORT" or "unix:///PATH". A connection serves one request:
// who asks is attested anew each time.
func newDoor(name string) (*door, error) {
	t := &http.Transport{
		Proxy:                  nil, // what a proxy passes on is the proxy's request, and its token
		DialContext:            (&net.Dialer{Timeout: fetchTimeout}).DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	if path, ok := strings.CutPrefix(name, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%q: want unix:///PATH with an absolute path", name)
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		return &door{name, "localhost", t}, nil
	}
	if name == "" {
		return nil, errors.New("is empty, and so is the variable GCE_METADATA_HOST: say where the metadata door is")
	}
	u, err := url.Parse("http://" + name)
	if err != nil || u.Host != name || u.Hostname() == "" {
		return nil, fmt.Errorf("%q: want HOST:PORT or unix:///PATH", name)
	}
	return &door{name, name, t}, nil
}

// fetch asks once. Redirects are not followed: the door is where the program was
// told, not where somebody there points to.
func (d *door) fetch(ctx context.Context, audience string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	q := url.Values{"audience": {audience}, "format": {"standard"}}
	u := url.URL{Scheme: "http", Host: d.host, Path: identityPath, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", fmt.Errorf("caller: %w: %s: %w", ErrUnavailable, d.name, err)
	}
	req.Header.Set(flavor, "Google")
	resp, err := d.transport.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("caller: %w: %s: %w", ErrUnavailable, d.name, err)
	}
	defer resp.Body.Close()
	if v := resp.Header[flavor]; len(v) != 1 || v[0] != "Google" {
		return "", fmt.Errorf("caller: %w: what is at %s answered %d without %s: Google: it is no metadata door", ErrAnswer, d.name, resp.StatusCode, flavor)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, token.MaxLength+1))
	switch status := resp.StatusCode; {
	case status >= 500 || status == http.StatusTooManyRequests:
		return "", fmt.Errorf("caller: %w: %s answered %d: %s", ErrUnavailable, d.name, status, quote(body))
	case status >= 400:
		return "", fmt.Errorf("caller: %w: %s answered %d: %s", ErrDenied, d.name, status, quote(body))
	case status != http.StatusOK: // not quoted: it may hold a token
		return "", fmt.Errorf("caller: %w: %s answered %d, want 200 (redirects are not followed)", ErrAnswer, d.name, status)
	case err != nil:
		return "", fmt.Errorf("caller: %w: %s: %w", ErrUnavailable, d.name, err)
	}
	return string(body), nil
}

// check returns when a token ends. It looks at what would make the token useless,
// or useful to somebody else; whether it is good is for the service to say.
func check(raw, audience string, now time.Time) (time.Time, error) {
	t, err := token.Parse(raw)
	if err != nil {
		return time.Time{}, fmt.Errorf("caller: %w: %w", ErrAnswer, err)
	}
	c := &t.Claims
	switch {
	case len(c.Audience) != 1 || c.Audience[0] != audience:
		return time.Time{}, fmt.Errorf("caller: %w: the token is not for %s alone", ErrAnswer, audience)
	case c.Expiry.IsZero():
		return time.Time{}, fmt.Errorf("caller: %w: the token never ends", ErrAnswer)
	case !now.Before(c.Expiry):
		return time.Time{}, fmt.Errorf("caller: %w: the token ended at %s; is the clock right?", ErrAnswer, c.Expiry.Format(time.RFC3339))
	}
	return c.Expiry, nil
}

// quote makes one short line of what a door said.
func quote(body []byte) string {
	s := strings.ToValidUTF8(string(body[:min(len(body), maxQuote)]), "\uFFFD")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}
