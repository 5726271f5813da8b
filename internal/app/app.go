// Package app is the wiring: it turns a Config into a running program, and is the
// only importer of everything. What the parts do is said in the parts.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
	"github.com/sallyport-dev/sallyport/internal/audit/witness"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// Options are what a test may want to hold in its own hands.
type Options struct {
	Version string                                     // of the program
	Logger  *slog.Logger                               // default slog.Default()
	Now     func() time.Time                           // default time.Now
	Listen  func(address string) (net.Listener, error) // default TCP
	Ready   func() error                               // is called when everything serves; its error ends Run

	// File is what the Config was read from; it is read again when it changes and for
	// each value on Hangup. Default: it stays as it is.
	File   string
	Hangup <-chan os.Signal

	// Dev lets loopback callers be believed where the system cannot attest them: each
	// door gives its account to whoever reaches it.
	Dev bool
}

func (o *Options) complete() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listen == nil {
		o.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
}

// An App is a program that is ready to run: its listeners are open, so that
// whoever connects from now on is answered.
type App struct {
	c        *config.Config
	o        Options
	lock     *os.File
	db       *store.DB
	log      *audit.Log
	keys     *keys.Set
	guard    *guard.Guard
	self     guard.BearerProver // of our own tokens
	ruling   ruling
	draining atomic.Bool
	servers  []*server
	shares   shares
	networks []*attest.Network // of doors elsewhere
	ready    readiness
	made     []keys.Event // before there was a log

	index     *indexing
	outside   *witness.Publisher
	follower  *sink.Follower // nil: nobody wants records
	stopTasks func()         // ends what Run does beside serving; may be called again
}

// New opens everything that a completed Config names. On an error nothing stays
// open.
func New(ctx context.Context, c *config.Config, o Options) (_ *App, err error) {
	o.complete()
	a := &App{c: c, o: o, shares: newShares(Descriptors())}
	defer func() {
		if err != nil {
			a.release()
		}
	}()
	if err := a.able(); err != nil {
		return nil, err
	}
	// others may pass, to the sockets: everything else in it is its owner's alone
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil {
		return nil, fmt.Errorf("make data_dir: %w", err)
	}
	if err := CheckDir(c.DataDir); err != nil {
		return nil, err
	}
	if a.lock, err = lockDir(c.DataDir); err != nil {
		return nil, err
	}
	kek, previous, err := OpenKEK(c)
	if err != nil {
		return nil, err
	}
	if a.db, err = store.Open(ctx, c.Store, c.DataDir); err != nil {
		return nil, err
	}
	a.keys, err = keys.Open(ctx, keys.Options{Store: a.db, KEK: kek, Previous: previous, Now: o.Now, Schedule: c.Issuer.Signing, TrustDomain: c.TrustDomain})
	if err != nil {
		return nil, fmt.Errorf("open signing keys: %w", err)
	}
	a.made = a.keys.Made()
	if err := a.openLog(kek, previous); err != nil {
		return nil, err
	}
	if err := a.openIndex(ctx, kek); err != nil {
		return nil, err
	}
	if err := a.openOutside(ctx, kek); err != nil {
		return nil, err
	}
	if err := a.wire(ctx, kek, previous); err != nil {
		return nil, err
	}
	return a, nil
}

// LogDir is where the audit log of a data_dir lies.
func LogDir(dataDir string) string { return filepath.Join(dataDir, "log") }

func (a *App) openLog(kek *sealing.Key, previous []*sealing.Key) error {
	var from []audit.Sealer
	for _, k := range previous {
		from = append(from, k)
	}
	n, err := audit.Rewrap(LogDir(a.c.DataDir), kek, from...)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	if n > 0 {
		a.made = append(a.made, keys.Event{Action: "keys.rewrap", Detail: fmt.Sprintf("%d period keys of the log under %s", n, kek.ID())})
	}
	origin := a.c.TrustDomain + "/" + a.c.Replica
	signer, verifierKey, err := a.keys.NoteSigner(origin)
	if err != nil {
		return err
	}
	a.log, err = audit.Open(audit.Options{
		Dir: LogDir(a.c.DataDir), Origin: origin, Sealer: kek, Signer: signer, VerifierKey: verifierKey,
		Checkpoint: a.c.Audit.Checkpoint, KeepFree: a.c.Audit.KeepFree, Now: a.o.Now, Logger: a.o.Logger,
	})
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	return nil
}

