package forgery

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
)

// signatures are tokens whose signature is not one. Where arithmetic that is not
// careful takes it, the flaw is that; where nothing does, that nobody looked.
func signatures() []row {
	const source = "RFC 7515 5.2"
	unseen := func(id, why, source string, c ...change) row {
		return row{"sig-" + id, Must, "signature-unchecked", why, source, c}
	}
	order := elliptic.P256().Params().N
	zero, one := new(big.Int), big.NewInt(1)
	const range256 = "CVE-2022-21449"
	rs := func(r, s *big.Int) []change {
		return with(by(es256), signature(func([]byte) []byte { return join(r, s) }))
	}
	return []row{
		unseen("empty", "no signature under RS256", "RFC 7515 5.2, CVE-2020-28042", unsigned),
		unseen("empty-es256", "no signature under ES256", "RFC 7515 5.2, CVE-2020-28042", by(es256), unsigned),
		unseen("zero", "an RSA signature of zeros", source, signature(func(sig []byte) []byte { return make([]byte, len(sig)) })),
		unseen("one", "an RSA signature that is the number 1", source, signature(func(sig []byte) []byte { return one.FillBytes(make([]byte, len(sig))) })),
		unseen("flipped", "one bit of the signature is another", source, signature(flip)),
		unseen("flipped-es256", "one bit of an ECDSA signature is another", source, by(es256), signature(flip)),
		unseen("short", "the signature's last byte is missing", source, signature(func(sig []byte) []byte { return sig[:len(sig)-1] })),
		unseen("short-es256", "the last byte of an ECDSA signature is missing", source, by(es256), signature(func(sig []byte) []byte { return sig[:len(sig)-1] })),
		unseen("half-es256", "half of an ECDSA signature", source, by(es256), signature(func(sig []byte) []byte { return sig[:len(sig)/2] })),
		unseen("swapped-es256", "s and r", "RFC 7518 3.4", by(es256), signature(func(sig []byte) []byte { r, s := halves(sig); return join(s, r) })),
		unseen("other-token", "the signature of another token of the issuer's", source, signedInstead(claim("sub", `"somebody-else"`))),
		unseen("claims-changed", "sub is another than what was signed", source, signedInstead(), claim("sub", `"admin"`)),
		unseen("exp-changed", "exp is later than what was signed", source, signedInstead(claim("exp", "${now-600}"))),
		unseen("header-changed", "typ is another than what was signed", source, signedInstead(header("typ", `"at+jwt"`))),
		unseen("stranger", "another's signature under the issuer's kid", source, by(stranger), header("kid", `"${kid}"`)),
		{"sig-longer", Must, "signature-longer", "a good signature and one byte", source, with(signature(longer))},
		{"sig-longer-es256", Must, "signature-longer", "a good ECDSA signature and one byte", source, with(by(es256), signature(longer))},
		{"sig-zero-before", Must, "rsa-is-number", "a good signature with a zero before it", "RFC 8017 8.2.2", with(signature(func(sig []byte) []byte { return append([]byte{0}, sig...) }))},
		{"sig-plus-modulus", Must, "rsa-is-number", "a good signature and the modulus, added", "RFC 8017 5.2.2", with(plusModulus)},
		{"sig-no-digest-info", Must, "rsa-no-digest-info", "the hash was signed without its name", "RFC 8017 8.2.2", with(noDigestInfo)},
		{"sig-der", Must, "ecdsa-der", "an ECDSA signature in DER", "RFC 7518 3.4", with(by(es256), signature(func(sig []byte) []byte { return der(halves(sig)) }))},
		{"sig-wide-halves", Must, "ecdsa-halves", "a zero before r and before s", "RFC 7518 3.4", with(by(es256), signature(wide))},
		{"sig-r0-s0", Must, "ecdsa-range", "r and s are zero", range256, rs(zero, zero)},
		{"sig-r0-sn", Must, "ecdsa-range", "r is zero and s the order of the curve", range256, rs(zero, order)},
		{"sig-rn-s0", Must, "ecdsa-range", "r is the order of the curve and s zero", range256, rs(order, zero)},
		{"sig-rn-sn", Must, "ecdsa-range", "r and s are the order of the curve", range256, rs(order, order)},
		{"sig-der-zero", Must, "ecdsa-range ecdsa-der", "r and s are zero, in DER", range256, with(by(es256), signature(func([]byte) []byte { return der(zero, zero) }))},
	}
}

func flip(sig []byte) []byte {
	out := bytes.Clone(sig)
	out[len(out)/2] ^= 1
	return out
}

func longer(sig []byte) []byte { return append(bytes.Clone(sig), 0) }

func wide(sig []byte) []byte {
	r, s := halves(sig)
	out := make([]byte, 66)
	r.FillBytes(out[:33])
	s.FillBytes(out[33:])
	return out
}

// signedInstead has the token as it would be with c signed, in place of this one.
func signedInstead(c ...change) change {
	return func(d *draft) {
		d.sign = func([]byte) ([]byte, error) {
			var sig []byte
			keep := func(s []byte) []byte { sig = s; return s }
			_, err := d.forge(d.id, append(c, signature(keep))...)
			return sig, err
		}
	}
}

// plusModulus adds n, which changes nothing in the arithmetic that follows.
func plusModulus(d *draft) {
	d.mend = append(d.mend, func(sig []byte) []byte {
		return new(big.Int).Add(new(big.Int).SetBytes(sig), d.key.Signer.Public().(*rsa.PublicKey).N).Bytes()
	})
}

func noDigestInfo(d *draft) {
	d.sign = func(input []byte) ([]byte, error) {
		sig, err := d.key.Signer.Sign(rand.Reader, digest(crypto.SHA256, input), crypto.Hash(0))
		if err != nil {
			return nil, fmt.Errorf("sign without DigestInfo: %w", err)
		}
		return sig, nil
	}
}
