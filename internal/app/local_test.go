package app_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/door/private"
	"github.com/sallyport-dev/sallyport/token"
)

// overSocket sends one request to a Unix socket.
func overSocket(t *testing.T, socket, method, path, body string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://sallyport"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	req.Header = header
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const google = "Metadata-Flavor"

// The metadata door over workload.sock: as oneself, as an account that policy allows,
// and as one that it does not; each request decided and recorded.
func TestWorkloadSocket(t *testing.T) {
	t.Parallel()
	const identity = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=" + config.DevAudience
	p := start(t, t.TempDir(), nil, onlyOrders, func(c *config.Config, _ *app.Options) {
		c.Policies[1].To = []string{"serviceAccount:reports"} // workload.run
	})
	for _, tt := range []struct {
		name, path string
		header     http.Header
		status     int
		contains   string
	}{
		{"as oneself", "/computeMetadata/v1/instance/service-accounts/default/email", nil, 200, "orders@sa.dev.internal"},
		{"an ID token as oneself", identity, nil, 200, "eyJ"},
		{"as an account that policy allows", "/run/reports/computeMetadata/v1/instance/service-accounts/default/email", nil, 200, "reports@sa.dev.internal"},
		{"an ID token as that", "/run/reports" + identity, nil, 200, "eyJ"},
		{"GitHub's door as that", "/run/reports/actions/id-token?audience=" + config.DevAudience, http.Header{"Authorization": {"bearer x"}}, 200, `{"value":"eyJ`},
		{"GitHub's door as oneself", "/actions/id-token?audience=" + config.DevAudience, http.Header{"Authorization": {"bearer x"}}, 200, `{"value":"eyJ`},
		{"as an account that it does not", "/run/orders" + identity, nil, 403, "not allowed (decision dev-"},
		{"as an account that is not there", "/run/ghost" + identity, nil, 403, "not allowed (decision dev-"},
		{"another account's path below one's own", "/run/reports/computeMetadata/v1/instance/service-accounts/orders/token", nil, 404, "not found"},
		{"climbing out of it", "/run/reports/../orders" + identity, nil, 404, "not found"},
		{"climbing out of it, escaped", "/run/reports/%2e%2e/orders" + identity, nil, 404, "not found"},
		{"through a proxy", identity, http.Header{"X-Forwarded-For": {"1"}}, 403, "not allowed"},
		{"for a page", "/run/reports" + identity, http.Header{"Origin": {"https://evil.test"}}, 403, "not allowed"},
	} {
		h := tt.header.Clone()
		if h == nil {
			h = http.Header{}
		}
		h.Set(google, "Google")
		status, body := overSocket(t, config.WorkloadSocket(p.dir), "GET", tt.path, "", h)
		if status != tt.status || !strings.Contains(body, tt.contains) {
			t.Errorf("%s: got %d %s, want %d with %q", tt.name, status, body, tt.status, tt.contains)
		}
	}
	if status, body := overSocket(t, config.WorkloadSocket(p.dir), "GET", "/run/reports"+identity, "", http.Header{}); status != 403 {
		t.Errorf("without the header: %d %s", status, body)
	}
}

// Keys over the admin door: what is listed, rotated and revoked, and that a revoked
// key's tokens are refused at once.
func TestAdminKeys(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil)
	list := func(body string) []admin.Key {
		t.Helper()
		var out []admin.Key
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return out
	}
	status, body := overSocket(t, config.AdminSocket(p.dir), "GET", admin.KeysPath, "", nil)
	if status != 200 || len(list(body)) != 6 {
		t.Fatalf("%d %s", status, body)
	}
	tok := p.token(t)
	call := func(raw string) int {
		t.Helper()
		status, _ := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + raw}}, "")
		return status
	}
	if got := call(tok); got != 200 {
		t.Fatalf("before: %d", got)
	}
	if status, body := adminDo(t, p, admin.RotatePath, `{"purposes":["tokens"]}`); status != 200 || !strings.Contains(body, `"next"`) {
		t.Errorf("rotate: %d %s", status, body)
	}
	if got := call(tok); got != 200 {
		t.Errorf("after a rotation: %d", got)
	}
	status, body = adminDo(t, p, admin.RevokePath, `{"kid":"`+kidOf(t, tok)+`"}`)
	if status != 200 || !strings.Contains(body, `"revoked"`) {
		t.Fatalf("revoke: %d %s", status, body)
	}
	if got := call(tok); got != 401 {
		t.Errorf("after its key was revoked: %d", got)
	}
	if fresh := p.token(t); call(fresh) != 200 || kidOf(t, fresh) == kidOf(t, tok) {
		t.Error("a fresh token is refused, or signed by the revoked key")
	}
	for _, tt := range []struct {
		name, path, body string
		status           int
	}{
		{"a key that was revoked before", admin.RevokePath, `{"kid":"` + kidOf(t, tok) + `"}`, 404},
		{"a key that is not there", admin.RevokePath, `{"kid":"x"}`, 404},
		{"a purpose that is none", admin.RotatePath, `{"purposes":["x"]}`, 400},
		{"the log's own key", admin.RotatePath, `{"purposes":["checkpoints"]}`, 403},
		{"no JSON", admin.RevokePath, `kid`, 400},
		{"an unknown member", admin.RevokePath, `{"kid":"x","force":true}`, 400},
		{"a body that is too long", admin.RevokePath, `{"kid":"x"}` + strings.Repeat(" ", 70<<10), 400},
	} {
		if status, body := adminDo(t, p, tt.path, tt.body); status != tt.status || !strings.Contains(body, `"error"`) {
			t.Errorf("%s: %d %s, want %d", tt.name, status, body, tt.status)
		}
	}
}

