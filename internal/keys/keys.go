// Package keys makes, keeps and uses signing keys: for each Purpose one of each of
// its algorithms, created at first start, rotated by schedule or by hand, sealed at
// rest under a key-encryption key, never leaving this package in the clear.
//
// A key signs only the kinds of token that its purpose names. It is published
// before it signs and until what it signed has expired (State). Keys held elsewhere
// (KMS, PKCS #11) come later; where sealed keys are stored is the business of
// internal/store, how they are published that of internal/door/discovery.
package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
)

// Options are what a Set is made of. Store, KEK and Now are required.
type Options struct {
	Store    Store
	KEK      *sealing.Key
	Previous []*sealing.Key // that may have sealed rows: these are sealed again under KEK
	Now      func() time.Time

	// Schedule says when keys rotate; completed.
	Schedule Config

	// TrustDomain is in the certificate of the authority of X.509-SVIDs.
	TrustDomain string
}

// A Set holds the opened keys. It is safe for concurrent use.
type Set struct {
	o          Options
	generation atomic.Uint64
	published  atomic.Pointer[published]

	changing sync.Mutex // one change at a time; readers do not take it
	made     []Event    // by Open, before there was a log to note it in
}

// published is what everybody sees.
type published struct {
	rings   map[use]ring
	changed int64 // when, in seconds since 1970; later than the change before
}

// Open opens the keys in the store and creates those that are missing. A row that
// does not open is an error, never a reason to make a new key: tokens would change
// hands quietly.
func Open(ctx context.Context, o Options) (*Set, error) {
	s := &Set{o: o}
	if o.Schedule == (Config{}) {
		if err := s.o.Schedule.Complete(); err != nil {
			return nil, err
		}
	}
	rings, stale, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	put := stale
	for _, k := range stale {
		s.made = append(s.made, Event{"keys.rewrap", k.describe() + " under " + o.KEK.ID()})
	}
	now := o.Now()
	for _, u := range uses() {
		if rings[u].current(now) != nil {
			continue
		}
		k, err := create(o.KEK, u.purpose, u.algorithm, now, now) // the very first is used at once
		if err != nil {
			return nil, fmt.Errorf("create key for %s: %w", u.purpose, err)
		}
		rings[u] = append(rings[u], k).sorted()
		put = append(put, k)
		s.made = append(s.made, Event{"keys.create", k.describe() + ", used at once"})
	}
	if len(put) > 0 {
		if err := o.Store.SaveKeys(ctx, rows(put), nil); err != nil {
			return nil, fmt.Errorf("save keys: %w", err)
		}
	}
	s.publish(rings)
	return s, nil
}

func uses() []use {
	var out []use
	for _, p := range Purposes() {
		for _, a := range p.Algorithms() {
			out = append(out, use{p, a})
		}
	}
	return out
}

func rows(keys []*key) []Sealed {
	var out []Sealed
	for _, k := range keys {
		out = append(out, k.row)
	}
	return out
}

// load reads the store. stale are the keys that lie there under another
// key-encryption key, or in an older form; they are sealed anew.
func (s *Set) load(ctx context.Context) (map[use]ring, []*key, error) {
	list, err := s.o.Store.ListKeys(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list keys: %w", err)
	}
	keks := append([]*sealing.Key{s.o.KEK}, s.o.Previous...)
	rings := map[use]ring{}
	var stale []*key
	for _, row := range list {
		k, err := open(row, keks)
		if err != nil {
			return nil, nil, err
		}
		if row.KEK != s.o.KEK.ID() || row.Activates.IsZero() {
			k, err = k.change(s.o.KEK, func(r *Sealed) {
				if r.Activates.IsZero() {
					r.Activates = r.Created
				}
			})
			if err != nil {
				return nil, nil, err
			}
			stale = append(stale, k)
		}
		u := use{row.Purpose, row.Algorithm}
		rings[u] = append(rings[u], k)
	}
	for u := range rings {
		rings[u] = rings[u].sorted()
	}
	return rings, stale, nil
}

// publish makes rings what everybody sees from now on.
func (s *Set) publish(rings map[use]ring) {
	now := published{rings, s.o.Now().Unix()}
	if last := s.published.Load(); last != nil {
		now.changed = max(now.changed, last.changed+1)
	}
	s.published.Store(&now)
	s.generation.Add(1)
}

