package forgery

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/token"
)

// draft is a token in the making. It begins as the issuer writes one, and changes
// spoil it.
type draft struct {
	*Config
	id     string // of the case, and `jti`
	header part
	claims part
	key    Key
	alg    string                             // how key signs
	sign   func(input []byte) ([]byte, error) // in place of key and alg
	mend   []func(sig []byte) []byte          // what happens to the signature
	seal   func(header, claims, sig string) string
	err    error // the first
}

// part is the header or the claims.
type part struct {
	members []member
	text    []func(string) string // what happens to its JSON
	encode  func([]byte) string
}

// member is a member of a JSON object. Name and value are JSON text, the name
// without quotes, so that anything can be wrong with either; in both ${iss},
// ${aud}, ${sub}, ${email}, ${kid}, ${kid-es256}, ${lure}, ${id}, ${now} and
// ${now+3600} stand for values.
type member struct{ name, value string }

// change is one thing that is different from a good token.
type change func(d *draft)

func with(c ...change) []change { return c }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// quote writes s as a JSON string.
func quote(s string) string {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		panic(err) // never: what is quoted was checked to be UTF-8
	}
	return string(b)
}

// forge makes the token of the case called id.
func (c *Config) forge(id string, changes ...change) (string, error) {
	d := &draft{
		Config: c, id: id, key: c.Keys.RS256, alg: string(token.RS256),
		header: part{encode: encode, members: []member{{"alg", `"RS256"`}, {"kid", `"${kid}"`}, {"typ", `"JWT"`}}},
		claims: part{encode: encode, members: []member{
			{"iss", `"${iss}"`}, {"sub", `"${sub}"`}, {"aud", `"${aud}"`}, {"iat", "${now-5}"}, {"nbf", "${now-5}"}, {"exp", "${now+3600}"},
			{"jti", `"${id}"`}, {"azp", `"${sub}"`}, {"email", `"${email}"`}, {"email_verified", "true"},
		}},
		seal: func(header, claims, sig string) string { return header + "." + claims + "." + sig },
	}
	if c.Email == "" {
		d.claims.drop("email")
		d.claims.drop("email_verified")
	}
	for _, change := range changes {
		change(d)
	}
	header, claims := d.write(&d.header), d.write(&d.claims)
	sign := d.sign
	if sign == nil {
		sign = func(input []byte) ([]byte, error) { return d.key.sign(d.alg, input) }
	}
	sig, err := sign([]byte(header + "." + claims))
	if err != nil {
		return "", err
	}
	for _, f := range d.mend {
		sig = f(sig)
	}
	return d.seal(header, claims, encode(sig)), d.err
}

// write returns a part as it stands in the token.
func (d *draft) write(p *part) string {
	text := d.json(p)
	for _, f := range p.text {
		text = f(text)
	}
	return p.encode([]byte(text))
}

func (d *draft) json(p *part) string {
	out := make([]string, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, `"`+d.expand(m.name)+`":`+d.expand(m.value))
	}
	return "{" + strings.Join(out, ",") + "}"
}

var placeholder = regexp.MustCompile(`\$\{[^}]*\}`)

// expand fills in the values that a member's text asks for.
func (d *draft) expand(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		name = name[2 : len(name)-1]
		inside := func(s string) string { q := quote(s); return q[1 : len(q)-1] }
		switch name {
		case "iss":
			return inside(d.Issuer)
		case "aud":
			return inside(d.Audience)
		case "sub":
			return inside(d.Subject)
		case "email":
			return inside(d.Email)
		case "kid":
			return inside(d.Keys.RS256.ID)
		case "kid-es256":
			return inside(d.Keys.ES256.ID)
		case "lure":
			return inside(d.Lure)
		case "id":
			return inside(d.id)
		}
		seconds, ok := strings.CutPrefix(name, "now")
		offset, err := strconv.ParseInt("0"+strings.TrimLeft(seconds, "+-"), 10, 64)
		if !ok || err != nil {
			d.fail(fmt.Errorf("${%s} stands for nothing", name))
		}
		if strings.HasPrefix(seconds, "-") {
			offset = -offset
		}
		return strconv.FormatInt(d.Now().Unix()+offset, 10)
	})
}

