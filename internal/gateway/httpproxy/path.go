package httpproxy

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// A canonicalPath is a path in its two forms: decoded, which policy judges and
// records hold, and escaped, which is forwarded. Each follows from the other, so
// what was judged is what is forwarded.
type canonicalPath struct {
	decoded string
	escaped string
}

var errPath = errors.New("the path is not canonical: dot segments, empty segments, encoded slashes, backslashes, " +
	"control characters, double encoding and broken escapes are refused")

// canonical reads the path of a request target (RFC 3986 section 3.3). What some
// server may read differently from us is refused, not repaired: a repaired path
// is a guess at which of two requests the client meant.
func canonical(raw string) (canonicalPath, error) {
	if raw == "" || raw[0] != '/' || len(raw) > maxPath {
		return canonicalPath{}, errPath
	}
	segments := strings.Split(raw[1:], "/")
	decoded := make([]byte, 0, len(raw))
	escaped := make([]byte, 0, len(raw)+16)
	for i, s := range segments {
		text, ok := unescape(s)
		if !ok || !plain(text) {
			return canonicalPath{}, errPath
		}
		if text == "" && i != len(segments)-1 { // only the last may be empty: "/a/"
			return canonicalPath{}, errPath
		}
		decoded = append(append(decoded, '/'), text...)
		escaped = appendEscaped(append(escaped, '/'), text)
	}
	return canonicalPath{string(decoded), string(escaped)}, nil
}

// maxPath is the longest path taken, in bytes.
const maxPath = 8 << 10

// plain reports whether a decoded segment reads the same for everybody.
func plain(s string) bool {
	name, _, _ := strings.Cut(s, ";") // "..;x" is a dot segment to some servers
	if name == "." || name == ".." || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f || c == '/' || c == '\\':
			return false
		case c == '%' && len(s) > i+2 && isHex(s[i+1]) && isHex(s[i+2]):
			return false // escaped twice: a second decoding upstream would read another path
		}
	}
	return true
}

// withoutParameters returns a decoded path as servers read it that drop what follows a ";"
// in each segment (RFC 3986 section 3.3).
func withoutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// unescape decodes percent escapes; a broken one, "#" and "?" are refused.
func unescape(s string) (string, bool) {
	if !strings.ContainsAny(s, "%#?") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '#', '?':
			return "", false
		case '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", false
			}
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out), true
}

// appendEscaped writes a segment in the one canonical form: unreserved characters
// and sub-delimiters as they are, the rest in upper-case escapes (RFC 3986
// section 6.2.2).
func appendEscaped(out []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:@", c) >= 0 {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return out
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

var errQuery = errors.New("the query has a broken percent escape, a fragment or a control character")

// checkQuery refuses a query that two servers could read as two; the bytes of any
// other are forwarded as they came.
func checkQuery(raw string) error {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c <= 0x20 || c >= 0x7f || c == '#':
			return errQuery
		case c == '%':
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return errQuery
			}
		}
	}
	return nil
}
