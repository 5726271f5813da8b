package metadata_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Contract google-clients 1.2, and what keeps a tricked browser or proxy out.
func TestRequestRules(t *testing.T) {
	t.Parallel()
	const email = "GET " + sa + "/default/email HTTP/1.1\r\n"
	for _, tt := range []struct {
		name, wire string
		status     int
		reason     string // in the record; "" for an answer that needs none
	}{
		{"the rules are kept", email + host + flavor, 200, ""},
		{"the root needs no flavor", "GET / HTTP/1.1\r\n" + host, 200, ""},
		{"no flavor", email + host, 403, "metadata_flavor_missing"},
		{"an empty flavor", email + host + "Metadata-Flavor:\r\n", 403, "metadata_flavor_missing"},
		{"another flavor", email + host + "Metadata-Flavor: google\r\n", 403, "metadata_flavor_missing"},
		{"two flavors", email + host + flavor + flavor, 403, "metadata_flavor_missing"},
		{"two flavors in one field", email + host + "Metadata-Flavor: Google, Google\r\n", 403, "metadata_flavor_missing"},
		{"an underscored flavor", email + host + "Metadata_Flavor: Google\r\n", 403, "metadata_flavor_missing"},
		{"the older header is not enough", email + host + "X-Google-Metadata-Request: True\r\n", 403, "metadata_flavor_missing"},
		{"a flavor in lower case letters is the same header", email + host + "metadata-flavor: Google\r\n", 200, ""},
		{"no flavor on a path that is not there", "GET /x HTTP/1.1\r\n" + host, 403, "metadata_flavor_missing"},

		{"X-Forwarded-For", email + host + flavor + "X-Forwarded-For: 10.0.0.1\r\n", 403, "request_was_forwarded"},
		{"an empty X-Forwarded-For", email + host + flavor + "X-Forwarded-For:\r\n", 403, "request_was_forwarded"},
		{"X-Forwarded-For on the root", "GET / HTTP/1.1\r\n" + host + "x-forwarded-for: 1\r\n", 403, "request_was_forwarded"},
		{"X-Forwarded-For comes before all other rules", "POST / HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-For: 1\r\n", 403, "request_was_forwarded"},
		{"Forwarded", email + host + flavor + "Forwarded: for=10.0.0.1\r\n", 403, "request_was_forwarded"},
		{"Via", email + host + flavor + "Via: 1.1 proxy\r\n", 403, "request_was_forwarded"},
		{"Origin", email + host + flavor + "Origin: https://evil.test\r\n", 403, "request_was_forwarded"},
		{"a null Origin", email + host + flavor + "Origin: null\r\n", 403, "request_was_forwarded"},
		{"a page of another site", email + host + flavor + "Sec-Fetch-Site: cross-site\r\n", 403, "request_was_forwarded"},
		{"a page of this site", email + host + flavor + "Sec-Fetch-Site: same-origin\r\n", 403, "request_was_forwarded"},
		{"a person who typed the address", email + host + flavor + "Sec-Fetch-Site: none\r\n", 200, ""},

		{"a foreign host", email + "Host: evil.test\r\n" + flavor, 403, "host_refused"},
		{"a foreign host at our port", email + "Host: evil.test:8401\r\n" + flavor, 403, "host_refused"},
		{"a host that begins like ours", email + "Host: 127.0.0.1.evil.test\r\n" + flavor, 403, "host_refused"},
		{"our host at another port", email + "Host: 127.0.0.1:8402\r\n" + flavor, 403, "host_refused"},
		{"a foreign host on the root", "GET / HTTP/1.1\r\nHost: evil.test\r\n", 403, "host_refused"},
		{"a foreign host in the request line", "GET http://evil.test" + sa + "/default/email HTTP/1.1\r\n" + host + flavor, 403, "host_refused"},
		{"no host, as in HTTP/1.0", "GET " + sa + "/default/email HTTP/1.0\r\n" + flavor, 403, "host_refused"},
		{"the well-known name, as Node writes it", email + "Host: metadata.google.internal.\r\n" + flavor, 200, ""},
		{"with a port", email + "Host: metadata.google.internal.:8401\r\n" + flavor, 200, ""},
		{"localhost", email + "Host: localhost:8401\r\n" + flavor, 200, ""},
		{"the name in upper case", email + "Host: METADATA.google.internal\r\n" + flavor, 200, ""},
		{"the short name", email + "Host: metadata\r\n" + flavor, 200, ""},
		{"the well-known address", email + "Host: 169.254.169.254\r\n" + flavor, 200, ""},
		{"IPv6 loopback", email + "Host: [::1]:8401\r\n" + flavor, 200, ""},
		{"IPv6 loopback without a port", email + "Host: [::1]\r\n" + flavor, 200, ""},

		{"POST", strings.Replace(email, "GET", "POST", 1) + host + flavor, 405, "method_not_allowed"},
		{"PUT", strings.Replace(email, "GET", "PUT", 1) + host + flavor, 405, "method_not_allowed"},
		{"DELETE", strings.Replace(email, "GET", "DELETE", 1) + host + flavor, 405, "method_not_allowed"},
		{"OPTIONS", strings.Replace(email, "GET", "OPTIONS", 1) + host + flavor, 405, "method_not_allowed"},
		{"a method nobody knows", strings.Replace(email, "GET", "get", 1) + host + flavor, 405, "method_not_allowed"},
		{"PUT of a session token, as on AWS", "PUT /latest/api/token HTTP/1.1\r\n" + host, 405, "method_not_allowed"},
		{"GET with a body", email + host + flavor + "Content-Length: 1\r\n\r\nx", 405, "method_not_allowed"},
		{"GET with a chunked body", email + host + flavor + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", 405, "method_not_allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{}
			got := send(t, w.door(t), tt.wire+"\r\n")
			if got.Code != tt.status || w.reason() != tt.reason {
				t.Errorf("got %d because of %q, want %d because of %q: %s", got.Code, w.reason(), tt.status, tt.reason, got.Body)
			}
			if allow := got.Header().Get("Allow"); (allow == "GET, HEAD") != (tt.status == 405) {
				t.Errorf("Allow is %q", allow)
			}
			if tt.status >= 400 && strings.Contains(got.Body.String(), "@") {
				t.Errorf("a refusal has a value: %s", got.Body)
			}
		})
	}
}

