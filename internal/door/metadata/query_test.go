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
		{"licences under both names", u + "&licenses=TRUE&license=TRUE", "", false},
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

// Contract google-clients 1.4: a token has those of the scopes asked for that the
// account has, and what would bind the token is refused rather than left unbound.
func TestTokenQuery(t *testing.T) {
	t.Parallel()
	const platform, email = "https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"
	for _, tt := range []struct {
		name, query string
		scopes      string // of the token; "" for a refusal
		status      int
	}{
		{"no scopes: the account's", "", platform, 200},
		{"empty scopes, as Python 2.39 sends", "scopes=", platform, 200},
		{"one scope", "scopes=" + url.QueryEscape(platform), platform, 200},
		{"a scope that the account's covers", "scopes=" + url.QueryEscape(email), email, 200},
		{"several scopes", "scopes=" + url.QueryEscape(platform+","+email), platform + " " + email, 200},
		{"a scope twice in one list", "scopes=" + url.QueryEscape(email+","+email), email, 200},
		{"one of two that the account has not is left out", "scopes=" + url.QueryEscape("https://other,"+email), email, 200},
		{"none that the account has", "scopes=" + url.QueryEscape("https://other"), "", 403},
		{"a scope that only begins like ours", "scopes=" + url.QueryEscape("https://www.googleapis.com.evil/auth/x"), "", 403},
		{"scopes twice", "scopes=a&scopes=b", "", 400},
		{"a scope with a space", "scopes=" + url.QueryEscape(email+" x"), "", 400},
		{"an empty scope in a list", "scopes=" + url.QueryEscape(email+","), "", 400},
		{"a scope with a quote", "scopes=%22", "", 400},
		{"too many scopes", "scopes=" + strings.Repeat("a,", 64) + "a", "", 400},
		{"mTLS binding", "scopes=a&transport=mtls&binding-enforcement=on", "", 400},
		{"ALTS binding", "transport=alts", "", 400},
		{"binding enforcement alone", "binding-enforcement=on", "", 400},
		{"binding to a certificate", "bindCertificateFingerprint=abc", "", 400},
		{"a parameter of identity", "audience=https://svc.test", "", 400},
		{"an unknown parameter", "recursive=true", "", 400},
		{"a bad escape", "scopes=%zz", "", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{}
			got := send(t, w.door(t), get(sa+"/default/token?"+tt.query))
			want := `{"access_token":"orders: access token for ` + tt.scopes + `","expires_in":1799,"token_type":"Bearer"}`
			if got.Code != tt.status || (got.Body.String() == want) != (tt.scopes != "") || strings.Contains(got.Body.String(), "access_token") != (tt.scopes != "") || len(w.records) != 1 {
				t.Errorf("got %d %s with %d records, want %d with one, and scopes %q", got.Code, got.Body, len(w.records), tt.status, tt.scopes)
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