// Sequence returns a number that grows whenever what is published for purposes
// changes, also after a restart: the time of the last change, in seconds.
func (s *Set) Sequence(purposes ...Purpose) uint64 {
	now := s.o.Now()
	seen := s.published.Load()
	last := seen.changed
	for _, p := range purposes {
		for _, alg := range p.Algorithms() {
			r := seen.rings[use{p, alg}]
			for i := range r {
				if state, until := r.state(i, now); state == Retired && !until.After(now) {
					last = max(last, until.Unix())
				}
			}
		}
	}
	return uint64(last)
}

func (s *Set) ring(p Purpose, alg token.Algorithm) ring { return s.published.Load().rings[use{p, alg}] }

// ErrPurpose means that a key was asked to sign what it is not for.
var ErrPurpose = errors.New("this key is not for that kind of token")

// Sign returns claims as a compact token of type typ, signed by the current key of
// p for alg, and the `kid` of that; ErrPurpose if p does not sign that type, or not
// with that algorithm.
func (s *Set) Sign(p Purpose, alg token.Algorithm, typ string, claims any) (raw, kid string, err error) {
	if !slices.Contains(p.types(), typ) || !slices.Contains(p.Algorithms(), alg) {
		return "", "", fmt.Errorf("%w: %s does not sign %s with %s", ErrPurpose, p, typ, alg)
	}
	k := s.ring(p, alg).current(s.o.Now())
	if k == nil {
		return "", "", fmt.Errorf("every key for %s was revoked", p)
	}
	input, err := token.SigningInput(k.Algorithm, k.ID, typ, claims)
	if err != nil {
		return "", "", err
	}
	sig, err := k.sign(input)
	if err != nil {
		return "", "", fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	return token.Seal(input, sig), k.ID, nil
}

// Signs reports whether kid is the current key of p for alg.
func (s *Set) Signs(p Purpose, alg token.Algorithm, kid string) bool {
	k := s.ring(p, alg).current(s.o.Now())
	return k != nil && k.ID == kid
}

func (k *key) sign(input []byte) ([]byte, error) {
	digest, hash := k.Algorithm.Digest(input)
	sig, err := k.signer.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, err
	}
	if e, ok := k.Public.(*ecdsa.PublicKey); ok {
		return rawECDSA(sig, (e.Curve.Params().BitSize+7)/8)
	}
	return sig, nil
}

// rawECDSA turns the ASN.1 form that crypto.Signer gives into r and s, each of
// size bytes (RFC 7518 section 3.4).
func rawECDSA(der []byte, size int) ([]byte, error) {
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 {
		return nil, errors.New("not an ECDSA signature")
	}
	out := make([]byte, 2*size)
	rs.R.FillBytes(out[:size])
	rs.S.FillBytes(out[size:])
	return out, nil
}

// Public returns the public keys of p as they are to be published: those that will
// sign, sign, or signed what is still good.
func (s *Set) Public(p Purpose) []token.Key {
	now := s.o.Now()
	var out []token.Key
	for _, alg := range p.Algorithms() {
		out = append(out, s.ring(p, alg).public(now)...)
	}
	return out
}

// A Source finds the public keys of one purpose; it is a verifier.KeySource.
type Source struct {
	set     *Set
	purpose Purpose
}

// Source returns the Source of p.
func (s *Set) Source(p Purpose) Source { return Source{s, p} }

// Find returns the key that kid and alg name, or token.ErrUnknownKey.
func (s Source) Find(_ context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	return token.FindKey(s.set.Public(s.purpose), kid, alg)
}

// Generation changes with every change of the set.
func (s Source) Generation() uint64 { return s.set.generation.Load() }

// NoteSigner returns the checkpoint key as a signer of C2SP notes under the name
// origin, and the text of its verifier key, to be handed out of band.
func (s *Set) NoteSigner(origin string) (note.Signer, string, error) {
	k := s.ring(Checkpoints, token.EdDSA).current(s.o.Now())
	if k == nil {
		return nil, "", errors.New("the checkpoint key was revoked")
	}
	pub, ok := k.Public.(ed25519.PublicKey)
	if !ok {
		return nil, "", errors.New("the checkpoint key is not Ed25519")
	}
	text, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		return nil, "", fmt.Errorf("checkpoint key: %w", err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, "", fmt.Errorf("checkpoint key: %w", err)
	}
	return noteSigner{v, k}, text, nil
}

type noteSigner struct {
	note.Verifier
	key *key
}

// Sign implements note.Signer.
func (n noteSigner) Sign(msg []byte) ([]byte, error) { return n.key.sign(msg) }
