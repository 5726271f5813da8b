package app

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/actions"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/door/private"
	"github.com/sallyport-dev/sallyport/internal/door/workload"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// attests reports whether callers can be attested, or have to be believed.
func (a *App) attests() bool { return runtime.GOOS == "linux" || !a.o.Dev }

// able fails, with config.Mistakes, when an attest entry cannot be evaluated here.
func (a *App) able() error {
	if !a.attests() {
		return nil
	}
	return a.c.Mistaken(attest.Able().Check(a.accounts()))
}

func (a *App) accounts() []attest.Account {
	var out []attest.Account
	for _, s := range a.c.ServiceAccounts {
		out = append(out, s.Account)
	}
	return out
}

func (a *App) attestor() *attest.Attestor {
	email := func(name string) string { return identity.Email(a.c.TrustDomain, name) }
	if !a.attests() {
		return attest.NewBelieving(a.accounts(), email, uint32(os.Getuid()))
	}
	return attest.New(a.accounts(), email)
}

// algorithms are those of accounts that name one.
func (a *App) algorithms() map[string]token.Algorithm {
	out := map[string]token.Algorithm{}
	for _, s := range a.c.ServiceAccounts {
		if s.Algorithm != "" {
			out[s.Name] = s.Algorithm
		}
	}
	return out
}

func (a *App) serveDoors(mint *issuer.Issuer) error {
	c := a.c
	disc := discovery.New(discovery.Config{
		URL:        c.Issuer.URL,
		Tokens:     func() []token.Key { return a.keys.Public(keys.Tokens) },
		Assertions: func() []token.Key { return a.keys.Public(keys.Assertions) },
		Bundle:     mint.Bundle,
	})
	if err := a.listen("issuer", c.Issuer.Listen, a.shares.issuer, func(string) http.Handler { return onlyHosts(disc, c.Issuer) }); err != nil {
		return err
	}
	local := door.Local{Guard: a.guard, Mint: mint, Turns: door.NewTurns(), Waiting: door.NewWaiting(), TrustDomain: c.TrustDomain, Ours: c.Issuer.Ours}
	for i := range c.Metadata {
		if err := a.serveMetadata(&c.Metadata[i], local); err != nil {
			return err
		}
	}
	if !a.attests() { // nobody behind a Unix socket can be told apart
		return nil
	}
	if err := a.serveWorkloads(local, mint); err != nil {
		return err
	}
	return a.serveAdmin()
}

func (a *App) serveMetadata(m *metadata.Config, local door.Local) error {
	var l net.Listener
	var ns *attest.Network
	var err error
	if m.NetworkNamespace == "" {
		l, err = a.o.Listen(m.Listen)
	} else if ns, err = attest.OpenNetwork(m.NetworkNamespace); err != nil {
		return fmt.Errorf("listen for metadata: %w", err)
	} else {
		l, err = ns.Listen(m.Listen)
		a.networks = append(a.networks, ns)
	}
	if err != nil {
		return fmt.Errorf("listen for metadata: %w", CannotListen(err))
	}
	local.Accounts, local.Hosts = m.ServiceAccounts, door.Hosts(l.Addr().String())
	tree := metadata.New(*m, &local, a.o.Now)
	s := a.serve("metadata", door.Listen(l, ns, a.shares.local), under(actions.Path, actions.New(&local), tree))
	s.http.MaxHeaderBytes = localHeaderBytes
	s.http.RegisterOnShutdown(tree.Close)
	return nil
}

// under gives what is at path to one door and everything else to another.
func under(path string, one, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			one.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}

