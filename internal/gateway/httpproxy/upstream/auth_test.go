package upstream_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// idToken is one that only its reader's checks hold for; nobody here verifies it.
func idToken(audience string, left time.Duration) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256","kid":"k","typ":"JWT"}`)) + "." +
		part(fmt.Appendf(nil, `{"iss":"https://accounts.example","sub":"1","aud":%q,"exp":%d}`, audience, time.Now().Add(left).Unix())) + "." + part([]byte("signature"))
}

// remember answers 200 and keeps the last request's header fields.
func remember(t *testing.T) (url string, last func() http.Header) {
	t.Helper()
	var got atomic.Pointer[http.Header]
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(&r.Header) }))
	t.Cleanup(s.Close)
	return s.URL, func() http.Header {
		h := got.Swap(nil)
		if h == nil {
			return nil
		}
		return *h
	}
}

const audience = "https://app.a.run.app"

func TestMetadataToken(t *testing.T) {
	var asked atomic.Int32
	var answer atomic.Pointer[string]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" || r.URL.Query().Get("audience") != audience ||
			r.URL.Query().Get("format") != "full" || r.Header.Get("Metadata-Flavor") != "Google" {
			t.Errorf("asked %s %v", r.URL, r.Header)
		}
		if *answer.Load() == "redirect" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, *answer.Load())
	}))
	defer s.Close()
	t.Setenv("GCE_METADATA_HOST", s.Listener.Addr().String())
	long, short := idToken(audience, time.Hour), idToken(audience, 4*time.Minute)
	for _, tt := range []struct {
		name, answer string
		want         string // "": not sent
		asked        int32  // for three requests
	}{
		{"it is kept", long, long, 1},
		{"with a line end", long + "\n", long, 1},
		{"one that ends within five minutes is fetched anew", short, short, 3},
		{"for another audience", idToken("https://other.a.run.app", time.Hour), "", 1},
		{"expired", idToken(audience, -time.Minute), "", 1},
		{"no token", "<html>", "", 1},
		{"nothing", "", "", 1},
		{"too much", strings.Repeat("x", 1<<20), "", 1},
		{"a redirect is not followed", "redirect", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer.Store(&tt.answer)
			asked.Store(0)
			url, last := remember(t)
			p := newPool(t, upstream.Config{Upstream: url, Auth: &upstream.Auth{IDToken: &upstream.IDToken{Audience: audience, From: "gcp"}}}, upstream.Options{})
			for range 3 {
				r := newRequest(t, "GET", nil)
				r.Header.Set("X-Serverless-Authorization", "Bearer mallory")
				_, _, err := do(p, r)
				h := last()
				switch {
				case tt.want == "" && (err == nil || h != nil):
					t.Errorf("sent %v, error %v", h, err)
				case tt.want == "":
					if strings.Contains(err.Error(), tt.answer) && tt.answer != "" {
						t.Errorf("the error quotes the answer: %v", err)
					}
				case err != nil || h.Get("Authorization") != "Bearer "+tt.want || h.Get("X-Serverless-Authorization") != "" || r.Header.Get("Authorization") != "":
					t.Errorf("sent %v, error %v", h, err)
				}
			}
			if asked.Load() != tt.asked {
				t.Errorf("asked %d times, want %d", asked.Load(), tt.asked)
			}
		})
	}
}

// Where the caller's own Authorization goes upstream, ours stands beside it.
func TestSelfToken(t *testing.T) {
	t.Parallel()
	url, last := remember(t)
	c := upstream.Config{Upstream: url, Auth: &upstream.Auth{IDToken: &upstream.IDToken{Audience: audience, From: "self", ServiceAccount: "edge"}}}
	if _, err := upstream.New(c, upstream.Options{}); err == nil {
		t.Error("nobody makes the tokens, and it loads")
	}
	made, want := 0, idToken(audience, time.Hour)
	p := newPool(t, c, upstream.Options{SelfToken: func(_ context.Context, account, aud string) (string, error) {
		made++
		if account != "edge" || aud != audience {
			t.Errorf("asked for %s, %s", account, aud)
		}
		return want, nil
	}})
	r := newRequest(t, "GET", nil)
	r.Header.Set("Authorization", "Basic own")
	if _, _, err := do(p, r); err != nil {
		t.Fatal(err)
	}
	if h := last(); h.Get("Authorization") != "Basic own" || h.Get("X-Serverless-Authorization") != "Bearer "+want {
		t.Errorf("sent %v", h)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _, _, _ = do(p, newRequest(t, "GET", nil)) })
	}
	if wg.Wait(); made != 1 {
		t.Errorf("made %d tokens", made)
	}
	failing := newPool(t, c, upstream.Options{SelfToken: func(context.Context, string, string) (string, error) { return "", errors.New("no key") }})
	_ = last()
	if _, _, err := do(failing, newRequest(t, "POST", strings.NewReader("x"))); err == nil || last() != nil {
		t.Errorf("sent without its credential: %v", err)
	}
}

