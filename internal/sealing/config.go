package sealing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A Secret says where a key-encryption key is: 32 bytes in base64, in a file that
// only its owner reads, or in an environment variable.
type Secret struct {
	// File holds it; a relative path starts at the configuration's folder.
	File string `yaml:"file,omitempty"`

	// Env is the name of the variable that holds it.
	Env string `yaml:"env,omitempty"`
}

// Config is decoded from "issuer.key_encryption": where the key is that seals
// the others at rest. Default: the file kek in data_dir, which is made at the first
// start.
type Config struct {
	Secret `yaml:",inline"`

	// Previous are keys that may have sealed what is there: at start all of that is
	// sealed again, and then they are not needed any more.
	Previous []Secret `yaml:"previous,omitempty"`
}

// Complete reports every mistake below "issuer.key_encryption"; relative paths
// start at dir.
func (c *Config) Complete(dir string) error {
	bad := []error{c.Secret.complete(dir, "")}
	for i := range c.Previous {
		p := &c.Previous[i]
		at := fmt.Sprintf("previous[%d]: ", i)
		if p.File == "" && p.Env == "" {
			bad = append(bad, errors.New(at+"needs file or env"))
		}
		bad = append(bad, p.complete(dir, at))
	}
	return errors.Join(bad...)
}

func (s *Secret) complete(dir, at string) error {
	if s.File != "" && s.Env != "" {
		return errors.New(at + "file and env are both set: keep one")
	}
	if s.File != "" && !filepath.IsAbs(s.File) {
		s.File = filepath.Join(dir, s.File)
	}
	return nil
}

// unset is the name of a variable that is not there.
type unset string

func (u unset) Error() string {
	return "key-encryption key: the environment variable " + string(u) + " is not set"
}

// Is makes it what a file that is not there is, too.
func (unset) Is(target error) bool { return target == fs.ErrNotExist }

// Read returns the key, or an error that wraps fs.ErrNotExist if there is none.
func (s Secret) Read() (*Key, error) {
	if s.Env == "" {
		return Read(s.File)
	}
	text, ok := os.LookupEnv(s.Env)
	if !ok {
		return nil, unset(s.Env)
	}
	k, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key in the environment variable %s: %w", s.Env, err)
	}
	return k, nil
}
