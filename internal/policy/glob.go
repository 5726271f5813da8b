package policy

import "strings"

// Glob reports whether all of s matches pattern: "*" stands for any text
// without "/", every other character for itself. A pattern that is only "*"
// matches everything.
func Glob(pattern, s string) bool {
	if pattern == "*" {
		return true
	}
	// Only the latest star needs to be retried: what an earlier one took in
	// front of it can never help, so this is at most len(pattern)*len(s) steps.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0 && s[mark] != '/':
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// ValidPattern reports whether s is a pattern for Glob that means what it
// looks like: not empty, at most 1024 bytes, no spaces or control characters,
// and no "**", which would stop at "/" as well.
func ValidPattern(s string) bool {
	return s != "" && len(s) <= 1024 && !strings.Contains(s, "**") &&
		strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// under reports whether path is prefix or lies below it at a segment boundary,
// so that "/public" and "/public/" cover "/public/a" but not "/publicity". The
// empty prefix covers nothing.
func under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && prefix != "" && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}
