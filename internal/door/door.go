// Package door is what the doors for local programs share: who is connected, what a
// request may look like, how tokens are asked for, and how much one caller may hold.
//
// The doors themselves are in the folders below, one for each protocol. They
// translate to an Attempt and back; what they decide, they ask the guard.
package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// A Guard admits and refuses, and records both.
type Guard interface {
	Admit(context.Context, guard.Attempt) (*guard.Pass, error)
	Refuse(context.Context, guard.Attempt, guard.Reason, string) *fault.Error
}

// A Minter makes tokens from passes, and knows those that it made a moment ago.
type Minter interface {
	IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error)
	AccessToken(ctx context.Context, pass *guard.Pass, scopes []string) (string, time.Time, error)
	HeldIDToken(p *identity.Proof, audience string, full bool) string
	HeldAccessToken(p *identity.Proof, scopes []string) string
}

// Local admits local programs as service accounts. Every field but RunAs and Hosts
// is required.
type Local struct {
	Guard Guard
	Mint  Minter
	Turns *Turns

	// Waiting are the requests that wait for a change, of all doors.
	Waiting *Places

	// Accounts are those that the door may give.
	Accounts []string

	// RunAs is an account that callers are to act as, whoever they are: if policy
	// allows them workload.run on it.
	RunAs string

	// TrustDomain is that of the accounts' addresses.
	TrustDomain string

	// Ours reports whether an audience is one of our own APIs.
	Ours func(audience string) bool

	// Hosts are the names that the door answers to, lower case, with and without
	// port. Nil: any, over a Unix socket, which no page can reach.
	Hosts []string
}

// Hosts returns the names of a door that listens on address: the address itself,
// loopback's names, and those that clients know a metadata server by.
func Hosts(address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []string{} // answers to nothing
	}
	var out []string
	for _, h := range []string{host, "localhost", "127.0.0.1", "::1", "metadata.google.internal", "metadata.google.internal.", "metadata", "169.254.169.254"} {
		out = append(out, strings.ToLower(h), net.JoinHostPort(strings.ToLower(h), port))
	}
	return out
}

// ErrLocalhost is what is wrong with a listener, or an issuer, called localhost.
var ErrLocalhost = errors.New("localhost is two addresses, 127.0.0.1 and ::1, and a server has one of them: any local user can take the other, and with it half the callers; write 127.0.0.1")

// Check keeps out browsers and proxies that were tricked into asking: it says why a
// request is refused, or returns "". It comes before any path is looked at (contract
// google-clients, 1.2).
func (l *Local) Check(r *http.Request) (guard.Reason, string) {
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "Origin"} {
		if _, there := r.Header[name]; there {
			return guard.Forwarded, "the request has the header " + name + ": it came through a proxy or from a page"
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" {
		return guard.Forwarded, "a browser sent this request for a page (Sec-Fetch-Site)"
	}
	host := strings.ToLower(r.Host)
	switch {
	case l.Hosts != nil && !slices.Contains(l.Hosts, host) && !slices.Contains(l.Hosts, strings.Trim(host, "[]")):
		return guard.HostRefused, "the Host header is none of this door's: DNS rebinding looks like this"
	case r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0:
		return guard.MethodNotAllowed, "only GET and HEAD without a body are served"
	}
	return "", ""
}

// Attempt is what is known of a request before who sent it is.
func (l *Local) Attempt(r *http.Request) guard.Attempt {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // zero over a Unix socket
	return guard.Attempt{Action: guard.ActionMetadata, Peer: peer, Caller: attest.FromContext(r.Context())}
}

// Refuse records that the request was turned away.
func (l *Local) Refuse(r *http.Request, reason guard.Reason, why string) *fault.Error {
	return l.Guard.Refuse(r.Context(), l.Attempt(r), reason, why)
}

// Among returns the accounts that name can mean: "default", an account's name, or
// its address. Which one the caller is, the kernel says, and the name may only agree.
func (l *Local) Among(name string) []string {
	if name == "default" {
		return l.Accounts
	}
	for _, a := range l.Accounts {
		if name == a || name == identity.Email(l.TrustDomain, a) {
			return []string{a}
		}
	}
	return nil
}

// Itself admits the caller, as one of among, to read what is its own.
func (l *Local) Itself(r *http.Request, among []string) (*guard.Pass, error) {
	a := l.Attempt(r)
	a.Resource = guard.ToItself()
	return l.admit(r, a, among)
}

// IDToken mints an ID token for the caller as one of among.
func (l *Local) IDToken(r *http.Request, among []string, audience string, full bool) (string, error) {
	if l.Ours(audience) {
		return "", l.parameter(r, "audience: our own APIs take access tokens, and no ID token is for them")
	}
	end, err := l.turn(r)
	if err != nil {
		return "", err
	}
	defer end()
	a := l.Attempt(r)
	a.Action, a.Resource, a.Request = guard.ActionMint, guard.ToAudience(audience), policy.Mint{Audience: audience}
	a.Reuse = func(p *identity.Proof) string { return l.Mint.HeldIDToken(p, audience, full) }
	pass, err := l.admit(r, a, among)
	if err != nil {
		return "", err
	}
	return l.Mint.IDToken(r.Context(), pass, audience, full)
}

// AccessToken mints an access token for our own APIs, for the caller as one of among.
func (l *Local) AccessToken(r *http.Request, among, scopes []string) (string, time.Time, error) {
	end, err := l.turn(r)
	if err != nil {
		return "", time.Time{}, err
	}
	defer end()
	a := l.Attempt(r)
	a.Action, a.Resource, a.Request = guard.ActionMint, guard.ToItself(), policy.Mint{} // no audience: our own APIs
	a.Reuse = func(p *identity.Proof) string { return l.Mint.HeldAccessToken(p, scopes) }
	pass, err := l.admit(r, a, among)
	if err != nil {
		return "", time.Time{}, err
	}
	return l.Mint.AccessToken(r.Context(), pass, scopes)
}

func (l *Local) admit(r *http.Request, a guard.Attempt, among []string) (*guard.Pass, error) {
	conn, ok := Caller(r.Context())
	if !ok {
		return nil, l.Refuse(r, guard.HeaderRefused, "the connection was not accepted by a listener that attests")
	}
	c := guard.Local(conn, among)
	if l.RunAs != "" {
		c = guard.RunAs(conn, l.RunAs)
	}
	a.Credentials = []guard.Credential{c}
	return l.Guard.Admit(r.Context(), a)
}

// parameter refuses a request for what it asks; the caller is told what, since that
// says nothing but what the request itself has.
func (l *Local) parameter(r *http.Request, why string) *fault.Error {
	f := l.Refuse(r, guard.ParameterRefused, why)
	if f.Code != fault.Busy {
		f.Public = why
	}
	return f
}

// Parameter is what a door answers to a request whose parameters are wrong.
func (l *Local) Parameter(r *http.Request, err error) *fault.Error {
	return l.parameter(r, err.Error())
}

// maxAudience is the longest audience minted for, in bytes: what Google's
// federation allows.
const maxAudience = 256

// CheckAudience says what is wrong with an audience that is asked for, if anything.
func CheckAudience(a string) error {
	switch {
	case a == "":
		return errors.New("non-empty audience parameter required")
	case len(a) > maxAudience:
		return fmt.Errorf("audience: longer than %d bytes", maxAudience)
	case !utf8.ValidString(a) || strings.ContainsFunc(a, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return errors.New("audience: has white space, control characters or invalid UTF-8")
	}
	return nil
}
