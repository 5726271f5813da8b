//go:build unix

package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CheckDir fails when somebody else may put files into a data_dir: keys, sockets and the
// log would be theirs.
func CheckDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	switch {
	case st.Mode&0o022 != 0:
		return fmt.Errorf("data_dir %s has mode %#o: others may write to it: chmod 711 it", dir, st.Mode&0o7777)
	case st.Uid != uint32(os.Geteuid()) && st.Uid != 0:
		return fmt.Errorf("data_dir %s: it belongs to uid %d, and this server is uid %d: chown it, or run as its owner", dir, st.Uid, os.Geteuid())
	}
	return nil
}

// Exchangeable returns the folders above dir whose owner, or others who may write to it, could
// put another folder in dir's place.
func Exchangeable(dir string) []string {
	var out []string
	for at := filepath.Dir(dir); ; at = filepath.Dir(at) {
		var st unix.Stat_t
		sticky := false
		if unix.Stat(at, &st) == nil {
			sticky = st.Mode&unix.S_ISVTX != 0
			if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 && !sticky {
				out = append(out, at)
			}
		}
		if at == filepath.Dir(at) {
			return out
		}
	}
}

// Writable fails when this process may not put files into dir.
func Writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be written to by this user: %w", dir, err)
	}
	return nil
}

// lockDir makes this process the only writer of a data_dir until the file it
// returns is closed. Readers do not take the lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data_dir: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another sallyport is using it")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data_dir %s: %w", dir, err)
	}
	return f, nil
}

// makeAs makes an empty file that belongs to whom dir belongs to: what root makes there, a
// server that runs as another user has to open.
func makeAs(dir, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || os.Geteuid() != 0 {
		return err
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// Descriptors returns how many files this process may have open; the runtime has
// raised the soft limit to the hard one.
func Descriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<20 {
		return 1 << 20
	}
	return int(l.Cur)
}
