package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/token"
)

// A Purpose is the one thing that a key is for. Nothing verifies under two.
type Purpose string

const (
	// Tokens signs ID tokens and access tokens.
	Tokens Purpose = "tokens"
	// Assertions signs what the gateway hands upstream.
	Assertions Purpose = "assertions"
	// SVIDs signs JWT-SVIDs, whose keys are in the SPIFFE bundle and not among
	// those of ID tokens.
	SVIDs Purpose = "svids"
	// Authority signs X.509-SVIDs, and no JWT at all.
	Authority Purpose = "svid-authority"
	// Checkpoints signs the heads of the audit log. It signs no JWT at all, and
	// does not rotate: whoever keeps the log's public key keeps it for good.
	Checkpoints Purpose = "checkpoints"
)

// Purposes returns every purpose in use; each has a key of each of its algorithms
// after the first start.
func Purposes() []Purpose { return []Purpose{Tokens, Assertions, SVIDs, Authority, Checkpoints} }

// Rotating returns the purposes whose keys rotate.
func Rotating() []Purpose {
	return slices.DeleteFunc(Purposes(), func(p Purpose) bool { return !p.rotates() })
}

// ParsePurpose returns the purpose called s, or an error that lists those there are.
func ParsePurpose(s string) (Purpose, error) {
	if p := Purpose(s); p.known() {
		return p, nil
	}
	return "", fmt.Errorf("%q: those whose keys rotate are %v", s, Rotating())
}

// Algorithms returns what keys of p sign with, the default first. RS256 is the
// only algorithm that every verifier of ID tokens takes (contract google-clients,
// fact 3); an account may be given ES256, and its key is published from the first
// start on, so that no verifier meets it unprepared.
func (p Purpose) Algorithms() []token.Algorithm {
	switch p {
	case Tokens:
		return []token.Algorithm{token.RS256, token.ES256}
	case Checkpoints:
		return []token.Algorithm{token.EdDSA}
	}
	return []token.Algorithm{token.ES256}
}

// types are the `typ` values that a key of p may sign, the other half of "no
// kind of token stands in for another".
func (p Purpose) types() []string {
	switch p {
	case Tokens:
		return []string{token.TypeID, token.TypeAccess}
	case Assertions:
		return []string{token.TypeAssertion}
	case SVIDs:
		return []string{token.TypeSVID}
	}
	return nil
}

func (p Purpose) known() bool { return slices.Contains(Purposes(), p) }

func (p Purpose) rotates() bool { return p != Checkpoints }

// rsaBits is the size of new RSA keys: what every verifier takes, and as strong
// as keys that live for weeks need (NIST SP 800-57 part 1, table 2).
const rsaBits = 2048

func generate(alg token.Algorithm) (crypto.Signer, error) {
	switch alg {
	case token.RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case token.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case token.EdDSA:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("no way to make a key for %s", alg)
}
