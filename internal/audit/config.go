package audit

import (
	"errors"
	"fmt"
	"time"
)

// Durability says what must have happened before Append returns.
type Durability string

const (
	// Written survives a killed process: write(2) of the record has returned.
	Written Durability = "written"
	// Synced survives a power cut: fdatasync after that write has returned, too.
	Synced Durability = "synced"
)

// UnmarshalText accepts "written" and "synced"; the error says what is right.
func (d *Durability) UnmarshalText(text []byte) error {
	if err := Durability(text).check(); err != nil {
		return err
	}
	*d = Durability(text)
	return nil
}

func (d Durability) check() error {
	switch d {
	case Written, Synced:
		return nil
	case "buffered":
		return errors.New(`"buffered" is not served yet: write "written" or "synced"`)
	}
	return fmt.Errorf(`%q is not a durability: write "written" or "synced"`, string(d))
}

// Config is decoded as it stands from the "audit" section of the file.
type Config struct {
	// Durability is what every record waits for. Default "", which leaves it to
	// the action: calls wait for Written, minting and administration for Synced.
	Durability Durability `yaml:"durability,omitempty"`

	// Checkpoint is how long a record may wait for a signed checkpoint that
	// covers it. Default 1s; at least 100ms, at most 1m.
	Checkpoint time.Duration `yaml:"checkpoint,omitempty"`
}

const (
	defaultCheckpoint = time.Second
	minCheckpoint     = 100 * time.Millisecond
	maxCheckpoint     = time.Minute
)

// Complete fills defaults, then reports every mistake at once. Each mistake
// starts with its path below "audit".
func (c *Config) Complete() error {
	if c.Checkpoint == 0 {
		c.Checkpoint = defaultCheckpoint
	}
	var bad []error
	if c.Durability != "" {
		if err := c.Durability.check(); err != nil {
			bad = append(bad, fmt.Errorf("durability: %w", err))
		}
	}
	if c.Checkpoint < minCheckpoint || c.Checkpoint > maxCheckpoint {
		bad = append(bad, fmt.Errorf("checkpoint: %v is not between 100ms and 1m", c.Checkpoint))
	}
	return errors.Join(bad...)
}
