package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A process is an open folder of /proc. It stands for one process: when that has
// ended every read fails, even when its number is another's by then (proc(5)).
type process struct {
	pid int
	dir int // descriptor of /proc/PID
}

func openProcess(pid int) (process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return process{pid, dir}, err
}

func (p process) close() { _ = unix.Close(p.dir) }

// processes returns who holds the socket with this inode, by pid.
func (k *kernel) processes(ctx context.Context, inode uint64) ([]Process, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	want := []byte("socket:[" + strconv.FormatUint(inode, 10) + "]")
	var out []Process
	var slowest int
	var longest time.Duration
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look for who holds the caller's socket: %w; process %d took %v of it, with the descriptors it has", err, slowest, longest)
		}
		began := time.Now()
		p, err := holder(ctx, pid, want)
		if took := time.Since(began); took > longest {
			slowest, longest = pid, took
		}
		if err != nil && ctx.Err() == nil && !ended(err) && !denied(err) {
			return nil, fmt.Errorf("look into process %d: %w", pid, err)
		}
		if p != nil {
			out = append(out, *p)
		}
	}
	return out, ctx.Err()
}

// ended reports that a process or one of its descriptors went away under our eyes.
func ended(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// denied reports that a process is closed to us. With the capabilities that Check asks
// for only a security module closes one: it is no holder that we could name, and if it
// is the only one there is none.
func denied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

func holder(ctx context.Context, pid int, want []byte) (*Process, error) {
	h, err := openProcess(pid)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if has, err := h.holds(ctx, want); err != nil || !has {
		return nil, err
	}
	out, err := h.describe()
	if denied(err) { // a holder that we cannot describe is not nobody
		return nil, fmt.Errorf("it holds the socket, and cannot be looked into: %v", err)
	}
	return out, err
}

// allPIDs lists the processes that can be seen, lowest first.
func allPIDs() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, name := range names { // the kernel lists them by number
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// holds reports whether a descriptor of the process is the socket that want names.
// Threads may have descriptors of their own (unshare(2), CLONE_FILES), so those that
// do not share the process's are looked at too.
func (p process) holds(ctx context.Context, want []byte) (bool, error) {
	has, err := p.holdsIn(ctx, "fd", want)
	if has || err != nil {
		return has, err
	}
	tasks, err := p.list("task")
	if err != nil || len(tasks) < 2 {
		return false, err
	}
	for _, tid := range tasks {
		if n, err := strconv.Atoi(tid); err != nil || n == p.pid || sharesFiles(p.pid, n) {
			continue
		}
		has, err := p.holdsIn(ctx, "task/"+tid+"/fd", want)
		if has || err != nil && !ended(err) {
			return has, err
		}
	}
	return false, nil
}

// sharesFiles reports whether two threads have one table of descriptors (kcmp(2));
// where the kernel cannot say, each is looked at.
func sharesFiles(pid, tid int) bool {
	const kcmpFiles = 2
	same, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(tid), kcmpFiles, 0, 0, 0)
	return errno == 0 && same == 0
}

func (p process) list(name string) ([]string, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Readdirnames(-1)
}

func (p process) holdsIn(ctx context.Context, dir string, want []byte) (bool, error) {
	fd, err := unix.Openat(p.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	f := make([]byte, 8192)
	link := make([]byte, 64) // longer names are no sockets'
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := unix.ReadDirent(fd, f)
		if err != nil || n == 0 {
			return false, err
		}
		_, _, names := unix.ParseDirent(f[:n], -1, nil)
		for _, name := range names {
			n, err := unix.Readlinkat(fd, name, link)
			if err == nil && bytes.Equal(link[:n], want) {
				return true, nil
			}
			if err != nil && !ended(err) {
				return false, err
			}
		}
	}
}

// read returns the beginning of a file of the process, which is short.
func (p process) read(name string) (string, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(b), err
}

func (p process) describe() (*Process, error) {
	out := &Process{PID: p.pid}
	stat, err := p.read("stat")
	if err == nil {
		out.Start, err = startTime(stat)
	}
	var status, cgroups string
	if err == nil {
		status, err = p.read("status")
	}
	if err == nil {
		out.UID, out.GID, err = effective(status)
	}
	if err == nil {
		cgroups, err = p.read("cgroup")
	}
	if err != nil {
		return nil, err
	}
	out.Cgroup = cgroupOf(cgroups)
	return out, nil
}

// statFields are those of /proc/PID/stat from the third on, the state: the name in
// the second may hold anything but ends at the last parenthesis.
func statFields(stat string) []string {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(stat[i+1:])
}

// startTime is field 22 of /proc/PID/stat.
func startTime(stat string) (uint64, error) {
	if f := statFields(stat); len(f) > 19 {
		return strconv.ParseUint(f[19], 10, 64)
	}
	return 0, unix.ESRCH // the process is ending
}

// effective reads the effective uid and gid of /proc/PID/status.
func effective(status string) (uid, gid uint32, err error) {
	found := 0
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Uid:" && f[0] != "Gid:" {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return 0, 0, err
		}
		if found++; f[0] == "Uid:" {
			uid = uint32(n)
		} else {
			gid = uint32(n)
		}
	}
	if found != 2 {
		return 0, 0, unix.ESRCH
	}
	return uid, gid, nil
}

