package cli

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The first backquotes in a flag's help name its value: `token show` there reads as if
// --token took two words.
func TestHelpNamesAFlagsValueInOneWord(t *testing.T) {
	t.Parallel()
	good := regexp.MustCompile(`^ +(-\w, +)?--[a-z0-9-]+( \S+)?  `)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for line := range strings.Lines(c.LocalFlags().FlagUsages()) {
			if !good.MatchString(line) {
				t.Errorf("%s: %s", c.CommandPath(), line)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(rootCommand(&env{out: io.Discard, err: io.Discard}))
}