// reason returns why the last record refused; "" if it did not.
func (w *world) reason() string {
	if len(w.records) == 0 || w.records[len(w.records)-1].Decision != audit.Deny {
		return ""
	}
	return w.records[len(w.records)-1].Payload.Reason
}

// Who is not given anything, what they are told, and that it is recorded once.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const (
		identityOf = sa + "/default/identity?audience="
		nobody     = "no identity for this caller"
	)
	fails := func(err error) proveFunc {
		return func(attest.Conn, []string) (*identity.Proof, error) { return nil, err }
	}
	changed := func(attest.Conn, []string) (*identity.Proof, error) {
		return proof("orders", private{"caller_changed"}), nil
	}
	for _, tt := range []struct {
		name   string
		world  *world
		target string
		status int
		body   string // what it begins with
		reason string // in the record; "" if there is none
	}{
		{"a policy's no is 403, never 429 or 5xx", &world{}, identityOf + "https://denied.test", 403, "not allowed (decision r-0)\n", "denied_by_rule"},
		{"so is an audience that nobody declared", &world{}, identityOf + "https://elsewhere.test", 403, "not allowed (decision r-0)\n", "no_match"},
		{"gcloud's client id is 404, because 403 crashes gcloud", &world{}, identityOf + "32555940559.apps.googleusercontent.com&format=standard&licenses=FALSE", 404, "not allowed (decision r-0)\n", "no_match"},
		{"no ID token is for our own APIs", &world{}, identityOf + ownAPI, 400, "audience: our own APIs take access tokens", "parameter_not_accepted"},
		{"nor for their other name", &world{}, identityOf + "own-api", 400, "audience: our own APIs take access tokens", "parameter_not_accepted"},
		{"a caller who is no account gets no ID token", &world{prove: fails(private{"no_account"})}, identityOf + "https://svc.test", 403, nobody, "no_account"},
		{"no access token", &world{prove: fails(private{"no_account"})}, sa + "/default/token", 403, nobody, "no_account"},
		{"and no address", &world{prove: fails(private{"no_account"})}, sa + "/default/email", 403, nobody, "no_account"},
		{"a caller who is several accounts", &world{prove: fails(private{"account_ambiguous"})}, sa + "/default/token", 403, nobody, "account_ambiguous"},
		{"a caller who became another before the ID token was out", &world{prove: changed}, identityOf + "https://svc.test", 403, nobody, "caller_changed"},
		{"before the access token was", &world{prove: changed}, sa + "/default/token", 403, nobody, "caller_changed"},
		{"before the address was", &world{prove: changed}, sa + "/default/email", 403, nobody, "caller_changed"},
		{"a prover that fails is our fault", &world{prove: fails(errors.New("uid 4711 cannot be looked up"))}, sa + "/default/token", 500, "the server could not finish this request", "prover_failed"},
		{"a key that is lost is our fault", &world{noKey: true}, identityOf + "https://svc.test", 500, "the server could not finish this request", ""},
		{"for access tokens too", &world{noKey: true}, sa + "/default/token", 500, "the server could not finish this request", ""},
		{"no record, no ID token", &world{logFull: true}, identityOf + "https://svc.test", 503, "decisions cannot be recorded now\n", ""},
		{"no record, no access token", &world{logFull: true}, sa + "/default/token", 503, "decisions cannot be recorded now\n", ""},
		{"no record, no address", &world{logFull: true}, sa + "/default/email", 503, "decisions cannot be recorded now\n", ""},
		{"a refusal that cannot be recorded says so", &world{logFull: true}, identityOf, 503, "decisions cannot be recorded now\n", ""},
		{"an account that is not here", &world{}, sa + "/reports/token", 404, "not found (decision r-0)\n", "path_unknown"},
		{"an account's address elsewhere", &world{}, sa + "/orders@sa.other/email", 404, "not found (decision r-0)\n", "path_unknown"},
		{"an account called dot dot", &world{}, sa + "/%2e%2e/token", 404, "not found (decision r-0)\n", "path_unknown"},
		{"a key that is not there", &world{}, sa + "/default/nope", 404, "not found (decision r-1)\n", "path_unknown"},
		{"a path outside the tree", &world{}, "/latest/meta-data/", 404, "not found (decision r-0)\n", "path_unknown"},
		{"an older version of the tree", &world{}, "/computeMetadata/v1beta1/instance/service-accounts/default/token", 404, "not found (decision r-0)\n", "path_unknown"},
		{"nobody's attributes but the accounts'", &world{prove: fails(private{"no_account"})}, "/computeMetadata/v1/instance/attributes/", 403, nobody, "no_account"},
		{"nor the project's", &world{prove: fails(private{"no_account"})}, "/computeMetadata/v1/project/attributes/env", 403, nobody, "no_account"},
		{"nor all of it at once", &world{prove: fails(private{"no_account"})}, "/computeMetadata/v1/?recursive=true", 403, nobody, "no_account"},
		{"nor who is here", &world{prove: fails(private{"no_account"})}, sa + "/", 403, nobody, "no_account"},
		{"nor whether somebody is", &world{prove: fails(private{"no_account"})}, sa + "/orders/", 403, nobody, "no_account"},
		{"a caller who became another before its attributes were out", &world{prove: changed}, "/computeMetadata/v1/instance/attributes/", 403, nobody, "caller_changed"},
		{"a user who may not run as the account", &world{runAs: "reports"}, sa + "/default/token", 403, "not allowed (decision r-0)\n", "no_match"},
		{"a scope that the account has not", &world{}, sa + "/default/token?scopes=https%3A%2F%2Fother", 403, "none of these scopes", "scope_not_held"},
		{"a parameter where none is taken", &world{}, "/?recursive=true", 400, "this path takes no parameters", "parameter_not_accepted"},
		{"an unknown parameter of a value", &world{}, "/computeMetadata/v1/project/project-id?audience=x", 400, "unknown parameter", "parameter_not_accepted"},
		{"a parameter twice", &world{}, "/computeMetadata/v1/project/project-id?alt=json&alt=json", 400, "alt is there twice", "parameter_not_accepted"},
		{"a form of answer that is none", &world{}, "/computeMetadata/v1/project/project-id?alt=xml", 400, "alt: want", "parameter_not_accepted"},
		{"a time that is none", &world{}, "/computeMetadata/v1/project/project-id?timeout_sec=soon", 400, "timeout_sec: want", "parameter_not_accepted"},
		{"a value as a directory", &world{}, "/computeMetadata/v1/project/project-id/", 404, "not found", "path_unknown"},
		{"an empty part of a path", &world{}, "/computeMetadata/v1//project/project-id", 404, "not found", "path_unknown"},
		{"a slash in a name", &world{}, "/computeMetadata/v1/project%2Fproject-id", 404, "not found", "path_unknown"},
		{"a dot segment", &world{}, "/computeMetadata/v1/project/./project-id", 404, "not found", "path_unknown"},
		{"a dot segment that goes up, escaped", &world{}, "/computeMetadata/v1/instance/%2e%2e/project/project-id", 404, "not found", "path_unknown"},
		{"two slashes at the end", &world{}, "/computeMetadata/v1/project//", 404, "not found", "path_unknown"},
		{"a slash within a part of a path", &world{}, sa + "/orders%2Ftoken", 404, "not found", "path_unknown"},
		{"a dot segment", &world{}, sa + "/./default/token", 404, "not found", "path_unknown"},
		{"an ID token as a directory", &world{}, sa + "/default/identity/?audience=https://svc.test", 400, "unknown parameter", "parameter_not_accepted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := tt.world
			got := send(t, w.door(t), get(tt.target))
			if got.Code != tt.status || !strings.HasPrefix(got.Body.String(), tt.body) || w.reason() != tt.reason {
				t.Errorf("got %d %q because of %q\nwant %d %q because of %q", got.Code, got.Body, w.reason(), tt.status, tt.body, tt.reason)
			}
			if wait := got.Header().Get("Retry-After"); (wait == "5") != (tt.status == 503) {
				t.Errorf("Retry-After is %q", wait)
			}
			if strings.Contains(got.Body.String(), "token for") || strings.Contains(got.Body.String(), "access_token") || strings.Contains(got.Body.String(), "@") {
				t.Errorf("a refusal has a value: %s", got.Body)
			}
			if ct := got.Header().Get("Content-Type"); ct != "text/plain; charset=utf-8" || got.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("a refusal is %q and may be sniffed", ct)
			}
		})
	}
}

