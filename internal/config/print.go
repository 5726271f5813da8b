package config

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Print returns the completed configuration as a file that Load reads back to the
// same, with the built-in rules as comments.
func (c *Config) Print() ([]byte, error) {
	var out strings.Builder
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(c), enc.Close()); err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	for _, b := range c.BuiltIns() {
		name, _, _ := strings.Cut(b, ": ")
		fmt.Fprintf(&out, "# built-in policy %s\n# (switch it off with: - {name: %q, mode: \"off\"})\n", b, name)
	}
	return []byte(out.String()), nil
}
