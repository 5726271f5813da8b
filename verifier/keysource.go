package verifier

import (
	"context"
	"crypto"

	"github.com/sallyport-dev/sallyport/token"
)

// A KeySource finds an issuer's public keys.
type KeySource interface {
	// Find returns the key that kid and alg name, both compared exactly; with an
	// empty kid, the only key for alg. token.ErrUnknownKey means that the issuer has
	// none; any other error that its keys cannot be had now.
	Find(ctx context.Context, kid string, alg token.Algorithm) (token.Key, error)

	// Generation changes whenever a key that Find returned may have gone. It is
	// asked on every use of a verdict and must not block.
	Generation() uint64
}

// StaticKeys is a KeySource that never changes.
type StaticKeys []token.Key

// Find implements KeySource.
func (s StaticKeys) Find(_ context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	return token.FindKey(s, kid, alg)
}

// Generation implements KeySource.
func (StaticKeys) Generation() uint64 { return 0 }

func sameKey(a, b token.Key) bool {
	pub, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && a.Algorithm == b.Algorithm && pub.Equal(b.Public)
}
