package google_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	authidtoken "cloud.google.com/go/auth/credentials/idtoken"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"
)

// decoded is a token taken apart; members are kept as they are spelled.
type decoded struct {
	header, claims map[string]json.RawMessage
}

// decode takes a token apart and remembers that a client got it.
func (s *server) decode(t *testing.T, raw string) decoded {
	t.Helper()
	d := takeApart(t, raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenIDs = append(s.tokenIDs, text(t, d.claims["jti"]))
	return d
}

func takeApart(t *testing.T, raw string) decoded {
	t.Helper()
	var d decoded
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a compact JWS", raw)
	}
	for i, into := range []*map[string]json.RawMessage{&d.header, &d.claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(b, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func text(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("%s is not one JSON string", raw)
	}
	return s
}

func number(t *testing.T, raw json.RawMessage) int64 {
	t.Helper()
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		t.Fatalf("%s is not a JSON integer", raw)
	}
	return n
}

// check holds a token of account against what every token of ours says: exactly
// these members besides those in also.
func (d decoded) check(t *testing.T, issuer, typ, account, aud string, also map[string]string) {
	t.Helper()
	sub := `"spiffe://acme.test/sa/` + account + `"`
	want := map[string]string{"iss": `"` + issuer + `"`, "sub": sub, "aud": `"` + aud + `"`}
	for k, v := range also {
		want[k] = strings.ReplaceAll(v, "SUB", sub)
	}
	for k, v := range want {
		if string(d.claims[k]) != v {
			t.Errorf("%s is %s, want %s", k, d.claims[k], v)
		}
	}
	for k := range d.claims {
		if _, ok := want[k]; !ok && k != "iat" && k != "nbf" && k != "exp" && k != "jti" {
			t.Errorf("there is a claim %s: %s", k, d.claims[k])
		}
	}
	alg := "RS256"
	if account == "ledger" {
		alg = "ES256"
	}
	if text(t, d.header["alg"]) != alg || text(t, d.header["typ"]) != typ || text(t, d.header["kid"]) == "" || len(d.header) != 3 {
		t.Errorf("header %s, want alg %s, typ %s and a kid", d.header, alg, typ)
	}
	now := time.Now().Unix()
	iat, exp := number(t, d.claims["iat"]), number(t, d.claims["exp"])
	if age := now - iat; age < 5 || age > 5+int64(patience.Seconds()) || number(t, d.claims["nbf"]) != iat {
		t.Errorf("iat lies %d s back and nbf is %s, want 5 s for both", age, d.claims["nbf"])
	}
	if left := exp - now; left > 3600 || left < 3600-int64(patience.Seconds()) {
		t.Errorf("%d s are left, want 3600", left)
	}
	if life := exp - iat; life != 3605 {
		t.Errorf("exp is %d s after iat, want 3605", life)
	}
}

func metadataValues(t *testing.T, s *server) {
	got := s.us().run(t, "metadata")
	for name, want := range map[string]string{
		"on gce": "true", "project": "acme-project", "number": "100000000042", "universe": "googleapis.com",
		"email": "orders@sa.acme.test", "by email": "orders@sa.acme.test",
	} {
		if got.Values[name] != want {
			t.Errorf("%s: %q, want %q", name, got.Values[name], want)
		}
	}
	s.decode(t, got.Token).check(t, "http://"+s.issuer, "JWT", "orders", audience, idClaims("orders"))
}

// idClaims are the claims of an ID token in the standard format.
func idClaims(account string) map[string]string {
	return map[string]string{"azp": "SUB", "email": `"` + account + `@sa.acme.test"`, "email_verified": "true"}
}

func accessTokens(t *testing.T, s *server) {
	for _, tt := range []struct{ name, program, scope string }{
		{"cloud.google.com/go/auth detects the door", "auth-adc", cloudPlatform + " https://www.googleapis.com/auth/userinfo.email"},
		{"golang.org/x/oauth2/google detects it too", "oauth2-adc", cloudPlatform},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := s.us().run(t, tt.program)
			s.decode(t, got.Token).check(t, "http://"+s.issuer, "at+jwt", "orders", "http://"+s.issuer,
				map[string]string{"client_id": "SUB", "scope": `"` + tt.scope + `"`})
			if got.Type != "Bearer" || got.Values["project"] != "acme-project" || got.Values["universe"] != "googleapis.com" {
				t.Errorf("type %q, %v", got.Type, got.Values)
			}
			if left := time.Until(got.Expiry); left > 3599*time.Second || left < 3599*time.Second-patience {
				t.Errorf("the library believes that %v are left, want 3599 s", left)
			}
		})
	}
}

