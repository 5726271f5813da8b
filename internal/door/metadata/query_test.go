package metadata_test

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
)

// Contract google-clients 1.5: which questions for an ID token are understood.
func TestIdentityQuery(t *testing.T) {
	t.Parallel()
	const u = "audience=https%3A%2F%2Fsvc.test"
	long := "a" + strings.Repeat("b", 255)
	for _, tt := range []struct {
		name, query string
		audience    string // of the token; "" for 400
		full        bool
	}{
		{"an audience alone asks for the standard format", u, "https://svc.test", false},
		{"the standard format by name", u + "&format=standard", "https://svc.test", false},
		{"the full format", u + "&format=full", "https://svc.test", true},
		{"parameters in any order", "format=full&" + u, "https://svc.test", true},
		{"licences", u + "&format=full&licenses=TRUE", "https://svc.test", true},
		{"no licences", u + "&licenses=FALSE", "https://svc.test", false},
		{"licences in lower case", u + "&licenses=true", "https://svc.test", false},
		{"Java's older name for them", u + "&license=TRUE", "https://svc.test", false},
		{"an audience with all that has to be escaped", "audience=https%3A%2F%2Fsvc.test%2Fx%3Fa%3D1%26b%3D%2B%252F%23", "https://svc.test/x?a=1&b=+%2F#", false},
		{"an audience that is no URL", "audience=abc", "abc", false},
		{"the longest audience", "audience=" + long, long, false},

		{"no audience", "", "", false},
		{"an empty audience", "audience=", "", false},
		{"a format without an audience", "format=full", "", false},
		{"an audience that is too long", "audience=" + long + "b", "", false},
		{"an audience of 10 kB", "audience=" + strings.Repeat("a", 10<<10), "", false},
		{"an audience with CRLF", u + "%0D%0ASet-Cookie:x", "", false},
		{"an audience with NUL", u + "%00", "", false},
		{"an audience with a space", u + "%20x", "", false},
		{"an audience with a plus, which is a space", u + "+x", "", false},
		{"an audience with a space of another kind", u + "%C2%A0", "", false},
		{"an audience that is not UTF-8", "audience=%FF", "", false},
		{"two audiences", u + "&audience=https://svc.test/2", "", false},
		{"the same audience twice", u + "&" + u, "", false},
		{"two formats", u + "&format=full&format=full", "", false},
		{"a format that is not there", u + "&format=FULL", "", false},
		{"an empty format", u + "&format=", "", false},
		{"licences of another kind", u + "&licenses=yes", "", false},
		{"an unknown parameter", u + "&recursive=true", "", false},
		{"a parameter of another case", "Audience=https://svc.test", "", false},
		{"half an audience, as Node and gcloud send it", "format=full&audience=https://svc.test/path?x=1&y=2", "", false},
		{"a semicolon", u + ";format=full", "", false},
		{"a bad escape", "audience=%zz", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{}
			got := send(t, w.door(t), get(sa+"/default/identity?"+tt.query))
			if tt.audience == "" {
				if got.Code != 400 || w.reason() != "parameter_not_accepted" || len(w.records) != 1 {
					t.Errorf("got %d %s because of %q, want 400", got.Code, got.Body, w.reason())
				}
				return
			}
			want := "orders: id token for " + tt.audience + ", full false"
			if tt.full {
				want = "orders: id token for " + tt.audience + ", full true"
			}
			if got.Code != 200 || got.Body.String() != want {
				t.Errorf("got %d %q, want 200 %q", got.Code, got.Body, want)
			}
		})
	}
	t.Run("the text for no audience is Google's", func(t *testing.T) {
		t.Parallel()
		if got := send(t, (&world{}).door(t), get(sa+"/default/identity")); !strings.HasPrefix(got.Body.String(), "non-empty audience parameter required") {
			t.Errorf("got %s", got.Body)
		}
	})
}

// Contract google-clients 1.4: scopes change nothing, and what would bind the
// token is refused rather than left unbound.
func TestTokenQuery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, query string
		status      int
	}{
		{"no scopes", "", 200},
		{"one scope", "scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform", 200},
		{"several scopes", "scopes=https%3A%2F%2Fa%2Chttps%3A%2F%2Fb", 200},
		{"empty scopes, as Python 2.39 sends", "scopes=", 200},
		{"scopes twice", "scopes=a&scopes=b", 400},
		{"mTLS binding", "scopes=a&transport=mtls&binding-enforcement=on", 400},
		{"ALTS binding", "transport=alts", 400},
		{"binding enforcement alone", "binding-enforcement=on", 400},
		{"binding to a certificate", "bindCertificateFingerprint=abc", 400},
		{"a parameter of identity", "audience=https://svc.test", 400},
		{"an unknown parameter", "recursive=true", 400},
		{"a bad escape", "scopes=%zz", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{}
			got := send(t, w.door(t), get(sa+"/default/token?"+tt.query))
			if got.Code != tt.status || strings.Contains(got.Body.String(), "access_token") != (tt.status == 200) || len(w.records) != 1 {
				t.Errorf("got %d %s with %d records, want %d with one", got.Code, got.Body, len(w.records), tt.status)
			}
		})
	}
}

