package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
)

const maxDocument = 64 << 10 // of an answer with a token, in bytes

// outside asks for tokens. It follows no redirect, which could carry a credential
// elsewhere, and believes no proxy of the environment.
var outside = &http.Client{
	Transport: &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       fetchWithin,
}

// fetch returns the body of a 200. The error never holds the answer, which could be or
// quote a credential.
func fetch(r *http.Request) ([]byte, error) {
	resp, err := outside.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the query
		}
		return nil, fmt.Errorf("ask %s: %w", r.URL.Host, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", r.URL.Host, err)
	case len(text) > maxDocument:
		return nil, fmt.Errorf("ask %s: the answer is larger than %d bytes", r.URL.Host, maxDocument)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ask %s: the answer is %d", r.URL.Host, resp.StatusCode)
	}
	return text, nil
}

// metadataToken asks the metadata server, at GCE_METADATA_HOST as Google's libraries do.
func metadataToken(ctx context.Context, audience string) (string, error) {
	host := os.Getenv("GCE_METADATA_HOST")
	if host == "" {
		host = "metadata.google.internal"
	}
	u := url.URL{Scheme: "http", Host: host, Path: "/computeMetadata/v1/instance/service-accounts/default/identity",
		RawQuery: url.Values{"audience": {audience}, "format": {"full"}}.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Metadata-Flavor", "Google")
	text, err := fetch(r)
	return strings.TrimSpace(string(text)), err
}

// external is an external_account file (Google AIP-4117): a token of another issuer is
// exchanged for one of Google's.
type external struct {
	Type             string `json:"type"`
	Audience         string `json:"audience"`
	SubjectTokenType string `json:"subject_token_type"`
	TokenURL         string `json:"token_url"`
	Impersonation    string `json:"service_account_impersonation_url"`
	Source           struct {
		File    string            `json:"file"`
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
		Format  struct {
			Type  string `json:"type"`
			Field string `json:"subject_token_field_name"`
		} `json:"format"`
	} `json:"credential_source"`
}

const generateAccessToken, generateIDToken = ":generateAccessToken", ":generateIdToken"

func readExternal(path string) (*external, error) {
	f := file{path: path}
	text, _, err := f.read()
	if err != nil {
		return nil, err
	}
	var e external
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	base, ok := strings.CutSuffix(e.Impersonation, generateAccessToken)
	s := &e.Source
	switch {
	case e.Type != "external_account" || e.Audience == "" || e.SubjectTokenType == "":
		err = errors.New("want an external_account with audience and subject_token_type")
	case !ok:
		err = errors.New("service_account_impersonation_url: want one that ends in " + generateAccessToken + ": only an account has ID tokens")
	case (s.File == "") == (s.URL == ""):
		err = errors.New("credential_source: want one of file and url: no other is read")
	case s.Format.Type == "json" && s.Format.Field == "" || s.Format.Type != "" && s.Format.Type != "json" && s.Format.Type != "text":
		err = errors.New("credential_source.format: want text, or json with subject_token_field_name")
	default:
		err = errors.Join(secure("token_url", e.TokenURL), secure("service_account_impersonation_url", e.Impersonation))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.File != "" && !filepath.IsAbs(s.File) {
		s.File = filepath.Join(filepath.Dir(path), s.File)
	}
	e.Impersonation = base + generateIDToken
	return &e, nil
}

// secure refuses URLs where a credential would travel in the clear.
func secure(name, raw string) error {
	u, err := url.Parse(raw)
	if err == nil && u.Host != "" && u.User == nil {
		ip, aerr := netip.ParseAddr(u.Hostname())
		if u.Scheme == "https" || u.Scheme == "http" && aerr == nil && ip.IsLoopback() {
			return nil
		}
	}
	return fmt.Errorf("%s: want https, or http on loopback", name)
}

func (e *external) idToken(ctx context.Context, audience string) (string, error) {
	subject, err := e.subject(ctx)
	if err != nil {
		return "", fmt.Errorf("the token to exchange: %w", err)
	}
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {e.Audience},
		"scope": {"https://www.googleapis.com/auth/cloud-platform"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token": {subject}, "subject_token_type": {e.SubjectTokenType},
	}
	var exchanged struct {
		AccessToken string `json:"access_token"`
	}
	if err := post(ctx, e.TokenURL, "application/x-www-form-urlencoded", "", []byte(form.Encode()), &exchanged); err != nil {
		return "", err
	}
	if exchanged.AccessToken == "" {
		return "", errors.New("the exchange gave no access_token")
	}
	ask, err := json.Marshal(map[string]any{"audience": audience, "includeEmail": true})
	if err != nil {
		return "", err
	}
	var made struct {
		Token string `json:"token"`
	}
	err = post(ctx, e.Impersonation, "application/json", exchanged.AccessToken, ask, &made)
	return made.Token, err
}

// subject reads the token that is exchanged.
func (e *external) subject(ctx context.Context) (string, error) {
	s := &e.Source
	var text []byte
	var err error
	if s.File != "" {
		f := file{path: s.File}
		text, _, err = f.read()
	} else {
		var r *http.Request
		if r, err = http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil); err == nil {
			for name, v := range s.Headers {
				r.Header.Set(name, v)
			}
			text, err = fetch(r)
		}
	}
	if err != nil {
		return "", err
	}
	out := string(text)
	if s.Format.Type == "json" {
		var members map[string]any
		if err := json.Unmarshal(text, &members); err != nil {
			return "", errors.New("it is not in a JSON object")
		}
		out, _ = members[s.Format.Field].(string)
	}
	if out = strings.TrimSpace(out); out == "" {
		return "", errors.New("it is empty")
	}
	return out, nil
}

func post(ctx context.Context, where, kind, bearer string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, where, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", kind)
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	text, err := fetch(r)
	if err != nil {
		return err
	}
	if json.Unmarshal(text, into) != nil {
		return fmt.Errorf("ask %s: the answer is not the JSON that was expected", r.URL.Host)
	}
	return nil
}
