package forgery

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"

	"github.com/sallyport-dev/sallyport/token"
)

// algNone are tokens that say themselves that nobody signed them (RFC 7519 section
// 6).
func algNone() []row {
	const source = "RFC 8725 3.1, CVE-2015-9235"
	none := func(alg string, more ...change) []change { return append(with(unsigned, header("alg", alg)), more...) }
	return []row{
		{"none-lower", Must, "alg-none", "alg is none, and nothing is signed", source, none(`"none"`)},
		{"none-title", Must, "alg-none", "alg is None", "RFC 8725 3.1, CVE-2020-28042", none(`"None"`)},
		{"none-upper", Must, "alg-none", "alg is NONE", source, none(`"NONE"`)},
		{"none-mixed", Must, "alg-none", "alg is nOnE", source, none(`"nOnE"`)},
		{"none-escaped", Must, "alg-none", "alg is none, with a JSON escape that a search of the text does not see", "RFC 8725 3.1", none(`"\u006eone"`)},
		{"none-space", Must, "alg-none", "alg is none and a space", "RFC 7515 4.1.1", none(`"none "`)},
		{"none-nul", Must, "alg-none nul-ends", "alg is none, NUL and something", "RFC 7515 4.1.1", none(`"none\u0000RS256"`)},
		{"none-array", Must, "alg-none coerces", "alg is an array with none in it", "RFC 7515 4.1.1", none(`["none"]`)},
		{"none-no-kid", Must, "alg-none", "alg is none, and there is no kid", source, none(`"none"`, noHeader("kid"))},
		{"none-some-signature", Must, "alg-none", "alg is none, with bytes in place of a signature", source, none(`"none"`, signature(func([]byte) []byte { return []byte("signature") }))},
		{"none-signed", Must, "alg-none", "alg is none on a token that the issuer signed as RS256", source, with(header("alg", `"none"`))},
		{"none-two-parts", Must, "alg-none parts-loose", "alg is none, without the second dot", "RFC 7515 7.1", none(`"none"`, whole(func(raw string) string { return strings.TrimSuffix(raw, ".") }))},
		{"none-null", Must, "alg-absent-is-none", "alg is null, and nothing is signed", "RFC 7515 4.1.1", none("null")},
		{"none-empty", Must, "alg-absent-is-none", "alg is empty, and nothing is signed", "RFC 7515 4.1.1", none(`""`)},
		{"none-missing", Must, "alg-absent-is-none", "there is no alg, and nothing is signed", "RFC 7515 4.1.1", none("null", noHeader("alg"))},
		{"none-last", Must, "alg-none json-last-wins", "alg twice, none last", "RFC 7515 4", none(`"RS256"`, headerLast("alg", `"none"`))},
		{"none-first", Must, "alg-none json-first-wins", "alg twice, none first", "RFC 7515 4", none(`"RS256"`, headerFirst("alg", `"none"`))},
		{"none-folded", Must, "alg-none json-folds", "ALG is none", "RFC 8725 2.4", none(`"RS256"`, noHeader("alg"), header("ALG", `"none"`))},
	}
}

