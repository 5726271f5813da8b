package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// ruling is what is in force of the file, and what puts another in its place.
type ruling struct {
	mu      sync.Mutex
	config  *config.Config // in force
	seen    string         // of the file: of which version Reload has said what it is
	provers map[string]prover
	core    gateway.Core
	gateway atomic.Pointer[httpproxy.Proxy]
	stale   atomic.Bool // the file is not what is in force

	certificates atomic.Bool // some provider issues client certificates
}

// prover is one provider, and what it was made from.
type prover struct {
	config       federation.Config
	prover       guard.BearerProver      // of tokens; nil for
	certificates guard.CertificateProver // certificates
}

// rulesOf compiles what decisions rest on. A provider that did not change keeps its
// prover: the sessions of its tokens go on.
func (a *App) rulesOf(c *config.Config) (guard.Rules, map[string]prover, error) {
	snapshot, err := policy.Compile(c.Config, c.World())
	if err != nil {
		return guard.Rules{}, nil, fmt.Errorf("compile policies: %w", err)
	}
	out := guard.Rules{Policy: snapshot, Services: services(c), Bearers: []guard.BearerProver{a.self}}
	provers := map[string]prover{}
	for _, p := range c.Providers {
		made, ok := a.ruling.provers[p.Name]
		switch {
		case ok && reflect.DeepEqual(made.config, p):
		case p.X509 != nil:
			made = prover{config: p, certificates: federation.NewCertificates(p, a.o.Now)}
		default:
			fresh, err := federation.New(p, c.TrustDomain, a.o.Now, a.o.Logger)
			if err != nil {
				return guard.Rules{}, nil, err
			}
			made = prover{config: p, prover: fresh}
		}
		provers[p.Name] = made
		if made.certificates != nil {
			out.Certificates = append(out.Certificates, made.certificates)
		} else {
			out.Bearers = append(out.Bearers, made.prover)
		}
	}
	return out, provers, nil
}

// proxy makes the gateway of a file.
func (a *App) proxy(c *config.Config) (*httpproxy.Proxy, error) {
	var targets []httpproxy.Target
	for i := range c.Services {
		targets = append(targets, httpproxy.Target{Service: c.Services[i].Name, Config: *c.Services[i].HTTP})
	}
	return httpproxy.New(a.ruling.core, targets, Descriptors()/20)
}

// serveGateway serves requests by the gateway that is in force.
func (a *App) serveGateway(w http.ResponseWriter, r *http.Request) {
	door.Served(r.Context())
	if a.draining.Load() && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	a.ruling.gateway.Load().ServeHTTP(w, r)
}

// errRestart is a file that this process cannot change over to.
var errRestart = errors.New("needs a restart")

// fixed says which sections of another file only a new process can take.
func fixed(have, next *config.Config) error {
	var out []string
	for name, pair := range map[string][2]any{
		"trust_domain": {have.TrustDomain, next.TrustDomain}, "replica": {have.Replica, next.Replica}, "issuer": {have.Issuer, next.Issuer},
		"data_dir": {have.DataDir, next.DataDir}, "store": {have.Store, next.Store}, "audit": {have.Audit, next.Audit},
		"telemetry": {have.Telemetry, next.Telemetry}, "metadata": {have.Metadata, next.Metadata}, "admin": {have.Admin, next.Admin},
		"workload": {have.Workload, next.Workload}, "service_accounts": {have.ServiceAccounts, next.ServiceAccounts}, "gateway": {have.Gateway, next.Gateway},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return nil
	}
	return fmt.Errorf("%w: not as it runs: %s", errRestart, strings.Join(out, ", "))
}

// Reload reads the file again and puts its groups, roles, policies, services and providers
// in force, all or none. What is wrong, what needs a restart, and what would end too many
// live sessions, unless that is accepted, changes nothing; whatever comes of it is recorded.
func (a *App) Reload(ctx context.Context, accept bool) (admin.Applied, error) {
	r := &a.ruling
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = fingerprint(a.o.File)
	applied, err := a.reload(accept)
	r.stale.Store(err != nil)
	e := guard.Event{Action: "config.reload", Detail: fmt.Sprintf("revision %s; %d of %d live sessions ended", applied.Revision, applied.Ends, applied.Live)}
	if err != nil {
		e.Detail = "refused: " + firstLine(err)
		a.o.Logger.Error("the file is not taken over; what ran before stays in force", "file", a.o.File, "error", err.Error())
	} else {
		a.o.Logger.Info("the file is in force", "file", a.o.File, "revision", applied.Revision, "sessions_ended", applied.Ends)
	}
	return applied, errors.Join(err, a.guard.Note(ctx, e))
}

func firstLine(err error) string {
	line, rest, more := strings.Cut(err.Error(), "\n")
	if more {
		line += fmt.Sprintf(" (and %d more)", strings.Count(rest, "\n")+1)
	}
	return line
}

