package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// lockDir makes this process the only writer of a data_dir until the file it
// returns is closed. Readers do not take the lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data_dir: %w", err)
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		err = errors.New("another sallyport is using it")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data_dir %s: %w", dir, err)
	}
	return f, nil
}

// CheckDir leaves folders to the system's own rights.
func CheckDir(string) error { return nil }

// Exchangeable leaves folders to the system's own rights.
func Exchangeable(string) []string { return nil }

// Writable leaves folders to the system's own rights.
func Writable(string) error { return nil }

// makeAs leaves files to the system's own rights.
func makeAs(string, string) error { return nil }

// Descriptors returns how many files this process may have open.
func Descriptors() int { return 1 << 20 }
