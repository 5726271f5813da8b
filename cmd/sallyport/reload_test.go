package main_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// reloads is how often the file is taken over, or refused, under load.
const reloads = 1000

// A thousand files, every other one broken, under load: no request is lost, and none is
// decided otherwise than by a file that was good.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	k := newKillHarness(t)
	server := k.start(t)
	raw := k.mint(t)
	good, err := os.ReadFile(k.file)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(good), `under(request.path, "/ok")`, `under(request.path, "/ok") || under(request.path, "/also")`, 1)
	broken := strings.Replace(string(good), "under(", "undr(", 1)
	stop := make(chan struct{})
	var asked atomic.Int64
	var callers sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 20 * time.Second}
	for range 4 {
		callers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				path := []string{"/ok", "/denied", "/also"}[i%3]
				status, err := request(client, "http://"+k.gateway+path, raw)
				if err != nil || path == "/ok" && status != 200 || path == "/denied" && status != 403 || status != 200 && status != 403 {
					t.Errorf("%s: %d %v", path, status, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(k.dataDir, "admin.sock"))
	}}, Timeout: time.Minute}
	for i := range reloads {
		text, want := string(good), 200
		switch i % 4 {
		case 1, 3:
			text, want = broken, 403
		case 2:
			text = other
		}
		next := k.file + ".next" // as an editor does it: never half a file
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, k.file); err != nil {
			t.Fatal(err)
		}
		resp, err := admin.Post("http://sallyport/v1/policy/apply", "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("file %d: %d %s", i, resp.StatusCode, body)
		}
	}
	close(stop)
	callers.Wait()
	if asked.Load() < 100 {
		t.Errorf("only %d requests: no load", asked.Load())
	}
	t.Logf("%d requests over %d files", asked.Load(), reloads)
	_ = server.Process.Signal(syscall.SIGTERM)
	_ = server.Wait()
	k.run(t, "audit", "verify", "--data-dir", k.dataDir)
}

func request(client *http.Client, address, raw string) (int, error) {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+raw)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// kill -TERM under load loses no request: what was sent is answered, and only who calls
// after the end finds nobody there.
func TestTerminatedUnderLoadNoRequestIsLost(t *testing.T) {
	t.Parallel()
	k := newKillHarness(t)
	for round := range 3 {
		server := k.start(t)
		raw := k.mint(t)
		var asked atomic.Int64
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				// each caller has one connection and no second try: what is lost is seen
				client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 20 * time.Second}
				for {
					status, err := request(client, "http://"+k.gateway+"/ok", raw)
					var call *net.OpError
					if errors.As(err, &call) && call.Op == "dial" {
						return // nobody is there any more
					}
					if err != nil || status != 200 {
						t.Errorf("round %d: %d %v", round, status, err)
						return
					}
					asked.Add(1)
				}
			})
		}
		for asked.Load() < 300 {
			time.Sleep(time.Millisecond)
		}
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := server.Wait(); err != nil {
			t.Errorf("round %d: the end was not clean: %v", round, err)
		}
		callers.Wait()
	}
	k.run(t, "audit", "verify", "--data-dir", k.dataDir)
}
