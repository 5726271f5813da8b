package attest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Facts are what the kernel says of a caller.
type Facts struct {
	UID     uint32    // that owned the caller's socket when it connected
	Inode   uint64    // of the caller's socket, over a Unix socket of our end; never 0
	Cookie  uint64    // of the socket asked about; unlike its address, never used again
	Holders []Process // that have the caller's socket open; by pid

	depth     depth // how deeply was looked
	elsewhere bool  // in another network namespace: of the holders only who connected is known
}

// A Process holds the caller's socket.
type Process struct {
	PID        int
	Start      uint64 // when it started, in clock ticks since boot: no two processes share both
	UID, GID   uint32 // effective
	Cgroup     string
	Executable string
	SHA256     string

	file fileID // of Executable
}

// fileID tells files apart, and a file from what it was before it was changed.
type fileID struct {
	device, inode uint64
	size          int64
	changed       int64 // ctime, nanoseconds: set by the kernel alone
}

// identity is what must not change between two looks at a process.
func (p *Process) identity() [3]any { return [3]any{p.PID, p.Start, p.file} }

// String is for the owner.
func (p *Process) String() string {
	out := fmt.Sprintf("pid %d, gid %d, cgroup %q", p.PID, p.GID, p.Cgroup)
	if p.Executable != "" {
		out += ", executable " + strconv.Quote(p.Executable)
	}
	if p.SHA256 != "" {
		out += ", sha256 " + p.SHA256
	}
	return out
}

// String is for the owner. It lists at most three holders.
func (f Facts) String() string {
	out := fmt.Sprintf("uid %d", f.UID)
	for i := range f.Holders {
		if i == 3 {
			return out + fmt.Sprintf("; and %d more", len(f.Holders)-i)
		}
		out += "; " + f.Holders[i].String()
	}
	return out
}

// attested are the facts as records and tokens name them. Those of processes are
// there when the entry made us look at them; of several holders only what all
// share.
func (f *Facts) attested() map[string]string {
	out := map[string]string{"uid": strconv.FormatUint(uint64(f.UID), 10)}
	if len(f.Holders) == 0 {
		return out
	}
	first := &f.Holders[0]
	set := func(name, value string, of func(*Process) string) {
		for i := range f.Holders {
			if of(&f.Holders[i]) != value {
				return
			}
		}
		if value != "" {
			out[name] = value
		}
	}
	for _, x := range []struct {
		name string
		of   func(*Process) string
	}{
		{PID, func(p *Process) string { return strconv.Itoa(p.PID) }},
		{"gid", func(p *Process) string { return strconv.FormatUint(uint64(p.GID), 10) }},
		{"cgroup", func(p *Process) string { return p.Cgroup }},
		{"executable", func(p *Process) string { return p.Executable }},
		{"sha256", func(p *Process) string { return p.SHA256 }},
		{"systemd_unit", func(p *Process) string { return placeOf(p.Cgroup).unit }},
		{"container", func(p *Process) string { return placeOf(p.Cgroup).container }},
		{"kubernetes_pod", func(p *Process) string { return placeOf(p.Cgroup).pod }},
	} {
		set(x.name, x.of(first), x.of)
	}
	return out
}

// PID is the name of the one attested fact that says nothing of who a caller is,
// and is new with each process.
const PID = "pid"

// place is what a cgroup's path says of where a process runs.
type place struct{ unit, container, pod string }

var (
	systemUnit  = regexp.MustCompile(`^/system\.slice/(?:[^/]+\.slice/)*([^/]+\.service)(?:/|$)`)
	containerID = regexp.MustCompile(`/(?:(?:docker|cri-containerd|nerdctl|crio|libpod)-)?([0-9a-f]{64})(?:\.scope)?(?:/|$)`)
	podUID      = regexp.MustCompile(`/(?:kubepods[a-z-]*-)?pod([0-9a-f]{8}([-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?(?:/|$)`)
)

// placeOf reads a path as systemd, Docker, containerd, CRI-O and the kubelet (with
// both of its cgroup drivers) name their cgroups. Below user.slice users make
// cgroups of their own, under any name, so nothing there is believed; entries of
// the file name whole paths for the same reason.
func placeOf(cgroup string) place {
	var out place
	if strings.HasPrefix(cgroup, "/user.slice/") {
		return out
	}
	if m := systemUnit.FindStringSubmatch(cgroup); m != nil {
		out.unit = m[1]
	}
	if strings.Contains(cgroup, ".service/") {
		return out
	}
	if m := containerID.FindStringSubmatch(cgroup); m != nil {
		out.container = m[1]
	}
	if m := podUID.FindStringSubmatch(cgroup); m != nil && strings.HasPrefix(cgroup, "/kubepods") {
		out.pod = strings.ReplaceAll(m[1], "_", "-")
	}
	return out
}