// The path may only narrow what the kernel is asked, never widen it.
func TestAmong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		account string
		among   []string
	}{
		{"default", []string{"orders", "reports"}},
		{"orders", []string{"orders"}},
		{"reports@sa.test", []string{"reports"}},
	} {
		t.Run(tt.account, func(t *testing.T) {
			t.Parallel()
			var asked [][]string
			w := &world{prove: func(_ attest.Conn, among []string) (*identity.Proof, error) {
				asked = append(asked, among)
				return nil, private{"no_account"}
			}}
			d := w.door(t, "orders", "reports")
			for _, path := range []string{"/token", "/identity?audience=https://svc.test", "/email", "/?recursive=true", "/"} {
				send(t, d, get(sa+"/"+tt.account+path))
			}
			if len(asked) != 5 || slices.ContainsFunc(asked, func(a []string) bool { return !slices.Equal(a, tt.among) }) {
				t.Errorf("the kernel was asked for %v, want %v each time", asked, tt.among)
			}
		})
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		config metadata.Config
		want   []string // in the error; none if it is right
	}{
		{"a loopback address and an account", metadata.Config{Listen: "127.0.0.1:1", ServiceAccounts: []string{"a"}}, nil},
		{"localhost", metadata.Config{Listen: "localhost:1", ServiceAccounts: []string{"a"}}, []string{"listen: \"localhost:1\": localhost is two addresses"}},
		{"IPv6 loopback", metadata.Config{Listen: "[::1]:1", ServiceAccounts: []string{"a"}}, nil},
		{"nothing", metadata.Config{}, []string{"listen: ", "service_accounts: is empty"}},
		{"every address", metadata.Config{Listen: ":1", ServiceAccounts: []string{"a"}}, []string{"listen: "}},
		{"an address that others reach", metadata.Config{Listen: "10.0.0.1:1", ServiceAccounts: []string{"a"}}, []string{"listen: "}},
		{"a name that could be anywhere", metadata.Config{Listen: "localhost.evil.test:1", ServiceAccounts: []string{"a"}}, []string{"listen: "}},
		{"the well-known address", metadata.Config{Listen: "169.254.169.254:80", NetworkNamespace: "/run/netns/x", ServiceAccounts: []string{"a"}}, nil},
		{"the well-known address at another port", metadata.Config{Listen: "169.254.169.254:81", ServiceAccounts: []string{"a"}}, []string{"listen: "}},
		{"a network namespace without a path", metadata.Config{Listen: "127.0.0.1:1", NetworkNamespace: "orders", ServiceAccounts: []string{"a"}}, []string{"network_namespace: "}},
		{"an attribute with a slash", metadata.Config{Listen: "127.0.0.1:1", ServiceAccounts: []string{"a"}, Instance: metadata.Instance{Attributes: map[string]string{"a/b": "c"}}}, []string{"instance.attributes: "}},
		{"a zone that is none", metadata.Config{Listen: "127.0.0.1:1", ServiceAccounts: []string{"a"}, Instance: metadata.Instance{Zone: "A/b"}}, []string{"instance.zone: ", "instance.region: "}},
		{"a universe with a scheme", metadata.Config{Listen: "127.0.0.1:1", ServiceAccounts: []string{"a"}, UniverseDomain: "https://x"}, []string{"universe_domain: "}},
		{"an account twice", metadata.Config{Listen: "127.0.0.1:1", ServiceAccounts: []string{"a", "b", "a"}}, []string{`service_accounts[2]: "a" is there twice`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.config.Complete()
			if (err == nil) != (len(tt.want) == 0) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if i := tt.config.Instance; tt.config.Project.ID != "sallyport" || tt.config.Project.Number != 1 || i.Zone == "" || i.Region == "" || i.ID == 0 || i.ID > 1<<63-1 {
				t.Errorf("the project is %+v, the instance %+v, want defaults", tt.config.Project, i)
			}
		})
	}
}
