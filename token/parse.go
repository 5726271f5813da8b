package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxLength is the longest token read, in bytes. Google's own reach 12 KB.
const MaxLength = 16 << 10

// ErrMalformed is wrapped by every error of Parse. The text names the part that
// is wrong and never quotes the token.
var ErrMalformed = errors.New("malformed token")

// ErrSignature means that a token does not carry the signature of the key asked.
var ErrSignature = errors.New("the signature is not this key's")

// A Header is what a token says of its own signature (RFC 7515 section 4.1).
type Header struct {
	Algorithm string // `alg`, as written: not yet known to be one of ours
	KeyID     string // `kid`, empty if absent
	Type      string // `typ`, as written, empty if absent
}

// Claims are the claims that verification and policy read (RFC 7519 section
// 4.1). A time is zero if the claim is absent.
type Claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	Expiry    time.Time
	NotBefore time.Time
	IssuedAt  time.Time
	ID        string // `jti`
	Email     string // `email`, if it is a string

	// SingleAudience says that `aud` was one string and not an array.
	SingleAudience bool

	// Confirmation says that `cnf` is present: the token is bound to a key
	// (RFC 7800) and is no bearer token.
	Confirmation bool

	// Actor says that `act` is present: somebody acts for the subject (RFC 8693
	// section 4.1).
	Actor bool
}

// HasAudience reports whether the token is for want, compared exactly.
func (c *Claims) HasAudience(want string) bool {
	return want != "" && slices.Contains(c.Audience, want)
}

// A Token is a parsed token. Nothing in it may be believed before its signature
// and claims were verified by package verifier.
type Token struct {
	Header  Header
	Claims  Claims
	Payload []byte // the claims as JSON, every member of them

	input     []byte // the signing input, RFC 7515 section 5.2
	signature []byte
}

// SignedBy reports whether the token carries key's signature. The algorithm is
// the key's: a header that names another is refused (RFC 8725 section 3.1).
func (t *Token) SignedBy(key Key) bool {
	return t.Header.Algorithm == string(key.Algorithm) && key.Algorithm.verify(key.Public, t.input, t.signature)
}

// Parse reads a compact token without verifying it. Errors wrap ErrMalformed.
func Parse(raw string) (*Token, error) {
	t, err := parseJWS(raw)
	if err != nil {
		return nil, err
	}
	if err := t.Claims.read(t.Payload); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrMalformed, err)
	}
	return t, nil
}

// VerifyJWS returns the payload of a compact JWS that key signed; it need not be
// claims (RFC 7515 section 5.2). It is the signature layer of Parse and
// Token.SignedBy alone: `kid` is not compared, since key is given, and nothing
// says whom the payload is from, for or until when. Errors wrap ErrMalformed or
// ErrSignature.
func VerifyJWS(raw string, key Key) (payload []byte, err error) {
	t, err := parseJWS(raw)
	if err != nil {
		return nil, err
	}
	if !t.SignedBy(key) {
		return nil, ErrSignature
	}
	return t.Payload, nil
}

