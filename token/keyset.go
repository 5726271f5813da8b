package token

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A Key is a public key pinned to its one algorithm.
type Key struct {
	ID        string
	Algorithm Algorithm
	Public    crypto.PublicKey
}

// ErrUnknownKey means that a key set has no key of the name and algorithm asked.
var ErrUnknownKey = errors.New("the issuer publishes no such key")

// FindKey returns the key that kid and alg name, both compared exactly, or
// ErrUnknownKey. A token without kid is taken only when one key could have signed
// it: trying several would blur which key was trusted.
func FindKey(keys []Key, kid string, alg Algorithm) (Key, error) {
	var found Key
	n := 0
	for _, k := range keys {
		if k.Algorithm == alg && (kid == "" || k.ID == kid) {
			found = k
			n++
		}
	}
	if n != 1 {
		return Key{}, ErrUnknownKey
	}
	return found, nil
}

// Sizes of RSA keys that are taken, in bits: below, a key can be factored;
// above, verifying is slow enough to be an attack.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// maxKeys bounds a key set: large providers publish about ten.
const maxKeys = 256

// ParseJWKS reads a JWK set. Keys that are not for verifying signatures, or of
// a kind we do not verify with, are left out (RFC 7517 section 5) and named in
// skipped with the reason. An error means that the document as a whole is not a
// key set, or that two keys in it cannot be told apart.
func ParseJWKS(data []byte) (keys []Key, skipped []string, err error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, nil, errors.New("not a JWK set: want a JSON object with an array \"keys\", no member twice")
	}
	if set.Keys == nil || len(set.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("not a JWK set: want \"keys\" with at most %d entries", maxKeys)
	}
	type name struct {
		id  string
		alg Algorithm
	}
	seen := map[name]bool{}
	for i, raw := range set.Keys {
		k, why := parseJWK(raw)
		if why != "" {
			skipped = append(skipped, fmt.Sprintf("keys[%d]: %s", i, why))
			continue
		}
		if n := (name{k.ID, k.Algorithm}); seen[n] {
			return nil, nil, fmt.Errorf("keys[%d]: a second %s key with the same kid: neither can be trusted", i, k.Algorithm)
		} else {
			seen[n] = true
		}
		keys = append(keys, k)
	}
	return keys, skipped, nil
}

// ParseJWK reads one public JWK (RFC 7517 section 4).
func ParseJWK(data []byte) (Key, error) {
	k, why := parseJWK(data)
	if why != "" {
		return Key{}, errors.New(why)
	}
	return k, nil
}

func parseJWK(raw []byte) (k Key, why string) {
	var m struct {
		Use    string   `json:"use"`
		KeyOps []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return k, "not a JSON object with a string \"use\" and a list \"key_ops\", no member twice"
	}
	if m.Use != "" && m.Use != "sig" {
		return k, "use is not sig"
	}
	if m.KeyOps != nil && !slices.Contains(m.KeyOps, "verify") {
		return k, "key_ops does not have verify"
	}
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON(raw); err != nil {
		return k, "not a key of a kind we verify with"
	}
	j = j.Public()
	def, ok := DefaultAlgorithm(j.Key)
	if !ok {
		return k, "not a key of a kind we verify with"
	}
	k = Key{ID: j.KeyID, Algorithm: Algorithm(j.Algorithm), Public: j.Key}
	if k.Algorithm == "" {
		k.Algorithm = def
	}
	if !k.Algorithm.fits(k.Public) {
		return Key{}, "its alg does not fit its kty and crv"
	}
	if r, ok := k.Public.(*rsa.PublicKey); ok && (r.N.BitLen() < minRSABits || r.N.BitLen() > maxRSABits) {
		return Key{}, fmt.Sprintf("an RSA key of less than %d or more than %d bits", minRSABits, maxRSABits)
	}
	return k, ""
}

// JWKS writes keys as an OpenID Connect key set, each with `use: sig`.
func JWKS(keys []Key) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public, KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
	}
	return json.Marshal(set)
}

// PEMMap writes keys as the flat {kid: PEM} map that Google's Node and Python
// libraries read in place of a JWK set.
func PEMMap(keys []Key) ([]byte, error) {
	out := map[string]string{}
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k.Public)
		if err != nil {
			return nil, fmt.Errorf("encode key %s: %w", k.ID, err)
		}
		out[k.ID] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return json.Marshal(out, json.Deterministic(true))
}

// Thumbprint returns the key's RFC 7638 SHA-256 thumbprint, base64url: a `kid`
// that two keys cannot share.
func Thumbprint(pub crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return rawURL(sum), nil
}
