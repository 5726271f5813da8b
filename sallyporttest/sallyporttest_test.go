package sallyporttest_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/caller"
	"github.com/sallyport-dev/sallyport/sallyporttest"
	"github.com/sallyport-dev/sallyport/verifier"
)

const audience = "https://invoices.test"

// service is what somebody else would write: it verifies, and says who called.
func service(t *testing.T, i *sallyporttest.Issuer) *httptest.Server {
	t.Helper()
	gate, err := verifier.NewGate(verifier.Requirement{Verifiers: []*verifier.Verifier{i.Verifier()}, Audiences: []string{audience}, Service: "invoices"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gate.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, _ := verifier.FromContext(r.Context())
		_, _ = w.Write([]byte(v.Principal()))
	})))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url, raw string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+raw)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 200)
	n, _ := resp.Body.Read(b)
	return resp.StatusCode, string(b[:n])
}

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	i := sallyporttest.NewIssuer(t, "orders", "reports")
	s := service(t, i)
	for _, account := range []string{"orders", "reports"} {
		if status, who := get(t, s.URL, i.Token(account, audience)); status != 200 || who != "serviceAccount:"+account {
			t.Errorf("%s: %d %s", account, status, who)
		}
	}
	if status, _ := get(t, s.URL, i.Token("orders", "https://other.test")); status != 401 {
		t.Errorf("another audience: %d", status)
	}
}

// Every case that HTTP can carry, through a real service: what must be refused is, and
// what must be taken is.
func TestCorpusThroughAService(t *testing.T) {
	t.Parallel()
	i := sallyporttest.NewIssuer(t, "orders")
	s := service(t, i)
	good, bad := 0, 0
	for c := range i.Corpus(audience) {
		if !c.Header || len(c.Token) > 100<<10 { // net/http's own limit refuses those
			continue
		}
		status, body := get(t, s.URL, c.Token)
		if (status == 200) != c.Good {
			t.Errorf("%s (%s): %d %s", c.ID, c.Why, status, body)
		}
		if c.Good {
			good++
		} else {
			bad++
		}
	}
	if good < 10 || bad < 300 {
		t.Errorf("only %d good and %d bad tokens", good, bad)
	}
}

// A token with claims of one's own is signed by the issuer: only its claims are wrong.
func TestForge(t *testing.T) {
	t.Parallel()
	i := sallyporttest.NewIssuer(t, "orders")
	now := time.Now().Unix()
	claims := map[string]any{"iss": i.URL(), "sub": "spiffe://sallyport.test/sa/orders", "aud": audience, "iat": now, "exp": now + 60}
	if _, err := i.Verifier().Verify(t.Context(), i.Forge(claims), audience); err != nil {
		t.Errorf("with all claims: %v", err)
	}
	delete(claims, "exp")
	if _, err := i.Verifier().Verify(t.Context(), i.Forge(claims), audience); err == nil {
		t.Error("without exp it is taken")
	}
}

// The caller package against it, as a program would use both.
func TestCallerPackage(t *testing.T) {
	t.Parallel()
	i := sallyporttest.NewIssuer(t, "orders")
	s := service(t, i)
	source, err := caller.New(caller.Config{Audience: audience, Door: i.Door("orders"), Hosts: []string{s.Listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: source.Transport(nil)}
	resp, err := client.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
}
