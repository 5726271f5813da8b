//go:build !linux

package audit

import (
	"errors"
	"os"
)

// datasync is the nearest that every system has.
func datasync(f *os.File) error { return f.Sync() }

// diskSpace is not asked on other systems: the disk counts as having room.
func diskSpace(string) (free, total int64, err error) { return 0, 0, errors.ErrUnsupported }
