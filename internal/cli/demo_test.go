package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/config"
)

// The walk-through tells a wrong answer from a right one: with any one thing
// changed it says no.
func TestDemoSaysNoWhenAnAnswerIsNotTheExpectedOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*config.Config)
		wrong  string // the step that must fail; "" for none
	}{
		{"as it is", func(*config.Config) {}, ""},
		{"nobody is allowed", func(c *config.Config) { c.Policies = nil }, "the right token"},
		{"the allowed action is another", func(c *config.Config) { c.Roles["reader"].Actions[0] = "http.post" }, "the right token"},
		{"the condition is false", func(c *config.Config) { c.Policies[0].When = "false" }, "the right token"},
		{"everybody is allowed", func(c *config.Config) { c.Policies[0].Allow = []string{"anyAuthenticated"} }, "a caller without permission"},
		{"the other audience is the service's too", func(c *config.Config) {
			c.Services[0].Audiences = append(c.Services[0].Audiences, "https://other.example")
		}, "a token for another audience"},
		{"the second door gives the first account", func(c *config.Config) { c.Metadata[1].ServiceAccounts = []string{"orders"} }, "a caller without permission"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, err := newDev("", true)
			if err != nil {
				t.Fatal(err)
			}
			defer d.remove()
			tt.change(d.config)
			var out bytes.Buffer
			e := &env{out: &out, err: &out, output: "text"}
			err = e.demo(context.Background(), d)
			x, _ := errors.AsType[exit](err)
			if (err == nil) != (tt.wrong == "") || err != nil && x.status != exitNo {
				t.Fatalf("got %v (status %d)\n%s", err, x.status, out.String())
			}
			for line := range strings.Lines(out.String()) {
				if strings.Contains(line, "WRONG") != (tt.wrong != "" && strings.HasPrefix(line, tt.wrong)) {
					t.Errorf("unexpected verdict: %s", line)
				}
			}
			d.remove()
			if _, err := os.Stat(d.dataDir); !os.IsNotExist(err) {
				t.Errorf("%s is left behind", d.dataDir)
			}
		})
	}
}

func TestPrintableKeepsTheTerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain /v1/ü":        "plain /v1/ü",
		"a\x1b[2Jb":          `a\x1b[2Jb`,
		"a\nb\tc":            `a\nb\tc`,
		"\u2028\u202e\u0085": `\u2028\u202e\u0085`,
		"\xff":               `\xff`,
		`say "hi" \n`:        `say "hi" \\n`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
