package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every reason code in the source has a sentence, and every sentence a code.
func TestEveryReasonIsExplained(t *testing.T) {
	t.Parallel()
	found := map[string]bool{"prover_failed": true}
	for _, place := range []struct{ file, pattern string }{
		{"../guard/reason.go", `Reason = "([a-z_]+)"`},
		{"../policy/decide.go", `Reason = "([a-z_]+)"`},
		{"../../verifier/error.go", `Reason = "([a-z_]+)"`},
		{"../attest/attest.go", `Error\{"([a-z_]+)"|ambiguous = "([a-z_]+)"`},
		{"../federation/federation.go", `Code\(\) string +\{ return "([a-z_]+)"`},
		{"../federation/x509.go", `errCertificate\{"([a-z_]+)"`},
		{"../guard/guard.go", `Code\(\) string +\{ return "([a-z_]+)"`},
	} {
		text, err := os.ReadFile(filepath.FromSlash(place.file))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, m := range regexp.MustCompile(place.pattern).FindAllStringSubmatch(string(text), -1) {
			found[strings.Join(m[1:], "")] = true
			n++
		}
		if n == 0 {
			t.Errorf("%s has no reasons any more: where are they?", place.file)
		}
	}
	for code := range found {
		if reasons()[code] == "" {
			t.Errorf("reason %q has no sentence", code)
		}
	}
	for code, text := range reasons() {
		if !found[code] {
			t.Errorf("reason %q is nobody's", code)
		}
		if !strings.HasSuffix(text, ".") {
			t.Errorf("reason %q: %q is no sentence", code, text)
		}
	}
}
