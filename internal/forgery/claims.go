package forgery

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// old are the times of a token that was fresh an hour ago.
func old(exp string) []change {
	return with(claim("exp", exp), claim("iat", "${now-3700}"), claim("nbf", "${now-3700}"))
}

// times are tokens that are over, have not begun, or do not say when.
func times() []row {
	const exp, nbf, iat, date = "RFC 7519 4.1.4", "RFC 7519 4.1.5", "RFC 7519 4.1.6", "RFC 7519 2"
	return []row{
		{"exp-missing", Must, "exp-optional", "no exp", exp, with(noClaim("exp"))},
		{"exp-null", Must, "exp-optional", "exp is null", exp, with(claim("exp", "null"))},
		{"exp-zero", Must, "zero-is-absent", "exp is 0: long ago, not never", exp, with(claim("exp", "0"))},
		{"exp-empty", Must, "zero-is-absent", "exp is an empty string", exp, with(claim("exp", `""`))},
		{"exp-false", Must, "zero-is-absent", "exp is false", exp, with(claim("exp", "false"))},
		{"exp-past", Must, "exp-unchecked", "over for ten minutes", exp, old("${now-600}")},
		{"exp-just-past", Should, "leeway-long", "over for a minute, which is the leeway and not within it", exp, old("${now-60}")},
		{"exp-long-past", Must, "exp-unchecked", "over since the year 2001", exp, with(claim("exp", "1000000000"), claim("iat", "999996400"), claim("nbf", "999996400"))},
		{"exp-negative", Must, "int-unsigned lifetime-unlimited", "exp is -1", date, with(claim("exp", "-1"))},
		{"exp-string", Must, "coerces", "exp is a string with a number in it", date, with(claim("exp", `"${now+3600}"`))},
		{"exp-string-hex", Must, "coerces lifetime-unlimited", "exp is a string with a hexadecimal number in it", date, with(claim("exp", `"0xffffffff"`))},
		{"exp-string-date", Must, "nan-passes", "exp is a date in words: not a number, and nothing is greater than that", date, with(claim("exp", `"2099-12-31T23:59:59Z"`))},
		{"exp-object", Must, "nan-passes", "exp is an object", date, with(claim("exp", `{"$date":4102444799000}`))},
		{"exp-array", Must, "coerces", "exp is an array with a number in it", date, with(claim("exp", "[${now+3600}]"))},
		{"exp-nan", Must, "json-nan", "exp is NaN, which some readers of JSON know", "RFC 8259 6", with(claim("exp", "NaN"))},
		{"exp-infinity", Must, "json-nan lifetime-unlimited", "exp is Infinity, which some readers of JSON know", "RFC 8259 6", with(claim("exp", "Infinity"))},
		{"exp-wraps", Must, "int-wraps", "exp is the right one and 2^64: it wraps", date, with(wrapped)},
		{"nbf-future", Must, "nbf-unchecked", "begins in 50 minutes", nbf, with(claim("nbf", "${now+3000}"))},
		{"nbf-string", Must, "non-numbers-skipped", "nbf is a string with a time to come in it", date, with(claim("nbf", `"${now+3000}"`))},
		{"nbf-string-past", Should, "coerces", "nbf is a string with a time that is over in it", date, with(claim("nbf", `"${now-5}"`))},
		{"nbf-object", Should, "nan-passes", "nbf is an object", date, with(claim("nbf", "{}"))},
		{"nbf-null", Should, "null-is-absent", "nbf is null", date, with(claim("nbf", "null"))},
		{"nbf-wraps", Must, "int-wraps", "nbf is 2^63: it wraps to long ago", date, with(claim("nbf", "9223372036854775808"))},
		{"nbf-far", Must, "nbf-unchecked", "begins in the year 9999", nbf, with(claim("nbf", "253402300799"))},
		{"iat-future", Should, "iat-unchecked", "issued in 50 minutes", iat, with(claim("iat", "${now+3000}"), claim("nbf", "${now-5}"))},
		{"iat-string", Should, "coerces", "iat is a string with a number in it", date, with(claim("iat", `"${now-5}"`))},
		{"iat-null", Should, "null-is-absent", "iat is null", date, with(claim("iat", "null"))},
		{"iat-array", Should, "coerces", "iat is an array with a number in it", date, with(claim("iat", "[${now-5}]"))},
	}
}

// wrapped is beyond the 64 bits of an integer, whose low ones are good.
func wrapped(d *draft) {
	d.claims.set("exp", "1844674407"+plus("3709551616", d.Now().Unix()+3600))
}

