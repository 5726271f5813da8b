package forgery_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"

	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// verify looks for a key that the header may name and that made the signature.
func (r *receiver) verify(h map[string]any, input, sig []byte) error {
	alg, named := h["alg"].(string)
	if list, ok := h["alg"].([]any); ok && r.has("coerces") && len(list) == 1 {
		alg, named = list[0].(string)
	}
	alg = r.nul(alg)
	switch {
	case r.has("signature-unchecked"):
		return nil
	case r.has("alg-none") && strings.EqualFold(strings.TrimSpace(alg), "none"):
		return nil
	case r.has("alg-absent-is-none") && (h["alg"] == nil || h["alg"] == ""):
		return nil
	case !named && !r.has("alg-unread"):
		return errors.New("alg is no string")
	case strings.HasPrefix(alg, "HS") && !r.has("alg-unread"):
		return r.verifyHMAC(h, alg, input, sig)
	}
	keys := r.candidates(h)
	if len(keys) == 0 && r.has("unknown-key-skips") {
		return nil
	}
	for _, key := range keys {
		if r.signed(key, alg, input, sig) {
			return nil
		}
	}
	return errors.New("no key has signed it")
}

// verifyHMAC has a secret only because of a flaw.
func (r *receiver) verifyHMAC(h map[string]any, alg string, input, sig []byte) error {
	kid, _ := h["kid"].(string)
	secrets := r.found(kid)
	if r.has("hmac-by-public-key") {
		secrets = append(secrets, r.secrets()...)
	}
	if r.has("hmac-empty-secret") {
		secrets = append(secrets, nil)
	}
	if r.has("hmac-guessable-secret") {
		secrets = append(secrets, []byte("secret"), []byte(kid))
	}
	if jwk, ok := h["jwk"].(map[string]any); ok && r.has("jwk-trusted") {
		k, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(jwk["k"]))
		if err == nil {
			secrets = append(secrets, k)
		}
	}
	hash, ok := map[string]crypto.Hash{"HS256": crypto.SHA256, "HS384": crypto.SHA384, "HS512": crypto.SHA512}[alg]
	for _, secret := range secrets {
		m := hmac.New(hash.New, secret)
		m.Write(input)
		if ok && hmac.Equal(m.Sum(nil), sig) {
			return nil
		}
	}
	return errors.New("no secret fits")
}

// secrets are the public keys in each form in which a receiver may keep them.
func (r *receiver) secrets() (out [][]byte) {
	for _, text := range r.jwks {
		var jwk map[string]any
		if json.Unmarshal(text, &jwk) != nil {
			continue
		}
		key, err := readJWK(jwk)
		if err != nil {
			continue
		}
		out = append(out, text)
		short := map[string]any{"kty": jwk["kty"]}
		for _, name := range []string{"n", "e", "crv", "x", "y"} {
			if v, ok := jwk[name].(string); ok {
				short[name] = v
				b, _ := base64.RawURLEncoding.DecodeString(v)
				out = append(out, []byte(v), b)
			}
		}
		thumb, _ := json.Marshal(short) // sorts names
		out = append(out, thumb)
		der, _ := x509.MarshalPKIXPublicKey(key)
		forms := [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
		switch key := key.(type) {
		case *rsa.PublicKey:
			old := x509.MarshalPKCS1PublicKey(key)
			forms = append(forms, old, pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: old}))
		case *ecdsa.PublicKey:
			forms = append(forms, der[len(der)-65:], der[len(der)-64:]) // the point ends a SubjectPublicKeyInfo
		}
		for _, f := range forms {
			out = append(out, f, bytes.TrimSuffix(f, []byte("\n")), bytes.ReplaceAll(f, []byte("\n"), []byte("\r\n")), []byte(base64.StdEncoding.EncodeToString(f)))
		}
	}
	return out
}

// ways are how a key of its kind may have signed.
func (r *receiver) ways(key any, alg string) []string {
	pinned := "RS256"
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	if _, ok := key.(*ecdsa.PublicKey); ok {
		pinned, all = "ES256", []string{"ES256", "ES384", "ES512"}
	}
	var out []string
	for _, w := range all {
		if r.has("alg-any") || alg == w && (w == pinned || r.has("alg-not-pinned")) || w == pinned && r.has("alg-unread") {
			out = append(out, w)
		}
	}
	if alg == "RS1" && r.has("alg-sha1") {
		out = append(out, alg)
	}
	return out
}

func (r *receiver) signed(key any, alg string, input, sig []byte) bool {
	for _, way := range r.ways(key, alg) {
		hash := crypto.SHA256
		switch {
		case strings.HasSuffix(way, "384"):
			hash = crypto.SHA384
		case strings.HasSuffix(way, "512"):
			hash = crypto.SHA512
		case way == "RS1":
			hash = crypto.SHA1
		}
		h := hash.New()
		h.Write(input)
		switch key := key.(type) {
		case *rsa.PublicKey:
			if r.signedRSA(key, way, hash, h.Sum(nil), sig) {
				return true
			}
		case *ecdsa.PublicKey:
			if r.signedECDSA(key, h.Sum(nil), sig) {
				return true
			}
		}
	}
	return false
}

