// Package config is the file: each component's own Config, composed, read
// strictly, completed and checked as a whole. Nothing here is copied into another
// struct; what a section means is said in the component's package.
//
// Every mistake is reported at once, with file, line, path and what would be
// right.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
	"github.com/sallyport-dev/sallyport/internal/audit/witness"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/all"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// Config is the whole file.
type Config struct {
	// TrustDomain names everything issued here: spiffe://TRUST-DOMAIN/sa/NAME.
	// Required; it cannot be changed later without changing every identity.
	TrustDomain string `yaml:"trust_domain"`

	// Replica names this server's log and begins its decision ids. Default: the
	// host's name.
	Replica string `yaml:"replica,omitempty"`

	Issuer issuer.Config `yaml:"issuer"`

	// DataDir holds the store, the log and keys. Required.
	DataDir string `yaml:"data_dir"`

	Store     store.Config `yaml:"store,omitempty"`
	Audit     Audit        `yaml:"audit,omitempty"`
	Telemetry Telemetry    `yaml:"telemetry,omitempty"`

	// Metadata are the metadata doors: one, or a list.
	Metadata []metadata.Config `yaml:"metadata,omitempty" config:"one"`

	// Admin says who may administer this server.
	Admin Admin `yaml:"admin,omitempty"`

	Workload Workload `yaml:"workload,omitempty"`

	ServiceAccounts []ServiceAccount    `yaml:"service_accounts,omitempty"`
	Providers       []federation.Config `yaml:"providers,omitempty"`
	Gateway         gateway.Config      `yaml:"gateway,omitempty"`
	Services        []all.Service       `yaml:"services,omitempty"`

	policy.Config `yaml:",inline"`

	// Policy is how a changed file is put in force.
	Policy guard.Reloading `yaml:"policy,omitempty"`

	places decoder // where the file has what; empty if there was none
}

// Audit is how the log is kept, and who keeps its checkpoints.
type Audit struct {
	audit.Config `yaml:",inline"`
	Outside      witness.Config `yaml:",inline"`
}

// Complete fills defaults and reports every mistake below "audit".
func (a *Audit) Complete() error { return errors.Join(a.Config.Complete(), a.Outside.Complete()) }

// Admin says who may administer this server over data_dir/admin.sock.
type Admin struct {
	// UIDs are local users who may, besides the server's own.
	UIDs []uint32 `yaml:"uids,omitempty"`
}

// Workload is where the SPIFFE Workload API, `sallyport run` and `token mint` find
// this server.
type Workload struct {
	// Listen is the path of a Unix socket; a relative path starts at the file's
	// folder. Its folder is there. Default: workload.sock in data_dir.
	Listen string `yaml:"listen,omitempty"`
}

// WorkloadSocket is where the socket is in a data_dir.
func WorkloadSocket(dataDir string) string { return filepath.Join(dataDir, "workload.sock") }

// AdminSocket is where operators reach a server.
func AdminSocket(dataDir string) string { return filepath.Join(dataDir, "admin.sock") }

// ServiceAccount is one entry of "service_accounts": who it is, and how its tokens
// are made.
type ServiceAccount struct {
	attest.Account `yaml:",inline"`
	issuer.Minting `yaml:",inline"`
}

// Complete reports every mistake below "service_accounts[i]".
func (s *ServiceAccount) Complete() error {
	return errors.Join(s.Account.Complete(), s.Minting.Complete())
}

// Telemetry is where health and numbers are served, and where records go.
type Telemetry struct {
	// Listen serves /healthz, /readyz and /metrics. Default 127.0.0.1:8402.
	Listen string `yaml:"listen,omitempty"`

	// OTLP is a collector that gets every record as an OpenTelemetry log. Default: none.
	OTLP *sink.OTLP `yaml:"otlp,omitempty"`
}