// parseJWS reads all of a token but its claims.
func parseJWS(raw string) (*Token, error) {
	if len(raw) > MaxLength {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxLength)
	}
	header, payload, sig, err := split(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	t := &Token{Payload: payload, signature: sig, input: []byte(raw[:strings.LastIndexByte(raw, '.')])}
	if err := t.Header.read(header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	return t, nil
}

// split decodes the three parts. encoding/base64 skips line breaks, so the
// alphabet is checked first; Strict refuses unused bits that are not zero, which
// would give one token several spellings (RFC 4648 section 3.5).
func split(raw string) (header, payload, sig []byte, err error) {
	parts := strings.SplitN(raw, ".", 4)
	if len(parts) != 3 {
		return nil, nil, nil, errors.New("a compact token has three parts")
	}
	var out [3][]byte
	for i, name := range [3]string{"header is", "claims are", "signature is"} {
		if !isBase64URL(parts[i]) {
			return nil, nil, nil, fmt.Errorf("%s not base64url", name)
		}
		if out[i], err = base64.RawURLEncoding.Strict().DecodeString(parts[i]); err != nil {
			return nil, nil, nil, fmt.Errorf("%s not base64url", name)
		}
	}
	return out[0], out[1], out[2], nil
}

func isBase64URL(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// read takes the header parameters we know. Those that would change what is
// verified, or with which key, are refused by name; others are ignored
// (RFC 7515 section 4).
func (h *Header) read(data []byte) error {
	err := members(data, func(name string, v jsontext.Value) (err error) {
		switch name {
		case "alg":
			h.Algorithm, err = text(v)
		case "kid":
			h.KeyID, err = text(v)
		case "typ":
			h.Type, err = text(v)
		case "crit", "b64", "zip", "cty", "jku", "x5u", "jwk":
			err = errors.New("this parameter is not accepted")
		}
		return err
	})
	if err == nil && h.Algorithm == "" {
		err = errors.New("alg is missing")
	}
	return err
}

func (c *Claims) read(data []byte) error {
	return members(data, func(name string, v jsontext.Value) (err error) {
		switch name {
		case "iss":
			c.Issuer, err = text(v)
		case "sub":
			c.Subject, err = text(v)
		case "aud":
			c.SingleAudience = v.Kind() == '"'
			c.Audience, err = texts(v)
		case "exp":
			c.Expiry, err = date(v)
		case "nbf":
			c.NotBefore, err = date(v)
		case "iat":
			c.IssuedAt, err = date(v)
		case "jti":
			c.ID, err = text(v)
		case "email":
			if v.Kind() == '"' {
				c.Email, err = text(v)
			}
		case "cnf":
			c.Confirmation = true
		case "act":
			c.Actor = true
		}
		return err
	})
}

// members calls f for each member of the one JSON object in data. The decoder
// refuses duplicate names, invalid UTF-8 and lone surrogates, compares names
// exactly, and nothing may follow the object.
func members(data []byte, f func(name string, v jsontext.Value) error) error {
	d := jsontext.NewDecoder(newReader(data))
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return errors.New("not a JSON object")
	}
	for d.PeekKind() != '}' {
		tok, err := d.ReadToken()
		if err != nil {
			return errors.New("not well-formed JSON, or a member is there twice")
		}
		name := tok.String()
		v, err := d.ReadValue()
		if err != nil {
			return errors.New("not well-formed JSON, or a member is there twice")
		}
		if err := f(name, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return errors.New("not well-formed JSON")
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func text(v jsontext.Value) (string, error) {
	if v.Kind() != '"' {
		return "", errors.New("not a string")
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "", errors.New("not a well-formed string")
	}
	return string(b), nil
}

// texts reads a string or an array of strings (RFC 7519 section 4.1.3).
func texts(v jsontext.Value) ([]string, error) {
	if v.Kind() == '"' {
		s, err := text(v)
		return []string{s}, err
	}
	if v.Kind() != '[' {
		return nil, errors.New("neither a string nor an array of strings")
	}
	d := jsontext.NewDecoder(newReader(v))
	_, _ = d.ReadToken() // the bracket, seen above
	var out []string
	for d.PeekKind() != ']' {
		e, err := d.ReadValue()
		if err != nil {
			return nil, errors.New("not well-formed JSON")
		}
		s, err := text(e)
		if err != nil {
			return nil, errors.New("neither a string nor an array of strings")
		}
		out = append(out, s)
	}
	return out, nil
}

// maxDate is the last second of the year 9999: beyond it, times wrap or cannot
// be written down again.
const maxDate = 253402300799

// date reads a NumericDate, seconds since the epoch, perhaps with a fraction
// (RFC 7519 section 2).
func date(v jsontext.Value) (time.Time, error) {
	if v.Kind() != '0' {
		return time.Time{}, errors.New("not a number")
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f < 0 || f > maxDate {
		return time.Time{}, errors.New("not a time between 1970 and 9999")
	}
	whole, frac := math.Modf(f)
	return time.Unix(int64(whole), int64(frac*1e9)).UTC(), nil
}

// Decode returns a compact token's header and claims as JSON, each one object.
// Nothing else is checked: it is for showing a token to a person.
func Decode(raw string) (header, claims []byte, err error) {
	if len(raw) > MaxLength {
		return nil, nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxLength)
	}
	header, claims, _, err = split(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for i, part := range [][]byte{header, claims} {
		if err := members(part, func(string, jsontext.Value) error { return nil }); err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", ErrMalformed, [2]string{"header", "claims"}[i], err)
		}
	}
	return header, claims, nil
}
