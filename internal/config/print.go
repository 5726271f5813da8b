package config

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
)

// Print returns the completed configuration as a file that Load reads back to the
// same, with the built-in rules as comments.
func (c *Config) Print() ([]byte, error) {
	body, err := yaml.MarshalWithOptions(c, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	var out strings.Builder
	out.Write(body)
	for _, b := range c.BuiltIns() {
		name, _, _ := strings.Cut(b, ": ")
		fmt.Fprintf(&out, "# built-in policy %s\n# (switch it off with: - {name: %q, mode: \"off\"})\n", b, name)
	}
	return []byte(out.String()), nil
}
