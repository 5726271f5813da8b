package forgery

import (
	"regexp"
	"strings"
	"unicode/utf16"
)

// duplicates are tokens with a member twice: whether they are good depends on
// which of the two is read, and receivers differ in that.
func duplicates() []row {
	const source = "RFC 7519 4, RFC 8259 4"
	const last, first = "json-last-wins", "json-first-wins"
	dup := func(id string, flaws, why string, c ...change) row {
		return row{"dup-" + id, Must, flaws, why, source, c}
	}
	return []row{
		dup("exp-last", last, "exp twice, and the last is to come", claim("exp", "${now-600}"), claimLast("exp", "${now+3600}")),
		dup("exp-first", first, "exp twice, and the first is to come", claimFirst("exp", "${now+3590}"), claim("exp", "${now+3590}"), claimLast("exp", "${now-600}")),
		dup("aud-last", last, "aud twice, and the last is the right one", claim("aud", `"https://other.example"`), claimLast("aud", `"${aud}"`)),
		dup("aud-first", first, "aud twice, and the first is the right one", claimLast("aud", `"https://other.example"`)),
		dup("iss-last", last, "iss twice, and the last is the right one", claim("iss", `"https://forger.example"`), claimLast("iss", `"${iss}"`)),
		dup("iss-first", first, "iss twice, and the first is the right one", claimLast("iss", `"https://forger.example"`)),
		dup("sub-last", last, "sub twice, a privileged one first", claimFirst("sub", `"admin"`)),
		dup("sub-first", first, "sub twice, a privileged one last", claimLast("sub", `"admin"`)),
		dup("nbf-last", last, "nbf twice, and the first is to come", claim("nbf", "${now+3000}"), claimLast("nbf", "${now-5}")),
		dup("same", last, "sub twice, with the same value", claimLast("sub", `"${sub}"`)),
		dup("escaped", last, "sub twice, once with a JSON escape in its name", claimFirst(`\u0073ub`, `"admin"`)),
		dup("nested", last, "a member twice inside another claim", claim("sallyport", `{"attested":{"uid":"0","uid":"1001"}}`)),
		dup("kid-last", last, "kid twice, and the last is the right one", header("kid", `"nobody"`), headerLast("kid", `"${kid}"`)),
		dup("kid-first", first, "kid twice, and the first is the right one", headerLast("kid", `"nobody"`)),
		dup("typ-last", last, "typ twice, and the last is the right one", header("typ", `"at+jwt"`), headerLast("typ", `"JWT"`)),
		dup("typ-first", first, "typ twice, and the first is the right one", headerLast("typ", `"at+jwt"`)),
		dup("alg-last", last, "alg twice, and the last is the right one", headerFirst("alg", `"HS256"`)),
		dup("alg-first", first, "alg twice, and the first is the right one", headerLast("alg", `"HS256"`)),
	}
}

// folds are tokens whose members have the wrong case, which some readers of JSON
// take for the right ones, Go's encoding/json among them.
func folds() []row {
	const source = "RFC 7519 4, RFC 8259 8.3"
	fold := func(id, why string, c ...change) row { return row{"fold-" + id, Must, "json-folds", why, source, c} }
	renamed := func(name, to, value string) []change { return with(noClaim(name), claim(to, value)) }
	return []row{
		fold("exp", "EXP and no exp", renamed("exp", "EXP", "${now+3600}")...),
		fold("exp-over", "exp that is over, and EXP behind it that is not", claim("exp", "${now-600}"), claimLast("EXP", "${now+3600}")),
		fold("aud", "AUD and no aud", renamed("aud", "AUD", `"${aud}"`)...),
		fold("aud-over", "another aud, and Aud behind it", claim("aud", `"https://other.example"`), claimLast("Aud", `"${aud}"`)),
		fold("iss", "Iss and no iss", renamed("iss", "Iss", `"${iss}"`)...),
		fold("iss-long-s", "iſs, with a letter that only folds to s, and no iss", renamed("iss", "i\u017fs", `"${iss}"`)...),
		fold("iss-over", "another iss, and ISS behind it", claim("iss", `"https://forger.example"`), claimLast("ISS", `"${iss}"`)),
		fold("sub", "SUB and no sub", renamed("sub", "SUB", `"${sub}"`)...),
		fold("nbf-over", "nbf to come, and NBF behind it that is not", claim("nbf", "${now+3000}"), claimLast("NBF", "${now-5}")),
		fold("alg", "ALG and no alg", noHeader("alg"), header("ALG", `"RS256"`)),
		{"fold-typ", Should, "json-folds", "Typ and no typ", source, with(noHeader("typ"), header("Typ", `"JWT"`))},
		fold("typ-over", "another typ, and TYP behind it", header("typ", `"at+jwt"`), headerLast("TYP", `"JWT"`)),
		fold("kid-kelvin", "kid with the sign for Kelvin, and no kid that is known", header("kid", `"nobody"`), headerLast("\u212aid", `"${kid}"`)),
	}
}

