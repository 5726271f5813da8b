package corpora_test

import (
	"fmt"
	"testing"
)

// `sallyport token verify`, a process for each token. A status that is neither yes
// nor no is a failure of the program and told to the judge as one.
func TestTokenVerify(t *testing.T) {
	t.Parallel()
	dir := security(t, "the verdicts of `sallyport token verify` on about 155 attack tokens")
	program := sallyport(t)
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"no case that must be judged one way is judged the other", nil},
		{"nor is one that should be", []string{"-strict"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cases, file, jwks := generate(t, dir, "jwt", canary(t))
			command := fmt.Sprintf("'%s' token verify --issuer %s --audience %s --jwks '%s' - || "+
				`{ s=$?; [ $s -eq 1 ] || echo "panic: exit status $s"; exit 1; }`, program, issuer, audience, jwks)
			got := judge(t, dir, append([]string{"-cases", file, "-kind", "jwt", "-exec", command}, tt.args...)...)
			if want := (verdict{passed: len(cases)}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}
