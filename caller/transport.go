package caller

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// ErrDestination means that a request was not sent, because its URL is not one
// that the tokens of the audience may go to, or it has a credential already.
var ErrDestination = errors.New("the request was not sent")

// Transport returns an http.RoundTripper that sends requests by base with a token
// of s in Authorization (RFC 6750 section 2.1). Default base:
// http.DefaultTransport.
//
// A request fails with ErrDestination, before anything of it is sent, unless its
// URL is https and names the audience's host and port or one of Config.Hosts; plain
// http is for loopback addresses that Config.Hosts lists. So does one that brings
// an Authorization header, which would be replaced. An http.Client asks for each
// hop of a redirect. A request fails as Source.Token does when there is no token.
//
// When the answer is 401 with error="invalid_token", the token is dropped
// (Source.Drop): the next request asks the door again. Nothing is sent twice.
func (s *Source) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{s, base}
}

type transport struct {
	source *Source
	base   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	raw, err := "", t.source.mayGet(r)
	if err == nil {
		raw, err = t.source.Token(r.Context())
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper must, even when it fails
		}
		return nil, err
	}
	out := r.Clone(r.Context()) // a RoundTripper must not change its request
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header.Set("Authorization", "Bearer "+raw)
	resp, err := t.base.RoundTrip(out)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && invalidToken(resp.Header["Www-Authenticate"]) {
		t.source.Drop(raw)
	}
	return resp, err
}

// CloseIdleConnections closes those of the transport below, as
// http.Client.CloseIdleConnections asks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// mayGet says why r may not have a token, if it may not. Host is compared too: it
// chooses who answers where several services share an address.
func (s *Source) mayGet(r *http.Request) error {
	u := r.URL
	switch {
	case u == nil || u.Host == "" || u.Opaque != "":
		return fmt.Errorf("caller: %w: its URL names no host", ErrDestination)
	case u.Scheme == "http" && !loopback(u.Host):
		return fmt.Errorf("caller: %w: its URL is not https, and %s is not this machine", ErrDestination, u.Host)
	}
	for _, host := range []string{u.Host, r.Host} {
		if host != "" && !s.to.allows(u.Scheme, host) {
			return fmt.Errorf("caller: %w: tokens for %s may not go to %s://%s (Config.Hosts lists who else may have them)",
				ErrDestination, s.audience, u.Scheme, host)
		}
	}
	for name := range r.Header {
		if strings.EqualFold(name, "Authorization") {
			return fmt.Errorf("caller: %w: it has an Authorization header already", ErrDestination)
		}
	}
	return nil
}

// invalidToken reports whether one of an answer's challenges is of scheme Bearer
// with error="invalid_token" (RFC 6750 section 3.1). Several challenges may share a
// field, whose commas part both them and their parameters (RFC 9110 section 11.6.1):
// what is two words before any "=", or has none, begins the next.
func invalidToken(challenges []string) bool {
	for _, field := range challenges {
		bearer := false
		for _, part := range splitList(field) {
			name, value, parameter := strings.Cut(part, "=")
			if name = strings.TrimSpace(name); name == "" {
				continue // an empty element of a list is none (section 5.6.1)
			}
			if scheme, first, begins := strings.Cut(name, " "); begins || !parameter {
				bearer = strings.EqualFold(scheme, "Bearer")
				name = strings.TrimSpace(first)
			}
			if bearer && strings.EqualFold(name, "error") && strings.Trim(value, "\" \t") == "invalid_token" {
				return true
			}
		}
	}
	return false
}

// splitList splits a field at its commas, but for those in quoted strings
// (RFC 9110 section 5.6.4).
func splitList(field string) []string {
	var out []string
	quoted, from := false, 0
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			out = append(out, field[from:i])
			from = i + 1
		}
	}
	return append(out, field[from:])
}
