package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// killRounds is how often the server is killed, on one and the same data_dir.
const killRounds = 4

// kill -9 under load: every answered call has its record, and the log verifies
// before and after the restart.
func TestKilledUnderLoadEveryAnsweredCallHasItsRecord(t *testing.T) {
	t.Parallel()
	k := newKillHarness(t)
	answered := map[string]string{} // path to decision
	for round := range killRounds {
		server := k.start(t)
		raw := k.mint(t)
		for path, decision := range k.load(t, server, raw, round) {
			answered[path] = decision
		}
		k.run(t, "audit", "verify", "--data-dir", k.dataDir)
	}
	end := k.start(t) // recovers once more
	k.run(t, "audit", "verify", "--data-dir", k.dataDir)
	_ = end.Process.Kill()
	_ = end.Wait()
	if len(answered) < 50*killRounds {
		t.Fatalf("only %d calls were answered: no load", len(answered))
	}
	recorded := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(k.run(t, "audit", "search", "--data-dir", k.dataDir, "--service", "invoices", "--output", "json")), "\n") {
		var e struct {
			Decision string
			Payload  struct{ Vars map[string]string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		recorded[e.Payload.Vars["request.path"]] = e.Decision
	}
	for path, decision := range answered {
		if recorded[path] != decision {
			t.Errorf("%s was answered %s, its record says %q", path, decision, recorded[path])
		}
	}
	t.Logf("%d calls answered, %d recorded, over %d kills", len(answered), len(recorded), killRounds)
}

type killHarness struct {
	exe, dir, dataDir, file          string
	issuer, door, gateway, telemetry string
}

func newKillHarness(t testing.TB) *killHarness {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(upstream.Close)
	dir := t.TempDir()
	k := &killHarness{dir: dir, dataDir: filepath.Join(dir, "data"), file: filepath.Join(dir, "sallyport.yaml"),
		issuer: freeAddress(t), door: freeAddress(t), gateway: freeAddress(t), telemetry: freeAddress(t)}
	// testscript runs this binary as sallyport when it is called by that name
	k.exe = filepath.Join(dir, "sallyport")
	if err := os.Symlink(exe, k.exe); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
trust_domain: acme.internal
replica: a
issuer: {url: "http://%[1]s", listen: "%[1]s"}
data_dir: data
telemetry: {listen: "%[2]s"}
metadata: {listen: "%[3]s", service_accounts: [orders]}
service_accounts: [{name: orders, attest: [{uid: %[4]d}]}]
gateway: {listen: "%[5]s"}
services:
  - {name: invoices, audiences: [invoices], http: {hosts: [127.0.0.1], upstream: "%[6]s"}}
policies:
  - {name: read, allow: [serviceAccount:orders], to: [invoices], actions: [http.get], when: 'under(request.path, "/ok")'}
`, k.issuer, k.telemetry, k.door, os.Getuid(), k.gateway, upstream.URL)
	if err := os.WriteFile(k.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *killHarness) start(t testing.TB) *exec.Cmd {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(k.exe, "serve", "--config", k.file)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := awaitReady(k.telemetry); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("%v\n%s", err, out.String())
	}
	return cmd
}

func (k *killHarness) run(t testing.TB, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(k.exe, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sallyport %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (k *killHarness) mint(t testing.TB) string { t.Helper(); return k.mintFor(t, k.door, "invoices") }

func (k *killHarness) mintFor(t testing.TB, door, audience string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+door+"/computeMetadata/v1/instance/service-accounts/default/identity?audience="+audience, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("mint: %s %s %v", resp.Status, raw, err)
	}
	return string(raw)
}

// load calls from eight connections until the server, killed in the middle, is
// gone, and returns what was answered.
func (k *killHarness) load(t *testing.T, server *exec.Cmd, raw string, round int) map[string]string {
	t.Helper()
	var mu sync.Mutex
	answered := map[string]string{}
	var count atomic.Int64
	var callers sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 20 * time.Second}
	for caller := range 8 {
		callers.Go(func() {
			for i := 0; ; i++ {
				path := fmt.Sprintf("/%s/%d/%d/%d", []string{"ok", "denied"}[i%2], round, caller, i)
				req, err := http.NewRequest(http.MethodGet, "http://"+k.gateway+path, nil)
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+raw)
				resp, err := client.Do(req)
				if err != nil {
					return // the server is gone
				}
				_ = resp.Body.Close()
				want, decision := 403, "deny"
				if strings.HasPrefix(path, "/ok/") {
					want, decision = 200, "allow"
				}
				if resp.StatusCode != want {
					t.Errorf("%s was answered %d, want %d", path, resp.StatusCode, want)
				}
				mu.Lock()
				answered[path] = decision
				mu.Unlock()
				count.Add(1)
			}
		})
	}
	for count.Load() < int64(200+round*137) { // not the same place each time
		time.Sleep(time.Millisecond)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait()
	callers.Wait()
	return answered
}
