package forgery

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// foreignKeys are tokens with a good signature by a key that the receiver has no
// reason to trust, and most of them tell it where to find that key.
func foreignKeys() []row {
	const source = "RFC 8725 3.10, CVE-2018-0114"
	named := func(c ...change) []change { return append(with(by(stranger)), c...) }
	// the header names the issuer's key, the signature is the stranger's
	posed := func(c ...change) []change { return append(with(by(stranger), header("kid", `"${kid}"`)), c...) }
	return []row{
		{"key-jwk", Must, "jwk-trusted", "the attacker's key in the header, under the kid of the issuer's", source, posed(embedded)},
		{"key-jwk-own-kid", Must, "jwk-trusted", "the attacker's key in the header, under its own kid", source, named(embedded)},
		{"key-jwk-no-kid", Must, "jwk-trusted", "the attacker's key in the header, and no kid", source, posed(embedded, noHeader("kid"))},
		{"key-jwk-secret", Must, "jwk-trusted", "a symmetric key in the header", "RFC 8725 3.10", with(embeddedSecret)},
		{"key-jku", Must, "jku-trusted", "a URL of the attacker's key set", "RFC 8725 3.10", named(header("jku", `"${lure}/jwks.json"`))},
		{"key-jku-userinfo", Must, "jku-prefix", "a URL of the attacker's key set that begins with the issuer's", "RFC 8725 3.10", named(jkuUserinfo)},
		{"key-x5u", Must, "x5u-trusted", "a URL of the attacker's certificate", "RFC 7515 4.1.5", posed(header("x5u", `"${lure}/cert.pem"`))},
		{"key-x5c", Must, "x5c-trusted", "the attacker's certificate, signed by itself", "RFC 7515 4.1.6", posed(certified)},
		{"key-kid-url", Must, "kid-is-url", "kid is a URL of the attacker's key", "RFC 8725 3.10", named(header("kid", `"${lure}/key.pem"`))},
		{"key-unknown", Must, "unknown-key-skips", "signed by a key that the issuer never had", "RFC 7515 5.2", named()},
		{"key-retired", Must, "retired-key", "signed by a key that the issuer has withdrawn", "RFC 7517 5, OpenID Connect Core 10.1.1", with(by(retired))},
		{"key-other-purpose", Must, "keys-merged", "signed by a key that the issuer publishes for another purpose", "RFC 8725 3.12", with(by(assertion))},
	}
}

func embedded(d *draft) { d.header.set("jwk", plainly(string(jwkText(d.Keys.Stranger.Public())))) }

func embeddedSecret(d *draft) {
	d.header.set("alg", `"HS256"`)
	d.header.set("jwk", object(map[string]any{"kty": "oct", "alg": "HS256", "k": encode([]byte("the attacker's own secret"))}))
	d.sign = func(input []byte) ([]byte, error) {
		return mac(hashOf("HS256"), []byte("the attacker's own secret"), input), nil
	}
}

// jkuUserinfo is a URL in which all that looks like the issuer's host is a user
// and a password (RFC 3986 section 3.2.1).
func jkuUserinfo(d *draft) {
	_, host, _ := strings.Cut(d.Lure, "://")
	d.header.set("jku", plainly(quote(d.Issuer+"@"+host+"/jwks.json")))
}

func certified(d *draft) {
	der, err := d.Keys.certificate(d.Now())
	d.header.set("x5c", `["`+base64.StdEncoding.EncodeToString(der)+`"]`)
	if err != nil {
		d.fail(err)
	}
}

// certificate returns one of the stranger's key, signed by itself.
func (k *Keys) certificate(now time.Time) ([]byte, error) {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "forger"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Stranger.Signer.Public(), k.Stranger.Signer)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return der, nil
}

// Lure returns the documents that lead to the stranger's key, by their path below
// Config.Lure.
func (k *Keys) Lure(now time.Time) (map[string][]byte, error) {
	set, err := token.JWKS([]token.Key{k.Stranger.Public()})
	if err != nil {
		return nil, fmt.Errorf("write the stranger's keys: %w", err)
	}
	der, err := k.certificate(now)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"/jwks.json": set,
		"/cert.pem":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"/key.pem":   pemPKIX(k.Stranger.Public()),
	}, nil
}

