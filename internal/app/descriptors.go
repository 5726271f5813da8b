package app

import "golang.org/x/sys/unix"

// descriptors returns how many files this process may have open; the runtime has
// raised the soft limit to the hard one.
func descriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<20 {
		return 1 << 20
	}
	return int(l.Cur)
}