// cgroupOf picks the one hierarchy that tells where a process belongs: the one that
// systemd keeps, else version 2's, else the first of version 1 that has limits
// (cgroups(7)). Where systemd keeps one of version 1, version 2's says nothing.
func cgroupOf(text string) string {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 {
			for name := range strings.SplitSeq(f[1], ",") {
				paths[name] = f[2]
			}
		}
	}
	for _, name := range []string{"name=systemd", "", "pids", "memory", "devices", "cpu"} {
		if p, ok := paths[name]; ok {
			return p
		}
	}
	return ""
}

// program adds to f what its one holder runs, and the hash of that if w wants it.
func (k *kernel) program(ctx context.Context, f *Facts, w wants) error {
	p := &f.Holders[0]
	err := p.runs(func(h process) (err error) {
		p.Executable, p.file, err = h.executable()
		return err
	})
	if f.depth = executables; err == nil && w(f) >= hashes {
		p.SHA256, err = k.sums.of(ctx, p.file, f.UID, p.open)
		f.depth = hashes
	}
	if err != nil {
		return fmt.Errorf("look into process %d: %w", p.PID, err)
	}
	return nil
}

// runs calls f with the process, if it still is the one that p describes.
func (p *Process) runs(f func(process) error) error {
	h, err := openProcess(p.PID)
	if err != nil {
		return err
	}
	defer h.close()
	stat, err := h.read("stat")
	if err != nil {
		return err
	}
	if start, err := startTime(stat); err != nil || start != p.Start {
		return errors.Join(err, errors.New("it ended, and its number is another's"))
	}
	return f(h)
}

// executable returns the name of what the process runs, and which file that is. The name
// is read before and after, or it could be another file's.
func (p process) executable() (name string, id fileID, err error) {
	if name, err = p.link("exe"); err != nil {
		return "", id, err
	}
	var st unix.Stat_t
	if err = unix.Fstatat(p.dir, "exe", &st, 0); err != nil {
		return "", id, err
	}
	again, err := p.link("exe")
	if err == nil && again != name {
		err = errors.New("it began to run another program while we looked")
	}
	return name, idOfStat(&st), err
}

// open opens what the process runs.
func (p *Process) open() (f *os.File, err error) {
	err = p.runs(func(h process) error {
		fd, err := unix.Openat(h.dir, "exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), "exe")
		}
		return err
	})
	return f, err
}

func (p process) link(name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir, name, b)
	return string(b[:max(n, 0)]), err
}

func idOf(fd int) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	return idOfStat(&st), nil
}

func idOfStat(st *unix.Stat_t) fileID { return fileID{st.Dev, st.Ino, st.Size, st.Ctim.Nano()} }

// isAt reports whether the file is the one that we find at path.
func (id fileID) isAt(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == id.device && st.Ino == id.inode
}

// Bounds of hashing.
const (
	maxSums    = 256     // hashes remembered
	maxProgram = 1 << 30 // bytes of a program that is hashed: two seconds or so
	hashAtOnce = 1 << 20 // bytes, between two looks whether anybody still waits
)

// sums remembers hashes of files that have not changed since.
type sums struct {
	turns *turns // one file is read at a time

	mu   sync.Mutex
	held map[fileID]string
}

func newSums() *sums { return &sums{turns: newTurns(1), held: map[fileID]string{}} }

// of returns the hash of the file that id says and open opens, on behalf of uid. Nothing
// is open while it waits for its turn.
func (s *sums) of(ctx context.Context, id fileID, uid uint32, open func() (*os.File, error)) (string, error) {
	if sum, ok := s.known(id); ok {
		return sum, nil
	}
	if id.size > maxProgram {
		return "", fmt.Errorf("its executable has %d bytes, and at most %d are hashed", id.size, maxProgram)
	}
	if err := s.turns.begin(ctx, uid); err != nil {
		return "", err
	}
	defer s.turns.end()
	if sum, ok := s.known(id); ok { // by the turn before
		return sum, nil
	}
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for err := error(nil); err != io.EOF; {
		if _, err = io.CopyN(h, f, hashAtOnce); err == nil {
			err = ctx.Err()
		}
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("hash its executable: %w", err)
		}
	}
	if now, err := idOf(int(f.Fd())); err != nil || now != id {
		return "", errors.Join(err, errors.New("its executable was changed while we read it"))
	}
	sum := hex.EncodeToString(h.Sum(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	for old := range s.held {
		if len(s.held) < maxSums {
			break
		}
		delete(s.held, old) // any: map iteration begins anywhere
	}
	s.held[id] = sum
	return sum, nil
}

func (s *sums) known(id fileID) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, ok := s.held[id]
	return sum, ok
}
