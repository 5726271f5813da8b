package guard

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// SweepEvery is how often Sweep is to be called.
const SweepEvery = 250 * time.Millisecond

// clockEvery is how often a session is decided again whose rules read the clock.
const clockEvery = time.Second

// stillTimeout bounds how long a sweep waits for keys that have to be fetched: a provider
// that is slow delays the end of nobody else's sessions.
const stillTimeout = 200 * time.Millisecond

// liveShards is how many lists the live sessions are on.
const liveShards = 64

// live is every pass of a service that was not closed yet.
type live struct {
	next   atomic.Uint32
	shards [liveShards]liveShard
}

type liveShard struct {
	mu    sync.Mutex
	first *receipt
	n     int
}

// begin puts a pass among the live sessions.
func (g *Guard) begin(r *receipt) {
	s := &g.live.shards[g.live.next.Add(1)%liveShards]
	s.mu.Lock()
	r.list = s
	if r.after = s.first; r.after != nil {
		r.after.before = r
	}
	s.first = r
	s.n++
	s.mu.Unlock()
}

// overtaken says why an attempt that was let in is let in no longer: between its decision
// and now, while that was recorded, the rules or what is revoked may have changed, and the
// sweep of that change have passed by.
func (g *Guard) overtaken(ctx context.Context, r *receipt, generation uint64) error {
	now := g.c.Now()
	switch {
	case g.closed.Load():
		r.end(ending{guardClosed, nil, now})
	case g.revoked.generation.Load() == generation:
	case r.attempt.Service != "":
		if e := g.judge(ctx, r, g.view.Load(), now, false); e != nil {
			r.end(*e)
		}
	default:
		if err := g.unrevoked(g.view.Load(), &r.entry); err != nil {
			r.end(ending{revoked, err, now})
		}
	}
	if !r.over.Load() {
		return nil
	}
	return (&Pass{r}).Err()
}

// leaves takes a pass off the live sessions.
func (r *receipt) leaves() {
	s := r.list
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gone {
		return
	}
	r.gone = true
	s.n--
	if r.before == nil {
		s.first = r.after
	} else {
		r.before.after = r.after
	}
	if r.after != nil {
		r.after.before = r.before
	}
	r.before, r.after = nil, nil
}