func (a *App) reload(accept bool) (admin.Applied, error) {
	if a.o.File == "" {
		return admin.Applied{}, fmt.Errorf("%w: this server runs from no file", admin.ErrNotApplied)
	}
	next, err := config.Load(a.o.File)
	if err != nil {
		return admin.Applied{}, fmt.Errorf("%w: %w", admin.ErrNotApplied, err)
	}
	if err := fixed(a.ruling.config, next); err != nil {
		return admin.Applied{}, fmt.Errorf("%w: %w", admin.ErrNotApplied, err)
	}
	rules, provers, err := a.rulesOf(next)
	if err != nil {
		return admin.Applied{}, err
	}
	percent, err := next.Policy.Percent()
	if err != nil {
		return admin.Applied{}, err
	}
	before := a.ruling.gateway.Load()
	gateway := before
	if !reflect.DeepEqual(a.ruling.config.Services, next.Services) {
		if gateway, err = a.proxy(next); err != nil {
			return admin.Applied{}, fmt.Errorf("%w: %w", admin.ErrNotApplied, err)
		}
	}
	loss, ok := a.guard.Reload(rules, percent, accept)
	out := admin.Applied{Revision: rules.Policy.Revision(), Ends: loss.Ends, Live: loss.Live}
	if !ok {
		if gateway != before {
			gateway.Close()
		}
		return out, fmt.Errorf("%w: it would end %d of %d live sessions, more than policy.max_session_loss (%d%%): run `sallyport policy apply --accept` if that is meant",
			admin.ErrNotApplied, loss.Ends, loss.Live, percent)
	}
	if gateway != before {
		a.ruling.gateway.Store(gateway)
		before.Close()
	}
	a.ruling.config, a.ruling.provers = next, provers
	a.ruling.certificates.Store(len(rules.Certificates) > 0)
	return out, nil
}

// fingerprint changes whenever the file does, as far as that can be told without reading
// it: a ConfigMap is a symbolic link to another file, editors rename.
func fingerprint(file string) string {
	info, err := os.Stat(file)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size(), inode(info))
}

// watchEvery is how often the file is looked at.
const watchEvery = time.Second

// watch takes over the file on SIGHUP, and when it has changed and is the same for a
// moment: who writes it may not be done.
func (a *App) watch(ctx context.Context) {
	if a.o.File == "" {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.o.Hangup:
		case <-tick.C:
			now := fingerprint(a.o.File)
			settled := now == last
			last = now
			a.ruling.mu.Lock()
			known := now == a.ruling.seen
			a.ruling.mu.Unlock()
			if known || !settled {
				continue
			}
		}
		_, _ = a.Reload(ctx, false) // it says so itself
	}
}

// sweep decides again about the live sessions until ctx ends.
func (a *App) sweep(ctx context.Context) {
	tick := time.NewTicker(guard.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.guard.Sweep(a.o.Now())
		case <-ctx.Done():
			return
		}
	}
}

// marshal is what the admin door may do to live sessions, to what is revoked, and to the
// rules.
type marshal struct{ app *App }

// Sessions implements admin.Live.
func (m marshal) Sessions() []admin.Session {
	out := []admin.Session{}
	for _, s := range m.app.guard.Sessions() {
		out = append(out, admin.Session{ID: s.ID, Principal: s.Principal.ID(), TokenID: s.TokenID, Service: s.Service, Action: s.Action,
			Resource: s.Resource, Peer: s.Peer, Started: s.Started, Expires: s.Expires})
	}
	return out
}

// Kill implements admin.Live.
func (m marshal) Kill(id, reason string) bool { return m.app.guard.Kill(id, reason) }

// Revocations implements admin.Live.
func (m marshal) Revocations() []guard.Revocation { return m.app.guard.Revocations() }

// Revoke implements admin.Live.
func (m marshal) Revoke(r guard.Revocation) (guard.Revocation, int, error) {
	if r.Kind == guard.RevokeKey {
		for _, k := range m.app.keys.List() {
			if k.ID == r.Value {
				return r, 0, fmt.Errorf("%w: %s is a key of this server, which would go on signing: run `sallyport keys revoke %s`", guard.ErrRevocation, r.Value, r.Value)
			}
		}
	}
	if name, ok := strings.CutPrefix(r.Value, "serviceAccount:"); ok && r.Kind == guard.RevokeMember && !slices.Contains(m.app.c.World().Accounts, name) {
		return r, 0, fmt.Errorf("%w: no service account is called %q", guard.ErrRevocation, name)
	}
	return m.app.guard.Revoke(r)
}

// Lift implements admin.Live.
func (m marshal) Lift(id string) error { return m.app.guard.Lift(id) }

// Apply implements admin.Rules.
func (m marshal) Apply(ctx context.Context, accept bool) (admin.Applied, error) {
	return m.app.Reload(ctx, accept)
}