// wire builds guard, issuer, doors and gateways, and opens their listeners.
func (a *App) wire(ctx context.Context, kek *sealing.Key, previous []*sealing.Key) (err error) {
	c := a.c
	a.self, err = federation.NewSelf(c.Issuer.URL, a.keys.Source(keys.Tokens), c.TrustDomain, c.World().Accounts, a.o.Now)
	if err != nil {
		return fmt.Errorf("own tokens: %w", err)
	}
	a.ruling.config, a.ruling.seen = c, fingerprint(a.o.File)
	rules, provers, err := a.rulesOf(c)
	if err != nil {
		return err
	}
	a.ruling.provers = provers
	a.ruling.certificates.Store(len(rules.Certificates) > 0)
	list, revoked, err := a.db.Revocations(ctx, kek, previous)
	if err != nil {
		return err
	}
	a.guard = guard.New(guard.Config{
		Policy: rules.Policy, Services: rules.Services, Bearers: rules.Bearers, Certificates: rules.Certificates, Log: a.log, Keep: list.Keep, Room: a.log.Room, Replica: c.Replica,
		Now: a.o.Now, Logger: a.o.Logger, Local: a.attestor(),
	})
	if err := a.guard.Restore(revoked); err != nil {
		return fmt.Errorf("the revocations in the store: %w", err)
	}
	mint := issuer.New(c.Issuer, c.TrustDomain, a.algorithms(), a.keys, a.o.Now)
	if err := a.serveDoors(mint); err != nil {
		return err
	}
	a.ruling.core = gateway.Core{Guard: a.guard, Assert: mint, Logger: a.o.Logger, Trusted: &c.Gateway.TrustedProxies, SelfToken: a.selfToken(mint)}
	proxy, err := a.proxy(c)
	if err != nil {
		return err
	}
	a.ruling.gateway.Store(proxy)
	if c.Gateway.Listen != "" {
		if err := a.listenGateway(http.HandlerFunc(a.serveGateway)); err != nil {
			return err
		}
	}
	a.ready.add("audit log", a.log.Health)
	metrics := a.metrics()
	return a.listen("telemetry", c.Telemetry.Listen, a.shares.telemetry, func(string) http.Handler { return under("/metrics", metrics, &a.ready) })
}

// selfToken mints ID tokens for upstreams that want one of ours: as an account of this
// server's own, decided and recorded as every other.
func (a *App) selfToken(mint *issuer.Issuer) func(ctx context.Context, account, audience string) (string, error) {
	return func(ctx context.Context, account, audience string) (string, error) {
		pass, err := a.guard.Admit(ctx, guard.Attempt{Credentials: []guard.Credential{guard.Server(account)}, Action: guard.ActionMint,
			Resource: guard.ToAudience(audience), Request: policy.Mint{Audience: audience}})
		if err != nil {
			return "", err
		}
		return mint.IDToken(ctx, pass, audience, false)
	}
}

// services gives each service the durability that it, or the file as a whole, asks
// for; calls otherwise wait for the write alone.
func services(c *config.Config) map[string]guard.Service {
	out := map[string]guard.Service{}
	for i := range c.Services {
		s := &c.Services[i]
		d := audit.Written
		for _, asked := range []audit.Durability{c.Audit.Durability, s.Audit.Durability} {
			if asked != "" {
				d = asked
			}
		}
		out[s.Name] = guard.Service{Audiences: s.Audiences, Accept: s.Accept, Durability: d, MaxSession: s.MaxSession, Public: s.HTTP.Public(), Limits: s.Limits}
	}
	return out
}