func idTokens(t *testing.T, s *server) {
	full := idClaims("orders")
	full["sallyport"] = `{"attested":{"uid":"` + strconv.Itoa(os.Getuid()) + `"}}`
	for _, tt := range []struct {
		name, program, audience string
		extra                   []string
		claims                  map[string]string
	}{
		{"auth/credentials/idtoken asks for the full format", "auth-idtoken", audience, nil, full},
		{"and for the standard format when told to", "auth-standard", audience, nil, idClaims("orders")},
		{"and with licences", "auth-license", audience, nil, full},
		{"api/idtoken asks for the full format", "api-idtoken", audience, nil, full},
		{"api/idtoken on the new library asks the same", "api-idtoken", audience, []string{"GOOGLE_API_GO_EXPERIMENTAL_ENABLE_NEW_AUTH_LIB=true"}, full},
		{"an audience that issuer.audiences names", "api-idtoken", "https://one.partner.test", nil, full},
		{"an audience with all that has to be escaped", "api-idtoken", "https://two.partner.test/x?a=1&b=+%2F#ü", nil, full},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := s.us()
			c.extra = tt.extra
			got := c.run(t, tt.program, tt.audience)
			s.decode(t, got.Token).check(t, "http://"+s.issuer, "JWT", "orders", tt.audience, tt.claims)
		})
	}
}

