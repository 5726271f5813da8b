package caller_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/caller"
)

// roundTrip is a transport below in one line.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body remembers that it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error { b.closed = true; return nil }

// Whom a token may go to. A request that is refused leaves nothing behind: nothing
// sent, the door not asked, the body closed.
func TestDestinations(t *testing.T) {
	t.Parallel()
	const text = "free-text"
	listed := []string{"api.test:8443", "127.0.0.1:8080", "localhost:8080", "[::1]:8080", "lan.test:8080", "192.0.2.1:8080", "plain.test"}
	for _, tt := range []struct {
		name, audience, url, host string
		header                    string
		sent                      bool
	}{
		{"the audience's host", audience, "https://invoices.test/v1", "", "", true},
		{"in another case, with the port written", audience, "https://Invoices.TEST:443/v1", "", "", true},
		{"an audience with a port and a path", "https://invoices.test:8443/api", "https://invoices.test:8443/other", "", "", true},
		{"a listed host", audience, "https://api.test:8443/", "", "", true},
		{"a listed host without a port", audience, "https://plain.test/", "", "", true},
		{"free text, to a listed host", text, "https://api.test:8443/", "", "", true},
		{"plain http to a listed loopback address", text, "http://127.0.0.1:8080/", "", "", true},
		{"plain http to a listed loopback address of IPv6, spelled otherwise", text, "http://[0:0:0:0:0:0:0:1]:8080/", "", "", true},
		{"plain http to localhost, listed", text, "http://localhost:8080/", "", "", true},
		{"a listed Host at a listed address", text, "http://127.0.0.1:8080/", "localhost:8080", "", true},

		{"another host", audience, "https://evil.test/", "", "", false},
		{"a host below", audience, "https://x.invoices.test/", "", "", false},
		{"a host that begins alike", audience, "https://invoices.test.evil.test/", "", "", false},
		{"the root's dot is another spelling", audience, "https://invoices.test./", "", "", false},
		{"a letter that becomes one of the host's in lower case, and another name in the DNS", audience, "https://İnvoices.test/", "", "", false},
		{"the same, escaped", audience, "https://%C4%B0nvoices.test/", "", "", false},
		{"the same, as Host", audience, "https://invoices.test/", "İnvoices.test", "", false},
		{"another port", audience, "https://invoices.test:8443/", "", "", false},
		{"the audience's host without its port", "https://invoices.test:8443", "https://invoices.test/", "", "", false},
		{"the audience's host behind a user", audience, "https://invoices.test@evil.test/", "", "", false},
		{"another Host at the audience's address", audience, "https://invoices.test/", "evil.test", "", false},
		{"plain http to the audience's host", audience, "http://invoices.test/", "", "", false},
		{"plain http to the audience's host and port", audience, "http://invoices.test:443/", "", "", false},
		{"plain http to a loopback audience that is not listed", "https://127.0.0.1:9090", "http://127.0.0.1:9090/", "", "", false},
		{"plain http to a listed host that is not this machine", audience, "http://lan.test:8080/", "", "", false},
		{"plain http to a listed address that is not this machine", audience, "http://192.0.2.1:8080/", "", "", false},
		{"plain http to another loopback port", audience, "http://127.0.0.1:8081/", "", "", false},
		{"plain http to a name that begins like localhost", audience, "http://localhost.evil.test:8080/", "", "", false},
		{"plain http where no port means 80", audience, "http://plain.test/", "", "", false},
		{"free text names no host", text, "https://free-text/", "", "", false},
		{"another scheme", audience, "ftp://invoices.test/", "", "", false},
		{"no host at all", audience, "https:///v1", "", "", false},
		{"a URL that is opaque", audience, "https:invoices.test/v1", "", "", false},
		{"a credential already", audience, "https://invoices.test/", "", "Authorization", false},
		{"a credential already, spelled otherwise", audience, "https://invoices.test/", "", "authorization", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoor(t, newClock())
			s := newSource(t, d, caller.Config{Audience: tt.audience, Hosts: listed})
			var sent []*http.Request
			rt := s.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
				sent = append(sent, r)
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			}))
			u, err := url.Parse(tt.url)
			if err != nil {
				t.Fatal(err)
			}
			b := &body{Reader: strings.NewReader("x")}
			r := &http.Request{Method: "POST", URL: u, Host: tt.host, Header: http.Header{}, Body: b}
			if tt.header != "" {
				r.Header[tt.header] = []string{"Basic eA=="}
			}
			_, err = rt.RoundTrip(r.WithContext(t.Context()))
			if !tt.sent {
				if !errors.Is(err, caller.ErrDestination) || len(sent) != 0 || d.count() != 0 || !b.closed {
					t.Errorf("got %v, sent %v, door asked %d times, body closed %v", err, sent, d.count(), b.closed)
				}
				return
			}
			if err != nil || len(sent) != 1 {
				t.Fatalf("got %v, sent %v", err, sent)
			}
			if got := sent[0].Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+get(t, s) {
				t.Errorf("Authorization is %q", got)
			}
			if len(r.Header) != 0 {
				t.Errorf("the caller's own request has got %v", r.Header)
			}
		})
	}
}

// An opaque URL is sent as it is to whatever Host says: its two halves may name two
// services.
func TestOpaqueURL(t *testing.T) {
	t.Parallel()
	rt := newSource(t, newDoor(t, newClock()), caller.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("it was sent to %s", r.URL)
		return nil, errors.New("sent")
	}))
	r, _ := http.NewRequestWithContext(t.Context(), "GET", audience, nil)
	r.URL.Opaque = "//evil.test/"
	if _, err := rt.RoundTrip(r); !errors.Is(err, caller.ErrDestination) {
		t.Errorf("got %v", err)
	}
}