// keyNames are tokens whose kid is more, or other, than the name of a key.
func keyNames() []row {
	const source = "RFC 7515 4.1.4"
	// what a receiver that believes such a kid ends up with as its secret
	keyed := func(secret string, kid string) []change {
		return with(header("kid", kid), hmacWith(secret))
	}
	const path = "RFC 8725 3.10, CWE-22"
	return []row{
		{"kid-path", Must, "kid-is-path", "kid leads to an empty file, and the secret is empty", path, keyed("", `"../../../../../../../../../../../../dev/null"`)},
		{"kid-path-absolute", Must, "kid-is-path", "kid is the path of an empty file", path, keyed("", `"/dev/null"`)},
		{"kid-path-url", Must, "kid-is-path", "kid is the URL of an empty file", path, keyed("", `"file:///dev/null"`)},
		{"kid-sql", Must, "kid-in-sql", "kid makes a query for keys answer with a secret of the attacker's", "RFC 8725 3.10, CWE-89", keyed("chosen", `"x' UNION SELECT 'chosen' -- "`)},
		{"kid-sql-closed", Must, "kid-in-sql", "the same without a comment behind it", "RFC 8725 3.10, CWE-89", keyed("chosen", `"x' UNION SELECT 'chosen' WHERE '1'='1"`)},
		{"kid-prototype", Must, "kid-prototype", "kid is a name that every JavaScript object has, and the secret its text", "CWE-1321", keyed("[object Object]", `"__proto__"`)},
		{"kid-other", Should, "kid-ignored", "kid names the issuer's other key", source, with(header("kid", `"${kid-es256}"`))},
		{"kid-unknown", Should, "kid-ignored", "kid names no key, and one of the issuer's has signed", source, with(header("kid", `"nobody"`))},
		{"kid-case", Should, "kid-folded", "kid in the other case", source, with(func(d *draft) { d.header.set("kid", plainly(quote(swapCase(d.Keys.RS256.ID)))) })},
		{"kid-space", Should, "kid-trimmed", "kid and a space", source, with(header("kid", `"${kid} "`))},
		{"kid-nul", Should, "nul-ends", "kid, NUL and something", source, with(header("kid", `"${kid}\u0000.pem"`))},
		{"kid-longer", Should, "kid-prefix", "kid and one letter", source, with(header("kid", `"${kid}x"`))},
		{"kid-array", Should, "coerces", "kid is an array with the right one in it", source, with(header("kid", `["${kid}"]`))},
		{"kid-number", Should, "kid-ignored", "kid is a number", source, with(header("kid", "0"))},
		{"kid-null", Should, "kid-ignored", "kid is null", source, with(header("kid", "null"))},
		{"kid-object", Should, "kid-ignored", "kid is an object", source, with(header("kid", `{"$ne":""}`))},
	}
}

// hmacWith keys HS256 with a secret.
func hmacWith(secret string) change {
	return func(d *draft) {
		d.header.set("alg", `"HS256"`)
		d.sign = func(input []byte) ([]byte, error) { return mac(hashOf("HS256"), []byte(secret), input), nil }
	}
}

