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
	// Checkpoints signs the heads of the audit log. It signs no JWT at all.
	Checkpoints Purpose = "checkpoints"
)

// Purposes returns every purpose in use; each has a key after the first start.
func Purposes() []Purpose { return []Purpose{Tokens, Assertions, Checkpoints} }

// Algorithm returns what new keys of p sign with. RS256 is the only algorithm
// that every verifier of ID tokens takes (contract google-clients, fact 3).
func (p Purpose) Algorithm() token.Algorithm {
	switch p {
	case Tokens:
		return token.RS256
	case Assertions:
		return token.ES256
	}
	return token.EdDSA
}

// types are the `typ` values that a key of p may sign, the other half of "no
// kind of token stands in for another".
func (p Purpose) types() []string {
	switch p {
	case Tokens:
		return []string{token.TypeID, token.TypeAccess}
	case Assertions:
		return []string{token.TypeAssertion}
	}
	return nil
}

func (p Purpose) known() bool { return slices.Contains(Purposes(), p) }

// rsaBits is the size of new RSA keys: what every verifier takes, and as strong
// as keys that live for weeks need (NIST SP 800-57 part 1, table 2).
const rsaBits = 2048

func (p Purpose) generate() (crypto.Signer, error) {
	switch alg := p.Algorithm(); alg {
	case token.RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case token.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case token.EdDSA:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	default:
		return nil, fmt.Errorf("no way to make a key for %s", alg)
	}
}
