package audit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Durability says what must have happened before Append returns.
type Durability string

const (
	// Buffered survives nothing: the record is written within 100 ms. A killed process
	// loses what waited, which the log then says.
	Buffered Durability = "buffered"
	// Written survives a killed process: write(2) of the record has returned.
	Written Durability = "written"
	// Synced survives a power cut: fdatasync after that write has returned, too.
	Synced Durability = "synced"
)

// UnmarshalText accepts "buffered", "written" and "synced"; the error says what is right.
func (d *Durability) UnmarshalText(text []byte) error {
	if err := Durability(text).check(); err != nil {
		return err
	}
	*d = Durability(text)
	return nil
}

func (d Durability) check() error {
	switch d {
	case Buffered, Written, Synced:
		return nil
	}
	return fmt.Errorf(`%q is not a durability: write "buffered", "written" or "synced"`, string(d))
}

// Bytes is an amount of storage, written as 500MiB, 200GiB or a plain number of bytes.
type Bytes int64

// UnmarshalText accepts a whole number with or without a unit KiB, MiB, GiB or TiB.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for i, name := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(number, name); ok {
			number, unit = n, 1<<(10*(i+1))
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not an amount of bytes: write a number with KiB, MiB, GiB or TiB, such as 1GiB", text)
	}
	*b = Bytes(n * unit)
	return nil
}

// MarshalText writes the largest unit that divides the amount.
func (b Bytes) MarshalText() ([]byte, error) {
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	n, i := int64(b), 0
	for n != 0 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return []byte(strconv.FormatInt(n, 10) + units[i]), nil
}

// Age is how long something is kept, written as 400d or as 36h.
type Age time.Duration

// UnmarshalText accepts whole days such as 400d, and what time.ParseDuration does.
func (a *Age) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*a = Age(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not an age: write whole days such as 400d, or hours such as 36h", text)
	}
	*a = Age(d)
	return nil
}

// MarshalText writes whole days where it can.
func (a Age) MarshalText() ([]byte, error) {
	if d := time.Duration(a); d%(24*time.Hour) == 0 {
		return fmt.Appendf(nil, "%dd", d/(24*time.Hour)), nil
	}
	return []byte(time.Duration(a).String()), nil
}

// Config is decoded as it stands from the "audit" section of the file.
type Config struct {
	// Durability is what every record waits for. Default "", which leaves it to
	// the action: calls wait for Written, minting and administration for Synced.
	// Buffered is for single services only.
	Durability Durability `yaml:"durability,omitempty"`

	// Checkpoint is how long a record may wait for a signed checkpoint that
	// covers it. Default 1s; at least 100ms, at most 1m.
	Checkpoint time.Duration `yaml:"checkpoint,omitempty"`

	// Retain is how long records are kept; older ones are pruned, in whole bundles of
	// 256, at least a day old. Default 0: for ever.
	Retain Age `yaml:"retain,omitempty"`

	// MaxSize is what the log may take of the disk; the oldest records are pruned to
	// stay below it. Default 0: no limit; else at least 64MiB.
	MaxSize Bytes `yaml:"max_size,omitempty"`

	// KeepFree is kept for proven callers and operators: with less free on the log's
	// disk, refusals of callers who proved nothing are counted and not recorded one
	// by one; with an eighth of it, only operators and the server itself are served.
	// Default: 1GiB, or a twentieth of the disk if that is less; "0" for none.
	KeepFree *Bytes `yaml:"keep_free,omitempty"`
}

const (
	defaultCheckpoint = time.Second
	minCheckpoint     = 100 * time.Millisecond
	maxCheckpoint     = time.Minute
	minRetain         = Age(24 * time.Hour)
	minMaxSize        = 64 << 20
)

// Complete fills defaults, then reports every mistake at once. Each mistake
// starts with its path below "audit".
func (c *Config) Complete() error {
	if c.Checkpoint == 0 {
		c.Checkpoint = defaultCheckpoint
	}
	var bad []error
	switch err := c.Durability.check(); {
	case c.Durability == "":
	case err != nil:
		bad = append(bad, fmt.Errorf("durability: %w", err))
	case c.Durability == Buffered:
		bad = append(bad, errors.New(`durability: "buffered" is for reads of single services: write services[].audit.durability`))
	}
	if c.Checkpoint < minCheckpoint || c.Checkpoint > maxCheckpoint {
		bad = append(bad, fmt.Errorf("checkpoint: %v is not between 100ms and 1m", c.Checkpoint))
	}
	if c.Retain != 0 && c.Retain < minRetain {
		bad = append(bad, fmt.Errorf("retain: %v is less than a day: write 1d or more, or leave it out to keep everything", time.Duration(c.Retain)))
	}
	if c.MaxSize != 0 && c.MaxSize < minMaxSize {
		bad = append(bad, fmt.Errorf("max_size: %d bytes are less than 64MiB: the log needs room for what no checkpoint covers yet", c.MaxSize))
	}
	return errors.Join(bad...)
}
