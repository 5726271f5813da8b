package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/config"
)

// finding is one line of what doctor says.
type finding struct {
	Verdict string `json:"verdict"` // "ok", "warn" or "fail"
	What    string `json:"what"`
	Detail  string `json:"detail"`
}

// findings are what doctor found.
type findings []finding

func (f *findings) add(verdict, what, format string, args ...any) {
	*f = append(*f, finding{verdict, what, fmt.Sprintf(format, args...)})
}

// judge adds what is good, or else what is wrong with it.
func (f *findings) judge(bad string, what, good string, err error) {
	if err != nil {
		f.add(bad, what, "%v", err)
		return
	}
	f.add("ok", what, "%s", good)
}

func doctorCommand(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "doctor [--config FILE]", Short: "say what this machine and this user can do, and what stands in the way",
		Long: "Say what can be attested on this machine by this user with these privileges, and with --config whether the\n" +
			"file can be served here: its attest entries, keys, folder and addresses. Run it as the user that the server\n" +
			"runs as. Exit 1 if something fails.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var f findings
			able := attest.Able()
			f.machine(able)
			if file != "" {
				cfg, err := load(file)
				if x, ok := errors.AsType[exit](err); ok && x.status == exitMisuse {
					return err
				}
				f.judge("fail", "file", file+" has no mistake", err)
				if err == nil {
					f.file(cmd.Context(), cfg, able)
				}
			}
			return e.tell(f)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the configuration file to look at too")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	return c
}

// machine looks at what no file changes.
func (f *findings) machine(able attest.Ability) {
	f.add("ok", "program", "sallyport %s on %s/%s, as uid %d", version(), runtime.GOOS, runtime.GOARCH, os.Getuid())
	f.judge("fail", "uid", "callers over loopback can be attested by uid; this needs no privilege", able.Sockets)
	f.judge("warn", "cgroup, gid, executable, sha256", "entries with these can be evaluated for every user's processes", able.Processes)
	if able.Hidden > 0 {
		f.add("warn", "security module", "processes that cannot be looked into with any privilege: %d; they are not seen as second holders of a connection", able.Hidden)
	}
	f.judge("warn", "Unix sockets", "entries with these can be evaluated for callers over Unix sockets, too", able.Unix)
	if ns, err := os.Readlink("/proc/self/ns/pid"); err == nil && ns != firstPIDs {
		f.add("warn", "PID namespace", "this process sees the processes of its own PID namespace alone: callers outside it meet no entry with cgroup, gid, executable or sha256")
	}
	if _, err := os.Stat("/run/google-mds-mtls"); err == nil {
		f.add("warn", "mTLS", "/run/google-mds-mtls is there: Google's Python library will speak https to a metadata door, which does not")
	}
}

// firstPIDs is the name of the PID namespace that the machine started with
// (PROC_PID_INIT_INO in linux/proc_ns.h).
const firstPIDs = "pid:[4026531836]"

// file looks at whether a good file can be served here.
func (f *findings) file(ctx context.Context, c *config.Config, able attest.Ability) {
	var accounts []attest.Account
	for _, a := range c.ServiceAccounts {
		accounts = append(accounts, a.Account)
	}
	f.judge("fail", "attest entries", "all can be evaluated here", c.Mistaken(able.Check(accounts)))
	for _, w := range c.Warnings() {
		f.add("warn", "file", "%s", w)
	}
	f.programs(c)
	f.key(c)
	f.folder(c)
	if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", config.AdminSocket(c.DataDir)); err == nil {
		_ = conn.Close()
		f.add("ok", "server", "one is running on this data_dir: its addresses are taken by it")
		return
	}
	f.addresses(c)
}

func (f *findings) key(c *config.Config) {
	kek, err := app.ReadKEK(c)
	e := c.Issuer.KeyEncryption
	switch {
	case errors.Is(err, fs.ErrNotExist) && e.File == "" && e.Env == "":
		f.add("warn", "key-encryption key", "will be made in data_dir at the first start: whoever copies that folder has every key; name a file elsewhere, or a variable, in issuer.key_encryption")
	case err != nil:
		f.add("fail", "key-encryption key", "%v", err)
	case e.File == "" && e.Env == "" || strings.HasPrefix(e.File, c.DataDir+string(filepath.Separator)):
		f.add("warn", "key-encryption key", "it (id %s) lies in data_dir, beside what it seals: whoever copies that folder has every key; move it, and name it in issuer.key_encryption", kek.ID())
	default:
		f.add("ok", "key-encryption key", "it (id %s) is kept apart from data_dir", kek.ID())
	}
	if len(e.Previous) > 0 {
		f.add("warn", "key-encryption key", "issuer.key_encryption.previous is still there: after one start with it nothing is sealed by those any more, and they can go")
	}
}

