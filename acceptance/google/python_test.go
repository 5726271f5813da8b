package google_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pythonLanguage is Debian's Python with Debian's google-auth, 1.5.1 in bookworm: the
// oldest that is still handed out.
func pythonLanguage(t *testing.T) language {
	t.Helper()
	python := needs(t, "/usr/bin/python3", "python3")
	for _, pkg := range []string{"google/auth", "requests"} {
		needs(t, "/usr/lib/python3/dist-packages/"+pkg, "python3-google-auth and python3-requests")
	}
	dir := forEverybody(t)
	copyFile(t, "python/client.py", filepath.Join(dir, "client.py"))
	return language{python, "-I", filepath.Join(dir, "client.py")} // -I: nothing of the user's or of this folder's
}

func TestPython(t *testing.T) {
	t.Parallel()
	python := pythonLanguage(t)
	suite(t, 4, map[string]func(*testing.T, *server){
		"application default credentials": func(t *testing.T, s *server) { pythonADC(t, s, python) },
		"identity tokens":                 func(t *testing.T, s *server) { pythonIDTokens(t, s, python) },
		"verify_token takes our tokens":   func(t *testing.T, s *server) { pythonVerify(t, s, python) },
		"another user gets another identity, or none at all": func(t *testing.T, s *server) {
			python.otherUsers(t, s, 0, "adc")
			python.otherUsers(t, s, 1, "idtoken", audience)
		},
		"what this version lacks": func(t *testing.T, s *server) {
			for what, lacks := range python.run(t, s.us(), "lacks").Values {
				if lacks != "True" {
					t.Errorf("it has %s now: try it, and tell docs/client-python.md", what)
				}
			}
		},
	})
}

func pythonADC(t *testing.T, s *server, python language) {
	for _, tt := range []struct{ name, door, account string }{
		{"at our door", s.door, "orders"},
		{"of an account that signs with ES256", s.ecDoor, "ledger"},
		{"at a door of another universe", s.farDoor, "orders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := python.run(t, s.at(tt.door), "adc")
			// this version asks for no scopes
			s.decode(t, got.Token).check(t, "http://"+s.issuer, "at+jwt", tt.account, "http://"+s.issuer,
				map[string]string{"client_id": "SUB", "scope": `"` + cloudPlatform + `"`})
			for name, want := range map[string]string{"client": "google.auth.compute_engine.credentials", "project": "acme-project", "email": tt.account + "@sa.acme.test"} {
				if got.Values[name] != want {
					t.Errorf("%s: %q, want %q", name, got.Values[name], want)
				}
			}
			if left := time.Until(got.Expiry); left > 3599*time.Second || left < 3599*time.Second-patience {
				t.Errorf("the library believes that %v are left, want 3599 s", left)
			}
		})
	}
	t.Run("HOST and ROOT do not do without IP", func(t *testing.T) {
		t.Parallel()
		c := s.us()
		// where IP points by default, nobody answers; here it is a port that nobody has
		c.extra = []string{"GCE_METADATA_HOST=" + s.door, "GCE_METADATA_ROOT=" + s.door, "GCE_METADATA_IP=127.0.0.1:1"}
		if got, err := python.try(t, c, "adc"); err == nil || !strings.Contains(err.Error(), "DefaultCredentialsError") {
			t.Errorf("got %s, %v", got.Token, err)
		}
	})
}

func pythonIDTokens(t *testing.T, s *server, python language) {
	for _, aud := range []string{audience, "https://two.partner.test/x?a=1&b=+%2F#ü"} {
		t.Run("for "+aud, func(t *testing.T) {
			t.Parallel()
			s.decode(t, python.run(t, s.us(), "idtoken", aud).Token).check(t, "http://"+s.issuer, "JWT", "orders", aud, idClaims("orders"))
		})
	}
	t.Run("calls with them arrive", func(t *testing.T) {
		t.Parallel()
		for _, c := range python.run(t, s.us(), "call", audience, "http://"+s.gateway+"/v1/a", "http://"+s.gateway+"/v1/b?c=d").Calls {
			told(t, c)
		}
	})
	t.Run("fetch_id_token of a newer version", func(t *testing.T) {
		t.Parallel()
		newer := python.newer(t)
		full := idClaims("orders")
		full["sallyport"] = `{"attested":{"uid":"` + strconv.Itoa(os.Getuid()) + `"}}`
		s.decode(t, newer.run(t, s.us(), "fetch", audience).Token).check(t, "http://"+s.issuer, "JWT", "orders", audience, full)
	})
}

func pythonVerify(t *testing.T, s *server, python language) {
	certs := "http://" + s.issuer + "/oauth2/v1/certs"
	for algorithm, account := range s.accounts() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			raw := python.run(t, s.at(account.door), "idtoken", audience).Token
			s.decode(t, raw)
			got, err := python.try(t, s.us(), "verify", certs, audience, raw)
			if algorithm == "ES256" {
				if err == nil {
					t.Error("it takes ES256 now: tell docs/client-python.md")
				}
				return
			}
			if err != nil || got.Values["subject"] != "spiffe://acme.test/sa/orders" {
				t.Errorf("our token: %v, %v", got.Values, err)
			}
			for name, bad := range map[string][]string{"another audience": {"https://elsewhere.test", raw}, "a changed signature": {audience, forge(raw)}} {
				if _, err := python.try(t, s.us(), "verify", certs, bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "ValueError") {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}
