package forgery

import (
	"crypto/elliptic"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// wellformed are tokens that must be taken: what the issuer writes, and beside it
// what the standards allow and our own rules take.
func wellformed() []row {
	return []row{
		{"ok-rs256", Must, "", "a token as the issuer writes it", "OpenID Connect Core 2", nil},
		{"ok-es256", Should, "", "the same under the issuer's other key", "RFC 7518 3.4", with(by(es256))},
		{"ok-full", Must, "", "with the facts that were attested", "RFC 7519 4.3", with(claim("sallyport", `{"attested":{"uid":"1001"}}`))},
		{"ok-more-claims", Must, "", "claims that nobody has heard of, of every type", "RFC 7519 4",
			with(claim("groups", `["a","b"]`), claim("x", `{"y":[1,2.5,{"z":null}]}`), claim("ok", "true"), claim("nothing", "null"))},
		{"ok-nested-names", Must, "", "an unknown claim holds members called exp, aud and iss, which are not the token's", "RFC 7519 4",
			with(claim("sallyport", `{"attested":{"exp":"1","aud":"https://other.example","iss":"x","sub":1}}`))},
		{"ok-unicode", Should, "", "claims in many scripts", "RFC 8259 8.1", with(claim("name", `"Zoë 東京 ελλάδα 👩‍💻 \u20ac"`))},
		{"ok-exp-in-leeway", Should, "", "over for five seconds: clocks differ", "RFC 7519 4.1.4", with(claim("exp", "${now-5}"), claim("iat", "${now-3600}"), claim("nbf", "${now-3600}"))},
		{"ok-nbf-in-leeway", Should, "", "begins in a minute: clocks differ", "RFC 7519 4.1.5", with(claim("iat", "${now+60}"), claim("nbf", "${now+60}"))},
		{"ok-longest-life", Should, "", "lives for 65 minutes exactly", "RFC 7519 4.1.6", with(claim("iat", "${now}"), claim("exp", "${now+3900}"))},
		{"ok-exp-fraction", Should, "", "exp with a fraction", "RFC 7519 2", with(claim("exp", "${now+3600}.5"))},
		{"ok-exp-exponent", Should, "", "exp with an exponent", "RFC 8259 6", with(claim("exp", "${now+3600}0e-1"))},
		{"ok-typ-lower", Should, "", "typ without capitals: media types have no case", "RFC 7515 4.1.9", with(header("typ", `"jwt"`))},
		{"ok-typ-application", Should, "", "typ with application/ before it", "RFC 7515 4.1.9", with(header("typ", `"application/jwt"`))},
		{"ok-unknown-header", Should, "", "header parameters that nobody has heard of, and that are not critical", "RFC 7515 4", with(header("x", `{"y":1}`), header("iat", "1"))},
		{"ok-order", Should, "", "members in another order", "RFC 8259 4", with(reversed)},
		{"ok-white-space", Should, "", "white space between the members", "RFC 8259 2", with(headerText(spaced), claimsText(spaced))},
		{"ok-escapes", Should, "", "names and values with JSON escapes", "RFC 8259 7",
			with(noClaim("iss"), claim(`\u0069ss`, `"${iss}"`), noHeader("typ"), header(`t\u0079p`, `"\u004aWT"`))},
		{"ok-high-s", Should, "", "an ECDSA signature whose s is in the upper half: JOSE has no rule against it", "RFC 7518 3.4", with(by(es256), signature(highS))},
		{"ok-6k", Should, "", "six kilobytes of groups", "RFC 7519 4.3", with(claim("groups", groups(150)))},
	}
}

func reversed(d *draft) {
	slices.Reverse(d.header.members)
	slices.Reverse(d.claims.members)
}

// spaced puts white space where no string of ours can be: around the object and
// between members.
func spaced(text string) string {
	return "\r\n\t " + strings.ReplaceAll(text, `,"`, " \n\t,\r\"") + " \n"
}

func highS(sig []byte) []byte {
	r, s := halves(sig)
	n := elliptic.P256().Params().N
	if s.Cmp(new(big.Int).Rsh(n, 1)) <= 0 {
		s.Sub(n, s)
	}
	return join(r, s)
}

func groups(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(`"group-%03d-of-the-directory"`, i)
	}
	return "[" + strings.Join(names, ",") + "]"
}
