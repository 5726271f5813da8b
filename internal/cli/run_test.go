package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a program finds in its environment, beside what was there: every name that a
// library looks for the door by, and nothing that would lead it past the door.
func TestRunEnvironment(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	adc := filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
	for _, tt := range []struct {
		name    string
		environ []string
		adc     bool
		want    []string // among what comes out
		gone    []string // names that do not
		hint    string   // the only one; "" for none
	}{
		{
			name: "from nothing",
			want: []string{"GCE_METADATA_HOST=127.0.0.1:5", "GCE_METADATA_IP=127.0.0.1:5", "GCE_METADATA_ROOT=127.0.0.1:5", "METADATA_SERVER_DETECTION=assume-present",
				"ACTIONS_ID_TOKEN_REQUEST_URL=http://127.0.0.1:5/actions/id-token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=attested",
				"CLOUDSDK_CORE_CHECK_GCE_METADATA=true", "GOOGLE_CLOUD_PROJECT=acme", "NO_PROXY=127.0.0.1,localhost", "no_proxy=127.0.0.1,localhost"},
		},
		{name: "what is there stays", environ: []string{"A=b", "C=", "GOOGLE_CLOUD_PROJECT=mine"}, want: []string{"A=b", "C=", "GOOGLE_CLOUD_PROJECT=mine"}},
		{name: "another door gives way", environ: []string{"GCE_METADATA_HOST=1.2.3.4", "ACTIONS_ID_TOKEN_REQUEST_URL=https://x"}, want: []string{"GCE_METADATA_HOST=127.0.0.1:5"}},
		{name: "what would hide the door", environ: []string{"NO_GCE_CHECK=true"}, gone: []string{"NO_GCE_CHECK"}, hint: "NO_GCE_CHECK is not handed on: it would hide"},
		{name: "another identity", environ: []string{"GOOGLE_APPLICATION_CREDENTIALS=/key.json"}, gone: []string{"GOOGLE_APPLICATION_CREDENTIALS"}, hint: "GOOGLE_APPLICATION_CREDENTIALS is not handed on"},
		{name: "another identity that is none", environ: []string{"GOOGLE_APPLICATION_CREDENTIALS="}, gone: []string{"GOOGLE_APPLICATION_CREDENTIALS"}},
		{name: "a proxy's exceptions get one more", environ: []string{"NO_PROXY=a.test", "no_proxy=b.test"}, want: []string{"NO_PROXY=a.test,127.0.0.1", "no_proxy=b.test,127.0.0.1"}},
		{name: "no proxy at all", environ: []string{"NO_PROXY=*"}, want: []string{"NO_PROXY=*", "no_proxy=*"}},
		{name: "under both names", environ: []string{"no_proxy=a.test"}, want: []string{"NO_PROXY=a.test,127.0.0.1", "no_proxy=a.test,127.0.0.1"}},
		{name: "what is empty is as if it were not there", environ: []string{"NO_PROXY=", "no_proxy=", "GOOGLE_CLOUD_PROJECT="},
			want: []string{"NO_PROXY=127.0.0.1,localhost", "no_proxy=127.0.0.1,localhost", "GOOGLE_CLOUD_PROJECT=acme"}},
		{name: "gcloud's file", adc: true, hint: adc + " is there"},
	} {
		if err := os.MkdirAll(filepath.Dir(adc), 0o700); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(adc)
		if tt.adc {
			if err := os.WriteFile(adc, []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, hints := runEnvironment(tt.environ, "127.0.0.1:5", "acme", home)
		for _, kv := range tt.want {
			if !slices.Contains(out, kv) {
				t.Errorf("%s: %s is missing in %q", tt.name, kv, out)
			}
		}
		seen := map[string]bool{}
		for _, kv := range out {
			name, _, _ := strings.Cut(kv, "=")
			if seen[name] || slices.Contains(tt.gone, name) {
				t.Errorf("%s: %s is there, or twice, in %q", tt.name, name, out)
			}
			seen[name] = true
		}
		if tt.hint == "" && len(hints) != 0 || tt.hint != "" && (len(hints) != 1 || !strings.HasPrefix(hints[0], tt.hint)) {
			t.Errorf("%s: hints %q, want %q", tt.name, hints, tt.hint)
		}
	}
}
