package actions_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/actions"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// world is a door over a real guard and policy whose caller is orders, if known.
type world struct {
	stranger bool
	full     bool // the log
	records  []audit.Record
}

type stranger struct{}

func (stranger) Error() string { return "uid 4711" }
func (stranger) Code() string  { return "no_account" }
func (stranger) Class() string { return "no identity for this caller" }

// Prove implements guard.LocalProver.
func (w *world) Prove(context.Context, attest.Conn, []string) (*identity.Proof, error) {
	if w.stranger {
		return nil, stranger{}
	}
	return &identity.Proof{Principal: identity.Account("orders", "orders@sa.test"), Provider: identity.Local, Still: func(context.Context) error { return nil }}, nil
}

// ProveUser implements guard.LocalProver.
func (w *world) ProveUser(context.Context, attest.Conn) (*identity.Proof, error) {
	return nil, stranger{}
}

// Which implements guard.LocalProver.
func (w *world) Which(context.Context, attest.Conn, []string) ([]string, error) { return nil, nil }

// Account implements guard.LocalProver.
func (w *world) Account(string) (identity.Principal, bool) { return identity.Principal{}, false }

// Append implements guard.Log.
func (w *world) Append(r *audit.Record, _ audit.Durability) (uint64, error) {
	if w.full {
		return 0, stranger{}
	}
	w.records = append(w.records, *r)
	return uint64(len(w.records) - 1), nil
}

// IDToken implements door.Minter: the "token" says what it would hold.
func (w *world) IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error) {
	a, err := pass.Admission()
	if !full {
		return "", stranger{}
	}
	return a.Principal.Name + " for " + audience, err
}

// AccessToken implements door.Minter.
func (w *world) AccessToken(context.Context, *guard.Pass, []string) (string, time.Time, error) {
	return "", time.Time{}, stranger{}
}

// HeldIDToken and HeldAccessToken implement door.Minter.
func (w *world) HeldIDToken(*identity.Proof, string, bool) string { return "" }
func (w *world) HeldAccessToken(*identity.Proof, []string) string { return "" }

func (w *world) ask(t *testing.T, wire string) *httptest.ResponseRecorder {
	t.Helper()
	snapshot, err := policy.Compile(policy.Config{}, policy.World{Accounts: []string{"orders"}, MintPatterns: []string{"https://svc.test", "sts.amazonaws.com"}})
	if err != nil {
		t.Fatal(err)
	}
	g := guard.New(guard.Config{Policy: snapshot, Local: w, Log: w, Replica: "r", Now: time.Now})
	d := actions.New(&door.Local{Guard: g, Mint: w, Turns: door.NewTurns(), Accounts: []string{"orders"}, TrustDomain: "test",
		Ours: func(a string) bool { return a == "https://id.test" }, Hosts: door.Hosts("127.0.0.1:8401")})
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		t.Fatal(err)
	}
	got := httptest.NewRecorder()
	d.ServeHTTP(got, r.WithContext(door.WithCaller(t.Context(), attest.Conn{})))
	if got.Header().Get("Content-Type") != "application/json" || got.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", got.Header())
	}
	if strings.Contains(got.Body.String(), "4711") {
		t.Errorf("the answer shows a private cause: %s", got.Body)
	}
	return got
}

// What @actions/core sends, what else is answered, and that each refusal has its
// record and says so in JSON.
func TestDoor(t *testing.T) {
	t.Parallel()
	const (
		path = "GET /actions/id-token?api-version=2.0"
		host = " HTTP/1.1\r\nHost: 127.0.0.1:8401\r\n"
		auth = "Authorization: Bearer attested\r\n"
		svc  = "&audience=https%3A%2F%2Fsvc.test"
	)
	for _, tt := range []struct {
		name   string
		world  *world
		wire   string
		status int
		body   string // all of it for 200, else a part
		reason string
	}{
		{"as @actions/core asks", &world{}, path + svc + host + auth + "Accept: application/json; api-version=2.0\r\nUser-Agent: actions/oidc-client\r\n", 200, `{"value":"orders for https://svc.test"}`, ""},
		{"as a shell script asks", &world{}, path + "&audience=sts.amazonaws.com" + host + "authorization: bearer x\r\n", 200, `{"value":"orders for sts.amazonaws.com"}`, ""},
		{"without the version", &world{}, "GET /actions/id-token?audience=https://svc.test" + host + auth, 200, `{"value":"orders for https://svc.test"}`, ""},
		{"without a token: a page could send that", &world{}, path + svc + host, 401, `"no credential"`, "credential_missing"},
		{"with an empty token", &world{}, path + svc + host + "Authorization: Bearer \r\n", 401, `"no credential"`, "credential_missing"},
		{"with another scheme", &world{}, path + svc + host + "Authorization: Basic eA==\r\n", 401, `"no credential"`, "credential_missing"},
		{"with two tokens", &world{}, path + svc + host + auth + auth, 401, `"no credential"`, "credential_missing"},
		{"without an audience", &world{}, path + host + auth, 400, "non-empty audience", "parameter_not_accepted"},
		{"with half an audience", &world{}, path + svc + "&y=1" + host + auth, 400, "unknown parameter", "parameter_not_accepted"},
		{"with two audiences", &world{}, path + svc + svc + host + auth, 400, "audience is there twice", "parameter_not_accepted"},
		{"with an audience of two lines", &world{}, path + "&audience=a%0Ab" + host + auth, 400, "white space", "parameter_not_accepted"},
		{"for our own APIs", &world{}, path + "&audience=https%3A%2F%2Fid.test" + host + auth, 400, "our own APIs", "parameter_not_accepted"},
		{"for an audience that policy does not allow", &world{}, path + "&audience=https%3A%2F%2Fother.test" + host + auth, 403, `"not allowed","decision":"r-0"`, "no_match"},
		{"by a stranger", &world{stranger: true}, path + svc + host + auth, 403, `"no identity for this caller"`, "no_account"},
		{"through a proxy", &world{}, path + svc + host + auth + "X-Forwarded-For: 1\r\n", 403, `"not allowed"`, "request_was_forwarded"},
		{"from a page", &world{}, path + svc + host + auth + "Origin: https://evil.test\r\n", 403, `"not allowed"`, "request_was_forwarded"},
		{"under a foreign name", &world{}, path + svc + " HTTP/1.1\r\nHost: evil.test\r\n" + auth, 403, `"not allowed`, "host_refused"},
		{"by POST", &world{}, "POST" + path[3:] + svc + host + auth, 405, `"method`, "method_not_allowed"},
		{"another path", &world{}, "GET /actions/other?audience=https://svc.test" + host + auth, 404, `"not found"`, "path_unknown"},
		{"when the log is full", &world{full: true}, path + svc + host + auth, 503, `"decisions cannot be recorded now"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.world.ask(t, tt.wire+"\r\n")
			if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.body) || tt.status == 200 && got.Body.String() != tt.body {
				t.Errorf("got %d %s, want %d %s", got.Code, got.Body, tt.status, tt.body)
			}
			if (got.Header().Get("WWW-Authenticate") != "") != (tt.status == 401) || (got.Header().Get("Retry-After") != "") != (tt.status == 503) {
				t.Errorf("header %v", got.Header())
			}
			reason := ""
			if n := len(tt.world.records); n > 0 && tt.world.records[n-1].Decision == audit.Deny {
				reason = tt.world.records[n-1].Payload.Reason
			}
			if reason != tt.reason || tt.status != 503 && len(tt.world.records) != 1 {
				t.Errorf("%d records, the last because of %q, want %q", len(tt.world.records), reason, tt.reason)
			}
		})
	}
}
