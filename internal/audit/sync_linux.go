package audit

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync(2): content and length, but no times.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			if serr = unix.Fdatasync(int(fd)); serr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", serr)
}

// diskSpace returns the bytes that an unprivileged user may still write where dir is,
// and those of the whole disk.
func diskSpace(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, os.NewSyscallError("statfs", err)
	}
	size := int64(s.Bsize) // of another width on other machines
	return int64(s.Bavail) * size, int64(s.Blocks) * size, nil
}
