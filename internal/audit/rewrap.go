package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Rewrap seals the period keys of the log in dir again, under to, where one of from
// sealed them, and returns how many there were. A log that is not there yet has none.
// It is to be called before Open, by the owner of the directory; one that was
// interrupted goes on where it stopped.
func Rewrap(dir string, to Sealer, from ...Sealer) (int, error) {
	names, err := os.ReadDir(filepath.Join(dir, periodsDir))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(names) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("seal period keys again: %w", err)
	}
	origin, err := readOrigin(dir)
	if err != nil {
		return 0, fmt.Errorf("seal period keys again: %w", err)
	}
	n := 0
	for _, e := range names {
		period, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue // a file that was being written when the power went
		}
		did, err := rewrapOne(newKeyring(dir, origin, to, disk{}), uint32(period), from)
		if err != nil {
			return n, fmt.Errorf("seal period key %d again: %w", period, err)
		}
		if did {
			n++
		}
	}
	return n, nil
}

func rewrapOne(k *keyring, period uint32, from []Sealer) (bool, error) {
	sealed, err := os.ReadFile(k.path(period))
	if err != nil {
		return false, err
	}
	_, last := k.sealer.Open(sealed, k.context(period))
	if last == nil {
		return false, nil
	}
	for _, old := range from {
		key, err := old.Open(sealed, k.context(period))
		if last = err; err != nil {
			continue
		}
		again, err := k.sealer.Seal(key, k.context(period))
		if err != nil {
			return false, err
		}
		return true, replaceFile(k.fs, k.path(period), again)
	}
	return false, last
}
