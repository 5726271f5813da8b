package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A server that may have few files open, and a user who holds as many connections to its
// issuer as they can: every other door is as it was, and so is the issuer for others.
func TestWhoHoldsConnectionsKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	issuer := freeAddress(t)
	text := fmt.Sprintf(`
trust_domain: acme.internal
replica: a
issuer: {url: "http://%[1]s", listen: "%[1]s", audiences: ["*"]}
data_dir: data
telemetry: {listen: "%[2]s"}
service_accounts: [{name: orders, attest: [{uid: %[3]d}]}]
`, issuer, r.health, runUser)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("sh", "-c", `ulimit -n 256 && exec "$0" serve --config "$1"`, r.exe, r.config)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Process.Signal(syscall.SIGTERM), server.Wait() })
	if err := awaitReady(r.health); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{issuer, r.health} {
		for range 300 {
			c, err := net.DialTimeout("tcp", address, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	for range 300 {
		c, err := net.DialTimeout("unix", filepath.Join(r.dataDir, "workload.sock"), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	as := func(args ...string) (string, string, int) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: runUser, Gid: runUser}}
		return result(cmd)
	}
	for range 3 {
		if out, problem, status := as(r.exe, "token", "mint", "--audience", "https://a", "--data-dir", r.dataDir); status != 0 || out == "" {
			t.Errorf("a token: %q, %q, status %d", out, problem, status)
		}
		for _, url := range []string{"http://" + issuer + "/oauth2/v3/certs", "http://" + r.health + "/readyz"} {
			if out, problem, status := as("curl", "-sf", "-m", "10", url); status != 0 || out == "" {
				t.Errorf("%s: %q, %q, status %d", url, out, problem, status)
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.Process.Pid))
	if err != nil || len(fds) > 200 {
		t.Errorf("%d descriptors of 256 are open: %v", len(fds), err)
	}
}
