package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serviceUser is who the server runs as here, as the unit's User=.
const serviceUser = 4715

// capabilities are those that the unit grants.
func capabilities(t *testing.T) []string {
	t.Helper()
	unit, err := os.ReadFile("../../deploy/sallyport.service")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(string(unit))
		if m == nil {
			t.Fatalf("the unit has no %s", key)
		}
		out = append(out, strings.Fields(m[1]))
	}
	if strings.Join(out[0], " ") != strings.Join(out[1], " ") || len(out[0]) != 2 {
		t.Fatalf("the unit grants %v within %v", out[0], out[1])
	}
	return out[0]
}

// withCapabilities runs a command as serviceUser with exactly these.
func withCapabilities(caps []string, args ...string) *exec.Cmd {
	list := "-all"
	for _, c := range caps {
		list += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return exec.Command("setpriv", append([]string{"--reuid", fmt.Sprint(serviceUser), "--regid", fmt.Sprint(serviceUser), "--clear-groups",
		"--inh-caps", list, "--ambient-caps", list, "--bounding-set", list, "--no-new-privs", "--"}, args...)...)
}

// deployed is a folder with a server's binary and a file, owned by serviceUser.
func deployed(t *testing.T, attest string) (r *runner) {
	t.Helper()
	r = newRunner(t)
	issuer := freeAddress(t)
	file := fmt.Sprintf(`
trust_domain: acme.internal
replica: a
issuer: {url: "http://%[1]s", listen: "%[1]s", audiences: ["*"]}
data_dir: data
telemetry: {listen: "%[2]s"}
service_accounts: [{name: orders, attest: [%[3]s]}]
`, issuer, r.health, attest)
	if err := errors.Join(os.WriteFile(r.config, []byte(file), 0o644), os.Chmod(r.config, 0o644), os.Chown(r.dir, serviceUser, serviceUser)); err != nil {
		t.Fatal(err)
	}
	return r
}

// The unit's capabilities are enough for every kind of entry about another user's
// process, and no one of them is too much: without it the file does not load, and says
// what is missing.
func TestUnitGrantsExactlyWhatIsNeeded(t *testing.T) {
	t.Parallel()
	caps := capabilities(t)
	entry := func(r *runner) string { // of runUser's copy of the program, which asks for a token
		return fmt.Sprintf("{uid: %d, gid: %d, executable: %s}", runUser, runUser, filepath.Join(r.dir, "sallyport"))
	}
	t.Run("with both", func(t *testing.T) {
		t.Parallel()
		r := deployed(t, "{uid: 1}")
		text, err := os.ReadFile(r.config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.config, bytes.Replace(text, []byte("{uid: 1}"), []byte(entry(r)), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := withCapabilities(caps, r.exe, "serve", "--config", r.config)
		cmd.Stderr = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		if err := awaitReady(r.health); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		for _, tt := range []struct {
			name   string
			uid    int
			exe    string
			status int
		}{
			{"the user with the program", runUser, r.exe, 0},
			{"the user with another program", runUser, copyOf(t, r, "other"), 1},
			{"another user with the program", stranger, r.exe, 1},
		} {
			ask := exec.Command(tt.exe, "token", "mint", "--audience", "https://x", "--data-dir", r.dataDir)
			if tt.exe != r.exe { // a copy runs as sallyport by its name alone
				ask.Args[0] = "sallyport"
			}
			ask.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(tt.uid), Gid: uint32(tt.uid)}}
			if got, problem, status := result(ask); status != tt.status || strings.HasPrefix(got, "eyJ") != (tt.status == 0) {
				t.Errorf("%s: %.8q, %q, status %d, want %d", tt.name, got, problem, status, tt.status)
			}
		}
	})
	for i, left := range caps {
		t.Run("without "+left, func(t *testing.T) {
			t.Parallel()
			for _, rule := range []string{"{uid: 1, executable: /bin/x}", "{cgroup: /system.slice/x.service}", "{uid: 1, sha256: " + strings.Repeat("0", 64) + "}", "{uid: 1, gid: 1}"} {
				r := deployed(t, rule)
				_, problem, status := result(bounded(t, withCapabilities([]string{caps[1-i]}, r.exe, "serve", "--config", r.config)))
				if status != 1 || !strings.Contains(problem, "sallyport.yaml:7: service_accounts[0].attest[0].") || !strings.Contains(problem, "need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH") || !strings.Contains(problem, "this process lacks "+left+"\n") {
					t.Errorf("%s: %q, status %d", rule, problem, status)
				}
			}
		})
	}
	t.Run("uid alone needs none", func(t *testing.T) {
		t.Parallel()
		r := deployed(t, "{uid: 4713}")
		cmd := withCapabilities(nil, r.exe, "serve", "--config", r.config)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		if err := awaitReady(r.health); err != nil {
			t.Fatal(err)
		}
		_, _, status := result(withCapabilities(nil, r.exe, "doctor", "--config", r.config))
		if status != 0 {
			t.Errorf("doctor exits with %d", status)
		}
	})
	t.Run("doctor explains", func(t *testing.T) {
		t.Parallel()
		r := deployed(t, "{uid: 1, executable: /bin/x}")
		out, _, status := result(withCapabilities(nil, r.exe, "doctor", "--config", r.config))
		if status != 1 || !strings.Contains(out, "fail  attest entries") || !strings.Contains(out, "sallyport.yaml:7: service_accounts[0].attest[0].executable: cannot be evaluated here") || !strings.Contains(out, "deploy/sallyport.service grants them") {
			t.Errorf("status %d:\n%s", status, out)
		}
	})
}

// bounded is a command that should end by itself, and is ended if it does not.
func bounded(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	out := exec.CommandContext(ctx, cmd.Path)
	out.Args, out.Env, out.Dir, out.SysProcAttr = cmd.Args, cmd.Env, cmd.Dir, cmd.SysProcAttr
	return out
}

// copyOf is the program as another file.
func copyOf(t *testing.T, r *runner, name string) string {
	t.Helper()
	image, err := os.ReadFile(r.exe)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, name)
	syscall.ForkLock.RLock()
	err = os.WriteFile(path, image, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
