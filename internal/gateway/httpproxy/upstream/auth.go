package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sallyport-dev/sallyport/token"
)

// Auth is the credential that requests carry upstream: exactly one of its fields. A
// request whose credential cannot be had is not sent.
type Auth struct {
	// IDToken is a Bearer token in Authorization; in X-Serverless-Authorization if the
	// caller's own Authorization goes upstream.
	IDToken *IDToken `yaml:"id_token,omitempty"`

	// Header is a header with the content of a file.
	Header *Header `yaml:"header,omitempty"`
}

// IDToken is "upstream_auth.id_token".
type IDToken struct {
	// Audience is what the token says in `aud`. Required.
	Audience string `yaml:"audience"`

	// From is who makes the token: gcp (Google's metadata server, or who
	// credentials_file says) or self. Required.
	From string `yaml:"from"`

	// ServiceAccount is the account of ours that the token names. Required for from:
	// self, and for nothing else.
	ServiceAccount string `yaml:"service_account,omitempty"`

	// CredentialsFile is an external_account file, for from: gcp outside Google's
	// cloud. A relative path starts at the file's folder.
	CredentialsFile string `yaml:"credentials_file,omitempty"`
}

// Header is "upstream_auth.header".
type Header struct {
	// Name is the header's. A caller's own copies are removed. Required.
	Name string `yaml:"name"`

	// File has the value in one line; it is read again when it changes. A relative path
	// starts at the file's folder. Required.
	File string `yaml:"file"`
}

// SelfToken makes a token of our own for an account and an audience.
type SelfToken func(ctx context.Context, account, audience string) (string, error)

// What IDToken.From can be.
const (
	fromGCP  = "gcp"
	fromSelf = "self"
)

