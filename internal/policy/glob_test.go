package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, pattern, text string
		want                bool
	}{
		{"text is itself", "https://a", "https://a", true},
		{"a pattern is whole in front", "a", "xa", false},
		{"a pattern is whole at the end", "a", "ax", false},
		{"a star stands for a name", "https://*.example", "https://a.b.example", true},
		{"a star stands for nothing too", "/v1/*", "/v1/", true},
		{"a star stops at a slash", "/v1/*", "/v1/a/b", false},
		{"a star does not step over a slash to match later", "*b", "a/b", false},
		{"each segment has its star", "/*/*", "/a/b", true},
		{"only a star is everything", "*", "https://a/b/c", true},
		{"only a star is nothing too", "*", "", true},
		{"a star retries", "*ab", "aab", true},
		{"a dot is a dot", "a.b", "axb", false},
		{"a question mark is itself", "a?", "ab", false},
		{"the empty pattern is the empty text", "", "a", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := policy.Glob(tt.pattern, tt.text); got != tt.want {
				t.Errorf("Glob(%q, %q) = %v", tt.pattern, tt.text, got)
			}
		})
	}
}

func TestValidPattern(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]bool{
		"*": true, "https://*.a/*": true, "plain text-ish": false, "": false, "**": false, "/a/**": false, "a\n": false,
		strings.Repeat("a", 1024): true, strings.Repeat("a", 1025): false,
	} {
		if policy.ValidPattern(p) != want {
			t.Errorf("ValidPattern(%.20q) = %v", p, !want)
		}
	}
}

func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"*", "a/b"}, {"a*b*c", "aXbbXc"}, {"/*/x", "/a/b/x"}, {"**", "a/"}, {"*a*", "/a"}, {"é*", "éx"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(text) || len(pattern) > 200 {
			return // the reference reads characters
		}
		want := pattern == "*"
		if !want {
			parts := strings.Split(pattern, "*")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			want = regexp.MustCompile("^(?:" + strings.Join(parts, "[^/]*") + `)\z`).MatchString(text)
		}
		if got := policy.Glob(pattern, text); got != want {
			t.Errorf("Glob(%q, %q) = %v, the regexp says %v", pattern, text, got, want)
		}
	})
}
