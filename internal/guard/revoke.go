package guard

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// RevocationKind is what a Revocation names.
type RevocationKind string

const (
	RevokeToken    RevocationKind = "token"    // a token by its `jti`
	RevokeKey      RevocationKind = "key"      // what was signed by a key, by its `kid`
	RevokeMember   RevocationKind = "member"   // principals, by a member as rules name them
	RevokeProvider RevocationKind = "provider" // everybody whom a provider vouches for
	RevokeSession  RevocationKind = "session"  // a live session, by its decision id, and its token
)

// A Revocation withdraws trust in credentials before they end by themselves.
type Revocation struct {
	ID     string         `json:"id"`     // to lift it by
	Kind   RevocationKind `json:"kind"`   // what Value names
	Value  string         `json:"value"`  // a token id, kid, member, provider or decision id
	Reason string         `json:"reason"` // why, for the record
	At     time.Time      `json:"at"`     // since when
	Until  time.Time      `json:"until"`  // when it is forgotten: nothing it matches may live longer

	// Issued is set of one that matches only what was issued before At: callers that
	// prove themselves again are let in.
	Issued bool `json:"issued,omitzero"`

	Hash string `json:"hash,omitzero"` // of RevokeSession: of a token without an id
}

// maxRevocations bounds how many are in force at a time.
const maxRevocations = 100_000

// credentialLife is the longest that any credential lives: 24 h of a provider's token,
// and the leeway, rounded up.
const credentialLife = 25 * time.Hour

// What a Revoke may have been asked for in vain.
var (
	// ErrRevocation means that a revocation does not say what it is of. Its text may be
	// shown.
	ErrRevocation = errors.New("no revocation")

	// ErrNotRevoked means that there is no revocation of that id.
	ErrNotRevoked = errors.New("there is no such revocation, or it is over")
)

// revocations are those in force. Each change makes another generation, so that what was
// held against the newest one is not held against it again.
type revocations struct {
	mu         sync.Mutex // held by who changes
	generation atomic.Uint64
	set        atomic.Pointer[revocationSet] // nil: there is none
}

// revocationSet is one generation, by what is looked up. It never changes.
type revocationSet struct {
	all       []Revocation
	tokens    map[string]*Revocation
	keys      map[string]*Revocation
	hashes    map[string]*Revocation
	providers map[string]*Revocation
	members   []memberRevocation
	over      time.Time // when the first of them is
}

type memberRevocation struct {
	*Revocation
	member identity.Member
}

// newRevocationSet indexes all; nil for none. What cannot be read is a mistake: it is not
// left out.
func newRevocationSet(all []Revocation) (*revocationSet, error) {
	if len(all) == 0 {
		return nil, nil
	}
	s := &revocationSet{all: all, tokens: map[string]*Revocation{}, keys: map[string]*Revocation{}, hashes: map[string]*Revocation{}, providers: map[string]*Revocation{}}
	for i := range all {
		r := &all[i]
		if s.over.IsZero() || r.Until.Before(s.over) {
			s.over = r.Until
		}
		switch r.Kind {
		case RevokeToken:
			s.tokens[r.Value] = r
		case RevokeKey:
			s.keys[r.Value] = r
		case RevokeProvider:
			s.providers[r.Value] = r
		case RevokeSession:
			s.hashes[r.Hash] = r
		case RevokeMember:
			m, err := identity.ParseMember(r.Value)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrRevocation, err)
			}
			s.members = append(s.members, memberRevocation{r, m})
		default:
			return nil, fmt.Errorf("%w: %q is none of token, key, member, provider and session", ErrRevocation, r.Kind)
		}
	}
	return s, nil
}

// ownBackdate is how far back the `iat` of our own tokens is set.
const ownBackdate = 5 * time.Second

// match returns the revocation of what was proven, nil if there is none.
func (s *revocationSet) match(v *view, e *entry) *Revocation {
	p := e.proof
	if r := s.tokens[p.TokenID]; r != nil && p.TokenID != "" {
		return r
	}
	if r := s.keys[p.KeyID]; r != nil && p.KeyID != "" {
		return r
	}
	if r := s.hashes[e.hash]; r != nil && e.hash != "" {
		return r
	}
	if r := s.providers[p.Provider]; r != nil && r.reaches(p) {
		return r
	}
	for i := range s.members {
		if m := &s.members[i]; m.reaches(p) && v.Policy.Includes(m.member, &p.Principal) {
			return m.Revocation
		}
	}
	return nil
}

// reaches reports whether a proof is old enough for r.
func (r *Revocation) reaches(p *identity.Proof) bool {
	if !r.Issued {
		return true
	}
	if p.Attested != nil && p.TokenID == "" && p.Issued.IsZero() {
		return false // attested a moment ago
	}
	at := p.Issued
	if p.Provider == identity.Self && !at.IsZero() {
		at = at.Add(ownBackdate)
	}
	return at.Before(r.At)
}

// unrevoked fails when what was proven was revoked.
func (g *Guard) unrevoked(v *view, e *entry) error {
	generation := g.revoked.generation.Load() // before the set: at worst it is looked at again
	set := g.revoked.set.Load()
	// other rules have other groups: what is held against theirs says nothing of these
	remembers := e.checked != nil && v == g.view.Load()
	if set == nil || remembers && e.checked.Load() == generation {
		return nil
	}
	if r := set.match(v, e); r != nil {
		return revocationError(r)
	}
	if remembers {
		e.checked.Store(generation)
	}
	return nil
}