func foreignAudience(t *testing.T, s *server) {
	for _, tt := range []struct {
		name, audience, says string
		decided              bool // by policy; else the request itself is wrong
	}{
		{"no service and no pattern has it", "https://elsewhere.test", "Received 403", true},
		{"our own APIs take access tokens", "http://" + s.issuer, "Received 400", false},
		{"gcloud's client id is nobody's, and 403 would crash gcloud", "32555940559.apps.googleusercontent.com", "not defined", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.decided {
				s.refused(1)
			}
			got, err := s.us().try(t, "api-idtoken", tt.audience)
			if err == nil {
				t.Fatalf("got %s", got.Token)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

// told is what the upstream was told: it answers with the headers it got.
func told(t *testing.T, c call) http.Header {
	t.Helper()
	if c.Status != http.StatusOK {
		t.Fatalf("got %d %s, want 200", c.Status, c.Body)
	}
	var h http.Header
	if err := json.Unmarshal([]byte(c.Body), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func callsArrive(t *testing.T, s *server) {
	got := s.us().run(t, "api-call", audience, "http://"+s.gateway+"/v1/a", "http://"+s.gateway+"/v1/b?c=d")
	for _, c := range got.Calls {
		h := told(t, c)
		if len(h.Values("X-Sallyport-Assertion")) != 1 || h.Get("X-Forwarded-User") != "orders" {
			t.Errorf("the upstream was not told who called: %v", h)
		}
		if _, there := h["Authorization"]; there {
			t.Error("the caller's token went upstream")
		}
	}
	assertion := told(t, got.Calls[0]).Get("X-Sallyport-Assertion")
	if d := takeApart(t, assertion); text(t, d.header["typ"]) != "sallyport-assertion+jwt" {
		t.Errorf("typ of the assertion is %s", d.header["typ"])
	}
	if back, _, err := get(t.Context(), "http://"+s.gateway+"/v1/a", assertion); err != nil || back.Status != http.StatusUnauthorized {
		t.Errorf("an assertion played back got %d, want 401 (%v)", back.Status, err)
	}
}

func callsRefused(t *testing.T, s *server) {
	for _, tt := range []struct{ name, program, audience, class string }{
		{"an ID token for another audience", "api-idtoken", "https://one.partner.test", "wrong audience"},
		{"an access token", "auth-adc", "", "token not trusted"},
		{"no token at all", "", "", "no credential"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw := ""
			if tt.program != "" {
				raw = s.us().run(t, tt.program, tt.audience).Token
				s.decode(t, raw)
			}
			got, header, err := get(t.Context(), "http://"+s.gateway+"/v1/a", raw)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, tt.class) || !strings.HasPrefix(header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("got %d %s with %v, want 401 and %q", got.Status, got.Body, header, tt.class)
			}
		})
	}
}

// redirect sends requests for Google's keys to our issuer.
type redirect struct{ host string }

// RoundTrip implements http.RoundTripper.
func (r redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.URL = &url.URL{Scheme: "http", Host: r.host, Path: req.URL.Path}
	if strings.HasPrefix(req.URL.Path, "/iap/") { // where Google has its ES256 keys: we have one set
		out.URL.Path = "/oauth2/v3/certs"
	}
	out.Host = ""
	return http.DefaultTransport.RoundTrip(out)
}

func validators(t *testing.T, s *server) {
	certs := "http://" + s.issuer + "/oauth2/v3/certs"
	a, err := authidtoken.NewValidator(&authidtoken.ValidatorOptions{RS256CertsURL: certs, ES256CertsURL: certs})
	if err != nil {
		t.Fatal(err)
	}
	b, err := idtoken.NewValidator(t.Context(), option.WithHTTPClient(&http.Client{Transport: redirect{s.issuer}}))
	if err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]func(ctx context.Context, raw, aud string) (string, error){
		"cloud.google.com/go/auth": func(ctx context.Context, raw, aud string) (string, error) {
			p, err := a.Validate(ctx, raw, aud)
			if err != nil {
				return "", err
			}
			return p.Subject, nil
		},
		"google.golang.org/api": func(ctx context.Context, raw, aud string) (string, error) {
			p, err := b.Validate(ctx, raw, aud)
			if err != nil {
				return "", err
			}
			return p.Subject, nil
		},
	} {
		s.verified(t, name, false, func(t *testing.T, raw, _, aud string) (string, error) { return subject(t.Context(), raw, aud) })
	}
}

// verified holds a library's verification, which returns the subject of a good token,
// against good and bad ones of an account of each algorithm. Not every library looks at
// the issuer.
func (s *server) verified(t *testing.T, name string, looks bool, subject func(t *testing.T, raw, issuer, aud string) (string, error)) {
	for algorithm, account := range s.accounts() {
		t.Run(name+" takes "+algorithm, func(t *testing.T) {
			t.Parallel()
			raw := s.at(account.door).run(t, "api-idtoken", audience).Token
			if alg := text(t, s.decode(t, raw).header["alg"]); alg != algorithm {
				t.Fatalf("a token of %s is signed with %s", account.name, alg)
			}
			issuer := "http://" + s.issuer
			if got, err := subject(t, raw, issuer, audience); err != nil || got != "spiffe://acme.test/sa/"+account.name {
				t.Errorf("our token: %q, %v", got, err)
			}
			if _, err := subject(t, raw, issuer, "https://elsewhere.test"); err == nil {
				t.Error("another audience is taken")
			}
			if _, err := subject(t, forge(raw), issuer, audience); err == nil {
				t.Error("a changed signature is taken")
			}
			if _, err := subject(t, raw, "https://elsewhere.test", audience); looks && err == nil {
				t.Error("another issuer is taken")
			}
		})
	}
}

// forge changes the signature of a token.
func forge(raw string) string {
	forged := []byte(raw)
	first := &forged[strings.LastIndex(raw, ".")+1] // of the signature; base64 has both letters
	if *first != 'A' {
		*first = 'A'
	} else {
		*first = 'B'
	}
	return string(forged)
}

func elliptic(t *testing.T, s *server) {
	ledger := s.at(s.ecDoor)
	got := ledger.run(t, "auth-adc")
	s.decode(t, got.Token).check(t, "http://"+s.issuer, "at+jwt", "ledger", "http://"+s.issuer,
		map[string]string{"client_id": "SUB", "scope": `"` + cloudPlatform + ` https://www.googleapis.com/auth/userinfo.email"`})
	got = ledger.run(t, "auth-standard", audience)
	s.decode(t, got.Token).check(t, "http://"+s.issuer, "JWT", "ledger", audience, idClaims("ledger"))
	called := ledger.run(t, "api-call", audience, "http://"+s.gateway+"/v1/a")
	if who := told(t, called.Calls[0]).Get("X-Forwarded-User"); who != "ledger" {
		t.Errorf("the upstream was told of %q", who)
	}
}

// universe is why metadata[].universe_domain is googleapis.com by default: another
// one keeps no access token from Google, and breaks calls with ID tokens. When this
// fails, look again.
func universe(t *testing.T, s *server) {
	far := s.at(s.farDoor)
	got := far.run(t, "auth-adc")
	s.decode(t, got.Token)
	if got.Values["universe"] != "acme.invalid" {
		t.Errorf("the library read %q", got.Values["universe"])
	}
	for _, program := range []string{"auth-idtoken", "api-idtoken"} {
		s.decode(t, far.run(t, program, audience).Token)
	}
	if got := far.run(t, "auth-google"); got.Token == "" {
		t.Error("the library sends nothing to Google: then this is a better default")
	} else {
		s.decode(t, got.Token)
	}
	for _, c := range far.run(t, "api-call", audience, "http://"+s.gateway+"/v1/a").Calls {
		told(t, c)
	}
	if _, err := far.try(t, "auth-call", audience, "http://"+s.gateway+"/v1/a"); err == nil || !strings.Contains(err.Error(), "universe domain") {
		t.Errorf("a call with an ID token of another universe: %v", err)
	}
	for _, c := range s.us().run(t, "auth-call", audience, "http://"+s.gateway+"/v1/a").Calls {
		told(t, c)
	}
}

func otherUser(t *testing.T, s *server) {
	needsRoot(t)
	for _, tt := range s.users() {
		for _, program := range []string{"api-idtoken", "auth-idtoken", "auth-adc", "oauth2-adc"} {
			t.Run(tt.name+" with "+program, func(t *testing.T) {
				t.Parallel()
				got, err := tt.c.try(t, program, audience)
				s.isWho(t, tt.who, 1, got, err)
			})
		}
	}
}

// A user runs clients at a door, and is an account there, or nobody.
type user struct {
	name string
	c    client
	who  string // "" for nobody
}

func (s *server) users() []user {
	return []user{
		{"the other user at our door is nobody", client{door: s.door, uid: otherUID}, ""},
		{"root at the other user's door is nobody", client{door: s.otherDoor, uid: 0}, ""},
		{"the other user at their own door is reports", client{door: s.otherDoor, uid: otherUID}, "reports"},
		{"root at root's own door is orders", client{door: s.door, uid: 0}, "orders"},
	}
}

// isWho holds what a client got against who it is. Who is nobody gets nothing, is told
// so, and was refused so many tokens.
func (s *server) isWho(t *testing.T, who string, refusals int, got result, err error) {
	t.Helper()
	switch {
	case who == "" && err == nil:
		t.Errorf("got %s", got.Token)
	case who == "":
		s.refused(refusals)
		if !strings.Contains(err.Error(), "no identity for this caller") {
			t.Errorf("%v, want to be told why", err)
		}
	case err != nil:
		t.Error(err)
	default:
		if sub := text(t, s.decode(t, got.Token).claims["sub"]); sub != "spiffe://acme.test/sa/"+who {
			t.Errorf("sub is %s", sub)
		}
	}
}