// Run serves until ctx ends or a listener fails, then shuts down: it stops
// accepting, tells those who hold streams to go elsewhere, lets requests finish for up
// to 10 s, and signs the log's last checkpoint.
func (a *App) Run(ctx context.Context) error {
	detail := fmt.Sprintf("%d services, %d service accounts, %d providers", len(a.c.Services), len(a.c.ServiceAccounts), len(a.c.Providers))
	if n := a.log.Lost(); n > 0 {
		detail += fmt.Sprintf("; a killed process may have lost %d buffered records", n)
	}
	err := a.guard.Note(ctx, guard.Event{Action: "server.start", Version: a.o.Version, Torn: a.log.Recovered(), Detail: detail})
	if err != nil {
		a.release()
		return fmt.Errorf("record the start: %w", errors.Unwrap(err))
	}
	for _, e := range a.made {
		if err := a.recordKeys(e); err != nil {
			a.release()
			return fmt.Errorf("record what was done to keys at start: %w", errors.Unwrap(err))
		}
	}
	beside, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context){a.turnKeys, a.retain, a.index.run, a.publish, a.follow, a.sweep, a.watch} {
		tasks.Go(func() { task(beside) })
	}
	a.stopTasks = func() { stop(); tasks.Wait() }
	defer a.stopTasks()
	failed := make(chan error, len(a.servers))
	for _, s := range a.servers {
		go func() { failed <- s.serve() }()
		a.o.Logger.Info("listening", "what", s.name, "address", s.listener.Addr().String())
	}
	a.ready.set(true)
	a.o.Logger.Info("ready", "version", a.o.Version, "issuer", a.c.Issuer.URL, "data_dir", a.c.DataDir)
	if err = a.o.Ready(); err != nil {
		return errors.Join(err, a.shutdown())
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	return errors.Join(err, a.shutdown())
}

// drain is how long requests may take to finish at shutdown, and grace how much of that is
// left for those that are told to end.
const (
	drain = 10 * time.Second
	grace = 2 * time.Second
)

// lameDuck is how long at most, at shutdown, requests are still taken from connections that are
// open: each answer says that it is the last one, so that none is lost to a connection
// that is closed just when it is sent.
const lameDuck = 300 * time.Millisecond

func (a *App) shutdown() error {
	a.ready.set(false)
	a.o.Logger.Info("shutting down")
	a.draining.Store(true)
	for _, s := range a.servers {
		_ = s.listener.Close() // who calls from now on learns at once that nobody is here
	}
	a.guard.Drain(isStream) // they may begin again elsewhere at once
	for end := time.Now().Add(lameDuck); a.shares.gateway.Held() > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	late := time.AfterFunc(drain-grace, a.guard.Close)
	done := make(chan error, len(a.servers))
	for _, s := range a.servers {
		go func() { done <- s.http.Shutdown(ctx) }()
	}
	var errs []error
	for range a.servers {
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) { // the listeners were closed first
			errs = append(errs, fmt.Errorf("requests were cut off after %v: %w", drain, err))
		}
	}
	late.Stop()
	a.guard.Close()
	a.awaitSessions(ctx)
	a.stopTasks()
	if err := a.guard.Note(ctx, guard.Event{Action: "server.stop"}); err != nil {
		errs = append(errs, fmt.Errorf("record the stop: %w", errors.Unwrap(err)))
	}
	return errors.Join(append(errs, a.release())...)
}

// awaitSessions lets sessions that were told to end write their closing records: those on
// connections that net/http gave away it does not wait for.
func (a *App) awaitSessions(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for a.guard.Live() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// isStream reports whether a session has no end of its own.
func isStream(s *guard.Session) bool { return s.Action == "http.websocket" }

// release closes what is open, in the order that loses nothing: the log first.
func (a *App) release() error {
	var errs []error
	for _, s := range a.servers {
		_ = s.listener.Close()
		_ = s.http.Close()
	}
	for _, n := range a.networks {
		_ = n.Close()
	}
	if a.log != nil {
		if err := a.log.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the audit log: %w", err))
		}
		if a.index != nil {
			errs = append(errs, a.index.last())
		}
		if a.outside != nil {
			a.outside.Last()
		}
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}
