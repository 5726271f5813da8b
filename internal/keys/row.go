package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
)

// A Sealed key is a row of the store. Everything beside Secret is bound to it:
// changing a column makes the row unreadable, so whoever writes the database
// cannot bring a key forward, give it another purpose, or undo its revocation.
type Sealed struct {
	ID        string // `kid`: RFC 7638 thumbprint of the public key
	Purpose   Purpose
	Algorithm token.Algorithm
	Created   time.Time // whole seconds, UTC, as all times here; published from then on
	Activates time.Time // when it begins to sign, or began to
	Revoked   time.Time // when it was withdrawn; zero if it was not
	KEK       string    // ID of the key-encryption key
	Secret    []byte    // PKCS #8, sealed
}

// A Store keeps sealed keys.
type Store interface {
	// ListKeys returns all keys, in any order.
	ListKeys(context.Context) ([]Sealed, error)
	// SaveKeys durably adds or replaces the rows of put, by ID, and removes those of
	// drop: all of it, or with an error nothing, as far as it can be known.
	SaveKeys(ctx context.Context, put []Sealed, drop []string) error
}

// context is what Secret is bound to: every other column, each with its length.
// Rows of the first schema have no times but Created.
func (s *Sealed) context() []byte {
	out := []byte("sallyport signing key v1")
	fields := []string{s.ID, string(s.Purpose), string(s.Algorithm), moment(s.Created), s.KEK}
	if !s.Activates.IsZero() {
		out = []byte("sallyport signing key v2")
		fields = append(fields, moment(s.Activates), moment(s.Revoked))
	}
	for _, f := range fields {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// key is an opened row.
type key struct {
	token.Key
	row    Sealed // with a Secret that is sealed for exactly this row
	signer crypto.Signer
}

// open opens a row with the key-encryption key that sealed it.
func open(row Sealed, keks []*sealing.Key) (*key, error) {
	i := slices.IndexFunc(keks, func(k *sealing.Key) bool { return k.ID() == row.KEK })
	if i < 0 {
		return nil, fmt.Errorf("key %s was sealed by key-encryption key %s, and the one given is %s: start with the one it was made with, or name that one in key_encryption.previous",
			row.ID, row.KEK, keks[0].ID())
	}
	if !row.Purpose.known() || !slices.Contains(row.Purpose.Algorithms(), row.Algorithm) {
		return nil, fmt.Errorf("key %s is for %q with %q, which this version does not know", row.ID, row.Purpose, row.Algorithm)
	}
	der, err := keks[i].Open(row.Secret, row.context())
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", row.ID, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key %s: not a private key", row.ID)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s: not a signing key", row.ID)
	}
	return &key{token.Key{ID: row.ID, Algorithm: row.Algorithm, Public: signer.Public()}, row, signer}, nil
}

// create makes a new key that signs from activates on. It is not stored yet.
func create(kek *sealing.Key, p Purpose, alg token.Algorithm, now, activates time.Time) (*key, error) {
	signer, err := generate(alg)
	if err != nil {
		return nil, err
	}
	return adopt(kek, p, alg, signer, now, activates)
}

func adopt(kek *sealing.Key, p Purpose, alg token.Algorithm, signer crypto.Signer, now, activates time.Time) (*key, error) {
	id, err := token.Thumbprint(signer.Public())
	if err != nil {
		return nil, err
	}
	k := &key{token.Key{ID: id, Algorithm: alg, Public: signer.Public()}, Sealed{
		ID: id, Purpose: p, Algorithm: alg, Created: second(now), Activates: second(activates),
	}, signer}
	return k, k.seal(kek)
}

// second cuts a time to what a row keeps.
func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// seal seals the key for its row as it is now.
func (k *key) seal(kek *sealing.Key) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	k.row.KEK = kek.ID()
	k.row.Secret, err = kek.Seal(der, k.row.context())
	return err
}

// change returns a copy of the key whose row is changed by f, and sealed again.
func (k *key) change(kek *sealing.Key, f func(*Sealed)) (*key, error) {
	out := *k
	f(&out.row)
	return &out, out.seal(kek)
}

// Import seals a key that was made elsewhere, to be put into an empty store before
// Open: for tests that have to sign what a Set would not.
func Import(kek *sealing.Key, p Purpose, signer crypto.Signer, now time.Time) (Sealed, error) {
	alg, ok := token.DefaultAlgorithm(signer.Public())
	if !ok || !slices.Contains(p.Algorithms(), alg) {
		return Sealed{}, errors.New("not a key that this purpose signs with")
	}
	k, err := adopt(kek, p, alg, signer, now, now)
	if err != nil {
		return Sealed{}, err
	}
	return k.row, nil
}
