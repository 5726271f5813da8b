package google_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// jars are Debian's google-auth-library (0.18.0 in bookworm), google-oauth-client, which
// verifies, and what they need.
var jars = []string{
	"google-auth-library-credentials", "google-auth-library-oauth2-http", "google-oauth-client",
	"google-http-client", "google-http-client-gson", "google-http-client-jackson2", "guava", "gson", "jackson-core",
	"opencensus-api", "opencensus-contrib-http-util", "grpc-context", "httpclient", "httpcore", "commons-logging", "commons-codec",
}

func javaLanguage(t *testing.T) language {
	t.Helper()
	java, javac := needs(t, "java", "default-jdk-headless"), needs(t, "javac", "default-jdk-headless")
	var path []string
	for _, jar := range jars {
		path = append(path, needs(t, "/usr/share/java/"+jar+".jar", "libgoogle-auth-java and libgoogle-oauth-client-java"))
	}
	dir := forEverybody(t)
	class := strings.Join(append(path, dir), ":")
	if out, err := exec.CommandContext(t.Context(), javac, "-cp", class, "-d", dir, "java/Client.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	// user.home is from the user's entry in passwd, whatever HOME says
	return language{java, "-XX:TieredStopAtLevel=1", "-Duser.home=" + dir, "-cp", class, "Client"}
}

func TestJava(t *testing.T) {
	t.Parallel()
	java := javaLanguage(t)
	suite(t, 3, map[string]func(*testing.T, *server){
		"application default credentials": func(t *testing.T, s *server) { javaADC(t, s, java) },
		"identity tokens":                 func(t *testing.T, s *server) { javaIDTokens(t, s, java) },
		"IdTokenVerifier takes our tokens": func(t *testing.T, s *server) {
			s.verified(t, "IdTokenVerifier", true, func(t *testing.T, raw, issuer, aud string) (string, error) {
				got, err := java.try(t, s.us(), "verify", "http://"+s.issuer+"/oauth2/v3/certs", issuer, aud, raw)
				return got.Values["subject"], err
			})
		},
		"another user gets another identity, or none at all": func(t *testing.T, s *server) {
			java.otherUsers(t, s, 1, "adc")
		},
	})
}

func javaADC(t *testing.T, s *server, java language) {
	for _, tt := range []struct{ name, door, account string }{
		{"at our door", s.door, "orders"},
		{"of an account that signs with ES256", s.ecDoor, "ledger"},
		{"at a door of another universe", s.farDoor, "orders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := java.run(t, s.at(tt.door), "adc")
			s.decode(t, got.Token).check(t, "http://"+s.issuer, "at+jwt", tt.account, "http://"+s.issuer,
				map[string]string{"client_id": "SUB", "scope": `"` + cloudPlatform + `"`})
			if got.Values["client"] != "ComputeEngineCredentials" || got.Values["email"] != tt.account+"@sa.acme.test" {
				t.Errorf("got %v", got.Values)
			}
		})
	}
}

func javaIDTokens(t *testing.T, s *server, java language) {
	full := idClaims("orders")
	full["sallyport"] = `{"attested":{"uid":"` + strconv.Itoa(os.Getuid()) + `"}}`
	for _, tt := range []struct {
		name, audience, option string
		claims                 map[string]string
	}{
		{"the full format", audience, "FORMAT_FULL", full},
		{"with licences", audience, "LICENSES_TRUE", full},
		{"an audience with all that has to be escaped", "https://two.partner.test/x?a=1&b=+%2F#c", "FORMAT_FULL", full},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s.decode(t, java.run(t, s.us(), "idtoken", tt.audience, tt.option).Token).check(t, "http://"+s.issuer, "JWT", "orders", tt.audience, tt.claims)
		})
	}
	t.Run("calls with them arrive", func(t *testing.T) {
		t.Parallel()
		for _, c := range java.run(t, s.us(), "call", audience, "http://"+s.gateway+"/v1/a").Calls {
			told(t, c)
		}
	})
}
