package attest

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// An Account is a service account of the file, with the facts that make a local
// caller it.
type Account struct {
	// Name is the bare name, as in serviceAccount:NAME.
	Name string `yaml:"name"`

	// Attest holds alternatives: a caller that meets any entry is the account.
	// Empty: no local caller is.
	Attest []Rule `yaml:"attest,omitempty"`
}

// A Rule is one entry of attest; every fact in it must hold, and it has uid or
// cgroup.
type Rule struct {
	// UID owned the caller's socket when it connected.
	UID *uint32 `yaml:"uid,omitempty"`

	// Cgroup is the control group of every process that holds the caller's socket,
	// or one above it: a whole path, such as /system.slice/orders.service.
	Cgroup string `yaml:"cgroup,omitempty"`

	// GID is the effective group of every process that holds the caller's socket.
	GID *uint32 `yaml:"gid,omitempty"`

	// Executable is the path of what the one holder runs. Without cgroup it is also
	// the same file that we find at that path.
	Executable string `yaml:"executable,omitempty"`

	// SHA256 is the hash of that file, in hexadecimal.
	SHA256 string `yaml:"sha256,omitempty"`
}

// depth is how deeply a caller has to be looked at.
type depth uint8

const (
	socketOnly  depth = iota
	processes         // who holds the socket: pid, uid, gid, cgroup
	executables       // and what it runs
	hashes            // and the hash of that
)

func (r *Rule) depth() depth {
	switch {
	case r.SHA256 != "":
		return hashes
	case r.Executable != "":
		return executables
	case r.Cgroup != "" || r.GID != nil:
		return processes
	}
	return socketOnly
}

// facts counts what the entry asks for, as far as a look of depth d tells.
func (r *Rule) facts(d depth) int {
	n := 0
	for _, asked := range []bool{
		r.UID != nil, d >= processes && r.GID != nil, d >= processes && r.Cgroup != "", d >= executables && r.Executable != "", d >= hashes && r.SHA256 != "",
	} {
		if asked {
			n++
		}
	}
	return n
}

// narrows reports whether the entry is about the program, too.
func (r *Rule) narrows() bool { return r.depth() >= executables }

// overflowUID is what the kernel reports for a user of another user namespace
// that has no mapping in ours (/proc/sys/kernel/overflowuid): it can be anybody.
const overflowUID = 65534

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Complete reports every mistake, each below "service_accounts[i]".
func (a *Account) Complete() error {
	var bad []error
	if !identity.ValidName(a.Name) {
		bad = append(bad, fmt.Errorf("name: %q: use lower-case letters, digits, - and _, at most 63", a.Name))
	}
	for i := range a.Attest {
		for _, err := range a.Attest[i].mistakes() {
			bad = append(bad, fmt.Errorf("attest[%d]%w", i, err))
		}
	}
	return errors.Join(bad...)
}

func (r *Rule) mistakes() []error {
	var bad []error
	if r.UID == nil && r.Cgroup == "" {
		bad = append(bad, errors.New(": needs uid or cgroup: executable, sha256 and gid only narrow an entry, since any local caller can take them on"))
	}
	if r.UID != nil && *r.UID == overflowUID {
		bad = append(bad, fmt.Errorf(".uid: %d is the kernel's overflow uid and stands for anyone it cannot map: use a uid of its own", overflowUID))
	}
	switch {
	case r.Cgroup == "/":
		bad = append(bad, errors.New(`.cgroup: "/" is every process`))
	case r.Cgroup != "" && !wholePath(r.Cgroup):
		bad = append(bad, fmt.Errorf(".cgroup: %q: write the whole path without a slash at its end, as /proc/PID/cgroup has it: /system.slice/orders.service", r.Cgroup))
	}
	if r.Executable != "" && (!wholePath(r.Executable) || r.Executable == "/") {
		bad = append(bad, fmt.Errorf(".executable: %q: write the whole path of the file, links resolved: /usr/local/bin/orders", r.Executable))
	}
	if r.SHA256 != "" && !sha256Form.MatchString(r.SHA256) {
		bad = append(bad, fmt.Errorf(".sha256: %q: want 64 lower-case hexadecimal digits, as sha256sum prints them", r.SHA256))
	}
	return bad
}

