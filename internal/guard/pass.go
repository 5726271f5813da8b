package guard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// ErrUnissued is what every method of a Pass says that no guard made.
var ErrUnissued = errors.New("this pass was not issued by a guard")

// ErrDrained ends passes when the server shuts down.
var ErrDrained = errors.New("the server is shutting down")

// errClosed ends a pass whose holder closed it.
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
	proof     *identity.Proof
	attempt   Attempt
	admission Admission
	started   time.Time

	mu     sync.Mutex
	done   chan struct{} // made when Done is first called
	err    error         // why the pass ended; nil while it lives
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
	if err := p.r.proof.Still(ctx); err != nil {
		code, f := explain(err)
		return p.r.guard.refuse(&p.r.attempt, p.r.proof, code, err.Error(), f)
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
		return fault.New(fault.Denied, err, "the session has ended")
	}
	if err := p.Still(ctx); err != nil {
		return err
	}
	g, a := p.r.guard, p.r.attempt
	a.Action, a.Request = action, vars
	d := g.decide(p.r.proof, action, vars, &a, g.c.Now())
	id, err := g.append(g.decisionRecord(audit.Check, &a, p.r.proof, &d), g.durability(&a, &d))
	if err != nil {
		return err
	}
	if !d.Allow {
		f := notAllowed(&d)
		f.Decision = id
		return f
	}
	return nil
}

// Done is closed when the session must end, or was closed.
func (p *Pass) Done() <-chan struct{} {
	if p == nil || p.r == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	r := p.r
	r.guard.mu.Lock()
	defer r.guard.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		switch {
		case r.err != nil:
			close(r.done)
		case r.guard.closed.Load():
			r.err = ErrDrained
			close(r.done)
		default:
			r.guard.waiting[r] = struct{}{}
		}
	}
	return r.done
}

// Err says why the pass ended; nil while it lives.
func (p *Pass) Err() error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	return p.r.err
}

// A Summary is what a finished session was.
type Summary struct {
	BytesIn  int64 // from the caller
	BytesOut int64 // to the caller
}

// Close ends the pass. One that lived a second or longer gets a closing record;
// the error says that it could not be made. A second Close does nothing.
func (p *Pass) Close(s Summary) error {
	if p == nil || p.r == nil {
		return ErrUnissued
	}
	r := p.r
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	why := r.end(errClosed)
	lived := r.guard.c.Now().Sub(r.started)
	if again || lived < closeAfter {
		return nil
	}
	rec := r.guard.payload(&r.attempt)
	rec.Vars = nil // the admitting record has them
	name(&rec, r.proof)
	rec.BytesIn, rec.BytesOut, rec.DurationMS = s.BytesIn, s.BytesOut, lived.Milliseconds()
	rec.Detail = "of " + r.admission.ID
	if errors.Is(why, ErrDrained) {
		rec.Reason = string(guardClosed)
	}
	_, err := r.guard.append(&audit.Record{Kind: audit.Close, Service: r.attempt.Service, Payload: rec}, audit.Written)
	return err
}

// end makes err the reason why the pass ended, unless it has one, and returns the
// reason it has.
func (r *receipt) end(err error) error {
	r.mu.Lock()
	waited := r.done != nil
	if r.err == nil {
		r.err = err
		if waited {
			close(r.done)
		}
	}
	why := r.err
	r.mu.Unlock()
	if waited { // most requests are over before anybody could wait
		r.guard.mu.Lock()
		delete(r.guard.waiting, r)
		r.guard.mu.Unlock()
	}
	return why
}