func (f *findings) folder(c *config.Config) {
	info, err := os.Stat(c.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := filepath.Dir(c.DataDir)
		for parent != filepath.Dir(parent) {
			if _, err := os.Stat(parent); err == nil {
				break
			}
			parent = filepath.Dir(parent)
		}
		f.judge("fail", "data_dir", c.DataDir+" is not there yet, and will be made", app.Writable(parent))
	case err != nil:
		f.add("fail", "data_dir", "%v", err)
	case !info.IsDir():
		f.add("fail", "data_dir", "%s is no folder", c.DataDir)
	case info.Mode().Perm()&0o022 != 0:
		f.add("fail", "data_dir", "%s has mode %v: others may write to it: chmod 711 it", c.DataDir, info.Mode().Perm())
	case app.CheckDir(c.DataDir) != nil:
		f.add("fail", "data_dir", "%v", app.CheckDir(c.DataDir))
	case app.Writable(c.DataDir) != nil:
		f.add("fail", "data_dir", "%v", app.Writable(c.DataDir))
	case info.Mode().Perm()&0o001 == 0:
		f.add("warn", "data_dir", "%s has mode %v: other users reach neither workload.sock nor admin.sock in it: chmod 711 it", c.DataDir, info.Mode().Perm())
	default:
		f.add("ok", "data_dir", "%s", c.DataDir)
	}
	for _, at := range app.Exchangeable(c.DataDir) {
		f.add("warn", "data_dir", "%s belongs to another user, or others may write to it: they can put another folder in the place of %s", at, c.DataDir)
	}
	if dir := filepath.Dir(c.Workload.Listen); dir != c.DataDir {
		_, err := os.Stat(dir)
		f.judge("fail", "workload.listen", c.Workload.Listen, err)
	}
}

// programs looks for the files that entries name, where they are ours to find.
func (f *findings) programs(c *config.Config) {
	for i, a := range c.ServiceAccounts {
		for j, r := range a.Attest {
			if _, err := os.Stat(r.Executable); r.Executable != "" && r.Cgroup == "" && err != nil {
				f.add("warn", fmt.Sprintf("service_accounts[%d].attest[%d].executable", i, j), "%v: until it is there nobody meets the entry", err)
			}
		}
	}
}

// guards are the listeners that others believe in: keys are fetched from one, tokens are
// sent to the other.
var guards = map[string]bool{"issuer.listen": true, "gateway.listen": true}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address) // the file was checked
	return p
}

// anyonesPort reports whether a port takes no privilege to listen on (ip(7)).
func anyonesPort(address string) bool {
	first := 1024
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			first = n
		}
	}
	n, err := strconv.Atoi(port(address))
	return err == nil && n >= first
}

func (f *findings) addresses(c *config.Config) {
	listen := func(what, address string) {
		if address == "" {
			return
		}
		l, err := net.Listen("tcp", address)
		if err == nil {
			_ = l.Close()
		}
		f.judge("fail", what, address+" is free", app.CannotListen(err))
		if err == nil && guards[what] && anyonesPort(address) {
			f.add("warn", what, "any local user can take port %s while the server is down, and be it to whoever connects: where others have accounts, use one below 1024", port(address))
		}
	}
	listen("issuer.listen", c.Issuer.Listen)
	listen("telemetry.listen", c.Telemetry.Listen)
	listen("gateway.listen", c.Gateway.Listen)
	for i, m := range c.Metadata {
		what := fmt.Sprintf("metadata[%d]", i)
		if m.NetworkNamespace == "" {
			listen(what, m.Listen)
			continue
		}
		n, err := attest.OpenNetwork(m.NetworkNamespace)
		if err == nil {
			var l net.Listener
			if l, err = n.Listen(m.Listen); err == nil {
				_ = l.Close()
			}
			err = app.CannotListen(err)
			_ = n.Close()
		}
		f.judge("fail", what, m.Listen+" is free in "+m.NetworkNamespace, err)
	}
}

// tell prints what was found; exit 1 if something fails.
func (e *env) tell(f findings) error {
	bad := 0
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	for _, x := range f {
		if x.Verdict == "fail" {
			bad++
		}
		if e.output == "json" {
			if err := e.json(x); err != nil {
				return err
			}
			continue
		}
		for i, line := range strings.Split(x.Detail, "\n") {
			if i > 0 {
				x.Verdict, x.What = "", ""
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", x.Verdict, x.What, printable(line))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return no(fmt.Errorf("%d of these stand in the way", bad))
	}
	return nil
}
