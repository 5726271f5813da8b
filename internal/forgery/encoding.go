package forgery

import (
	"errors"
	"fmt"
	"strings"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// encodings are tokens whose base64url is not the one spelling that bytes have.
// What is signed is the spelling in the token, so that the signature is good.
func encodings() []row {
	const source, strict = "RFC 7515 2", "RFC 4648 3.5"
	sig := func(id, flaws, why, source string, f func(sig string) string) row {
		return row{"b64-" + id, Should, flaws, why, source, with(signatureText(f))}
	}
	claims := func(id, flaws, why, source string, f func(code string) string, more ...change) row {
		return row{"b64-" + id, Should, flaws, why, source, append(more, claimsCode(func(b []byte) string { return f(encode(b)) }))}
	}
	middle := func(text string) func(string) string {
		return func(s string) string { return s[:len(s)/2] + text + s[len(s)/2:] }
	}
	return []row{
		sig("padding-signature", "b64-padding", "padding behind the signature", source, padded),
		claims("padding-claims", "b64-padding", "padding behind the claims", source, padded, claimsText(unalign)),
		{"b64-padding-header", Should, "b64-padding", "padding behind the header", source,
			with(headerText(unalign), headerCode(func(b []byte) string { return padded(encode(b)) }))},
		sig("padding-much", "b64-padding", "more padding than there can be", source, behind("====")),
		sig("bits-signature", "b64-bits", "bits of the signature's last character that count for nothing are set", strict, lastBits),
		{"b64-bits-es256", Should, "b64-bits", "bits of an ECDSA signature's last character that count for nothing are set", strict, with(by(es256), signatureText(lastBits))},
		claims("bits-claims", "b64-bits", "bits of the claims' last character that count for nothing are set", strict, lastBits, claimsText(unalign)),
		{"b64-alphabet-signature", Should, "b64-alphabet", "the signature in base64's other alphabet", source, with(standardSignature)},
		claims("alphabet-claims", "b64-alphabet", "claims in base64's other alphabet", source, standard, claim("x", `"???>>>???>>>"`)),
		sig("line-break", "b64-space", "a line break in the signature, which Go's decoder skips", source, middle("\n")),
		sig("crlf", "b64-space", "CRLF behind the signature", source, behind("\r\n")),
		sig("space", "b64-space", "a space in the signature", source, middle(" ")),
		sig("tab", "b64-space", "a tab in the signature", source, middle("\t")),
		claims("line-break-claims", "b64-space", "a line break in the claims", source, middle("\n")),
		claims("mime", "b64-space", "claims in lines of 76 characters", "RFC 2045 6.8", mime),
		sig("foreign", "b64-foreign", "a character in the signature that base64 does not have", source, middle("*")),
		claims("foreign-claims", "b64-foreign", "a character in the claims that base64 does not have", source, middle("!")),
		sig("beyond-ascii", "b64-foreign", "a letter in the signature that is not ASCII", source, middle("é")),
		sig("nul", "nul-ends", "NUL and more behind the signature", source, behind("\x00more")),
		sig("behind-padding", "b64-padding-ends", "more behind the signature's padding", source, func(s string) string { return padded(s) + "AAAA" }),
		claims("single", "b64-single", "one character more, which stands for no byte", strict, behind("A"), claimsText(align)),
	}
}

// signatureText changes how the signature is written.
func signatureText(f func(string) string) change {
	return func(d *draft) {
		d.seal = func(header, claims, sig string) string { return header + "." + claims + "." + f(sig) }
	}
}

func padded(code string) string { return code + strings.Repeat("=", (4-len(code)%4)%4) }

// unalign makes text longer until its base64 ends within a group.
func unalign(text string) string {
	for len(text)%3 == 0 {
		text += " "
	}
	return text
}

// lastBits sets a bit that a strict decoder wants to be zero. Signatures, as
// Keys.check sees to, and what unalign makes do not end with a whole group.
func lastBits(code string) string {
	last := strings.IndexByte(alphabet, code[len(code)-1])
	return code[:len(code)-1] + string(alphabet[last|1])
}

func standard(code string) string { return strings.NewReplacer("-", "+", "_", "/").Replace(code) }

func mime(code string) string {
	var out strings.Builder
	for len(code) > 76 {
		out.WriteString(code[:76] + "\r\n")
		code = code[76:]
	}
	return out.String() + code
}

// align makes text longer until its base64 ends with a whole group.
func align(text string) string {
	for len(text)%3 != 0 {
		text += " "
	}
	return text
}

// standardSignature writes the signature with + and /, of a token in which there
// is something to write so: all but one of some forty thousand.
func standardSignature(d *draft) {
	d.seal = func(string, string, string) string {
		for n := range 10 {
			raw, err := d.forge(d.id, claim("jti", fmt.Sprintf(`"${id}-%d"`, n)))
			if err != nil {
				d.fail(err)
				return ""
			}
			if dot := strings.LastIndexByte(raw, '.'); strings.ContainsAny(raw[dot:], "-_") {
				return raw[:dot] + standard(raw[dot:])
			}
		}
		d.fail(errors.New("no signature of ten has a - or _"))
		return ""
	}
}

// surroundings are good tokens with something around them.
func surroundings() []row {
	in := func(id string, why string, f func(string) string) row {
		return row{"text-" + id, Should, "text-trimmed", why, "RFC 7515 7.1", with(whole(f))}
	}
	return []row{
		in("space-before", "a space before the token", before(" ")),
		in("space-behind", "a space behind the token", behind(" ")),
		in("line-break-behind", "a line break behind the token", behind("\n")),
		in("line-break-before", "a line break before the token", before("\r\n")),
		in("quotes", "quotes around the token", func(s string) string { return `"` + s + `"` }),
		in("scheme", "the authentication scheme before the token", before("Bearer ")),
		in("bom", "a byte order mark before the token", before("\ufeff")),
		in("no-width", "a space without width behind the token", behind("\u200b")),
		in("semicolon", "a semicolon behind the token", behind(";")),
		{"text-two", Should, "text-first", "a second token behind a comma, the first is good", "RFC 6750 2.1", with(whole(behind(",e30.e30.e30")))},
		{"text-nul", Must, "nul-ends", "NUL and more behind the token", "RFC 7515 7.1", with(whole(behind("\x00.e30.e30")))},
	}
}
