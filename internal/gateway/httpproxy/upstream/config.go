// Package upstream is the upstream side of the HTTP gateway: connections to the
// servers behind a service, kept and used again, with health, one retry and the
// credential that the upstream asks for.
//
// Plain HTTP/1.1 has a client of our own, which writes a request and reads its
// answer in the caller's goroutine (docs/adr/0013-own-upstream-client.md); what needs
// both directions at once, and HTTP/2, is http.Transport's.
//
// Sources: RFC 9110, RFC 9112, RFC 9113, RFC 8693.
package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
)

// Config is decoded from "services[i].http".
type Config struct {
	// Upstream is where requests go: http://HOST:PORT, https://HOST:PORT (HTTP/2 or
	// HTTP/1.1, as the server chooses), h2c://HOST:PORT (HTTP/2 in the clear, without
	// asking), or unix:///PATH (HTTP/1.1). This or upstreams is required.
	Upstream string `yaml:"upstream,omitempty"`

	// Upstreams are several servers that answer alike, asked in turn. One that fails is
	// left out for a while.
	Upstreams []Server `yaml:"upstreams,omitempty"`

	// Auth is the credential that requests carry upstream. Default: none.
	Auth *Auth `yaml:"upstream_auth,omitempty"`
}

// Server is one entry of "upstreams".
type Server struct {
	// URL is as upstream is. Required.
	URL string `yaml:"url"`

	// CAFile holds the certificates, in PEM, that an https server's must come from, in
	// place of the system's. A relative path starts at the file's folder, as those
	// below do. It is read again when it changes.
	CAFile string `yaml:"ca_file,omitempty"`

	// ServerName is what an https server's certificate must be for. Default: the
	// URL's host.
	ServerName string `yaml:"server_name,omitempty"`

	// CertFile and KeyFile are our certificate and its key, in PEM, for servers that
	// ask for one. They are read again when they change.
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
}

// Complete reports every mistake below "services[i]".
func (c *Config) Complete() error {
	var bad []error
	switch {
	case len(c.Upstreams) == 0:
		if _, err := parse(c.Upstream); err != nil {
			bad = append(bad, fmt.Errorf("http.upstream: %w", err))
		}
	case c.Upstream != "":
		bad = append(bad, fmt.Errorf("http.upstreams: is there beside upstream: write one of the two"))
	}
	seen := map[string]bool{}
	for i := range c.Upstreams {
		s, path := &c.Upstreams[i], fmt.Sprintf("http.upstreams[%d]", i)
		u, err := parse(s.URL)
		if err != nil {
			bad = append(bad, fmt.Errorf("%s.url: %w", path, err))
			continue
		}
		if seen[u.String()] {
			bad = append(bad, fmt.Errorf("%s.url: %q: is there twice", path, s.URL))
		}
		seen[u.String()] = true
		if u.Scheme != "https" && (s.CAFile != "" || s.ServerName != "" || s.CertFile != "" || s.KeyFile != "") {
			bad = append(bad, fmt.Errorf("%s: ca_file, server_name, cert_file and key_file are for https, and this is %s", path, u.Scheme))
		}
		if (s.CertFile == "") != (s.KeyFile == "") {
			bad = append(bad, fmt.Errorf("%s: cert_file and key_file belong together: write both or neither", path))
		}
	}
	if c.Auth != nil {
		bad = append(bad, c.Auth.complete()...)
	}
	return errors.Join(bad...)
}

// Files returns where the Config holds paths, for its owner to make absolute.
func (c *Config) Files() []*string {
	var out []*string
	for i := range c.Upstreams {
		s := &c.Upstreams[i]
		out = append(out, &s.CAFile, &s.CertFile, &s.KeyFile)
	}
	if c.Auth != nil && c.Auth.IDToken != nil {
		out = append(out, &c.Auth.IDToken.CredentialsFile)
	}
	if c.Auth != nil && c.Auth.Header != nil {
		out = append(out, &c.Auth.Header.File)
	}
	return out
}

// CredentialHeader is the header that upstream_auth.header sets, "" without.
func (c *Config) CredentialHeader() string {
	if c.Auth == nil || c.Auth.Header == nil {
		return ""
	}
	return c.Auth.Header.Name
}

// servers returns all there are, in one form.
func (c *Config) servers() []Server {
	if len(c.Upstreams) > 0 {
		return c.Upstreams
	}
	return []Server{{URL: c.Upstream}}
}

// parse reads the URL of an upstream. Nothing but scheme and host is in the result,
// and for a Unix socket its path.
func parse(raw string) (*url.URL, error) {
	const want = "want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:///PATH"
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q: %s", raw, want)
	case u.User != nil:
		return nil, fmt.Errorf("%q: a password has no place in the file", u.Redacted())
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("%q: a path or query there is not served: paths go upstream as they are judged", raw)
	case u.Scheme == "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, fmt.Errorf("%q: want the whole path after three slashes: unix:///run/app.sock", raw)
		}
		return &url.URL{Scheme: "unix", Path: u.Path}, nil
	case u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return nil, fmt.Errorf("%q: %s", raw, want)
	case u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q: a path or query there is not served: paths go upstream as they are judged", raw)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
