package forgery

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"   // "RS1", which a receiver must not know
	_ "crypto/sha512" // RS512 and its like
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/token"
)

// A Key signs, and has a name.
type Key struct {
	ID        string // `kid`
	Algorithm token.Algorithm
	Signer    crypto.Signer // RSA, or ECDSA on P-256
}

// Public returns what verifies the key's signatures.
func (k Key) Public() token.Key {
	return token.Key{ID: k.ID, Algorithm: k.Algorithm, Public: k.Signer.Public()}
}

// Keys are those that a corpus is signed with. All are required: NewKeys makes
// them, and a test issuer puts its own in place of the first two.
type Keys struct {
	// RS256 and ES256 are the issuer's, which receivers trust.
	RS256, ES256 Key

	// Assertion is a key that the issuer publishes elsewhere, for another purpose.
	// ES256.
	Assertion Key

	// Retired was once the issuer's and is published no more. RS256.
	Retired Key

	// Stranger is the attacker's own. RS256.
	Stranger Key
}

// ThrowAway is how the names of the keys begin that NewKeys makes.
const ThrowAway = "throw-away-"

// NewKeys makes throw-away keys.
func NewKeys() (Keys, error) {
	var out Keys
	for _, k := range []struct {
		to  *Key
		alg token.Algorithm
	}{
		{&out.RS256, token.RS256}, {&out.ES256, token.ES256}, {&out.Assertion, token.ES256}, {&out.Retired, token.RS256}, {&out.Stranger, token.RS256},
	} {
		var err error
		if *k.to, err = newKey(k.alg); err != nil {
			return Keys{}, err
		}
	}
	return out, nil
}

func newKey(alg token.Algorithm) (Key, error) {
	var signer crypto.Signer
	var err error
	if alg == token.ES256 {
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		signer, err = rsa.GenerateKey(rand.Reader, 2048) // the least that receivers take
	}
	if err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	id, err := token.Thumbprint(signer.Public())
	if err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	return Key{ID: ThrowAway + id, Algorithm: alg, Signer: signer}, nil
}

// Public returns what receivers trust: the keys of the issuer's JWK set.
func (k *Keys) Public() []token.Key { return []token.Key{k.RS256.Public(), k.ES256.Public()} }

// check reports every mistake. Names need a letter, and RSA signatures a last
// character of base64 with bits to spare, since there are cases that change only
// these.
func (k *Keys) check() error {
	var bad []error
	seen := map[string]bool{}
	for _, f := range []struct {
		name string
		key  Key
		alg  token.Algorithm
	}{
		{"RS256", k.RS256, token.RS256}, {"ES256", k.ES256, token.ES256}, {"Assertion", k.Assertion, token.ES256},
		{"Retired", k.Retired, token.RS256}, {"Stranger", k.Stranger, token.RS256},
	} {
		if f.key.Signer == nil {
			bad = append(bad, fmt.Errorf("keys.%s: is missing: NewKeys makes one", f.name))
			continue
		}
		if def, ok := token.DefaultAlgorithm(f.key.Signer.Public()); !ok || def != f.alg || f.key.Algorithm != f.alg {
			bad = append(bad, fmt.Errorf("keys.%s: want an %s key", f.name, f.alg))
		}
		if pub, ok := f.key.Signer.Public().(*rsa.PublicKey); ok && pub.Size()%3 == 0 {
			bad = append(bad, fmt.Errorf("keys.%s: %d bits are written in base64 without bits to spare: want 2048 or 4096", f.name, pub.N.BitLen()))
		}
		if swapCase(f.key.ID) == f.key.ID || !utf8.ValidString(f.key.ID) || seen[f.key.ID] {
			bad = append(bad, fmt.Errorf("keys.%s: %q: want a name of its own with a letter in it", f.name, f.key.ID))
		}
		seen[f.key.ID] = true
	}
	return errors.Join(bad...)
}

// hashOf returns the hash that an algorithm's number stands for (RFC 7518
// section 3.1).
func hashOf(alg string) crypto.Hash {
	switch {
	case strings.HasSuffix(alg, "384"):
		return crypto.SHA384
	case strings.HasSuffix(alg, "512"):
		return crypto.SHA512
	case alg == "RS1":
		return crypto.SHA1
	}
	return crypto.SHA256
}

func digest(hash crypto.Hash, input []byte) []byte {
	h := hash.New()
	h.Write(input) // never fails
	return h.Sum(nil)
}

// sign signs input in the way that alg names, which need not be the key's own.
func (k Key) sign(alg string, input []byte) ([]byte, error) {
	hash := hashOf(alg)
	var opts crypto.SignerOpts = hash
	if strings.HasPrefix(alg, "PS") {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash} // RFC 7518 section 3.5
	}
	sig, err := k.Signer.Sign(rand.Reader, digest(hash, input), opts)
	if err != nil {
		return nil, fmt.Errorf("sign as %s with %s: %w", alg, k.ID, err)
	}
	if k.Algorithm != token.ES256 {
		return sig, nil
	}
	r, s, err := readDER(sig)
	if err != nil {
		return nil, err
	}
	return join(r, s), nil
}

type derSignature struct{ R, S *big.Int }

func readDER(sig []byte) (r, s *big.Int, err error) {
	var v derSignature
	if rest, err := asn1.Unmarshal(sig, &v); err != nil || len(rest) != 0 {
		return nil, nil, errors.New("the signer's ECDSA signature is not DER")
	}
	return v.R, v.S, nil
}

func der(r, s *big.Int) []byte {
	out, err := asn1.Marshal(derSignature{r, s})
	if err != nil {
		panic(err) // never: two integers
	}
	return out
}

// join writes r and s, each as long as the order of P-256 (RFC 7518 section 3.4).
func join(r, s *big.Int) []byte {
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

func halves(sig []byte) (r, s *big.Int) {
	return new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])
}
