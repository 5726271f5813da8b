// Package metadata is a door in the shape of the GCE metadata server, so that
// programs written against Google's client libraries get identities here without
// a change.
//
// It serves what Go's libraries ask for; the contract (google-clients section 1)
// has more. Who calls is attested by the guard, never said by the caller: the
// header and host rules only keep out browsers and proxies that were tricked into
// asking.
package metadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Config is one entry of the "metadata" section of the file.
type Config struct {
	// Listen is a loopback address. Required: only there can callers be attested.
	Listen string `yaml:"listen"`

	// ServiceAccounts are the accounts this door may give. Required.
	ServiceAccounts []string `yaml:"service_accounts"`

	// Project is what clients are told of a project.
	Project Project `yaml:"project,omitempty"`
}

// Project is what clients are told of a project; nothing else depends on it.
type Project struct {
	// ID is project/project-id. Default "sallyport".
	ID string `yaml:"id,omitempty"`

	// Number is project/numeric-project-id. Default 1.
	Number uint64 `yaml:"number,omitempty"`
}

// Complete fills defaults and reports every mistake below "metadata[i]".
func (c *Config) Complete() error {
	var bad []error
	host, _, err := net.SplitHostPort(c.Listen)
	ip, perr := netip.ParseAddr(host)
	if err != nil || host != "localhost" && (perr != nil || !ip.IsLoopback()) {
		bad = append(bad, fmt.Errorf("listen: %q: want a loopback address and port, such as 127.0.0.1:8401: callers from elsewhere cannot be attested", c.Listen))
	}
	if len(c.ServiceAccounts) == 0 {
		bad = append(bad, errors.New("service_accounts: is empty: name the accounts that this door may give"))
	}
	for i, a := range c.ServiceAccounts {
		if slices.Contains(c.ServiceAccounts[:i], a) {
			bad = append(bad, fmt.Errorf("service_accounts[%d]: %q is there twice", i, a))
		}
	}
	if c.Project.ID == "" {
		c.Project.ID = "sallyport"
	}
	if c.Project.Number == 0 {
		c.Project.Number = 1
	}
	return errors.Join(bad...)
}

// A Guard admits and refuses, and records both.
type Guard interface {
	Admit(context.Context, guard.Attempt) (*guard.Pass, error)
	Refuse(context.Context, guard.Attempt, guard.Reason, string) *fault.Error
}

// A Minter makes tokens from passes.
type Minter interface {
	IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error)
	AccessToken(ctx context.Context, pass *guard.Pass) (string, error)
}

// Options are what a Door needs besides its Config; all are required.
type Options struct {
	Address     string   // that it listens on, with the port
	TrustDomain string   // of the accounts' addresses
	OwnAPIs     []string // audiences of our own APIs: they take access tokens, and no ID token is for them
	Guard       Guard
	Mint        Minter
}

// A Door is one listener for a set of accounts.
type Door struct {
	c     Config
	o     Options
	hosts []string
	mux   *http.ServeMux
}

// New returns the Door for a completed Config.
func New(c Config, o Options) *Door {
	host, port, _ := net.SplitHostPort(o.Address)
	d := &Door{c: c, o: o, mux: http.NewServeMux()}
	for _, h := range []string{host, "localhost", "127.0.0.1", "::1", "metadata.google.internal", "metadata", "169.254.169.254"} {
		d.hosts = append(d.hosts, h, net.JoinHostPort(h, port))
	}
	d.routes()
	return d
}

// base is where the tree begins.
const base = "/computeMetadata/v1/"

// header that every request but to "/" must have, and every answer has.
const flavor = "Metadata-Flavor"