var (
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`) // SPIFFE-ID section 2.1
	replica     = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
)

// Complete fills defaults and returns every mistake, each starting with its path.
// Relative paths in the file start at dir.
func (c *Config) Complete(dir string) error {
	var m mistakes
	if !trustDomain.MatchString(c.TrustDomain) {
		m.add("trust_domain", "%q: want lower-case letters, digits, dots, - and _, such as acme.internal", c.TrustDomain)
	}
	if c.Replica == "" {
		host, _ := os.Hostname() // empty fails the check below, which says what to do
		c.Replica = strings.ToLower(host)
	}
	if !replica.MatchString(c.Replica) {
		m.add("replica", "%q: want lower-case letters, digits, dots, - and _ between them, at most 63: it begins every decision id", c.Replica)
	}
	if c.DataDir == "" {
		m.add("data_dir", "is missing: write the folder for keys and the audit log, such as /var/lib/sallyport")
	} else if !filepath.IsAbs(c.DataDir) {
		c.DataDir = filepath.Join(dir, c.DataDir)
	}
	if c.Workload.Listen == "" {
		c.Workload.Listen = WorkloadSocket(c.DataDir)
	} else if !filepath.IsAbs(c.Workload.Listen) {
		c.Workload.Listen = filepath.Join(dir, c.Workload.Listen)
	}
	if c.Telemetry.Listen == "" {
		c.Telemetry.Listen = "127.0.0.1:8402"
	}
	m.join("issuer", c.Issuer.Complete(dir))
	m.join("store", c.Store.Complete())
	m.join("gateway", c.Gateway.Complete(dir))
	m.join("audit", c.Audit.Complete())
	if c.Telemetry.OTLP != nil {
		m.join("telemetry.otlp", c.Telemetry.OTLP.Complete())
		relativeTo(dir, &c.Telemetry.OTLP.CAFile, &c.Telemetry.OTLP.AuthorizationFile)
	}
	for i := range c.Audit.Outside.Publish {
		p := &c.Audit.Outside.Publish[i]
		relativeTo(dir, &p.File, &p.CAFile, &p.AuthorizationFile)
	}
	for i := range c.Audit.Outside.Witnesses {
		relativeTo(dir, &c.Audit.Outside.Witnesses[i].CAFile)
	}
	for i := range c.ServiceAccounts {
		m.join(at("service_accounts", i), c.ServiceAccounts[i].Complete())
	}
	for i := range c.Metadata {
		m.join(at("metadata", i), c.Metadata[i].Complete())
	}
	for i := range c.Providers {
		m.join(at("providers", i), c.Providers[i].Complete(dir))
	}
	for i := range c.Services {
		m.join(at("services", i), c.Services[i].Complete())
		if c.Services[i].HTTP != nil {
			relativeTo(dir, c.Services[i].HTTP.Files()...)
		}
	}
	if _, err := c.Policy.Percent(); err != nil {
		m.join("policy", err)
	}
	c.checkListeners(&m)
	c.checkAccounts(&m)
	c.checkProviders(&m)
	c.checkServices(&m)
	if _, err := policy.Compile(c.Config, c.World()); err != nil {
		m.join("", err)
	}
	return errors.Join(m...)
}

// relativeTo makes paths that are relative start at dir.
func relativeTo(dir string, paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// mistakes are errors that start with their path.
type mistakes []error

func (m *mistakes) add(path, format string, args ...any) {
	*m = append(*m, fmt.Errorf("%s: "+format, append([]any{path}, args...)...))
}

// join takes a component's mistakes, whose paths are below path.
func (m *mistakes) join(path string, err error) {
	for _, e := range flatten(err) {
		switch {
		case path == "":
			*m = append(*m, e)
		default:
			*m = append(*m, fmt.Errorf("%s.%w", path, e))
		}
	}
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

func (c *Config) checkListeners(m *mistakes) {
	seen := map[string]string{}
	twice := func(path, addr string) {
		if _, port, _ := net.SplitHostPort(addr); port == "0" {
			return
		}
		if other, there := seen[addr]; there {
			m.add(path, "%q is %s, too", addr, other)
		}
		seen[addr] = path
	}
	check := func(path, addr string) {
		if addr == "" {
			return // reported as missing where it is required
		}
		twice(path, addr)
		switch host, _, err := net.SplitHostPort(addr); {
		case err != nil:
			m.add(path, "%q: want an address and a port, such as 127.0.0.1:8400", addr)
		case strings.EqualFold(strings.TrimSuffix(host, "."), "localhost"):
			m.add(path, "%q: %v", addr, door.ErrLocalhost)
		}
	}
	check("issuer.listen", c.Issuer.Listen)
	check("telemetry.listen", c.Telemetry.Listen)
	check("gateway.listen", c.Gateway.Listen)
	for i, d := range c.Metadata {
		if d.NetworkNamespace == "" && d.Listen != "" {
			twice(at("metadata", i)+".listen", d.Listen)
		}
	}
	if c.Gateway.Listen == "" && len(c.Services) > 0 {
		m.add("gateway.listen", "is missing: the services below are served there")
	}
}

// maxSubject is the longest `sub` (OpenID Connect Core section 2).
const maxSubject = 255

func (c *Config) checkAccounts(m *mistakes) {
	seen := map[string]bool{}
	for i, a := range c.ServiceAccounts {
		if seen[a.Name] {
			m.add(at("service_accounts", i)+".name", "%q is there twice", a.Name)
		}
		seen[a.Name] = true
		if id := identity.SPIFFEID(c.TrustDomain, a.Name); len(id) > maxSubject {
			m.add(at("service_accounts", i)+".name", "%q: its sub, %s, is longer than the %d characters that OpenID Connect allows", a.Name, id, maxSubject)
		}
	}
	for i, d := range c.Metadata {
		for j, name := range d.ServiceAccounts {
			if !seen[name] {
				m.add(fmt.Sprintf("metadata[%d].service_accounts[%d]", i, j), "%q is not among service_accounts", name)
			}
		}
	}
}

func (c *Config) checkProviders(m *mistakes) {
	names, issuers := map[string]bool{}, map[string]bool{c.Issuer.URL: true}
	for i, p := range c.Providers {
		if names[p.Name] {
			m.add(at("providers", i)+".name", "%q is there twice", p.Name)
		}
		names[p.Name] = true
		if p.OIDC == nil {
			continue
		}
		if issuers[p.OIDC.Issuer] {
			m.add(at("providers", i)+".oidc.issuer", "%q is another provider's, or our own: a token could not be told whose it is", p.OIDC.Issuer)
		}
		issuers[p.OIDC.Issuer] = true
	}
}

func (c *Config) checkServices(m *mistakes) {
	names, hosts, audiences := map[string]bool{}, map[string]string{}, map[string]string{}
	for _, own := range c.ownAudiences() {
		audiences[own] = "this issuer itself, whose APIs take access tokens"
	}
	for i := range c.Services {
		s, path := &c.Services[i], at("services", i)
		if names[s.Name] {
			m.add(path+".name", "%q is there twice", s.Name)
		}
		names[s.Name] = true
		for j, a := range s.Audiences {
			if other, taken := audiences[a]; taken && other != s.Name {
				m.add(fmt.Sprintf("%s.audiences[%d]", path, j), "%q is the audience of %s: an audience is one service's", a, other)
			}
			audiences[a] = s.Name
		}
		for j, name := range s.Accept {
			c.checkAccept(m, fmt.Sprintf("%s.accept[%d]", path, j), name, s.Audiences)
		}
		if s.HTTP == nil {
			continue
		}
		if account := s.HTTP.Auth.SelfAccount(); account != "" && !slices.ContainsFunc(c.ServiceAccounts, func(a ServiceAccount) bool { return a.Name == account }) {
			m.add(path+".http.upstream_auth.id_token.service_account", "%q is not among service_accounts", account)
		}
		for j, h := range s.HTTP.Hosts {
			if other, taken := hosts[h]; taken && other != s.Name {
				m.add(fmt.Sprintf("%s.http.hosts[%d]", path, j), "%q is a host of %s", h, other)
			}
			hosts[h] = s.Name
		}
	}
}

// checkAccept refuses a provider that could never be accepted: a typing mistake
// there would look like a provider whose tokens are all bad.
func (c *Config) checkAccept(m *mistakes, path, name string, audiences []string) {
	if name == identity.Self {
		return
	}
	i := slices.IndexFunc(c.Providers, func(p federation.Config) bool { return p.Name == name })
	if i < 0 {
		m.add(path, "%q is neither self nor a provider", name)
		return
	}
	if c.Providers[i].X509 != nil && len(c.Gateway.TLS) == 0 {
		m.add(path, "%q issues client certificates, and nobody asks for one: write gateway.tls", name)
	}
	if o := c.Providers[i].OIDC; o != nil && !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(o.Audiences, a) }) {
		m.add(path, "%q may speak for none of this service's audiences: add one to providers[%d].oidc.audiences", name, i)
	}
}

func (c *Config) ownAudiences() []string { return []string{c.Issuer.URL, c.Issuer.Audience} }

// World returns the names that policies may use.
func (c *Config) World() policy.World {
	w := policy.World{Services: map[string]string{}, MintPatterns: c.Issuer.Audiences, AdminUIDs: append([]uint32{uint32(os.Getuid())}, c.Admin.UIDs...)}
	for i := range c.Services {
		w.Services[c.Services[i].Name] = c.Services[i].Family()
		w.Audiences = append(w.Audiences, c.Services[i].Audiences...)
	}
	for _, a := range c.ServiceAccounts {
		w.Accounts = append(w.Accounts, a.Name)
	}
	for _, p := range c.Providers {
		w.Providers = append(w.Providers, p.Name)
	}
	return w
}

// Warnings returns what is allowed and should not stay.
func (c *Config) Warnings() []string {
	var out []string
	if slices.Contains(c.Issuer.Audiences, "*") {
		out = append(out, `issuer.audiences: "*" lets every service account mint for any audience`)
	}
	for i := range c.Services {
		s := &c.Services[i]
		if s.HTTP == nil || len(s.Accept) < 2 {
			continue
		}
		for name, field := range s.HTTP.IdentityHeaders {
			if field == "principal.name" {
				out = append(out, fmt.Sprintf("services[%d].http.identity_headers.%s: principal.name does not say who vouched, and this service accepts several: use principal.id", i, name))
			}
		}
	}
	for _, l := range []struct {
		path, addr, what string
		tls              bool
	}{
		{"issuer.listen", c.Issuer.Listen, "keys and tokens", false},
		{"gateway.listen", c.Gateway.Listen, "bearer tokens", len(c.Gateway.TLS) > 0},
	} {
		if l.addr != "" && !loopback(l.addr) && !l.tls {
			out = append(out, fmt.Sprintf("%s: %s is reachable from elsewhere without TLS: put a TLS proxy in front (or write gateway.tls), or %s travel in the clear", l.path, l.addr, l.what))
		}
	}
	return out
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip, perr := netip.ParseAddr(host)
	return err == nil && perr == nil && ip.IsLoopback()
}