// plus adds n to the last ten digits of 2^64; the sum has ten digits until 2169.
func plus(digits string, n int64) string {
	var sum int64
	for _, c := range digits {
		sum = sum*10 + int64(c-'0')
	}
	sum += n
	out := make([]byte, len(digits))
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = byte('0' + sum%10)
		sum /= 10
	}
	return string(out)
}

// lifetimes are tokens that live longer than the issuer lets any live.
func lifetimes() []row {
	const source, flaw = "RFC 8725 3.10, OpenID Connect Core 3.1.3.7", "lifetime-unlimited"
	long := func(id, why string, c ...change) row { return row{"life-" + id, Should, flaw, why, source, c} }
	return []row{
		long("second-more", "lives for a second more than 65 minutes", claim("iat", "${now}"), claim("exp", "${now+3901}")),
		long("two-hours", "lives for two hours", claim("exp", "${now+7200}")),
		long("ten-years", "lives for ten years", claim("exp", "${now+315360000}")),
		long("old", "half an hour is left of ten", claim("iat", "${now-34200}"), claim("nbf", "${now-34200}"), claim("exp", "${now+1800}")),
		long("no-iat", "lives for two more hours, and does not say since when", claim("exp", "${now+7200}"), noClaim("iat"), noClaim("nbf")),
		long("milliseconds", "exp is in milliseconds, and so tens of thousands of years away", claim("exp", "${now+3600}000")),
		long("overflow", "exp is 1e400, more than any number of a machine", claim("exp", "1e400")),
		long("int64", "exp is 2^63", claim("exp", "9223372036854775808")),
		long("digits", "exp has four thousand digits", claim("exp", strings.Repeat("9", 4000))),
		long("year-10000", "exp is the first second of the year 10000", claim("exp", "253402300800")),
	}
}

