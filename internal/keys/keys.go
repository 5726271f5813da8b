// Package keys makes, keeps and uses signing keys: one for each Purpose, created
// at first start, sealed at rest under a key-encryption key, never leaving this
// package in the clear.
//
// A key signs only the kinds of token that its purpose names. Rotation, other
// sources of the key-encryption key and keys held elsewhere (KMS, PKCS #11) come
// later; where sealed keys are stored is the business of internal/store.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/token"
)

// A Sealed key is a row of the store. Everything beside Secret is bound to it:
// changing a column makes the row unreadable.
type Sealed struct {
	ID        string // `kid`: RFC 7638 thumbprint of the public key
	Purpose   Purpose
	Algorithm token.Algorithm
	Created   time.Time // whole seconds, UTC
	KEK       string    // ID of the key-encryption key
	Secret    []byte    // PKCS #8, sealed
}

// context is what Secret is bound to: every other column, each with its length.
func (s *Sealed) context() []byte {
	out := []byte("sallyport signing key v1")
	for _, f := range []string{s.ID, string(s.Purpose), string(s.Algorithm), s.Created.UTC().Format(time.RFC3339), s.KEK} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

// A Store keeps sealed keys.
type Store interface {
	// ListKeys returns all keys, oldest first.
	ListKeys(context.Context) ([]Sealed, error)
	// AddKey adds one durably, or fails and adds none.
	AddKey(context.Context, Sealed) error
}

type key struct {
	token.Key
	purpose Purpose
	signer  crypto.Signer
}

// A Set holds the opened keys. It is safe for concurrent use.
type Set struct {
	keys map[Purpose]key
}

// Open opens the keys in store with kek and creates those that are missing. A
// row that does not open is an error, never a reason to make a new key: tokens
// would change hands quietly.
func Open(ctx context.Context, store Store, kek *KEK, now func() time.Time) (*Set, error) {
	rows, err := store.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	s := &Set{keys: map[Purpose]key{}}
	for i := range rows {
		k, err := open(&rows[i], kek)
		if err != nil {
			return nil, err
		}
		if _, twice := s.keys[k.purpose]; twice {
			return nil, fmt.Errorf("key %s: a second key for %s: rotation is not served yet", k.ID, k.purpose)
		}
		s.keys[k.purpose] = k
	}
	for _, p := range Purposes() {
		if _, ok := s.keys[p]; ok {
			continue
		}
		if s.keys[p], err = create(ctx, store, kek, p, now()); err != nil {
			return nil, fmt.Errorf("create key for %s: %w", p, err)
		}
	}
	return s, nil
}

func open(row *Sealed, kek *KEK) (key, error) {
	if row.KEK != kek.ID() {
		return key{}, fmt.Errorf("key %s was sealed by key-encryption key %s, and the one given is %s: start with the one it was made with", row.ID, row.KEK, kek.ID())
	}
	if !row.Purpose.known() {
		return key{}, fmt.Errorf("key %s is for %q, which this version does not know", row.ID, row.Purpose)
	}
	der, err := kek.Open(row.Secret, row.context())
	if err != nil {
		return key{}, fmt.Errorf("key %s: %w", row.ID, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return key{}, fmt.Errorf("key %s: not a private key", row.ID)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return key{}, fmt.Errorf("key %s: not a signing key", row.ID)
	}
	return key{token.Key{ID: row.ID, Algorithm: row.Algorithm, Public: signer.Public()}, row.Purpose, signer}, nil
}

func create(ctx context.Context, store Store, kek *KEK, p Purpose, now time.Time) (key, error) {
	signer, err := p.generate()
	if err != nil {
		return key{}, err
	}
	id, err := token.Thumbprint(signer.Public())
	if err != nil {
		return key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return key{}, fmt.Errorf("encode: %w", err)
	}
	row := Sealed{ID: id, Purpose: p, Algorithm: p.Algorithm(), Created: now.UTC().Truncate(time.Second), KEK: kek.ID()}
	if row.Secret, err = kek.Seal(der, row.context()); err != nil {
		return key{}, err
	}
	if err := store.AddKey(ctx, row); err != nil {
		return key{}, err
	}
	return key{token.Key{ID: id, Algorithm: row.Algorithm, Public: signer.Public()}, p, signer}, nil
}

// ErrPurpose means that a key was asked to sign what it is not for.
var ErrPurpose = errors.New("this key is not for that kind of token")

// Sign returns claims as a compact token of type typ, signed by the current key
// of p; ErrPurpose if p does not sign that type.
func (s *Set) Sign(p Purpose, typ string, claims any) (string, error) {
	if !slices.Contains(p.types(), typ) {
		return "", fmt.Errorf("%w: %s does not sign %s", ErrPurpose, p, typ)
	}
	k := s.keys[p]
	input, err := token.SigningInput(k.Algorithm, k.ID, typ, claims)
	if err != nil {
		return "", err
	}
	sig, err := k.sign(input)
	if err != nil {
		return "", fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	return token.Seal(input, sig), nil
}

func (k key) sign(input []byte) ([]byte, error) {
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

// Public returns the public keys of p, as they are to be published.
func (s *Set) Public(p Purpose) []token.Key {
	return []token.Key{s.keys[p].Key}
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

// Generation never changes: keys do not rotate yet.
func (Source) Generation() uint64 { return 0 }

// NoteSigner returns the checkpoint key as a signer of C2SP notes under the name
// origin, and the text of its verifier key, to be handed out of band.
func (s *Set) NoteSigner(origin string) (note.Signer, string, error) {
	k := s.keys[Checkpoints]
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
	key key
}

// Sign implements note.Signer.
func (n noteSigner) Sign(msg []byte) ([]byte, error) { return n.key.sign(msg) }