func TestNoTokenNothingSent(t *testing.T) {
	t.Parallel()
	d := newDoor(t, newClock())
	d.set(says(403, "not allowed"))
	rt := newSource(t, d, caller.Config{}).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent without a token")
		return nil, errors.New("sent")
	}))
	b := &body{Reader: strings.NewReader("x")}
	r, _ := http.NewRequestWithContext(t.Context(), "POST", audience, b)
	if _, err := rt.RoundTrip(r); !errors.Is(err, caller.ErrDenied) || !b.closed {
		t.Errorf("got %v, body closed %v", err, b.closed)
	}
}

// service is a TLS server and what it was sent.
type service struct {
	*httptest.Server
	seen []string // Authorization of each request
}

func newService(t testing.TB, h http.HandlerFunc) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.seen = append(s.seen, r.Header.Get("Authorization"))
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// An http.Client follows redirects, and each hop is asked about.
func TestRedirects(t *testing.T) {
	t.Parallel()
	evil := newService(t, says(200, "got it"))
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("plain http got %v", r.Header)
	}))
	defer plain.Close()
	var own *service
	own = newService(t, func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{"/evil": evil.URL, "/plain": plain.URL, "/own": own.URL + "/end", "/relative": "/end",
			"/user": strings.Replace(own.URL, "https://", "https://me:secret@", 1) + "/end"}[r.URL.Path]
		if to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	})
	for _, tt := range []struct {
		name, path string
		requests   int // that the audience's own host gets
		refused    bool
	}{
		{"nowhere", "/end", 1, false},
		{"to itself", "/own", 2, false},
		{"to itself, by a path", "/relative", 2, false},
		{"to another host", "/evil", 1, true},
		{"to plain http", "/plain", 1, true},
		{"to itself with a credential of the one who redirects", "/user", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own.seen, evil.seen = nil, nil
			s := newSource(t, newDoor(t, newClock()), caller.Config{Audience: own.URL, Hosts: []string{}})
			client := &http.Client{Transport: s.Transport(own.Client().Transport)}
			resp, err := client.Get(own.URL + tt.path)
			if err == nil {
				_ = resp.Body.Close()
			}
			if errors.Is(err, caller.ErrDestination) != tt.refused || (err != nil) != tt.refused {
				t.Errorf("got %v", err)
			}
			if len(own.seen) != tt.requests || len(evil.seen) != 0 {
				t.Errorf("own host got %q, the other %q", own.seen, evil.seen)
			}
			for _, a := range own.seen {
				if a != "Bearer "+get(t, s) {
					t.Errorf("a hop had %q", a)
				}
			}
		})
	}
}

// Which answers make the next request fetch a new token. None is sent twice.
func TestInvalidToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		status    int
		challenge []string
		dropped   bool
	}{
		{"the token is not good", 401, []string{`Bearer realm="app", error="invalid_token", error_description="token expired"`}, true},
		{"in other spellings", 401, []string{`BEARER  ERROR = invalid_token`}, true},
		{"behind another challenge", 401, []string{`Basic realm="a, Bearer b", Bearer realm="x",, error="invalid_token"`}, true},
		{"in a second header", 401, []string{`Negotiate abc==`, `Bearer error="invalid_token"`}, true},
		{"after a comma in quotes", 401, []string{`Bearer realm="a, \", Basic b", error="invalid_token"`}, true},
		{"no credential was seen", 401, []string{`Bearer realm="app"`}, false},
		{"another error", 401, []string{`Bearer error="invalid_request"`}, false},
		{"the error is another scheme's", 401, []string{`Bearer realm="x", DPoP error="invalid_token"`}, false},
		{"the words are in a description", 401, []string{`Bearer realm="x", error_description="error=\"invalid_token\""`}, false},
		{"the words are in a realm", 401, []string{`Bearer realm="a, error=invalid_token"`}, false},
		{"no challenge", 401, nil, false},
		{"not allowed", 403, []string{`Bearer error="invalid_token"`}, false},
		{"fine", 200, []string{`Bearer error="invalid_token"`}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoor(t, newClock())
			s := newSource(t, d, caller.Config{})
			sent := 0
			client := &http.Client{Transport: s.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
				sent++
				return &http.Response{StatusCode: tt.status, Header: http.Header{"Www-Authenticate": tt.challenge}, Body: http.NoBody}, nil
			}))}
			resp, err := client.Get(audience)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tt.status || sent != 1 {
				t.Errorf("got %d after %d requests", resp.StatusCode, sent)
			}
			if get(t, s); (d.count() == 2) != tt.dropped {
				t.Errorf("the door was asked %d times, dropped should be %v", d.count(), tt.dropped)
			}
		})
	}
}

func TestIdleConnectionsAreClosedBelow(t *testing.T) {
	t.Parallel()
	below := &closer{}
	s := newSource(t, newDoor(t, newClock()), caller.Config{})
	(&http.Client{Transport: s.Transport(below)}).CloseIdleConnections()
	(&http.Client{Transport: s.Transport(roundTrip(nil))}).CloseIdleConnections() // which cannot
	if !below.closed {
		t.Error("the transport below was not asked")
	}
}

type closer struct {
	roundTrip
	closed bool
}

func (c *closer) CloseIdleConnections() { c.closed = true }
