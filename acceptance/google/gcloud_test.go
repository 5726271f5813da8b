package google_test

import (
	"path/filepath"
	"testing"
)

// sdk is where gcloud is installed: not by scripts/setup, since it is in no package of
// Debian's.
func sdk(t *testing.T) string {
	t.Helper()
	gcloud, err := filepath.EvalSymlinks(needs(t, "gcloud", "google-cloud-cli from https://cloud.google.com/sdk/docs/install"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(gcloud))
}

func TestGcloud(t *testing.T) {
	t.Parallel()
	// it prints a token, and is a shell script that needs other programs
	gcloud := language{"/bin/sh", "-c", `token=$("$0" "$@") && printf '{"Token": "%s"}\n' "$token"`, filepath.Join(sdk(t), "bin", "gcloud")}
	ask := func(t *testing.T, s *server, args ...string) string {
		c := s.us()
		c.extra = append(variables(s.door), "PATH=/usr/bin:/bin", "CLOUDSDK_CORE_DISABLE_PROMPTS=1")
		s.refused(1) // it first asks for a token for its own client id, and takes 404 for an answer
		return gcloud.run(t, c, append([]string{"auth"}, args...)...).Token
	}
	suite(t, 2, map[string]func(*testing.T, *server){
		"print-identity-token": func(t *testing.T, s *server) {
			raw := ask(t, s, "print-identity-token", "--audiences="+audience)
			s.decode(t, raw).check(t, "http://"+s.issuer, "JWT", "orders", audience, idClaims("orders"))
			got, _, err := get(t.Context(), "http://"+s.gateway+"/v1/a", raw)
			if err != nil {
				t.Fatal(err)
			}
			told(t, got)
		},
		"print-access-token": func(t *testing.T, s *server) {
			s.decode(t, ask(t, s, "print-access-token")).check(t, "http://"+s.issuer, "at+jwt", "orders", "http://"+s.issuer,
				map[string]string{"client_id": "SUB", "scope": `"` + cloudPlatform + `"`})
		},
	})
}

// newer runs the programs of Debian's Python with the google-auth that gcloud brings.
func (l language) newer(t *testing.T) language {
	t.Helper()
	program := l[len(l)-1]
	start := `import runpy, sys; sys.path.append(sys.argv[1]); sys.argv[0:2] = []; runpy.run_path(sys.argv[0], run_name="__main__")`
	return language{l[0], "-I", "-S", "-c", start, filepath.Join(sdk(t), "lib", "third_party"), program}
}