// audiences are tokens for somebody else, whose name is like the receiver's.
func audiences() []row {
	const source = "RFC 7519 4.1.3, RFC 8725 3.9"
	like := func(id string, level Level, flaws, why string, f func(string) string) row {
		return row{"aud-" + id, level, flaws, why, source, with(audience(f))}
	}
	is := func(text string) func(string) string { return func(string) string { return text } }
	return []row{
		{"aud-missing", Must, "aud-optional", "no aud", source, with(noClaim("aud"))},
		{"aud-null", Must, "aud-optional", "aud is null", source, with(claim("aud", "null"))},
		like("empty", Must, "empty-is-absent", "aud is empty", is("")),
		like("other", Must, "aud-unchecked", "for another service", is("https://other.example")),
		{"aud-issuer", Must, "aud-unchecked", "for the issuer itself", source, with(claim("aud", `"${iss}"`))},
		like("longer", Must, "aud-prefix", "the receiver's name is how aud begins", func(s string) string { return s + ".forger.example" }),
		like("path", Must, "aud-prefix", "the receiver's name, a slash and more", func(s string) string { return s + "/forger" }),
		like("userinfo", Must, "aud-prefix", "the receiver's name, an @ and another host", func(s string) string { return s + "@forger.example" }),
		like("suffix", Must, "aud-contains", "the receiver's name is how aud ends", func(s string) string { return "https://forger.example/?" + s }),
		like("shorter", Must, "aud-within", "aud is how the receiver's name begins", func(s string) string {
			_, n := utf8.DecodeLastRuneInString(s)
			return s[:len(s)-n]
		}),
		like("one-letter", Must, "aud-within", "aud is a letter of the receiver's name", func(s string) string { return s[strings.IndexFunc(s, isLetter):][:1] }),
		like("comma", Must, "aud-split", "two names with a comma between them", func(s string) string { return s + ",https://other.example" }),
		like("space-between", Must, "aud-split", "two names with a space between them", func(s string) string { return "https://other.example " + s }),
		like("case", Should, "aud-folded", "the receiver's name in the other case", swapCase),
		like("slash", Should, "aud-normalized", "the receiver's name with a slash behind it", func(s string) string { return s + "/" }),
		like("percent", Should, "aud-normalized", "the receiver's name with a letter percent-encoded", percent),
		like("space", Should, "aud-normalized", "the receiver's name with a space behind it", func(s string) string { return s + " " }),
		like("wide", Should, "unicode-normalized", "the receiver's name with a full-width letter", wideLetter),
		like("nul", Must, "nul-ends", "the receiver's name, NUL and more", func(s string) string { return s + "\x00.forger.example" }),
		like("star", Must, "aud-pattern", "aud is *", is("*")),
		like("pattern", Must, "aud-pattern", "aud is a pattern that fits the receiver's name", func(s string) string { return string([]rune(s)[:2]) + "*" }),
		like("regexp", Must, "aud-pattern", "aud is .*", is(".*")),
	}
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func isAlphanumeric(r rune) bool { return isLetter(r) || r >= '0' && r <= '9' }

// percent encodes the last letter or digit (RFC 3986 section 2.1).
func percent(s string) string {
	i := strings.LastIndexFunc(s, isAlphanumeric)
	return fmt.Sprintf("%s%%%02X%s", s[:i], s[i], s[i+1:])
}

// wideLetter puts the full-width form in place of the last letter or digit, which
// Unicode's compatibility forms take for the same.
func wideLetter(s string) string {
	i := strings.LastIndexFunc(s, isAlphanumeric)
	return s[:i] + string(rune(s[i])-'!'+'！') + s[i+1:]
}

// audienceShapes are tokens whose aud is not the one string that the issuer
// writes.
func audienceShapes() []row {
	const source = "RFC 7519 4.1.3"
	const one = "OpenID Connect Core 3.1.3.7, RFC 9068 4"
	shape := func(id string, level Level, flaws, why, source, value string) row {
		return row{"aud-" + id, level, flaws, why, source, with(claim("aud", value))}
	}
	return []row{
		shape("array-one", Should, "aud-array", "aud is an array of one, which this issuer never writes", one, `["${aud}"]`),
		shape("array-first", Should, "aud-array", "aud is an array, the right one first", one, `["${aud}","https://other.example"]`),
		shape("array-last", Should, "aud-array", "aud is an array, the right one last", one, `["https://other.example","https://third.example","${aud}"]`),
		shape("array-empty", Must, "empty-is-absent", "aud is an empty array", "RFC 7519 4.1.3, CVE-2020-26160", `[]`),
		shape("array-empty-string", Must, "aud-array empty-is-absent", "aud is an array with an empty string in it", "RFC 7519 4.1.3, CVE-2020-26160", `[""]`),
		shape("array-other", Must, "aud-unchecked", "aud is an array without the right one", source, `["https://other.example"]`),
		shape("array-nested", Must, "aud-array aud-flattened", "aud is an array in an array", source, `[["${aud}"]]`),
		shape("array-number", Must, "aud-array aud-untyped", "aud is an array with a number in it", source, `["${aud}",1]`),
		shape("array-null", Must, "aud-array aud-untyped", "aud is an array with null in it", source, `[null,"${aud}"]`),
		shape("object-name", Must, "aud-object", "aud is an object with a member of the receiver's name", source, `{"${aud}":true}`),
		shape("object-value", Must, "aud-object", "aud is an object with the receiver's name as a value", source, `{"0":"${aud}"}`),
		shape("true", Must, "loose-equality", "aud is true", source, "true"),
		shape("zero", Must, "loose-equality", "aud is 0", source, "0"),
		{"aud-json", Should, "aud-parsed", "aud is a string with an array in it", source, with(audience(func(s string) string { return "[" + quote(s) + "]" }))},
	}
}

// issuers are tokens of somebody whose name is like the issuer's.
func issuers() []row {
	const source = "RFC 7519 4.1.1, OpenID Connect Core 3.1.3.7"
	like := func(id string, level Level, flaws, why string, f func(string) string) row {
		return row{"iss-" + id, level, flaws, why, source, with(issuer(f))}
	}
	append1 := func(text string) func(string) string { return func(s string) string { return s + text } }
	shape := func(id, flaws, why, source, value string) row {
		return row{"iss-" + id, Must, flaws, why, source, with(claim("iss", value))}
	}
	return []row{
		{"iss-missing", Must, "iss-optional", "no iss", source, with(noClaim("iss"))},
		shape("null", "iss-optional", "iss is null", source, "null"),
		shape("empty", "empty-is-absent", "iss is empty", source, `""`),
		shape("other", "iss-unchecked", "of another issuer", source, `"https://forger.example"`),
		shape("array-one", "coerces", "iss is an array of one", source, `["${iss}"]`),
		shape("array", "iss-member", "iss is an array with the right one in it", "RFC 7519 4.1.1, CVE-2025-30144", `["https://forger.example","${iss}"]`),
		shape("object", "iss-member", "iss is an object with the right one in it", source, `{"${iss}":1}`),
		shape("true", "loose-equality", "iss is true", source, "true"),
		like("longer-host", Must, "iss-prefix", "the issuer's host is how another begins", append1(".forger.example")),
		like("userinfo", Must, "iss-prefix", "the issuer's host is a user at another", append1("@forger.example")),
		like("path", Must, "iss-prefix", "another issuer on the same host", append1("/people")),
		like("assertion", Must, "iss-prefix", "what the gateway hands to services: of an issuer of its own", append1("/assertion")),
		like("query", Must, "iss-prefix", "the issuer and a query", append1("?x=1")),
		like("fragment", Must, "iss-prefix", "the issuer and a fragment", append1("#x")),
		like("subdomain", Must, "iss-contains", "a host below the issuer's", under("forger.")),
		like("look-alike", Must, "iss-contains", "a host whose name ends in the issuer's", under("x")),
		like("shorter", Must, "iss-within", "the issuer without its last letter", func(s string) string { return s[:len(s)-1] }),
		like("nul", Must, "nul-ends", "the issuer, NUL and more", append1("\x00.forger.example")),
		like("wide", Must, "unicode-normalized", "the issuer with a full-width letter", wideLetter),
		like("scheme", Must, "iss-host", "the issuer by the other scheme", otherScheme),
		like("no-scheme", Should, "iss-host", "the issuer's host alone", func(s string) string { _, host, _ := strings.Cut(s, "://"); return host }),
		like("slash", Should, "iss-normalized", "the issuer with a slash behind it", append1("/")),
		like("case", Should, "iss-normalized", "the issuer in the other case", swapCase),
		like("dot", Should, "iss-normalized", "the issuer's host with a dot behind it", dotted),
		like("dot-segment", Should, "iss-normalized", "the issuer with a path that leads nowhere", append1("/x/..")),
		like("percent", Should, "iss-normalized", "the issuer with a letter percent-encoded", percent),
		like("space", Should, "iss-normalized", "the issuer with a space before it", func(s string) string { return " " + s }),
	}
}

func under(prefix string) func(string) string {
	return func(s string) string {
		scheme, host, _ := strings.Cut(s, "://")
		return scheme + "://" + prefix + host
	}
}

func otherScheme(s string) string {
	if rest, ok := strings.CutPrefix(s, "https:"); ok {
		return "http:" + rest
	}
	return "https:" + strings.TrimPrefix(s, "http:")
}

// dotted makes the host name absolute, as the DNS writes it.
func dotted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s + "." // never: Config.complete has read it
	}
	u.Host = strings.Replace(u.Host, u.Hostname(), u.Hostname()+".", 1)
	return u.String()
}