// What a door takes is small, and some of it is not for everybody to ask.
func TestBoundsOfLocalRequests(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders)
	for network, address := range map[string]string{"tcp": p.addresses.Orders, "unix": config.WorkloadSocket(p.dir)} {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}}
		req, err := http.NewRequest("GET", "http://metadata.google.internal/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", strings.Repeat("x", 40<<10))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("40 KiB of header fields over %s: %s", network, resp.Status)
		}
	}
	if status, body := overSocket(t, config.WorkloadSocket(p.dir), "GET", private.Prefix+"ghost/computeMetadata/v1/project/project-id?wait_for_change=true", "", http.Header{google: {"Google"}}); status != 403 || !strings.Contains(body, "not allowed (decision dev-") {
		t.Errorf("what is public, as an account that is not there: %d %s", status, body)
	}
	refused := private.Prefix + "orders" + private.RefusedPath
	if status, _ := overSocket(t, config.WorkloadSocket(p.dir), "GET", refused, "", nil); status != 404 {
		t.Errorf("a report by GET: %d", status)
	}
	if status, _ := overSocket(t, config.WorkloadSocket(p.dir), "POST", refused+"?server.start", "why", nil); status != 404 {
		t.Errorf("a report of another reason: %d", status)
	}
	if status, id := overSocket(t, config.WorkloadSocket(p.dir), "POST", refused+"?no_descendant", "why\n", nil); status != 200 || !strings.HasPrefix(id, "dev-") {
		t.Errorf("a report: %d %s", status, id)
	}
}

// Whoever owns the folder owns the keys in it.
func TestDataDirOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test gives a folder away: it needs root, and CI has to run it as root")
		}
		t.Skip("needs root to give a folder away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	c := config.Dev(config.DevAddresses{Issuer: "127.0.0.1:1", Orders: "127.0.0.1:2", Reports: "127.0.0.1:3", Gateway: "127.0.0.1:4", Telemetry: "127.0.0.1:5", Demo: "127.0.0.1:6"}, dir, 0)
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	if _, err := app.New(t.Context(), c, app.Options{}); err == nil || !strings.Contains(err.Error(), "it belongs to uid 4711, and this server is uid 0") {
		t.Errorf("got %v", err)
	}
}

func kidOf(t *testing.T, raw string) string {
	t.Helper()
	header, _, err := token.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	var h struct {
		KID string `json:"kid"`
	}
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	return h.KID
}