func TestHeaderFromFile(t *testing.T) {
	t.Parallel()
	url, last := remember(t)
	path := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	p := newPool(t, upstream.Config{Upstream: url, Auth: &upstream.Auth{Header: &upstream.Header{Name: "x-api-key", File: path}}}, upstream.Options{})
	for _, tt := range []struct{ name, text, want string }{
		{"as it was at the start", "first\n", "first"},
		{"changed", "second", "second"},
		{"changed again, as long", "third!\r\n", "third!"},
		{"two lines", "a\nb\n", ""},
		{"empty", "\n", ""},
		{"with white space", " a\n", ""},
		{"well again", "fourth\n", "fourth"},
		{"gone", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if write(tt.text); tt.name == "gone" {
				_ = os.Remove(path)
			}
			r := newRequest(t, "GET", nil)
			r.Header["X-Api-Key"] = []string{"mallory", "mallory"}
			_, _, err := do(p, r)
			h := last()
			if tt.want == "" && (err == nil || h != nil) || tt.want != "" && (err != nil || len(h["X-Api-Key"]) != 1 || h.Get("X-Api-Key") != tt.want) {
				t.Errorf("sent %v, error %v", h, err)
			}
		})
	}
}

func TestExternalAccount(t *testing.T) {
	t.Parallel()
	want := idToken(audience, time.Hour)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Path == "/token" && strings.Contains(string(body), "subject_token=outside") && strings.Contains(string(body), "audience=pool"):
			_, _ = io.WriteString(w, `{"access_token":"exchanged"}`)
		case r.URL.Path == "/sa:generateIdToken" && r.Header.Get("Authorization") == "Bearer exchanged" && strings.Contains(string(body), audience) && strings.Contains(string(body), `"includeEmail":true`):
			_, _ = io.WriteString(w, `{"token":"`+want+`"}`)
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	}))
	t.Cleanup(s.Close)
	good := `{"type":"external_account","audience":"pool","subject_token_type":"urn:ietf:params:oauth:token-type:jwt","token_url":"` + s.URL + `/token",
		"service_account_impersonation_url":"` + s.URL + `/sa:generateAccessToken","credential_source":{"file":"subject"}}`
	for _, tt := range []struct {
		name, old, new string
		loads          bool
	}{
		{"as it should be", "", "", true},
		{"the token in JSON", `"file":"subject"`, `"file":"subject.json","format":{"type":"json","subject_token_field_name":"t"}`, true},
		{"another type", "external_account", "service_account", false},
		{"without an account", ":generateAccessToken", "", false},
		{"in the clear", s.URL + "/token", "http://sts.example/token", false},
		{"a program", `"file":"subject"`, `"executable":{"command":"x"}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{"c.json": strings.Replace(good, tt.old, tt.new, 1), "subject": "outside\n", "subject.json": `{"t":"outside"}`} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			url, last := remember(t)
			p, err := upstream.New(upstream.Config{Upstream: url, Auth: &upstream.Auth{IDToken: &upstream.IDToken{Audience: audience, From: "gcp", CredentialsFile: filepath.Join(dir, "c.json")}}}, upstream.Options{})
			if (err == nil) != tt.loads {
				t.Fatalf("loaded with %v", err)
			}
			if err != nil {
				return
			}
			defer p.Close()
			if _, _, err := do(p, newRequest(t, "GET", nil)); err != nil || last().Get("Authorization") != "Bearer "+want {
				t.Errorf("got %v", err)
			}
		})
	}
}
