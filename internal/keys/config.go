package keys

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// Config is decoded from "issuer.signing".
type Config struct {
	// Algorithm signs ID and access tokens of accounts that name none: RS256 (the
	// default, which every verifier takes) or ES256.
	Algorithm token.Algorithm `yaml:"algorithm,omitempty"`

	// Rotate is how long a key signs. Default 720h; at most a year, and longer than
	// PublishBefore by an hour.
	Rotate time.Duration `yaml:"rotate,omitempty"`

	// PublishBefore is how long a key is published before it signs. Default 2h; at
	// least 1h5m: verifiers keep the key documents for an hour.
	PublishBefore time.Duration `yaml:"publish_before,omitempty"`
}

// Complete fills defaults and reports every mistake below "issuer.signing".
func (c *Config) Complete() error {
	var bad []error
	if c.Algorithm == "" {
		c.Algorithm = Tokens.Algorithms()[0]
	}
	if err := CheckAlgorithm(c.Algorithm); err != nil {
		bad = append(bad, fmt.Errorf("algorithm: %w", err))
	}
	if c.PublishBefore == 0 {
		c.PublishBefore = 2 * time.Hour
	}
	if c.PublishBefore < settle {
		bad = append(bad, fmt.Errorf("publish_before: %v is less than %v: verifiers may keep the key documents for %v", c.PublishBefore, settle, DocumentLife))
	}
	if c.Rotate == 0 {
		c.Rotate = 720 * time.Hour
	}
	if c.Rotate < c.PublishBefore+time.Hour || c.Rotate > 365*24*time.Hour {
		bad = append(bad, fmt.Errorf("rotate: %v is not between publish_before and an hour, %v, and a year", c.Rotate, c.PublishBefore+time.Hour))
	}
	return errors.Join(bad...)
}

// CheckAlgorithm says what is wrong with an algorithm for ID and access tokens.
func CheckAlgorithm(a token.Algorithm) error {
	if !slices.Contains(Tokens.Algorithms(), a) {
		return fmt.Errorf("%q: tokens are signed with RS256 or ES256", a)
	}
	return nil
}