// extensions are tokens that want something understood that nobody here does, or
// that change what is signed (RFC 7515 section 4.1.11, RFC 7797).
func extensions() []row {
	const source = "RFC 7515 4.1.11"
	return []row{
		{"crit-unknown", Must, "crit-ignored", "crit names an extension, which is there", source, with(header("crit", `["urn:example:held"]`), header("urn:example:held", "true"))},
		{"crit-absent", Must, "crit-ignored", "crit names a parameter that is not there", source, with(header("crit", `["held"]`))},
		{"crit-registered", Must, "crit-ignored", "crit names a registered parameter", source, with(header("crit", `["alg"]`))},
		{"crit-claim", Must, "crit-ignored", "crit names exp, as the figure of RFC 7515 does", source, with(header("crit", `["exp"]`), header("exp", "${now+3600}"))},
		{"crit-empty", Must, "crit-ignored", "crit is an empty array", source, with(header("crit", "[]"))},
		{"crit-null", Should, "crit-ignored", "crit is null", source, with(header("crit", "null"))},
		{"crit-string", Must, "crit-ignored", "crit is no array", source, with(header("crit", `"exp"`))},
		{"crit-twice", Must, "crit-ignored", "crit names an extension twice", source, with(header("crit", `["held","held"]`), header("held", "1"))},
		{"crit-not-string", Must, "crit-ignored", "crit has a number in it", source, with(header("crit", "[1]"))},
		{"b64-critical", Must, "crit-ignored header-unread", "b64 is false and critical, and the claims are encoded all the same", "RFC 7797 7", with(header("b64", "false"), header("crit", `["b64"]`))},
		{"b64-raw", Must, "b64-served", "b64 is false and critical, and the claims are not encoded", "RFC 7797 7",
			with(header("b64", "false"), header("crit", `["b64"]`), claimsCode(func(b []byte) string { return strings.ReplaceAll(string(b), ".", `\u002e`) }))},
		{"b64-raw-no-crit", Must, "b64-served", "b64 is false and not critical, and the claims are not encoded", "RFC 7797 6",
			with(header("b64", "false"), claimsCode(func(b []byte) string { return strings.ReplaceAll(string(b), ".", `\u002e`) }))},
		{"b64-unread", Should, "header-unread", "b64 is false and not critical, and the claims are encoded all the same", "RFC 7797 6", with(header("b64", "false"))},
		{"zip-deflate", Must, "zip-served", "the claims are compressed", "RFC 8725 3.6", with(header("zip", `"DEF"`), claimsText(deflate))},
		{"zip-unread", Should, "header-unread", "the header says that the claims are compressed, and they are not", "RFC 8725 3.6", with(header("zip", `"DEF"`))},
		{"cty-unread", Should, "header-unread", "the header says that the claims are another token, and they are not", "RFC 7519 5.2", with(header("cty", `"JWT"`))},
	}
}

// deflate is RFC 1951, as JWE's zip has it (RFC 7516 section 4.1.3).
func deflate(text string) string {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // never: a good level, and memory to write to
	}
	return out.String()
}

// purposes are tokens of another kind: their claims would do, their typ says that
// they are not for this (RFC 8725 sections 3.11 and 3.12).
func purposes() []row {
	const source = "RFC 8725 3.11"
	of := func(id string, level Level, why, source, typ string) row {
		return row{"typ-" + id, level, "typ-ignored", why, source, with(header("typ", typ))}
	}
	return []row{
		of("access", Must, "an access token", "RFC 9068 2.1", `"at+jwt"`),
		of("access-application", Must, "an access token, with application/ before its typ", "RFC 9068 4", `"application/at+jwt"`),
		of("access-upper", Must, "an access token, with capitals in its typ", "RFC 7515 4.1.9", `"AT+JWT"`),
		of("assertion", Must, "what the gateway hands to a service about a caller", source, `"sallyport-assertion+jwt"`),
		of("secevent", Must, "a security event", "RFC 8417 2.3", `"secevent+jwt"`),
		of("logout", Must, "a logout token", "OpenID Connect Back-Channel Logout 2.4", `"logout+jwt"`),
		of("dpop", Must, "a proof of possession", "RFC 9449 4.2", `"dpop+jwt"`),
		of("client-assertion", Must, "a client's own authentication", "RFC 7523 2.2", `"client-authentication+jwt"`),
		of("introspection", Must, "an answer about another token", "RFC 9701 5", `"token-introspection+jwt"`),
		of("id-jag", Must, "a grant for another authorization server", source, `"oauth-id-jag+jwt"`),
		of("wit", Must, "a workload identity token, which is no bearer token", source, `"wit+jwt"`),
		of("key-binding", Must, "the proof of a selective disclosure", source, `"kb+jwt"`),
		of("jose", Should, "a JWT-SVID, or what says no more than that it is JOSE", "JWT-SVID 2.2, RFC 7515 4.1.9", `"JOSE"`),
		of("space", Should, "typ is JWT and a space", source, `"JWT "`),
		of("parameter", Should, "typ is JWT and a parameter", source, `"JWT; x=1"`),
		of("empty", Should, "typ is empty", source, `""`),
		of("null", Should, "typ is null", source, "null"),
		of("array", Should, "typ is an array with the right one in it", source, `["JWT"]`),
		{"typ-missing", Should, "typ-ignored", "there is no typ, which this issuer always writes", source, with(noHeader("typ"))},
	}
}