func revocationError(r *Revocation) error {
	why := "revoked as " + string(r.Kind) + " " + r.Value + ", revocation " + r.ID
	if r.Reason != "" {
		why += ": " + r.Reason
	}
	return refusal{revoked, why}
}

// reusable returns id if the token that has it may be handed out once more, else "".
func (g *Guard) reusable(id string, proof *identity.Proof) string {
	set := g.revoked.set.Load()
	if set == nil || id == "" {
		return id
	}
	held := *proof // as the token would be proven: issued before
	held.Attested, held.Provider, held.TokenID = nil, identity.Self, id
	if set.match(g.view.Load(), &entry{proof: &held}) != nil {
		return ""
	}
	return id
}

// Revoke puts a revocation in force, and ends the live sessions that it reaches before it
// returns. Its ID, At and, if it is zero, Until are filled in: by default it lasts until
// nothing that was issued before it can live. An error that wraps ErrRevocation says what
// is wrong with it; any other means that it is in force, but not kept for a restart.
func (g *Guard) Revoke(r Revocation) (Revocation, int, error) {
	now := g.c.Now()
	r.ID, r.At = strings.ToLower(rand.Text()), now
	if r.Until.IsZero() {
		r.Until = now.Add(credentialLife)
	}
	if err := g.complete(&r); err != nil {
		return r, 0, err
	}
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	all := append(g.revoked.inForce(now), r)
	if err := g.enforce(all); err != nil {
		return r, 0, err
	}
	ended := g.Sweep(now)
	return r, ended, g.keep(all)
}

// complete says what is wrong with r.
func (g *Guard) complete(r *Revocation) error {
	switch {
	case r.Value == "" || len(r.Value) > 1024:
		return fmt.Errorf("%w: say which %s, in at most 1024 bytes", ErrRevocation, cmp.Or(r.Kind, "one"))
	case !r.Until.After(r.At):
		return fmt.Errorf("%w: it is over already", ErrRevocation)
	case r.Issued && r.Kind != RevokeMember && r.Kind != RevokeProvider:
		return fmt.Errorf("%w: only of members and providers there is something that is issued later", ErrRevocation)
	}
	switch r.Kind {
	case RevokeProvider:
		if v := g.view.Load(); r.Value != identity.Local && !slices.ContainsFunc(v.Bearers, func(b BearerProver) bool { return b.Name() == r.Value }) &&
			!slices.ContainsFunc(v.Certificates, func(c CertificateProver) bool { return c.Name() == r.Value }) {
			return fmt.Errorf("%w: no provider is called %q", ErrRevocation, r.Value)
		}
	case RevokeSession:
		return g.sessionToken(r)
	}
	return nil
}

// sessionToken makes of a revocation of a session one of what the session rests on.
func (g *Guard) sessionToken(r *Revocation) error {
	for live := range g.live.all() {
		if live.admission.ID != r.Value {
			continue
		}
		switch {
		case live.entry.proof.TokenID != "":
			r.Kind, r.Reason = RevokeToken, "session "+r.Value+": "+r.Reason
			r.Value = live.entry.proof.TokenID
			return nil
		case live.entry.hash != "":
			r.Hash = live.entry.hash
			return nil
		}
		return fmt.Errorf("%w: the session rests on no token: kill it, or revoke its principal", ErrRevocation)
	}
	err := fmt.Errorf("%w: no live session has the decision id %q", ErrRevocation, r.Value)
	return fault.New(fault.Absent, err, err.Error()) // it may have ended since it was listed
}

// Lift ends a revocation.
func (g *Guard) Lift(id string) error {
	now := g.c.Now()
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	all := g.revoked.inForce(now)
	i := slices.IndexFunc(all, func(r Revocation) bool { return r.ID == id })
	if i < 0 {
		return ErrNotRevoked
	}
	all = slices.Delete(all, i, i+1)
	return errors.Join(g.enforce(all), g.keep(all))
}

// Restore puts revocations in force that were kept.
func (g *Guard) Restore(kept []Revocation) error {
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	return g.enforce(slices.Clone(kept))
}

// Revocations returns those in force, the oldest first.
func (g *Guard) Revocations() []Revocation {
	g.revoked.mu.Lock()
	defer g.revoked.mu.Unlock()
	return g.revoked.inForce(g.c.Now())
}

// inForce returns a copy of those that are not over; called with mu held.
func (r *revocations) inForce(now time.Time) []Revocation {
	set := r.set.Load()
	if set == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(set.all), func(x Revocation) bool { return !x.Until.After(now) })
}

// enforce puts all in the place of what is in force; called with mu held.
func (g *Guard) enforce(all []Revocation) error {
	if len(all) > maxRevocations {
		return fmt.Errorf("%w: there are %d already: revoke a member or a provider instead", ErrRevocation, maxRevocations)
	}
	set, err := newRevocationSet(all)
	if err != nil {
		return err
	}
	g.revoked.set.Store(set)
	g.revoked.generation.Add(1)
	return nil
}

func (g *Guard) keep(all []Revocation) error {
	if g.c.Keep == nil {
		return nil
	}
	if err := g.c.Keep(all); err != nil {
		return fmt.Errorf("keep revocations: %w", err)
	}
	return nil
}

// forgetRevocations drops those that are over.
func (g *Guard) forgetRevocations(now time.Time) {
	if set := g.revoked.set.Load(); set == nil || set.over.After(now) || !g.revoked.mu.TryLock() {
		return
	}
	defer g.revoked.mu.Unlock()
	all := g.revoked.inForce(now)
	if err := errors.Join(g.enforce(all), g.keep(all)); err != nil {
		g.c.Logger.Error("revocations that are over cannot be forgotten", "error", err.Error())
	}
}