// all returns the live passes: those that began before, and did not end meanwhile.
func (l *live) all() iter.Seq[*receipt] {
	return func(yield func(*receipt) bool) {
		var batch []*receipt
		for i := range l.shards {
			s := &l.shards[i]
			s.mu.Lock()
			batch = slices.Grow(batch[:0], s.n)
			for r := s.first; r != nil; r = r.after {
				batch = append(batch, r)
			}
			s.mu.Unlock()
			for _, r := range batch {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// count returns how many there are.
func (l *live) count() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += s.n
		s.mu.Unlock()
	}
	return n
}

// Sweep decides again about every live session that something has changed for - a
// revocation, the rules, its credential, the clock - and ends those that may not go on.
// It is to be called every SweepEvery; tests call it with any time. It returns how many
// it ended.
func (g *Guard) Sweep(now time.Time) (ended int) {
	v := g.view.Load()
	ctx, cancel := context.WithTimeout(context.Background(), stillTimeout)
	defer cancel()
	for r := range g.live.all() {
		if e := g.judge(ctx, r, v, now, false); e != nil && r.end(*e) == *e {
			ended++
		}
	}
	g.forgetRevocations(now)
	return ended
}

// rests remembers what a decision about r rests on.
func (r *receipt) rests(d *policy.Decision) {
	clock := slices.ContainsFunc(d.Read, func(x policy.Reading) bool { return x.Name == "request.time" })
	r.state.Store(&standing{view: r.view, at: r.started, clock: clock, liveToken: d.LiveToken})
}

// standing is what the last decision about a session was.
type standing struct {
	view      *view
	at        time.Time
	clock     bool // a rule that is about it reads the clock
	liveToken bool // it ends with its token
	expired   bool // its token had expired
}

// judge says why a session may not go on under v, nil if it may. A trial changes nothing.
func (g *Guard) judge(ctx context.Context, r *receipt, v *view, now time.Time, trial bool) *ending {
	s := r.state.Load()
	svc, ok := v.Services[r.attempt.Service]
	if !ok {
		return &ending{serviceUnknown, nil, now}
	}
	if svc.MaxSession > 0 && !now.Before(r.started.Add(svc.MaxSession)) {
		return &ending{sessionOver, nil, now}
	}
	// the routes may be of earlier rules than those that admitted it
	if r.attempt.public() && svc.Public != r.attempt.Public {
		return &ending{policyChanged, errors.New("what is public has changed"), now}
	}
	next := standing{view: v, at: now, clock: s.clock, liveToken: s.liveToken, expired: s.expired}
	if e := g.proven(ctx, r, v, &next, now); e != nil {
		return e
	}
	if v == s.view && next.expired == s.expired && !(s.clock && now.Sub(s.at) >= clockEvery) {
		return nil
	}
	if v != s.view && (r.entry.prover != nil || r.entry.issuer != nil) {
		switch {
		case !r.entry.stands(v):
			return &ending{providerChanged, nil, now}
		case !slices.Contains(svc.Accept, r.entry.proof.Provider) || r.entry.proof.For(svc.Audiences) != nil:
			return &ending{issuerNotAccepted, nil, now}
		}
	}
	d := v.decide(r.entry.proof, r.attempt.Action, r.attempt.Request, &r.attempt, now)
	if !d.Allow {
		return &ending{policyChanged, errors.New(string(d.Reason) + " " + d.Rule + d.Near), now}
	}
	if next.expired && d.LiveToken {
		return &ending{tokenExpired, nil, now}
	}
	if !trial {
		next.clock = slices.ContainsFunc(d.Read, func(x policy.Reading) bool { return x.Name == "request.time" })
		next.liveToken = d.LiveToken
		r.state.Store(&next)
	}
	return nil
}

// proven says why a session's credential holds no longer. That its token has expired is
// no reason: it is asked of policy, in next.
func (g *Guard) proven(ctx context.Context, r *receipt, v *view, next *standing, now time.Time) *ending {
	if e := g.unrevoked(v, &r.entry); e != nil {
		return &ending{revoked, e, now}
	}
	if next.expired && (r.entry.prover != nil || r.entry.issuer != nil) {
		return nil // of an expired token nothing else can be asked
	}
	err := r.entry.proof.Still(ctx)
	var c coded
	switch {
	case err == nil:
	case !errors.As(err, &c), c.Code() == "keys_unavailable":
		// nobody says that it holds no longer
	case c.Code() == string(tokenExpired):
		if next.liveToken {
			return &ending{tokenExpired, err, now}
		}
		next.expired = true
	default:
		return &ending{Reason(c.Code()), err, now}
	}
	return nil
}

// ending is why a session ended, and since when that is known.
type ending struct {
	reason Reason
	cause  error
	at     time.Time
}

// fault returns what the caller is told.
func (e ending) fault(decision string) *fault.Error {
	f := e.reason.Fault()
	if c, ok := errors.AsType[coded](e.cause); ok && e.reason != revoked {
		f.Public = c.Class()
	}
	f.Cause, f.Decision = e.cause, decision
	return f
}

// A Session is a live conversation, as an operator sees it.
type Session struct {
	ID        string             // of the decision that admitted it
	Principal identity.Principal // who
	Provider  string             // who vouched
	TokenID   string             // of the credential, or ""
	Service   string
	Action    string
	Resource  string // a canonical path, or ""
	Peer      string
	Started   time.Time
	Expires   time.Time // of the credential; zero if it does not
}

func (r *receipt) session() *Session {
	s := &Session{
		ID: r.admission.ID, Principal: r.admission.Principal, Provider: r.admission.Provider, TokenID: r.entry.proof.TokenID,
		Service: r.attempt.Service, Action: r.attempt.Action, Started: r.started, Expires: r.admission.Expires,
	}
	if r.attempt.Peer.IsValid() {
		s.Peer = r.attempt.Peer.String()
	}
	if h, ok := r.attempt.Request.(policy.HTTP); ok {
		s.Resource = h.Path
	}
	return s
}

// Sessions returns the live sessions, the oldest first.
func (g *Guard) Sessions() []*Session {
	var out []*Session
	for r := range g.live.all() {
		if r.mayGoOn() {
			out = append(out, r.session())
		}
	}
	slices.SortFunc(out, func(a, b *Session) int { return a.Started.Compare(b.Started) })
	return out
}

// Kill ends the session with a decision id, and says whether there is one.
func (g *Guard) Kill(id, why string) bool {
	for r := range g.live.all() {
		if r.admission.ID == id && r.mayGoOn() {
			r.end(ending{sessionKilled, errors.New(why), g.c.Now()})
			return true
		}
	}
	return false
}

// Drain ends the live sessions of which is true, because the server stops: their callers
// may begin others elsewhere.
func (g *Guard) Drain(which func(*Session) bool) {
	now := g.c.Now()
	for r := range g.live.all() {
		if which(r.session()) {
			r.end(ending{guardClosed, nil, now})
		}
	}
}
