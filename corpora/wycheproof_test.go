package corpora_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/token"
)

// The Wycheproof vectors of JSON Web Signature, whose payloads are no claims,
// against the signature layer. What they accept under an algorithm that we do not
// have is refused here, and docs/spec/rfc7515.md lists it.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	dir := security(t, "240 Wycheproof vectors of JSON Web Signature")
	cases, _, _ := generate(t, dir, "jws", "http://127.0.0.1:1")
	doc, err := os.ReadFile(filepath.Join("..", "docs", "spec", "rfc7515.md"))
	if err != nil {
		t.Fatal(err)
	}
	accepted, foreign := 0, 0
	for _, c := range cases {
		t.Run(c.ID+" "+c.Reason, func(t *testing.T) {
			err := verifyJWS(c)
			want := c.Expect == "accept"
			if _, unknown := token.ParseAlgorithm(c.Alg); want && unknown != nil {
				want = false
				foreign++
				if !slices.Contains(strings.FieldsFunc(string(doc), func(r rune) bool { return strings.ContainsRune(" \n,|`", r) }), c.ID) {
					t.Errorf("%s under %s is refused, and docs/spec/rfc7515.md does not list it", c.ID, c.Alg)
				}
			}
			switch {
			case c.Level == "either":
				t.Logf("upstream wants %s, here: %v", c.Expect, err)
			case want != (err == nil):
				t.Errorf("want %s (%s), got %v", c.Expect, c.Level, err)
			case want:
				accepted++
			}
		})
	}
	if accepted == 0 || foreign == 0 {
		t.Errorf("%d accepted, %d under algorithms that we do not have: the vectors cannot be whole", accepted, foreign)
	}
}

func verifyJWS(c tokenCase) error {
	key, err := token.ParseJWK(c.Key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	_, err = token.VerifyJWS(c.Token, key)
	return err
}