func (d *Door) routes() {
	text := func(path, value string) {
		d.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if d.noParameters(w, r) {
				answer(w, "application/text", value)
			}
		})
	}
	text("/{$}", "computeMetadata/\n")
	text("/computeMetadata/{$}", "v1/\n")
	text(base+"{$}", "instance/\nproject/\nuniverse/\n")
	text(base+"instance/{$}", "service-accounts/\n")
	text(base+"project/{$}", "numeric-project-id\nproject-id\n")
	text(base+"project/project-id", d.c.Project.ID)
	text(base+"project/numeric-project-id", strconv.FormatUint(d.c.Project.Number, 10))
	text(base+"universe/{$}", "universe-domain\n")
	text(base+"universe/universe-domain", "googleapis.com")
	d.mux.HandleFunc(base+"instance/service-accounts/{account}/email", d.email)
	d.mux.HandleFunc(base+"instance/service-accounts/{account}/identity", d.identity)
	d.mux.HandleFunc(base+"instance/service-accounts/{account}/token", d.token)
	d.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.refuse(w, r, guard.PathUnknown, "no such path in the metadata tree")
	})
}

// ServeHTTP keeps the rules of contract 1.2 before any path is looked at.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set(flavor, "Google")
	h.Set("Server", "Metadata Server for VM")
	h.Set("X-XSS-Protection", "0")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Cache-Control", "no-store")
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "Origin"} {
		if _, there := r.Header[name]; there {
			d.refuse(w, r, guard.Forwarded, "the request has the header "+name+": it came through a proxy or from a page")
			return
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" {
		d.refuse(w, r, guard.Forwarded, "a browser sent this request for a page (Sec-Fetch-Site)")
		return
	}
	switch {
	case !slices.Contains(d.hosts, strings.Trim(strings.ToLower(r.Host), "[]")) && !slices.Contains(d.hosts, strings.ToLower(r.Host)):
		d.refuse(w, r, guard.HostUnknown, "the Host header is none of this door's: DNS rebinding looks like this")
	case r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0:
		d.refuse(w, r, guard.MethodNotAllowed, "only GET and HEAD without a body are served")
	case r.URL.Path != "/" && !(len(r.Header[flavor]) == 1 && r.Header.Get(flavor) == "Google"):
		d.refuse(w, r, guard.FlavorMissing, "the request lacks the header Metadata-Flavor: Google")
	default:
		d.mux.ServeHTTP(w, r)
	}
}

func (d *Door) email(w http.ResponseWriter, r *http.Request) {
	if !d.noParameters(w, r) {
		return
	}
	pass, ok := d.admit(w, r, guard.ActionMetadata, guard.ToItself())
	if !ok {
		return
	}
	a, err := pass.Admission()
	if err == nil {
		err = pass.Still(r.Context())
	}
	if err != nil {
		d.fail(w, err)
		return
	}
	answer(w, "application/text", a.Principal.Email)
}

func (d *Door) identity(w http.ResponseWriter, r *http.Request) {
	q, err := readIdentityQuery(r.URL.RawQuery)
	if err == nil && slices.Contains(d.o.OwnAPIs, q.audience) {
		err = errors.New("audience: our own APIs take access tokens, and no ID token is for them")
	}
	if err != nil {
		d.refuse(w, r, guard.ParameterRefused, err.Error())
		return
	}
	pass, ok := d.admit(w, r, guard.ActionMint, guard.ToAudience(q.audience))
	if !ok {
		return
	}
	raw, err := d.o.Mint.IDToken(r.Context(), pass, q.audience, q.full)
	if err != nil {
		d.fail(w, err)
		return
	}
	answer(w, "text/html", raw) // not application/json: Python would parse it
}

func (d *Door) token(w http.ResponseWriter, r *http.Request) {
	if err := checkTokenQuery(r.URL.RawQuery); err != nil {
		d.refuse(w, r, guard.ParameterRefused, err.Error())
		return
	}
	pass, ok := d.admit(w, r, guard.ActionMint, guard.ToItself())
	if !ok {
		return
	}
	raw, err := d.o.Mint.AccessToken(r.Context(), pass)
	if err != nil {
		d.fail(w, err)
		return
	}
	// expires_in is a number, or Go and Python fail (contract 0.11)
	answer(w, "application/json", `{"access_token":"`+raw+`","expires_in":`+expiresIn+`,"token_type":"Bearer"}`)
}