func (r *receiver) signedRSA(key *rsa.PublicKey, way string, hash crypto.Hash, digest, sig []byte) bool {
	if r.has("signature-longer") && len(sig) > key.Size() {
		sig = sig[:key.Size()]
	}
	if r.has("rsa-is-number") {
		n := new(big.Int).SetBytes(sig)
		sig = n.Mod(n, key.N).FillBytes(make([]byte, key.Size()))
	}
	if r.has("rsa-no-digest-info") && rsa.VerifyPKCS1v15(key, 0, digest, sig) == nil {
		return true
	}
	if strings.HasPrefix(way, "PS") {
		return rsa.VerifyPSS(key, hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return rsa.VerifyPKCS1v15(key, hash, digest, sig) == nil
}

func (r *receiver) signedECDSA(key *ecdsa.PublicKey, digest, sig []byte) bool {
	var v struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &v); err == nil && len(rest) == 0 && r.has("ecdsa-der") {
		sig = append(v.R.FillBytes(make([]byte, 32)), v.S.FillBytes(make([]byte, 32))...)
	}
	if r.has("signature-longer") && len(sig) > 64 {
		sig = sig[:64]
	}
	if len(sig) != 64 && !(r.has("ecdsa-halves") && len(sig)%2 == 0) {
		return false
	}
	rr, s := new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])
	if r.has("ecdsa-range") {
		return textbook(key, digest, rr, s)
	}
	return ecdsa.Verify(key, digest, rr, s)
}

// textbook is ECDSA without the sentence that r and s are between 1 and n-1 (FIPS
// 186-5 section 6.4.2): with zero for both, it compares zero with zero.
func textbook(key *ecdsa.PublicKey, digest []byte, r, s *big.Int) bool {
	c := key.Curve.Params()
	w := new(big.Int).Exp(s, new(big.Int).Sub(c.N, big.NewInt(2)), c.N) // 1/s by Fermat, and 0 for 0
	times := func(a *big.Int) *big.Int { return a.Mod(a.Mul(a, w), c.N) }
	u1 := times(new(big.Int).SetBytes(digest[:32]))
	u2 := times(new(big.Int).Set(r))
	point, err := key.Bytes()
	if err != nil {
		return false
	}
	q := &spot{new(big.Int).SetBytes(point[1:33]), new(big.Int).SetBytes(point[33:])}
	sum := add(c, multiply(c, u1, &spot{c.Gx, c.Gy}), multiply(c, u2, q))
	x := new(big.Int)
	if sum != nil {
		x.Mod(sum.x, c.N)
	}
	return x.Cmp(new(big.Int).Mod(r, c.N)) == 0
}

// spot is a point of the curve; nil is the one at infinity.
type spot struct{ x, y *big.Int }

func multiply(c *elliptic.CurveParams, k *big.Int, p *spot) *spot {
	var sum *spot
	for i := k.BitLen() - 1; i >= 0; i-- {
		sum = add(c, sum, sum)
		if k.Bit(i) == 1 {
			sum = add(c, sum, p)
		}
	}
	return sum
}

func add(c *elliptic.CurveParams, p, q *spot) *spot {
	if p == nil {
		return q
	}
	if q == nil {
		return p
	}
	over, under := new(big.Int).Sub(q.y, p.y), new(big.Int).Sub(q.x, p.x)
	if p.x.Cmp(q.x) == 0 {
		if p.y.Cmp(q.y) != 0 {
			return nil
		}
		over.Mul(p.x, p.x).Mul(over, big.NewInt(3)).Sub(over, big.NewInt(3)) // a is -3
		under.Lsh(p.y, 1)
	}
	slope := over.Mul(over, under.ModInverse(under.Mod(under, c.P), c.P))
	x := new(big.Int).Mul(slope, slope)
	x.Mod(x.Sub(x.Sub(x, p.x), q.x), c.P)
	y := new(big.Int).Sub(p.x, x)
	y.Mod(y.Sub(y.Mul(y, slope), p.y), c.P)
	return &spot{x, y}
}

// readJWKS reads the RSA and P-256 keys of a set, by kid.
func readJWKS(text []byte) (map[string]any, error) {
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, jwk := range set.Keys {
		key, err := readJWK(jwk)
		if err != nil {
			return nil, err
		}
		out[fmt.Sprint(jwk["kid"])] = key
	}
	return out, nil
}

func readJWK(jwk map[string]any) (any, error) {
	number := func(name string) *big.Int {
		b, _ := base64.RawURLEncoding.DecodeString(fmt.Sprint(jwk[name]))
		return new(big.Int).SetBytes(b)
	}
	switch jwk["kty"] {
	case "RSA":
		return &rsa.PublicKey{N: number("n"), E: int(number("e").Int64())}, nil
	case "EC":
		point := append([]byte{4}, number("x").FillBytes(make([]byte, 32))...)
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(point, number("y").FillBytes(make([]byte, 32))...))
	}
	return nil, errors.New("a key of another kind")
}

// fits reports whether secret keys the HMAC of any length that a token carries.
func fits(secret []byte, input, sig string) bool {
	want, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		return false
	}
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		m := hmac.New(hash.New, secret)
		m.Write([]byte(input))
		if hmac.Equal(m.Sum(nil), want) {
			return true
		}
	}
	return false
}
