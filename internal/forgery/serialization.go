package forgery

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"strings"
)

// serializations are good tokens in another form than a JWT has: three parts, of
// which the second is its claims (RFC 7519 section 1, RFC 7515 section 7).
func serializations() []row {
	const compact, asJSON, nested = "RFC 7515 7.1", "RFC 7519 1, RFC 7515 7.2", "RFC 7519 5.2"
	parts := func(id, why string, f func(string) string) row {
		return row{"parts-" + id, Must, "parts-loose", why, compact, with(whole(f))}
	}
	written := func(id, flaws, why string, c ...change) row { return row{"jws-" + id, Must, flaws, why, asJSON, c} }
	return []row{
		parts("four", "a good token and a fourth part", behind(".e30")),
		parts("five", "a good token and two more parts, as many as encrypted ones have", behind(".e30.e30")),
		parts("dot-behind", "a good token and a dot", behind(".")),
		parts("dot-before", "a dot and a good token", before(".")),
		written("flattened", "jws-json", "the flattened JSON form", sealed(flattened)),
		written("general", "jws-json", "the general JSON form", sealed(general)),
		written("general-none", "jws-json jws-no-signatures", "the general JSON form without any signature: all of them are good", sealed(generalNone)),
		written("general-first-bad", "jws-json jws-any-signature", "the general JSON form with two signatures, the second is good", sealed(generalFirstBad)),
		written("unprotected-alg", "jws-json", "the flattened JSON form, with alg where nobody signs it", noHeader("alg"), sealed(unprotected(`{"alg":"RS256"}`))),
		{"jws-unprotected-none", Must, "jws-json alg-none", "the flattened JSON form, with alg none where nobody signs it", asJSON, with(noHeader("alg"), unsigned, sealed(unprotected(`{"alg":"none"}`)))},
		{"nested-signed-inside", Should, "nested-inner", "a good token inside one that nobody signed", nested, with(unsigned, header("alg", `"none"`), header("cty", `"JWT"`), inside())},
		{"nested-signed-outside", Should, "nested-outer", "a token that nobody signed inside a good signature", nested, with(header("cty", `"JWT"`), inside(unsigned, header("alg", `"none"`)))},
		{"jwe-public-key", Must, "jwe-by-public-key", "encrypted with what is public of the issuer's key", "RFC 7516 9, CVE-2022-3102", with(encrypted)},
	}
}

// sealed writes header, claims and signature in another form.
func sealed(f func(header, claims, sig string) string) change {
	return func(d *draft) { d.seal = f }
}

func flattened(header, claims, sig string) string {
	return fmt.Sprintf(`{"payload":"%s","protected":"%s","signature":"%s"}`, claims, header, sig)
}

func general(header, claims, sig string) string {
	return fmt.Sprintf(`{"payload":"%s","signatures":[{"protected":"%s","signature":"%s"}]}`, claims, header, sig)
}

func generalNone(_, claims, _ string) string {
	return fmt.Sprintf(`{"payload":"%s","signatures":[]}`, claims)
}

func generalFirstBad(header, claims, sig string) string {
	return fmt.Sprintf(`{"payload":"%s","signatures":[{"protected":"%s","signature":"AAAA"},{"protected":"%s","signature":"%s"}]}`, claims, header, header, sig)
}

func unprotected(json string) func(header, claims, sig string) string {
	return func(header, claims, sig string) string {
		return fmt.Sprintf(`{"payload":"%s","protected":"%s","header":%s,"signature":"%s"}`, claims, header, json, sig)
	}
}

// inside has a token in place of the claims.
func inside(c ...change) change {
	return func(d *draft) {
		d.claims.text = append(d.claims.text, func(string) string {
			raw, err := d.forge(d.id, c...)
			if err != nil {
				d.fail(err)
			}
			return raw
		})
	}
}

// encrypted makes a JWE of the claims (RFC 7516 section 7.1), whose content key is
// the x of the issuer's EC key: as many bytes as A256GCM needs.
func encrypted(d *draft) {
	d.header.members = []member{{"alg", `"dir"`}, {"enc", `"A256GCM"`}, {"kid", `"${kid-es256}"`}, {"typ", `"JWT"`}}
	d.seal = func(header, _, _ string) string {
		block, err := aes.NewCipher(point(d.Keys.ES256.Public())[1:33])
		if err != nil {
			panic(err) // never: 32 bytes
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			panic(err) // never: AES
		}
		iv := make([]byte, gcm.NonceSize())
		_, _ = rand.Read(iv) // never fails
		box := gcm.Seal(nil, iv, []byte(d.json(&d.claims)), []byte(header))
		tag := len(box) - gcm.Overhead()
		return strings.Join([]string{header, "", encode(iv), encode(box[:tag]), encode(box[tag:])}, ".")
	}
}

// limits are tokens that cost much, or at which a careless reader stops. Those
// without a flaw nobody takes: what counts is that they are refused at once.
func limits() []row {
	const size, flaw = "RFC 8725 3.11, CWE-770", "size-unlimited"
	text := func(id, why, source, raw string) row {
		return row{"limit-" + id, Must, "", why, source, with(whole(func(string) string { return raw }))}
	}
	return []row{
		{"limit-size", Should, flaw, "a token of 17 KiB", size, with(claim("x", quote(strings.Repeat("x", 12<<10))))},
		{"limit-1mb", Should, flaw, "a token of more than a megabyte", size, with(claim("x", quote(strings.Repeat("x", 1<<20))))},
		{"limit-nesting", Should, flaw, "arrays in arrays, nine thousand deep", "RFC 8259 9", with(claim("x", strings.Repeat("[", 9000)+strings.Repeat("]", 9000)))},
		{"limit-members", Should, flaw, "ten thousand claims", size, with(manyClaims)},
		{"limit-kid", Should, flaw + " kid-ignored", "a kid of 64 KiB, which a log should not hold", size, with(header("kid", quote(strings.Repeat("k", 64<<10))))},
		text("empty", "no token at all", "RFC 7515 7.1", ""),
		text("word", "a word", "RFC 7515 7.1", "null"),
		text("dots", "two dots and nothing else", "RFC 7515 7.1", ".."),
		text("many-dots", "a hundred thousand dots", "CVE-2025-27144, CVE-2025-30204", strings.Repeat(".", 100_000)),
		text("objects", "three empty objects", "RFC 7515 7.1", "e30.e30.e30"),
		text("brackets", "a header of a hundred thousand brackets", "RFC 8259 9", encode([]byte(strings.Repeat("[", 100_000)))+".e30.e30"),
		text("password-work", "a header that asks for two thousand million rounds of key derivation", "CVE-2023-50658",
			encode([]byte(`{"alg":"PBES2-HS256+A128KW","enc":"A256GCM","p2c":2147483647,"p2s":"AAAAAAAAAAAAAAAAAAAAAA"}`))+".e30.e30.e30.e30"),
	}
}

func manyClaims(d *draft) {
	for n := range 10_000 {
		d.claims.members = append(d.claims.members, member{fmt.Sprintf("c%d", n), "1"})
	}
}