// hmacConfusion are tokens under an HMAC whose secret everybody knows: the public
// key, in each form in which a receiver may hold it (RFC 8725 section 2.1).
func hmacConfusion() []row {
	const source = "RFC 8725 2.1, CVE-2016-5431"
	rsaKey := func(why, id string, secret func(k token.Key) []byte) row {
		return row{"hmac-rsa-" + id, Must, "hmac-by-public-key", "HS256 keyed with the RSA public key as " + why, source, with(hmacBy("HS256", rs256, secret))}
	}
	ecKey := func(why, id string, secret func(k token.Key) []byte) row {
		return row{"hmac-ec-" + id, Must, "hmac-by-public-key", "HS256 keyed with the EC public key as " + why, "RFC 8725 2.1, CVE-2022-29217", with(hmacBy("HS256", es256, secret))}
	}
	const weak = "RFC 8725 3.5"
	return []row{
		rsaKey("PEM", "pem", pemPKIX),
		rsaKey("PEM without the last line break", "pem-trimmed", trimmed(pemPKIX)),
		rsaKey("PEM with CRLF", "pem-crlf", crlf(pemPKIX)),
		rsaKey("PKCS #1 PEM", "pkcs1-pem", pemPKCS1),
		rsaKey("PKCS #1 PEM without the last line break", "pkcs1-pem-trimmed", trimmed(pemPKCS1)),
		rsaKey("DER", "der", derPKIX),
		rsaKey("PKCS #1 DER", "pkcs1-der", derPKCS1),
		rsaKey("the base64 of its DER", "der-base64", func(k token.Key) []byte { return []byte(base64.StdEncoding.EncodeToString(derPKIX(k))) }),
		rsaKey("a JWK, as it stands in the set", "jwk", jwkText),
		rsaKey("a JWK with the required members alone", "jwk-short", jwkShort),
		rsaKey("the bytes of its modulus", "modulus", func(k token.Key) []byte { return k.Public.(*rsa.PublicKey).N.Bytes() }),
		rsaKey("n, the text in the JWK", "n", func(k token.Key) []byte { return []byte(encode(k.Public.(*rsa.PublicKey).N.Bytes())) }),
		{"hmac-384-rsa-pem", Must, "hmac-by-public-key", "HS384 keyed with the RSA public key as PEM", source, with(hmacBy("HS384", rs256, pemPKIX))},
		{"hmac-512-rsa-pem", Must, "hmac-by-public-key", "HS512 keyed with the RSA public key as PEM", source, with(hmacBy("HS512", rs256, pemPKIX))},
		ecKey("PEM", "pem", pemPKIX),
		ecKey("PEM without the last line break", "pem-trimmed", trimmed(pemPKIX)),
		ecKey("DER", "der", derPKIX),
		ecKey("a JWK, as it stands in the set", "jwk", jwkText),
		ecKey("its uncompressed point", "point", point),
		ecKey("x and y", "xy", func(k token.Key) []byte { return point(k)[1:] }),
		ecKey("x", "x", func(k token.Key) []byte { return point(k)[1:33] }),
		{"hmac-empty", Must, "hmac-empty-secret", "HS256 with an empty secret", weak, with(hmacBy("HS256", rs256, func(token.Key) []byte { return nil }))},
		{"hmac-secret", Must, "hmac-guessable-secret", "HS256 with the secret of every tutorial", weak, with(hmacBy("HS256", rs256, func(token.Key) []byte { return []byte("secret") }))},
		{"hmac-kid", Must, "hmac-guessable-secret", "HS256 with the kid as its secret", weak, with(hmacBy("HS256", rs256, func(k token.Key) []byte { return []byte(k.ID) }))},
	}
}

// hmacBy keys an HMAC with what secret makes of a public key.
func hmacBy(alg string, pick func(*Keys) Key, secret func(token.Key) []byte) change {
	return func(d *draft) {
		by(pick)(d)
		key := secret(pick(&d.Keys).Public())
		d.header.set("alg", quote(alg))
		d.sign = func(input []byte) ([]byte, error) { return mac(hashOf(alg), key, input), nil }
	}
}

func mac(hash crypto.Hash, key, input []byte) []byte {
	h := hmac.New(hash.New, key)
	h.Write(input) // never fails
	return h.Sum(nil)
}

func derPKIX(k token.Key) []byte {
	out, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		panic(err) // never: Keys.check has seen that it is RSA or on P-256
	}
	return out
}

func derPKCS1(k token.Key) []byte { return x509.MarshalPKCS1PublicKey(k.Public.(*rsa.PublicKey)) }

func pemPKIX(k token.Key) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: derPKIX(k)})
}

func pemPKCS1(k token.Key) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: derPKCS1(k)})
}

func trimmed(f func(token.Key) []byte) func(token.Key) []byte {
	return func(k token.Key) []byte { return []byte(strings.TrimSuffix(string(f(k)), "\n")) }
}

func crlf(f func(token.Key) []byte) func(token.Key) []byte {
	return func(k token.Key) []byte { return []byte(strings.ReplaceAll(string(f(k)), "\n", "\r\n")) }
}

func point(k token.Key) []byte {
	out, err := k.Public.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		panic(err) // never: Keys.check has seen that it is on P-256
	}
	return out
}