func (d *draft) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (p *part) set(name, value string) {
	for i := range p.members {
		if p.members[i].name == name {
			p.members[i].value = value
			return
		}
	}
	p.members = append(p.members, member{name, value})
}

func (p *part) drop(name string) {
	p.members = slices.DeleteFunc(p.members, func(m member) bool { return m.name == name })
}

// Members: set in their place, or left away, or there once more before or behind
// all others.

func header(name, value string) change { return func(d *draft) { d.header.set(name, value) } }
func claim(name, value string) change  { return func(d *draft) { d.claims.set(name, value) } }
func noHeader(name string) change      { return func(d *draft) { d.header.drop(name) } }
func noClaim(name string) change       { return func(d *draft) { d.claims.drop(name) } }

func headerFirst(name, value string) change {
	return func(d *draft) { d.header.members = slices.Insert(d.header.members, 0, member{name, value}) }
}

func headerLast(name, value string) change {
	return func(d *draft) { d.header.members = append(d.header.members, member{name, value}) }
}

func claimFirst(name, value string) change {
	return func(d *draft) { d.claims.members = slices.Insert(d.claims.members, 0, member{name, value}) }
}

func claimLast(name, value string) change {
	return func(d *draft) { d.claims.members = append(d.claims.members, member{name, value}) }
}

// issuer and audience put f of the right one in its place.

func issuer(f func(string) string) change {
	return func(d *draft) { d.claims.set("iss", plainly(quote(f(d.Issuer)))) }
}

func audience(f func(string) string) change {
	return func(d *draft) { d.claims.set("aud", plainly(quote(f(d.Audience)))) }
}

// plainly keeps expand away from text that is not ours.
func plainly(text string) string { return strings.ReplaceAll(text, "$", `\u0024`) }

// Text: what happens to the JSON of a part, and how it is encoded.

func headerText(f func(string) string) change {
	return func(d *draft) { d.header.text = append(d.header.text, f) }
}

func claimsText(f func(string) string) change {
	return func(d *draft) { d.claims.text = append(d.claims.text, f) }
}

func headerCode(f func([]byte) string) change { return func(d *draft) { d.header.encode = f } }
func claimsCode(f func([]byte) string) change { return func(d *draft) { d.claims.encode = f } }

// Signatures.

// by has another key sign, and the header say so.
func by(pick func(*Keys) Key) change {
	return func(d *draft) {
		d.key = pick(&d.Keys)
		d.alg = string(d.key.Algorithm)
		d.header.set("alg", quote(d.alg))
		d.header.set("kid", plainly(quote(d.key.ID)))
	}
}

func rs256(k *Keys) Key     { return k.RS256 }
func es256(k *Keys) Key     { return k.ES256 }
func assertion(k *Keys) Key { return k.Assertion }
func retired(k *Keys) Key   { return k.Retired }
func stranger(k *Keys) Key  { return k.Stranger }

// as has the key sign in the way that alg names; the header says so too.
func as(alg string) change {
	return func(d *draft) {
		d.alg = alg
		d.header.set("alg", quote(alg))
	}
}

func unsigned(d *draft) { d.sign = func([]byte) ([]byte, error) { return nil, nil } }

// signature changes the signature after it was made.
func signature(f func(sig []byte) []byte) change {
	return func(d *draft) { d.mend = append(d.mend, f) }
}

// whole changes the token after it was put together.
func whole(f func(raw string) string) change {
	return func(d *draft) {
		seal := d.seal
		d.seal = func(header, claims, sig string) string { return f(seal(header, claims, sig)) }
	}
}

// swapCase changes the case of every ASCII letter.
func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// object writes a JSON object whose members are in the order of their names.
func object(m map[string]any) string {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		panic(err) // never: strings and lists of them
	}
	return string(b)
}
