package google_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// libraries are the major versions of google-auth-library that are tried: the one that
// most programs have, and the newest.
var libraries = []string{"9", "11"}

// nodeLanguage is Node with the packages of node/package-lock.json, copied to where every
// user can read them.
func nodeLanguage(t *testing.T) language {
	t.Helper()
	node := needs(t, "node", "nodejs and npm")
	want, err := readLock("node/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	have, err := readLock("node/node_modules/.package-lock.json")
	for name, p := range want.Packages {
		if name != "" && (err != nil || have.Packages[name] != p) {
			absent(t, name+" "+p.Version+" is not installed: please run npm ci in acceptance/google/node, or let scripts/setup clients do it")
		}
	}
	dir := filepath.Join(forEverybody(t), "node")
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	return language{node, filepath.Join(dir, "client.js")}
}

func TestNode(t *testing.T) {
	t.Parallel()
	node := nodeLanguage(t)
	tests := map[string]func(*testing.T, *server){
		"gcp-metadata tells who and where we are": func(t *testing.T, s *server) { nodeMetadata(t, s, node) },
		"@actions/core gets ID tokens":            func(t *testing.T, s *server) { nodeActions(t, s, node) },
		"jose verifies our tokens":                func(t *testing.T, s *server) { nodeJose(t, s, node) },
		"another user gets another identity, or none at all": func(t *testing.T, s *server) {
			node.otherUsers(t, s, 1, "adc", "9")
			node.otherUsers(t, s, 1, "idtoken", "11", audience)
			node.otherUsers(t, s, 1, "actions", audience)
		},
	}
	for _, library := range libraries {
		tests["google-auth-library "+library] = func(t *testing.T, s *server) { nodeLibrary(t, s, node, library) }
	}
	suite(t, 12, tests)
}

func nodeMetadata(t *testing.T, s *server, node language) {
	here := map[string]string{
		"available": "true", "project": "acme-project", "number": "100000000042",
		"email": "orders@sa.acme.test", "universe": "googleapis.com",
	}
	for _, tt := range []struct {
		name  string
		extra []string
		want  map[string]string
	}{
		{"with all that sallyport run sets", nil, here},
		{"with GCE_METADATA_HOST alone it looks, and finds the door", []string{"GCE_METADATA_HOST=" + s.door}, here},
		{"what is no door is none", []string{"GCE_METADATA_HOST=" + s.healthy}, map[string]string{"available": "false"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := s.us()
			c.extra = tt.extra
			got := node.run(t, c, "metadata")
			for name, want := range tt.want {
				if got.Values[name] != want {
					t.Errorf("%s: %q, want %q", name, got.Values[name], want)
				}
			}
		})
	}
}

func nodeLibrary(t *testing.T, s *server, node language, library string) {
	t.Run("application default credentials", func(t *testing.T) {
		t.Parallel()
		got := node.run(t, s.us(), "adc", library)
		s.decode(t, got.Token).check(t, "http://"+s.issuer, "at+jwt", "orders", "http://"+s.issuer,
			map[string]string{"client_id": "SUB", "scope": `"` + cloudPlatform + ` https://www.googleapis.com/auth/userinfo.email"`})
		for name, want := range map[string]string{"client": "Compute", "project": "acme-project", "email": "orders@sa.acme.test", "universe": "googleapis.com"} {
			if got.Values[name] != want {
				t.Errorf("%s: %q, want %q", name, got.Values[name], want)
			}
		}
	})
	t.Run("a door of another universe gives its tokens too", func(t *testing.T) {
		t.Parallel()
		s.decode(t, node.run(t, s.at(s.farDoor), "adc", library).Token)
	})
	t.Run("getIdTokenClient asks for the full format", func(t *testing.T) {
		t.Parallel()
		full := idClaims("orders")
		full["sallyport"] = `{"attested":{"uid":"` + strconv.Itoa(os.Getuid()) + `"}}`
		s.decode(t, node.run(t, s.us(), "idtoken", library, audience).Token).check(t, "http://"+s.issuer, "JWT", "orders", audience, full)
	})
	for algorithm, account := range s.accounts() {
		t.Run("calls with it arrive, "+algorithm, func(t *testing.T) {
			t.Parallel()
			got := node.run(t, s.at(account.door), "call", library, audience, "http://"+s.gateway+"/v1/a", "http://"+s.gateway+"/v1/b?c=d")
			for _, c := range got.Calls {
				if h := told(t, c); h.Get("X-Forwarded-User") != account.name || h.Get("Authorization") != "" {
					t.Errorf("the upstream was told %v", h)
				}
			}
		})
	}
	nodeUnescaped(t, s, node, library)
	nodeCuts(t, s, node, library)
	for name, program := range map[string]string{"verifyIdToken": "verify", "verifySignedJwtWithCertsAsync": "certs"} {
		s.verified(t, name, true, func(t *testing.T, raw, issuer, aud string) (string, error) {
			got, err := node.try(t, s.us(), program, library, "http://"+s.issuer+"/oauth2/v1/certs", issuer, aud, raw)
			return got.Values["subject"], err
		})
	}
}

// nodeUnescaped is contract google-clients 0.15: the library pastes the audience into the
// URL. What then arrives broken is refused.
func nodeUnescaped(t *testing.T, s *server, node language, library string) {
	for _, tt := range []struct{ name, audience, says string }{
		{"everything after & is a parameter of its own", "https://two.partner.test/x?a=1&b=2", "is & in the audience escaped?"},
		{"even one that the door knows", "https://two.partner.test/x?a=1&format=full", "twice"},
		{"+ is a space", "https://two.partner.test/a+b", "white space"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := node.try(t, s.us(), "idtoken", library, tt.audience)
			if err == nil {
				t.Fatalf("got a token for %s", s.decode(t, got.Token).claims["aud"])
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

// nodeCuts is what the door cannot see, since it never arrives: the client page warns of
// it. The token is then for another audience than the one asked for, and nobody who wants
// that one takes it.
func nodeCuts(t *testing.T, s *server, node language, library string) {
	for _, tt := range []struct{ name, audience, got string }{
		{"# and what follows is not sent", "https://two.partner.test/x#y", "https://two.partner.test/x"},
		{"% is unescaped on the way", "https://two.partner.test/a%2Db", "https://two.partner.test/a-b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := s.decode(t, node.run(t, s.us(), "idtoken", library, tt.audience).Token)
			if aud := text(t, got.claims["aud"]); aud != tt.got {
				t.Errorf("the token is for %q, not %q: tell docs/client-node.md", aud, tt.got)
			}
		})
	}
}

func nodeJose(t *testing.T, s *server, node language) {
	discovery := "http://" + s.issuer + "/.well-known/openid-configuration"
	s.verified(t, "jwtVerify", true, func(t *testing.T, raw, issuer, aud string) (string, error) {
		got, err := node.try(t, s.us(), "jose", discovery, issuer, aud, raw)
		return got.Values["subject"], err
	})
	t.Run("an access token is no ID token", func(t *testing.T) {
		t.Parallel()
		raw := node.run(t, s.us(), "adc", "11").Token
		s.decode(t, raw)
		if _, err := node.try(t, s.us(), "jose", discovery, "http://"+s.issuer, "http://"+s.issuer, raw); err == nil || !strings.Contains(err.Error(), `"typ"`) {
			t.Errorf("got %v, want it refused for its typ", err)
		}
	})
}

func nodeActions(t *testing.T, s *server, node language) {
	full := idClaims("orders")
	full["sallyport"] = `{"attested":{"uid":"` + strconv.Itoa(os.Getuid()) + `"}}`
	for _, aud := range []string{audience, "https://two.partner.test/x?a=1&b=+%2F#ü"} { // it escapes
		t.Run("for "+aud, func(t *testing.T) {
			t.Parallel()
			s.decode(t, node.run(t, s.us(), "actions", aud).Token).check(t, "http://"+s.issuer, "JWT", "orders", aud, full)
		})
	}
	t.Run("not for an audience that nothing allows", func(t *testing.T) {
		t.Parallel()
		s.refused(1)
		if got, err := node.try(t, s.us(), "actions", "https://elsewhere.test"); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("got %s, %v, want 403", got.Token, err)
		}
	})
}
