package app_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/actions"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
)

// Another user's process at every door, and ours beside it: what is ours it does not
// get, whichever way it asks, and each time there is a record. The Workload API has its
// own test, and the door of `sallyport run` too.
func TestAnotherUsersProcessAtEveryDoor(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test runs programs as another user: it needs root, and CI has to run it as root")
		}
		t.Skip("needs root to run programs as another user")
	}
	dir, err := os.MkdirTemp("", "spdoors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, nil, onlyOrders)
	const (
		stranger = 4713
		self     = metadata.Base + "instance/service-accounts/default/"
		identity = self + "identity?audience=" + config.DevAudience
		token    = actions.Path + "?audience=" + config.DevAudience
		flavor   = "Metadata-Flavor: Google"
		bearer   = "Authorization: bearer x"
		missing  = "no identity for this caller (decision dev-"
		denied   = "not allowed (decision dev-"
	)
	door, workload, operator := "http://"+p.addresses.Orders, config.WorkloadSocket(p.dir), config.AdminSocket(p.dir)
	for _, tt := range []struct {
		name   string
		args   []string // of curl
		ours   string   // begins what we are told
		theirs string   // is in what they are told
	}{
		{"metadata: identity", []string{"-H", flavor, door + identity}, "eyJ", missing},
		{"metadata: token", []string{"-H", flavor, door + self + "token"}, `{"access_token":"eyJ`, missing},
		{"metadata: email", []string{"-H", flavor, door + self + "email"}, "orders@", missing},
		{"metadata: everything", []string{"-H", flavor, door + metadata.Base + "?recursive=true"}, `{"instance":{`, missing},
		{"metadata: attributes", []string{"-H", flavor, door + metadata.Base + "instance/attributes/"}, "", missing},
		{"metadata: by name", []string{"-H", flavor, door + strings.Replace(identity, "default", "orders", 1)}, "eyJ", missing},
		{"actions", []string{"-H", bearer, door + token}, `{"value":"eyJ`, `"no identity for this caller","decision":"dev-`},
		{"workload.sock: identity", []string{"--unix-socket", workload, "-H", flavor, "http://x" + identity}, "eyJ", missing},
		{"workload.sock: actions", []string{"--unix-socket", workload, "-H", bearer, "http://x" + token}, `{"value":"eyJ`, `"no identity for this caller","decision":"dev-`},
		{"workload.sock: to run as orders", []string{"--unix-socket", workload, "-H", flavor, "http://x/run/orders" + identity}, "eyJ", denied},
		{"admin.sock: list", []string{"--unix-socket", operator, "http://x" + admin.KeysPath}, "[{", "not allowed"},
		{"admin.sock: rotate", []string{"--unix-socket", operator, "-d", `{"purposes":["svids"]}`, "http://x" + admin.RotatePath}, "[{", "not allowed"},
		{"admin.sock: revoke", []string{"--unix-socket", operator, "-d", `{"kid":"none"}`, "http://x" + admin.RevokePath}, "", "not allowed"},
	} {
		curl := append([]string{"-s", "-m", "20"}, tt.args...)
		out, err := exec.Command("curl", curl...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), tt.ours) || strings.Contains(string(out), "not allowed") || strings.Contains(string(out), "no identity") {
			t.Errorf("%s: we get %v %s", tt.name, err, out)
		}
		as := append([]string{"--reuid", fmt.Sprint(stranger), "--regid", fmt.Sprint(stranger), "--clear-groups", "curl"}, curl...)
		out, err = exec.Command("setpriv", as...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.theirs) || !strings.Contains(string(out), "dev-") || strings.Contains(string(out), "eyJ") || strings.Contains(string(out), "orders") {
			t.Errorf("%s: they get %v %s", tt.name, err, out)
		}
	}
}