// notForCredentials are headers that frame or route a request.
var notForCredentials = []string{"Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer", "Expect",
	"Keep-Alive", "Proxy-Connection", "X-Sallyport-Assertion", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// SelfAccount is the account of ours that tokens are for, "" if there is none. A nil
// Auth has none.
func (a *Auth) SelfAccount() string {
	if a == nil || a.IDToken == nil {
		return ""
	}
	return a.IDToken.ServiceAccount
}

func (a *Auth) complete() []error {
	var bad []error
	mistake := func(format string, args ...any) { bad = append(bad, fmt.Errorf("http.upstream_auth"+format, args...)) }
	if (a.IDToken == nil) == (a.Header == nil) {
		mistake(": want exactly one of id_token and header")
	}
	if t := a.IDToken; t != nil {
		if t.Audience == "" || strings.ContainsAny(t.Audience, " \t\r\n") {
			mistake(".id_token.audience: %q: name what the upstream finds in aud", t.Audience)
		}
		switch {
		case t.From != fromGCP && t.From != fromSelf:
			mistake(".id_token.from: %q: want gcp or self", t.From)
		case t.From == fromSelf && t.ServiceAccount == "":
			mistake(".id_token.service_account: is missing: name the account of ours that the token is for")
		case t.From == fromSelf && t.CredentialsFile != "":
			mistake(".id_token.credentials_file: is for from: gcp")
		case t.From == fromGCP && t.ServiceAccount != "":
			mistake(".id_token.service_account: is for from: self")
		}
	}
	if h := a.Header; h != nil {
		if !httpguts.ValidHeaderFieldName(h.Name) || slices.Contains(notForCredentials, http.CanonicalHeaderKey(h.Name)) {
			mistake(".header.name: %q: this header cannot carry a credential", h.Name)
		}
		if h.File == "" {
			mistake(".header.file: is missing: name the file with the value")
		}
	}
	return bad
}

// authorizer puts a credential into a request's header fields.
type authorizer interface {
	authorize(context.Context, http.Header) error
}

func newAuthorizer(a *Auth, self SelfToken) (authorizer, error) {
	if h := a.Header; h != nil {
		out := &fileHeader{name: http.CanonicalHeaderKey(h.Name), file: file{path: h.File}}
		return out, out.authorize(context.Background(), http.Header{})
	}
	t := a.IDToken
	var fetch func(context.Context) (string, error)
	switch {
	case t.From == fromSelf && self == nil:
		return nil, errors.New("id_token.from: self: this server makes no tokens for it")
	case t.From == fromSelf:
		fetch = func(ctx context.Context) (string, error) { return self(ctx, t.ServiceAccount, t.Audience) }
	case t.CredentialsFile != "":
		e, err := readExternal(t.CredentialsFile)
		if err != nil {
			return nil, fmt.Errorf("id_token.credentials_file: %w", err)
		}
		fetch = func(ctx context.Context) (string, error) { return e.idToken(ctx, t.Audience) }
	default:
		fetch = func(ctx context.Context) (string, error) { return metadataToken(ctx, t.Audience) }
	}
	return &bearerToken{audience: t.Audience, fetch: fetch, turn: make(chan struct{}, 1)}, nil
}

// fileHeader is a header from a file.
type fileHeader struct {
	name string

	mu   sync.Mutex
	file file
}

func (h *fileHeader) authorize(_ context.Context, header http.Header) error {
	h.mu.Lock()
	text, _, err := h.file.read()
	h.mu.Unlock()
	if err != nil {
		return err
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if value == "" || strings.TrimSpace(value) != value || !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("%s does not hold one line that a header can carry", h.file.path)
	}
	header[h.name] = []string{value}
	return nil
}

const (
	renewBefore = 5 * time.Minute // the end of a token that is kept
	stillGood   = time.Minute     // before its end, when no new one can be had
	failedFor   = time.Second     // nobody is asked again
	fetchWithin = 10 * time.Second
)

// bearerToken is a token that is kept until shortly before its end. One request at a
// time fetches.
type bearerToken struct {
	audience string
	fetch    func(context.Context) (string, error)
	turn     chan struct{} // held while fetching

	mu    sync.Mutex
	raw   string
	until time.Time // the token's end
	retry time.Time // not before
	err   error     // of the last fetch
}

func (b *bearerToken) authorize(ctx context.Context, header http.Header) error {
	raw, err := b.get(ctx)
	if err != nil {
		return err
	}
	name := "Authorization"
	if len(header[name]) > 0 {
		name = "X-Serverless-Authorization"
	}
	header.Del("X-Serverless-Authorization") // the upstream would judge it in place of ours
	header.Set(name, "Bearer "+raw)
	return nil
}

func (b *bearerToken) get(ctx context.Context) (string, error) {
	if raw, err, ok := b.kept(); ok {
		return raw, err
	}
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-b.turn }()
	if raw, err, ok := b.kept(); ok { // somebody else has fetched meanwhile
		return raw, err
	}
	// A caller that leaves must not cost those who wait the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWithin)
	defer cancel()
	raw, err := b.fetch(ctx)
	var until time.Time
	if err == nil {
		until, err = b.end(raw)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	if err == nil {
		b.raw, b.until = raw, until
		return raw, nil
	}
	b.retry = time.Now().Add(failedFor)
	if time.Now().Before(b.until.Add(-stillGood)) {
		return b.raw, nil
	}
	return "", err
}

// kept returns what need not be fetched: a token, or the failure of a moment ago.
func (b *bearerToken) kept() (string, error, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case b.raw != "" && now.Before(b.until.Add(-renewBefore)):
		return b.raw, nil, true
	case b.err == nil || !now.Before(b.retry):
		return "", nil, false
	case now.Before(b.until.Add(-stillGood)):
		return b.raw, nil, true
	}
	return "", b.err, true
}

// end returns a fetched token's end. A token that is for somebody else, or over, is
// refused: it would be no use, or a gift.
func (b *bearerToken) end(raw string) (time.Time, error) {
	t, err := token.Parse(raw)
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("what came is no token: %w", err)
	case !t.Claims.HasAudience(b.audience):
		return time.Time{}, errors.New("the token that came is for another audience")
	case !time.Now().Before(t.Claims.Expiry):
		return time.Time{}, errors.New("the token that came has expired")
	}
	return t.Claims.Expiry, nil
}