// Contract google-clients section 9: the request lines that were recorded, Go's
// all and of the others those that are served.
func TestRecordedRequestLines(t *testing.T) {
	t.Parallel()
	const (
		v1     = "/computeMetadata/v1/"
		goHead = host + flavor + "User-Agent: gcloud-golang/0.1\r\nAccept-Encoding: gzip\r\n"
		node   = "host: 127.0.0.1:8401\r\nmetadata-flavor: Google\r\nuser-agent: node-fetch\r\nconnection: keep-alive\r\naccept: */*\r\n"
		python = host + flavor + "x-goog-api-client: gl-python/3.12.10 auth/2.39.0 auth-request-type/it cred-type/mds\r\nAccept: */*\r\n"
		svc    = "https%3A%2F%2Fsvc.test%2Fpath"
	)
	for _, tt := range []struct {
		name, target, head string
		status             int
		body               string
	}{
		{"Go credentials: token", sa + "/default/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform%2Chttps%3A%2F%2Fwww.googleapis.com%2Fauth%2Fuserinfo.email", goHead, 200, `"expires_in":3599,`},
		{"Go credentials: project", v1 + "project/project-id", goHead, 200, "acme"},
		{"Go credentials: universe", v1 + "universe/universe-domain", goHead, 200, "googleapis.com"},
		{"Go api/idtoken", sa + "/default/identity?audience=" + svc + "&format=full", goHead, 200, "https://svc.test/path, full true"},
		{"Go auth/idtoken, standard", sa + "/default/identity?audience=" + svc, goHead, 200, "https://svc.test/path, full false"},
		{"Go auth/idtoken, with licences", sa + "/default/identity?audience=" + svc + "&format=full&licenses=TRUE", goHead, 200, "https://svc.test/path, full true"},
		{"Go Subscribe: first", v1 + "instance/attributes/foo", goHead, 404, "not found"},
		{"Go Subscribe: again, and 404 ends it", v1 + "instance/attributes/foo?wait_for_change=true&last_etag=abc123", goHead, 404, "not found"},
		{"Go's probe sends no flavor", "/", host + "User-Agent: gcloud-golang/0.1\r\n", 200, "computeMetadata/"},
		{"Node", sa + "/default/identity?format=full&audience=https://svc.test/path", node, 200, "https://svc.test/path, full true"},
		{"Python", sa + "/default/identity?audience=" + svc + "&format=full", python, 200, "https://svc.test/path, full true"},
		{"Python 2.39 asks for the token by address", sa + "/orders@sa.test/token?scopes=", python, 200, `"expires_in":3599,`},
		{"Java", sa + "/default/identity?format=full&license=TRUE&audience=https://svc.test/p?x%3D1%26y%3D2", host + flavor, 200, "https://svc.test/p?x=1&y=2, full true"},
		{"gcloud: its probe", v1 + "project/numeric-project-id", host + flavor, 200, "42"},
		{"gcloud", sa + "/default/identity?audience=https://svc.test&format=standard&licenses=FALSE", host + flavor + "Connection: close\r\n", 200, "https://svc.test, full false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := send(t, (&world{}).door(t), "GET "+tt.target+" HTTP/1.1\r\n"+tt.head+"\r\n")
			if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.body) {
				t.Errorf("got %d %s, want %d with %q", got.Code, got.Body, tt.status, tt.body)
			}
		})
	}
}

// Whatever the query is, a token is for exactly the one audience that a strict
// reader finds in it, and that is text a log and a header can hold.
func FuzzIdentityQuery(f *testing.F) {
	for _, q := range []string{"audience=a", "audience=a&format=full", "audience=a%26b&licenses=TRUE", "audience=a&audience=b", "audience=a%0d%0ab", "audience=a;b", "a=b&audience=%ff"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		target := (&url.URL{Path: sa + "/default/identity", RawQuery: query}).RequestURI()
		if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return // no request line
		}
		if _, err := url.ParseRequestURI(target); err != nil {
			return
		}
		got := send(t, (&world{}).door(t), get(target))
		_, rest, minted := strings.Cut(got.Body.String(), "id token for ")
		if minted != (got.Code == 200) {
			t.Fatalf("%d %s", got.Code, got.Body)
		}
		if !minted {
			return
		}
		u, _ := url.ParseRequestURI(target)
		q, err := url.ParseQuery(u.RawQuery)
		audience := strings.TrimSuffix(strings.TrimSuffix(rest, ", full true"), ", full false")
		if err != nil || len(q["audience"]) != 1 || q.Get("audience") != audience || len(audience) > 256 || strings.ContainsFunc(audience, unicode.IsControl) {
			t.Errorf("%q got a token for %q", query, audience)
		}
	})
}