// admit asks the guard for action by the attested caller. The account in the path
// is "default" or one of this door's by its name or address; which one the caller
// is, the kernel says, and the path may only agree.
func (d *Door) admit(w http.ResponseWriter, r *http.Request, action string, on guard.Resource) (*guard.Pass, bool) {
	among := d.among(r.PathValue("account"))
	a := d.attempt(r)
	if len(among) == 0 {
		d.refuse(w, r, guard.PathUnknown, "the path names an account that this door does not serve")
		return nil, false
	}
	conn, err := ends(r)
	if err != nil {
		d.refuse(w, r, guard.HeaderRefused, err.Error())
		return nil, false
	}
	a.Action = action
	a.Credentials = []guard.Credential{guard.Local(conn, among)}
	a.Resource = on
	if action == guard.ActionMint {
		a.Request = policy.Mint{Audience: on.Name} // "" for an access token: our own APIs
	}
	pass, err := d.o.Guard.Admit(r.Context(), a)
	if err != nil {
		f := fault.Of(err)
		if f.Code == fault.Denied && on.Name == gcloudAudience {
			f.Code = fault.Absent // 403 here crashes gcloud (contract 0.14)
		}
		d.fail(w, f)
		return nil, false
	}
	return pass, true
}

// gcloudAudience is gcloud's own client id, for which it asks first of all.
const gcloudAudience = "32555940559.apps.googleusercontent.com"

func (d *Door) among(account string) []string {
	if account == "default" {
		return d.c.ServiceAccounts
	}
	for _, name := range d.c.ServiceAccounts {
		if account == name || account == identity.Email(d.o.TrustDomain, name) {
			return []string{name}
		}
	}
	return nil
}

func ends(r *http.Request) (attest.Conn, error) {
	here, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return attest.Conn{}, errors.New("the connection has no local address")
	}
	a, err1 := netip.ParseAddrPort(r.RemoteAddr)
	b, err2 := netip.ParseAddrPort(here.String())
	if err := errors.Join(err1, err2); err != nil {
		return attest.Conn{}, fmt.Errorf("the connection's addresses cannot be read: %w", err)
	}
	return attest.Conn{Peer: a, Here: b}, nil
}

func (d *Door) attempt(r *http.Request) guard.Attempt {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return guard.Attempt{Action: guard.ActionMetadata, Peer: peer}
}

func (d *Door) noParameters(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.RawQuery != "" {
		d.refuse(w, r, guard.ParameterRefused, "this path takes no parameters")
		return false
	}
	return true
}

func answer(w http.ResponseWriter, contentType, body string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write([]byte(body)) // the client has gone; nothing to add
}

func (d *Door) refuse(w http.ResponseWriter, r *http.Request, reason guard.Reason, why string) {
	f := d.o.Guard.Refuse(r.Context(), d.attempt(r), reason, why)
	if (reason == guard.ParameterRefused || reason == guard.FlavorMissing) && f.Code != fault.Busy {
		f.Public = why // says nothing but what the request itself lacks
	}
	d.fail(w, f)
}

// fail is the only place this door writes an error. A policy's no is 403, never
// 429 or 5xx, which clients would try again and again (contract 0.14); 5xx is
// left for what is our fault.
func (d *Door) fail(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	status := http.StatusInternalServerError
	switch f.Code {
	case fault.Invalid:
		status = http.StatusBadRequest
	case fault.Denied, fault.Unproven, fault.Missing:
		status = http.StatusForbidden
	case fault.Absent:
		status = http.StatusNotFound
	case fault.Unsupported:
		status = http.StatusMethodNotAllowed
		w.Header().Set("Allow", "GET, HEAD")
	case fault.Busy:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	id := ""
	if f.Decision != "" {
		id = " (decision " + f.Decision + ")"
	}
	_, _ = fmt.Fprintln(w, f.Public+id)
}