// unicodes are tokens whose JSON is not well-formed Unicode (RFC 8259 section 8,
// RFC 8725 section 3.7).
func unicodes() []row {
	const source = "RFC 8259 8.1"
	const bad = "json-bad-utf8"
	return []row{
		{"utf8-sub", Must, bad, "a byte in sub that is no UTF-8", source, with(claim("sub", "\"${sub}\xff\""))},
		{"utf8-name", Must, bad, "a byte in a member's name that is no UTF-8", source, with(claim("x\xfe", "1"))},
		{"utf8-overlong", Must, bad, "a slash in two bytes", source, with(claim("x", "\"\xc0\xaf\""))},
		{"utf8-surrogate", Must, bad, "half of a pair of UTF-16, in three bytes", source, with(claim("x", "\"\xed\xa0\x80\""))},
		{"utf8-cut", Must, bad, "a letter of which a byte is missing", source, with(claim("x", "\"\xe2\x82\""))},
		{"utf8-header", Must, bad, "a byte in the header that is no UTF-8", source, with(header("x", "\"\xff\""))},
		{"surrogate-sub", Must, "json-lone-surrogate", "half of a pair of UTF-16 in sub", "RFC 8259 8.2", with(claim("sub", `"${sub}\ud800"`))},
		{"surrogate-reversed", Must, "json-lone-surrogate", "a pair of UTF-16 in the wrong order", "RFC 8259 8.2", with(claim("x", `"\udc00\ud800"`))},
		{"surrogate-header", Must, "json-lone-surrogate", "half of a pair of UTF-16 in the header", "RFC 8259 8.2", with(header("x", `"\udfff"`))},
		{"bom-header", Should, "json-bom", "a byte order mark before the header", source, with(headerText(before("\ufeff")))},
		{"bom-claims", Should, "json-bom", "a byte order mark before the claims", source, with(claimsText(before("\ufeff")))},
		{"utf16-claims", Must, "json-utf16", "claims in UTF-16, which some readers of JSON guess", source, with(claimsText(inUTF16))},
		{"utf16-header", Must, "json-utf16", "a header in UTF-16", source, with(headerText(inUTF16))},
	}
}

func before(text string) func(string) string { return func(s string) string { return text + s } }
func behind(text string) func(string) string { return func(s string) string { return s + text } }

func inUTF16(text string) string {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}