// subjects are tokens that do not say whom they are about.
func subjects() []row {
	const source = "RFC 7519 4.1.2, OpenID Connect Core 2"
	is := func(id string, level Level, flaw, why, value string) row {
		return row{"sub-" + id, level, flaw, why, source, with(claim("sub", value))}
	}
	return []row{
		{"sub-missing", Must, "sub-optional", "no sub", source, with(noClaim("sub"))},
		is("null", Must, "sub-optional", "sub is null", "null"),
		is("empty", Must, "sub-optional", "sub is empty", `""`),
		is("number", Should, "sub-untyped", "sub is a number", "0"),
		is("true", Should, "sub-untyped", "sub is true", "true"),
		is("array", Should, "sub-untyped", "sub is an array with the right one in it", `["${sub}"]`),
		is("array-two", Must, "sub-untyped", "sub is an array of two", `["${sub}","admin"]`),
		is("object", Should, "sub-untyped", "sub is an object", `{"$ne":null}`),
	}
}

// bindings are tokens that are no bearer token, or whose subject is not who shows
// them.
func bindings() []row {
	const dpop, mtls, act = "RFC 9449 7.2", "RFC 8705 3", "RFC 8693 4.1"
	bound := func(id, why, source, value string) row {
		return row{"cnf-" + id, Must, "cnf-ignored", why, source, with(claim("cnf", value))}
	}
	return []row{
		bound("jkt", "bound to a key by its thumbprint, and shown as a bearer token", dpop, `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`),
		bound("x5t", "bound to a client certificate, and shown as a bearer token", mtls, `{"x5t#S256":"A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"}`),
		bound("unknown", "bound by a method that nobody here knows", "RFC 7800 3.1", `{"x":"y"}`),
		{"cnf-empty", Should, "cnf-ignored", "bound to it does not say what", "RFC 7800 3.1", with(claim("cnf", "{}"))},
		{"cnf-null", Should, "cnf-ignored", "bound to null", "RFC 7800 3.1", with(claim("cnf", "null"))},
		{"act-present", Should, "act-ignored", "somebody else acts for the subject", act, with(claim("act", `{"sub":"somebody-else"}`))},
		{"act-chain", Should, "act-ignored", "somebody acts for somebody who acts for the subject", act, with(claim("act", `{"sub":"agent","act":{"sub":"service"}}`))},
		{"act-null", Should, "act-ignored", "null acts for the subject", act, with(claim("act", "null"))},
	}
}
