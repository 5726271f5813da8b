package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// ErrUnissued is what every method of a Pass says that no guard made.
var ErrUnissued = errors.New("this pass was not issued by a guard")

// errClosed says of a pass that its holder closed it.
var errClosed = errors.New("the pass is closed")

// A Pass is proof inside the process that credentials were checked, a decision
// made and recorded. Only Admit makes one that works: the zero Pass fails every
// method.
type Pass struct{ r *receipt }

// An Admission is what was admitted.
type Admission struct {
	ID            string             // decision id, REPLICA-SEQ
	Principal     identity.Principal // who
	Provider      string             // who vouched
	Service       string             // "" at our own doors
	Resource      Resource           // what Action is done to
	Action        string             // what was asked
	Expires       time.Time          // when the credential ends; zero if it does not
	Attested      map[string]string  // facts the kernel vouched for, or nil
	IssuedTokenID string             // `jti` for the token that this admission mints
	At            time.Time          // when it was decided

	credential [32]byte
}

// CredentialID tells bearer credentials apart: the SHA-256 of the token; zero for
// attested callers.
func (a *Admission) CredentialID() [32]byte { return a.credential }

// closeAfter is how long a pass lives before its end is worth a record of its own.
const closeAfter = time.Second

type receipt struct {
	guard     *Guard
	entry     entry
	attempt   Attempt
	admission Admission
	started   time.Time
	view      *view // by which it was admitted
	state     atomic.Pointer[standing]
	leave     func() // gives back its place among those at once

	// where it is among the live sessions; guarded by list.mu
	list          *liveShard
	before, after *receipt
	gone          bool

	mu     sync.Mutex
	over   atomic.Bool   // ended is set
	done   chan struct{} // made when Done is first called
	onEnd  func()        // is called when it must end
	ended  *ending       // why the pass ended; nil while it lives
	closed bool          // its holder has called Close
}

// Admission returns what was admitted.
func (p *Pass) Admission() (Admission, error) {
	if p == nil || p.r == nil {
		return Admission{}, ErrUnissued
	}
	return p.r.admission, nil
}

// Still fails when what the pass rests on holds no longer: the credential ended,
// or the local caller changed. It asks for no new decision. The refusal is
// recorded; it is a *fault.Error.
func (p *Pass) Still(ctx context.Context) error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	g := p.r.guard
	if err := g.still(ctx, g.view.Load(), &p.r.entry); err != nil {
		code, f := explain(err)
		return g.refuse(&p.r.attempt, p.r.entry.proof, code, err.Error(), f)
	}
	return nil
}

// Check decides a further action of the same session and records it; the error is
// a *fault.Error.
func (p *Pass) Check(ctx context.Context, action string, vars policy.Vars) error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	if err := p.Err(); err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return f
		}
		return fault.New(fault.Denied, err, "the session has ended")
	}
	g, a, v, now := p.r.guard, p.r.attempt, p.r.guard.view.Load(), p.r.guard.c.Now()
	a.Action, a.Request = action, vars
	var at standing
	if e := g.proven(ctx, p.r, v, &at, now); e != nil {
		return g.refuse(&a, p.r.entry.proof, string(e.reason), fmt.Sprint(e.cause), e.fault(""))
	}
	d := v.decide(p.r.entry.proof, action, vars, &a, now)
	if d.Allow && d.LiveToken && at.expired {
		return g.refuse(&a, p.r.entry.proof, string(tokenExpired), "a rule demands a live token", tokenExpired.Fault())
	}
	id, err := g.append(g.decisionRecord(v, audit.Check, &a, p.r.entry.proof, &d), v.durability(&a, &d))
	if err != nil {
		return err
	}
	g.counts.decided(a.Service, string(d.Reason))
	if !d.Allow {
		f := notAllowed(&d)
		f.Decision = id
		return f
	}
	return nil
}

// Done is closed when the session must end, or was closed. It costs a lock that nobody
// else wants, and a channel.
func (p *Pass) Done() <-chan struct{} {
	if p == nil || p.r == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	r := p.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.ended != nil || r.closed {
			close(r.done)
		}
	}
	return r.done
}

// OnEnd has f called, in a goroutine of its own, when the session must end before it is
// closed; at once if it must already. One f there is, and it costs nothing while nothing
// happens.
func (p *Pass) OnEnd(f func()) {
	if p == nil || p.r == nil {
		go f()
		return
	}
	r := p.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onEnd = f
	if r.ended != nil {
		go f()
	}
}

// Err says why the session must end: a *fault.Error with what the caller is told, whose
// Code is Busy if the caller should begin another, Unproven if its credential is good no
// longer, Denied for everything else. It is nil while the session may go on.
func (p *Pass) Err() error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	switch {
	case p.r.ended != nil:
		return p.r.ended.fault(p.r.admission.ID)
	case p.r.closed:
		return errClosed
	}
	return nil
}

// Ended reports whether the session must end. It is for who asks before every byte.
func (p *Pass) Ended() bool { return p == nil || p.r == nil || p.r.over.Load() }

// mayGoOn reports whether r neither ended nor was closed.
func (r *receipt) mayGoOn() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended == nil && !r.closed
}

// A Summary is what a finished session was.
type Summary struct {
	BytesIn  int64 // from the caller
	BytesOut int64 // to the caller
}

// Close ends the pass: its holder has closed what it was for. A session that was ended,
// and one that lived a second or longer, gets a closing record; the error says that it
// could not be made. A second Close does nothing.
func (p *Pass) Close(s Summary) error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	r := p.r
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	if r.done != nil && r.ended == nil {
		close(r.done)
	}
	end := r.ended
	r.mu.Unlock()
	r.leaves()
	r.leave()
	now := r.guard.c.Now()
	lived := now.Sub(r.started)
	if end == nil && lived < closeAfter {
		return nil
	}
	rec := r.guard.payload(&r.attempt)
	rec.Vars = nil // the admitting record has them
	name(&rec, r.entry.proof)
	rec.BytesIn, rec.BytesOut, rec.DurationMS = s.BytesIn, s.BytesOut, lived.Milliseconds()
	rec.Detail = "of " + r.admission.ID
	if end != nil {
		rec.Reason, rec.EndingMS = string(end.reason), max(now.Sub(end.at).Milliseconds(), 1)
		if end.cause != nil {
			rec.Detail += "; " + end.cause.Error()
		}
		r.guard.counts.ended(r.attempt.Service, end.reason, now.Sub(end.at))
	}
	_, err := r.guard.append(&audit.Record{Kind: audit.Close, Service: r.attempt.Service, Policy: r.state.Load().view.Policy.Revision(), Payload: rec}, audit.Written)
	return err
}

// end makes e the reason why the pass ended, unless it has one or was closed, and returns
// the reason it has.
func (r *receipt) end(e ending) ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ended != nil:
		return *r.ended
	case r.closed:
		return ending{}
	}
	r.ended = &e
	r.over.Store(true)
	if r.done != nil {
		close(r.done)
	}
	if r.onEnd != nil {
		go r.onEnd()
	}
	return e
}