// serveWorkloads serves the Workload API, and beside it the metadata door: for
// callers as whoever they are, and below private.Prefix as the account that policy
// lets them run as.
func (a *App) serveWorkloads(local door.Local, mint *issuer.Issuer) error {
	for _, s := range a.c.ServiceAccounts {
		local.Accounts = append(local.Accounts, s.Name)
	}
	svids, err := verifier.New(verifier.Config{
		Issuer: issuer.SVIDIssuer(a.c.TrustDomain), Keys: a.keys.Source(keys.SVIDs),
		Rules: verifier.Rules{Types: []string{token.TypeSVID}, MaxLifetime: issuer.SVIDLifetime + 5*time.Minute}, Now: a.o.Now,
	})
	if err != nil {
		return err
	}
	api := workload.New(workload.Options{Guard: a.guard, Mint: mint, Verify: svids, Accounts: local.Accounts,
		TrustDomain: a.c.TrustDomain, Now: a.o.Now, Every: time.Second, Turns: local.Turns})
	m := metadata.Config{ServiceAccounts: local.Accounts}
	if len(a.c.Metadata) > 0 { // what the first door tells of project and machine
		m = a.c.Metadata[0]
	} else {
		_ = m.Complete() // for its defaults: it listens nowhere
	}
	self := metadata.New(m, &local, a.o.Now)
	as := map[string]http.Handler{}
	closers := []func(){api.Close, self.Close}
	for _, name := range local.Accounts {
		h, done := a.runAs(name, m, local)
		as[name] = h
		closers = append(closers, done)
	}
	rest := under(actions.Path, actions.New(&local), self)
	s, err := a.serveUnix("workload", a.c.Workload.Listen, a.shares.local, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, private.Prefix), "/")
		switch h := as[name]; {
		case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			api.ServeHTTP(w, r)
		case r.ProtoMajor == 2: // whose requests nobody counts
			http.Error(w, "HTTP/2 is for gRPC here", http.StatusHTTPVersionNotSupported)
		case strings.HasPrefix(r.URL.Path, private.Prefix) && h != nil:
			h.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, private.Prefix) && identity.ValidName(name): // to be refused and recorded
			private.Unknown(a.guard, name).ServeHTTP(w, r)
		default:
			rest.ServeHTTP(w, r)
		}
	}))
	if err != nil {
		return err
	}
	s.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection}
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	for _, c := range closers {
		s.http.RegisterOnShutdown(c)
	}
	return nil
}

// runAs serves the metadata door for callers who run as the account called name; close
// ends those who wait.
func (a *App) runAs(name string, m metadata.Config, local door.Local) (h http.Handler, end func()) {
	local.Accounts, local.RunAs = []string{name}, name
	tree := metadata.New(m, &local, a.o.Now)
	return http.StripPrefix(private.Prefix+name, under(private.RefusedPath, private.Refused(a.guard, name), under(actions.Path, actions.New(&local), tree))), tree.Close
}

// streamsPerConnection is how many calls one connection may have under way: clients have
// one for each kind of document, and each holds memory before it can be counted.
const streamsPerConnection = 32

// localHeaderBytes bounds the header fields of a request of a local program, which has an
// audience to write and no cookies.
const localHeaderBytes = 16 << 10

func (a *App) serveAdmin() error {
	_, err := a.serveUnix("admin", config.AdminSocket(a.c.DataDir), a.shares.admin, admin.New(a.guard, operator{a}, curator{a}, marshal{a}, marshal{a}))
	return err
}

// maxSocketPath is how long a Unix socket's path may be (unix(7)).
const maxSocketPath = 107

// serveUnix listens on path, which everybody may connect to: who they are, the
// kernel says. A socket that lies there and that nobody serves is of an earlier run.
func (a *App) serveUnix(name, path string, of *door.Shares, h http.Handler) (*server, error) {
	if len(path) > maxSocketPath {
		where := "data_dir"
		if filepath.Dir(path) != a.c.DataDir {
			where = "workload.listen"
		}
		return nil, a.c.Mistaken(fmt.Errorf("%s: %s is %d bytes long, and a socket's path may have %d: choose a shorter folder", where, path, len(path), maxSocketPath))
	}
	if err := removeSocket(path); err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	s := a.serve(name, door.Listen(l, nil, of), h)
	s.http.MaxHeaderBytes = localHeaderBytes
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	return s, nil
}

// removeSocket removes what an earlier run has left, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and no socket: it stays", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return fmt.Errorf("%s is served by another server", path)
	}
	return os.Remove(path)
}