// jwkText is the key as token.JWKS, and so the issuer, writes it.
func jwkText(k token.Key) []byte {
	set, err := token.JWKS([]token.Key{k})
	if err != nil {
		panic(err) // never: as above
	}
	return []byte(strings.TrimSuffix(strings.TrimPrefix(string(set), `{"keys":[`), `]}`))
}

// jwkShort has what RFC 7638 section 3.2 counts, in its order.
func jwkShort(k token.Key) []byte {
	switch pub := k.Public.(type) {
	case *rsa.PublicKey:
		return []byte(object(map[string]any{"e": encode(big.NewInt(int64(pub.E)).Bytes()), "kty": "RSA", "n": encode(pub.N.Bytes())}))
	default:
		xy := point(k)[1:]
		return []byte(object(map[string]any{"crv": "P-256", "kty": "EC", "x": encode(xy[:32]), "y": encode(xy[32:])}))
	}
}

// algorithmSwaps are tokens that the issuer's key has signed in one way while the
// header says, or the key set allows, another.
func algorithmSwaps() []row {
	const pinned, wrong = "RFC 8725 3.1, RFC 7517 4.4", "RFC 8725 3.1"
	swap := func(id, alg string, key func(*Keys) Key) row {
		return row{"alg-" + id, Should, "alg-not-pinned", fmt.Sprintf("a good %s signature by a key that is for another algorithm", alg), pinned, with(by(key), as(alg))}
	}
	label := func(id string, level Level, flaw, why, alg string, more ...change) row {
		return row{"alg-" + id, level, flaw, why, wrong, append(more, header("alg", alg))}
	}
	return []row{
		swap("ps256", "PS256", rs256), swap("ps384", "PS384", rs256), swap("ps512", "PS512", rs256),
		swap("rs384", "RS384", rs256), swap("rs512", "RS512", rs256),
		swap("es384-p256", "ES384", es256), swap("es512-p256", "ES512", es256),
		{"alg-rs1", Must, "alg-sha1", "a good signature over SHA-1", "RFC 8725 3.2", with(as("RS1"))},
		label("pss-as-rs256", Must, "alg-any", "a PSS signature that is called RS256", `"RS256"`, as("PS256")),
		label("rs512-as-rs256", Must, "alg-any", "a signature over SHA-512 that is called RS256", `"RS256"`, as("RS512")),
		label("rs256-as-ps256", Must, "alg-unread", "an RS256 signature that is called PS256", `"PS256"`),
		label("rs256-as-es256", Must, "alg-unread", "an RS256 signature that is called ES256", `"ES256"`),
		label("rs256-as-hs256", Must, "alg-unread", "an RS256 signature that is called HS256", `"HS256"`),
		label("rs256-as-eddsa", Must, "alg-unread", "an RS256 signature that is called EdDSA", `"EdDSA"`),
		label("es256-as-rs256", Must, "alg-unread", "an ES256 signature that is called RS256", `"RS256"`, by(es256)),
		label("es256-as-es256k", Must, "alg-unread", "an ES256 signature that is called ES256K", `"ES256K"`, by(es256)),
		label("unknown", Must, "alg-unread", "alg is a word that no standard knows", `"RSA"`),
		label("oid", Should, "alg-unread", "alg is the URI of XML signatures", `"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"`),
		label("lower", Should, "alg-unread", "alg is rs256: names have case", `"rs256"`),
		label("space", Should, "alg-unread", "alg is RS256 and a space", `"RS256 "`),
		label("null", Must, "alg-unread", "alg is null, and all else is good", "null"),
		label("empty", Must, "alg-unread", "alg is empty, and all else is good", `""`),
		label("number", Must, "alg-unread", "alg is a number, and all else is good", "256"),
		label("array", Must, "alg-unread", "alg is an array with the right one in it", `["RS256"]`),
		label("object", Must, "alg-unread", "alg is an object, and all else is good", `{"name":"RS256"}`),
		{"alg-missing", Must, "alg-unread", "there is no alg, and all else is good", "RFC 7515 4.1.1", with(noHeader("alg"))},
	}
}