// looseJSON are tokens whose header or claims are not one JSON object and nothing
// else, for readers that do not mind (RFC 8259 section 2, RFC 7519 section 7.2).
func looseJSON() []row {
	const source = "RFC 8259 2"
	in := func(id string, level Level, flaws, why string, c ...change) row {
		return row{"json-" + id, level, flaws, why, source, c}
	}
	// in place of the comma before iat, between two members that are good
	instead := func(text string) func(string) string {
		return func(s string) string { return strings.Replace(s, `,"iat"`, text+`"iat"`, 1) }
	}
	const trailing, comments = "json-trailing", "json-comments"
	return []row{
		in("object-behind-claims", Must, trailing, "another object behind the claims", claimsText(behind(`{"sub":"admin"}`))),
		in("object-behind-header", Must, trailing, "another object behind the header", headerText(behind(`{"alg":"none"}`))),
		in("letter-behind-claims", Must, trailing, "a letter behind the claims", claimsText(behind("x"))),
		in("letter-behind-header", Must, trailing, "a letter behind the header", headerText(behind("x"))),
		in("brace-behind-claims", Must, trailing, "a brace behind the claims", claimsText(behind("}"))),
		in("nul-behind-claims", Must, "nul-ends", "NUL and more behind the claims", claimsText(behind("\x00,\"sub\":\"admin\"}"))),
		in("nul-behind-header", Must, "nul-ends", "NUL behind the header", headerText(behind("\x00"))),
		in("comment", Must, comments, "a comment in the claims", claimsText(instead(`,/* "sub":"admin", */`))),
		in("comment-line", Must, comments, "a comment to the end of the line", claimsText(instead(",// x\n"))),
		in("comment-hash", Must, comments, "a comment as in a shell", claimsText(instead(",# x\n"))),
		in("comment-header", Must, comments, "a comment in the header", headerText(before("/**/"))),
		in("comma-behind", Must, "json-commas", "a comma behind the last member", claimsText(func(s string) string { return strings.TrimSuffix(s, "}") + ",}" })),
		in("comma-twice", Must, "json-commas", "two commas", claimsText(instead(",,"))),
		in("single-quotes", Must, "json-quotes", "single quotes", claimsText(func(s string) string { return strings.Replace(s, `"iat"`, `'iat'`, 1) })),
		in("no-quotes", Must, "json-quotes", "a name without quotes", claimsText(func(s string) string { return strings.Replace(s, `"iat"`, `iat`, 1) })),
		in("line-break", Must, "json-control", "a line break in a string", claim("x", "\"a\nb\"")),
		in("tab", Must, "json-control", "a tab in a string", claim("x", "\"a\tb\"")),
		in("nul", Must, "json-control", "NUL in a string", claim("x", "\"a\x00b\"")),
		in("zero-before", Must, "json-numbers", "a number with a zero before it", claim("exp", "0${now+3600}")),
		in("plus-before", Must, "json-numbers", "a number with a plus before it", claim("exp", "+${now+3600}")),
		in("point-behind", Must, "json-numbers", "a number with a point behind it", claim("exp", "${now+3600}.")),
		in("escape", Must, "json-escapes", "an escape that JSON does not have", claim("x", `"\x41"`)),
		in("prefix", Should, "json-prefix", "claims behind )]}', as some servers write them", claimsText(before(")]}'\n"))),
		in("claims-array", Must, "json-unwraps", "claims in an array", claimsText(func(s string) string { return "[" + s + "]" })),
		in("header-array", Must, "json-unwraps", "a header in an array", headerText(func(s string) string { return "[" + s + "]" })),
		in("claims-string", Must, "json-unwraps", "claims as JSON in a JSON string", claimsText(quote)),
		in("header-string", Must, "json-unwraps", "a header as JSON in a JSON string", headerText(quote)),
		in("open", Must, "json-unclosed", "claims without the last brace", claimsText(func(s string) string { return strings.TrimSuffix(s, "}") })),
		in("prototype", Must, "json-prototype", "exp inside __proto__, which some programs copy into the object", noClaim("exp"), claim("__proto__", `{"exp":${now+3600}}`)),
		in("dotted", Must, "json-dotted", "claims.exp: a name that some programs take for a path", noClaim("exp"), claim("claims.exp", "${now+3600}")),
		in("nested", Must, "json-nested", "exp inside another claim, for a search that goes deeper", noClaim("exp"), claim("x", `{"exp":${now+3600}}`)),
		in("pairs", Must, "json-pairs", "claims as an array of pairs", claimsText(pairs)),
	}
}

// pairs writes an object as an array of names and values.
func pairs(text string) string {
	text = regexp.MustCompile(`"([a-z_]+)":("(?:[^"\\]|\\.)*"|[0-9]+|true)(,?)`).ReplaceAllString(text, `["$1",$2]$3`)
	return "[" + strings.Trim(text, "{}") + "]"
}
