package google_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// container makes a network namespace that has the metadata server's address, and a
// hosts file with its names, as docs/run-container.md makes them, and returns both.
func container(t *testing.T) (network, hosts string) {
	t.Helper()
	needsRoot(t)
	cmd := exec.Command(needs(t, "unshare", "util-linux"), "--net", "sh", "-c", "ip link set lo up && ip addr add 169.254.169.254/32 dev lo && echo ok && cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ok\n" {
		t.Fatalf("make a network namespace: %q, %v", line, err)
	}
	hosts = filepath.Join(forEverybody(t), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n169.254.169.254 metadata.google.internal metadata.google.internal.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), hosts
}

// inside puts a program into a container: its network, and its hosts file.
func (l language) inside(t *testing.T, network, hosts string) language {
	t.Helper()
	enter := language{needs(t, "nsenter", "util-linux"), "--net=" + network, needs(t, "unshare", "util-linux"), "--mount", "/bin/sh", "-c",
		`/bin/mount --bind "$0" /etc/hosts && exec "$@"`, hosts}
	return slices.Concat(enter, l)
}

// In a container whose network has the metadata server's address, programs need no
// variable at all: they look there, and by its names.
func TestWithoutVariables(t *testing.T) {
	t.Parallel()
	network, hosts := container(t)
	s := start(t, network)
	t.Run("clients", func(t *testing.T) {
		for name, tt := range map[string]struct {
			l    language
			args []string
		}{
			"google-auth-library 9":  {nodeLanguage(t), []string{"adc", "9"}},
			"google-auth-library 11": {nodeLanguage(t), []string{"adc", "11"}},
			"gcp-metadata":           {nodeLanguage(t), []string{"metadata"}},
			"google-auth":            {pythonLanguage(t), []string{"adc"}},
			"google-auth of gcloud":  {pythonLanguage(t).newer(t), []string{"adc"}},
			"Java":                   {javaLanguage(t), []string{"adc"}},
			"auth, in Go":            {goLanguage(t, "auth-adc"), nil},
			"oauth2, in Go":          {goLanguage(t, "oauth2-adc"), nil},
			"compute/metadata":       {goLanguage(t, "metadata"), nil},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := s.us()
				c.extra = []string{} // no variables
				for range 3 {        // what is a race in a library is won each time
					got := tt.l.inside(t, network, hosts).run(t, c, tt.args...)
					if email, there := got.Values["email"]; there && email != "orders@sa.acme.test" || !there && got.Token == "" {
						t.Errorf("got %+v", got)
					}
					if got.Token != "" {
						s.decode(t, got.Token)
					}
				}
			})
		}
	})
	s.stop(t)
}

// goLanguage runs one of programs, which is in this binary.
func goLanguage(t *testing.T, program string) language {
	t.Helper()
	exe := filepath.Join(forEverybody(t), "client")
	copyBinary(t, exe)
	return language{"/usr/bin/env", "ACCEPTANCE_PROGRAM=" + program, exe}
}
