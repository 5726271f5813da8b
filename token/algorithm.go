package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"math/big"
	"strings"
)

// An Algorithm is a JWS signature algorithm (RFC 7518 section 3.1, RFC 8037).
// There is no HMAC and no "none": a receiver that can check could also forge.
type Algorithm string

// The algorithms that can be verified.
const (
	RS256 Algorithm = "RS256" // RSASSA-PKCS1-v1_5 with SHA-256
	PS256 Algorithm = "PS256" // RSASSA-PSS with SHA-256, salt as long as the hash
	ES256 Algorithm = "ES256" // ECDSA on P-256 with SHA-256
	ES384 Algorithm = "ES384" // ECDSA on P-384 with SHA-384
	EdDSA Algorithm = "EdDSA" // Ed25519
)

// Algorithms returns every algorithm that can be verified, the default of
// `--algorithms` and of `providers[].oidc.algorithms`.
func Algorithms() []Algorithm { return []Algorithm{RS256, PS256, ES256, ES384, EdDSA} }

// ParseAlgorithm returns the algorithm called s, exactly as RFC 7518 spells it,
// or an error that lists those there are.
func ParseAlgorithm(s string) (Algorithm, error) {
	names := make([]string, 0, len(Algorithms()))
	for _, a := range Algorithms() {
		if string(a) == s {
			return a, nil
		}
		names = append(names, string(a))
	}
	return "", fmt.Errorf("%q is not an algorithm we verify: use %s", s, strings.Join(names, ", "))
}

// DefaultAlgorithm returns the one algorithm that a public key without `alg`
// stands for, and false for a key no algorithm fits.
func DefaultAlgorithm(pub crypto.PublicKey) (Algorithm, bool) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return RS256, true
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ES256, true
		case elliptic.P384():
			return ES384, true
		}
	case ed25519.PublicKey:
		return EdDSA, true
	}
	return "", false
}

// fits reports whether pub is of the kind that a signs with.
func (a Algorithm) fits(pub crypto.PublicKey) bool {
	d, ok := DefaultAlgorithm(pub)
	return ok && (d == a || d == RS256 && a == PS256)
}

// Digest returns what a private key of this algorithm signs: the hash of input,
// or input itself for EdDSA, which hashes for itself (RFC 8032 section 5.1.6).
func (a Algorithm) Digest(input []byte) ([]byte, crypto.Hash) {
	switch a {
	case ES384:
		d := sha512.Sum384(input)
		return d[:], crypto.SHA384
	case EdDSA:
		return input, 0
	}
	d := sha256.Sum256(input)
	return d[:], crypto.SHA256
}

// verify reports whether sig is key's signature of input. The key's kind must
// fit the algorithm; nothing is converted and no second algorithm is tried.
func (a Algorithm) verify(pub crypto.PublicKey, input, sig []byte) bool {
	if !a.fits(pub) {
		return false
	}
	digest, hash := a.Digest(input)
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if a == PS256 {
			return rsa.VerifyPSS(k, hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}) == nil
		}
		return rsa.VerifyPKCS1v15(k, hash, digest, sig) == nil
	case *ecdsa.PublicKey:
		// r and s, each as long as the curve's order (RFC 7518 section 3.4);
		// ecdsa.Verify refuses zero and anything not below the order.
		size := (k.Curve.Params().BitSize + 7) / 8
		if len(sig) != 2*size {
			return false
		}
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, sig)
	}
	return false
}