func wholePath(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// misses returns what of the entry does not hold, in words for the owner; none:
// the caller meets it.
func (r *Rule) misses(f *Facts) []string {
	out := r.lacks(f)
	if len(out) == 0 && f.depth < r.depth() {
		out = []string{"not everything it asks for was looked at"}
	}
	return out
}

// wants returns how deeply a caller has to be looked at for the entry: as deeply as it
// asks for, as long as what is known of the caller holds.
func (r *Rule) wants(f *Facts) depth {
	if len(r.lacks(f)) > 0 {
		return socketOnly
	}
	return r.depth()
}

// lacks returns what of the entry does not hold, as far as the caller was looked at.
func (r *Rule) lacks(f *Facts) []string {
	var out []string
	miss := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.UID != nil && *r.UID != f.UID {
		miss("uid is %d, want %d", f.UID, *r.UID)
	}
	if r.depth() == socketOnly || f.depth == socketOnly {
		return out
	}
	if len(f.Holders) == 0 {
		miss("no process holds its socket")
	}
	if r.narrows() && f.elsewhere {
		miss("it connected from another network namespace, where a second holder of its socket would not show, and an entry with executable or sha256 takes one alone")
	}
	if r.narrows() && len(f.Holders) > 1 {
		miss("%d processes hold its socket, and an entry with executable or sha256 takes one alone", len(f.Holders))
	}
	for i := range f.Holders {
		p := &f.Holders[i]
		if r.UID != nil && p.UID != *r.UID {
			miss("process %d, which holds its socket, has uid %d, want %d", p.PID, p.UID, *r.UID)
		}
		if r.GID != nil && p.GID != *r.GID {
			miss("gid is %d, want %d", p.GID, *r.GID)
		}
		if r.Cgroup != "" && p.Cgroup != r.Cgroup && !strings.HasPrefix(p.Cgroup, r.Cgroup+"/") {
			miss("cgroup is %q, want %q or one below it", p.Cgroup, r.Cgroup)
		}
	}
	if len(f.Holders) > 0 {
		r.lacksProgram(f, miss)
	}
	return out
}

// lacksProgram is the part of lacks that is about what the one holder runs.
func (r *Rule) lacksProgram(f *Facts, miss func(string, ...any)) {
	p := &f.Holders[0]
	if f.depth >= executables && r.Executable != "" {
		switch {
		case p.Executable != r.Executable:
			miss("executable is %q, want %q", p.Executable, r.Executable)
		case r.Cgroup == "" && !p.file.isAt(r.Executable):
			miss("executable is %q as it sees its files, and another file than ours of that name", p.Executable)
		}
	}
	if f.depth >= hashes && r.SHA256 != "" && p.SHA256 != r.SHA256 {
		miss("sha256 is %s, want %s", p.SHA256, r.SHA256)
	}
}

// same says how a caller that met the entry has changed, if it has. Without
// executable or sha256 it may fork, and hand the socket on, within what the entry
// asks for.
func (r *Rule) same(was, is *Facts) error {
	if was.UID != is.UID || was.Inode != is.Inode || was.Cookie != is.Cookie {
		return fmt.Errorf("was uid %d, socket %d, is uid %d, socket %d", was.UID, was.Inode, is.UID, is.Inode)
	}
	if m := r.misses(is); len(m) > 0 {
		return errors.New(strings.Join(m, ", "))
	}
	if r.narrows() && was.Holders[0].identity() != is.Holders[0].identity() {
		return fmt.Errorf("was %s, is %s", &was.Holders[0], &is.Holders[0])
	}
	return nil
}
