package metadata_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/door/metadata"
)

// attributes are what this file's doors have for their accounts.
func withAttributes() *world {
	return &world{config: metadata.Config{
		Project:  metadata.Project{Attributes: map[string]string{"env": "prod"}},
		Instance: metadata.Instance{Attributes: map[string]string{"foo": "bar", "startup-script": "a\nb"}, Tags: []string{"http", "blue"}},
	}}
}

const (
	v1   = "/computeMetadata/v1/"
	text = "application/text"
	js   = "application/json"

	scopes  = "https://www.googleapis.com/auth/cloud-platform"
	account = `{"aliases":["default"],"email":"orders@sa.test","scopes":["` + scopes + `"]}`
)

// Every row of contract google-clients 1.3 to 1.5: the path, who asks for it in that
// form, and the whole answer. Tokens are what the test's minter says of them.
func TestContract(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		row, target string
		status      int
		contentType string
		body        string // "" is not compared
	}{
		// 1.3, row by row
		{"/", "/", 200, text, "computeMetadata/\n"},
		{"/computeMetadata/", "/computeMetadata/", 200, text, "v1/\n"},
		{"/computeMetadata/v1/", v1, 200, text, "instance/\nproject/\nuniverse/\n"},
		{"/computeMetadata/v1/instance without a slash, as Node asks", v1 + "instance", 301, "", ""},
		{"any other directory without a slash", v1 + "project", 301, "", ""},
		{"the tree without a slash", "/computeMetadata/v1", 301, "", ""},
		{"a directory of accounts without a slash", sa + "/default", 301, "", ""},
		{"instance/", v1 + "instance/", 200, text, "attributes/\nhostname\nid\nname\nregion\nservice-accounts/\ntags\nzone\n"},
		{"instance/service-accounts/, which gcloud splits into lines", sa + "/", 200, text, "default/\norders@sa.test/\n"},
		{"instance/service-accounts/?recursive=true, as Java asks", sa + "/?recursive=true", 200, js, `{"default":` + account + `,"orders@sa.test":` + account + `}`},
		{"…/default/?recursive=true, as Python asks", sa + "/default/?recursive=true", 200, js, account},
		{"…/default?recursive=true without the slash", sa + "/default?recursive=true", 200, js, account},
		{"…/{email}/?recursive=true, as gcloud asks", sa + "/orders@sa.test/?recursive=true", 200, js, account},
		{"…/{email} escaped", sa + "/orders%40sa.test/?recursive=true", 200, js, account},
		{"…/{name}, which Google has not", sa + "/orders/?recursive=true", 200, js, account},
		{"…/default/", sa + "/default/", 200, text, "aliases\nemail\nidentity\nscopes\ntoken\n"},
		{"…/email", sa + "/default/email", 200, text, "orders@sa.test"},
		{"…/email by address", sa + "/orders@sa.test/email", 200, text, "orders@sa.test"},
		{"…/email by name", sa + "/orders/email", 200, text, "orders@sa.test"},
		{"…/aliases", sa + "/default/aliases", 200, text, "default\n"},
		{"…/scopes, one a line, as Go reads them", sa + "/default/scopes", 200, text, scopes + "\n"},
		{"project/project-id", v1 + "project/project-id", 200, text, "acme"},
		{"project/numeric-project-id is digits alone", v1 + "project/numeric-project-id", 200, text, "42"},
		{"project/attributes/", v1 + "project/attributes/", 200, text, "env\n"},
		{"project/attributes/KEY", v1 + "project/attributes/env", 200, text, "prod"},
		{"instance/attributes/", v1 + "instance/attributes/", 200, text, "foo\nstartup-script\n"},
		{"instance/attributes/KEY", v1 + "instance/attributes/foo", 200, text, "bar"},
		{"an attribute that is not there", v1 + "instance/attributes/none", 404, "", ""},
		{"instance/id", v1 + "instance/id", 200, text, "7"},
		{"instance/name", v1 + "instance/name", 200, text, "box"},
		{"instance/hostname", v1 + "instance/hostname", 200, text, "box.acme.internal"},
		{"instance/zone", v1 + "instance/zone", 200, text, "projects/42/zones/acme-1-b"},
		{"instance/region, as gcloud derives it", v1 + "instance/region", 200, text, "projects/42/regions/acme-1"},
		{"instance/network-interfaces/0/ip: 404 is fine", v1 + "instance/network-interfaces/0/ip", 404, "", ""},
		{"…/access-configs/0/external-ip: 404 is fine", v1 + "instance/network-interfaces/0/access-configs/0/external-ip", 404, "", ""},
		{"instance/tags is a JSON array", v1 + "instance/tags", 200, text, `["http","blue"]`},
		{"universe/universe-domain", v1 + "universe/universe-domain", 200, text, metadata.DefaultUniverse},
		{"recursive=true of everything: names in camelCase, no tokens", v1 + "?recursive=true", 200, js,
			`{"instance":{"attributes":{"foo":"bar","startup-script":"a\nb"},"hostname":"box.acme.internal","id":7,"name":"box","region":"projects/42/regions/acme-1",` +
				`"serviceAccounts":{"default":` + account + `,"orders@sa.test":` + account + `},"tags":["http","blue"],"zone":"projects/42/zones/acme-1-b"},` +
				`"project":{"attributes":{"env":"prod"},"numericProjectId":42,"projectId":"acme"},"universe":{"universeDomain":"` + metadata.DefaultUniverse + `"}}`},
		{"recursive=TRUE", v1 + "universe/?recursive=TRUE", 200, js, `{"universeDomain":"` + metadata.DefaultUniverse + `"}`},
		{"recursive=false", v1 + "universe/?recursive=false", 200, text, "universe-domain\n"},
		{"recursive=true of attributes keeps their names", v1 + "instance/attributes/?recursive=true", 200, js, `{"foo":"bar","startup-script":"a\nb"}`},
		{"alt=json of a value", v1 + "project/project-id?alt=json", 200, js, `"acme"`},
		{"alt=json of a number", v1 + "instance/id?alt=json", 200, js, "7"},
		{"alt=json of a list", sa + "/default/scopes?alt=json", 200, js, `["` + scopes + `"]`},
		{"alt=text with recursive: path and value", v1 + "project/?recursive=true&alt=text", 200, text, "attributes/env prod\nnumeric-project-id 42\nproject-id acme\n"},
		{"alt=text of a value", v1 + "project/project-id?alt=text", 200, text, "acme"},
		{"recursive=true of a value", v1 + "project/project-id?recursive=true", 200, js, `"acme"`},

		// 1.4
		{"token", sa + "/default/token", 200, js, `{"access_token":"orders: access token for ` + scopes + `","expires_in":1799,"token_type":"Bearer"}`},
		{"token under the address, as Python up to 2.39 asks", sa + "/orders@sa.test/token", 200, js, `{"access_token":"orders: access token for ` + scopes + `","expires_in":1799,"token_type":"Bearer"}`},
		{"token?scopes=a,b", sa + "/default/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fiam", 200, js, `{"access_token":"orders: access token for https://www.googleapis.com/auth/iam","expires_in":1799,"token_type":"Bearer"}`},
		{"token bound to a transport", sa + "/default/token?transport=mtls", 400, "", ""},
		{"token bound to a certificate", sa + "/default/token?bindCertificateFingerprint=x", 400, "", ""},

		// 1.5: never application/json, or Python would parse it
		{"identity", sa + "/default/identity?audience=https://svc.test", 200, "text/html", "orders: id token for https://svc.test, full false"},
		{"identity, standard", sa + "/default/identity?audience=https://svc.test&format=standard", 200, "text/html", "orders: id token for https://svc.test, full false"},
		{"identity, full", sa + "/default/identity?audience=https://svc.test&format=full", 200, "text/html", "orders: id token for https://svc.test, full true"},
		{"identity, full with licences", sa + "/default/identity?audience=https://svc.test&format=full&licenses=TRUE", 200, "text/html", "orders: id token for https://svc.test, full true"},
		{"identity with the old spelling", sa + "/default/identity?audience=https://svc.test&format=full&license=TRUE", 200, "text/html", "orders: id token for https://svc.test, full true"},
		{"identity under the address", sa + "/orders%40sa.test/identity?audience=https://svc.test", 200, "text/html", "orders: id token for https://svc.test, full false"},
		{"identity without an audience", sa + "/default/identity", 400, "", ""},
		{"identity for an audience that policy forbids", sa + "/default/identity?audience=https://denied.test", 403, "", ""},
		{"identity for gcloud's own audience", sa + "/default/identity?audience=32555940559.apps.googleusercontent.com", 404, "", ""},
	} {
		t.Run(tt.row, func(t *testing.T) {
			t.Parallel()
			d := withAttributes().door(t)
			got := send(t, d, get(tt.target))
			if got.Code != tt.status || tt.status == 200 && (got.Body.String() != tt.body || got.Header().Get("Content-Type") != tt.contentType) {
				t.Errorf("got %d %q as %q\nwant %d %q as %q", got.Code, got.Body, got.Header().Get("Content-Type"), tt.status, tt.body, tt.contentType)
			}
			if to := got.Header().Get("Location"); tt.status == 301 && to != strings.TrimSuffix(tt.target, "/")+"/" || tt.status != 301 && to != "" {
				t.Errorf("Location is %q", to)
			}
			head := send(t, d, "HEAD "+tt.target+" HTTP/1.1\r\n"+host+flavor+"\r\n")
			if head.Code != tt.status || tt.status == 200 && head.Header().Get("Content-Length") != got.Header().Get("Content-Length") {
				t.Errorf("HEAD got %d %v, want what GET gets", head.Code, head.Header())
			}
		})
	}
}

// Contract google-clients section 9: the request lines that were recorded, each with
// its client's own header, in its order and spelling.
func TestRecordedRequestLines(t *testing.T) {
	t.Parallel()
	const (
		goHead   = host + "User-Agent: gcloud-golang/0.1\r\n" + flavor + "Accept-Encoding: gzip\r\n"
		goProbe  = host + "User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n"
		node     = "host: 127.0.0.1:8401\r\nconnection: keep-alive\r\nmetadata-flavor: Google\r\naccept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node-fetch\r\naccept-encoding: gzip, deflate\r\n"
		python   = host + "Accept-Encoding: identity\r\n" + "metadata-flavor: Google\r\nx-goog-api-client: gl-python/3.12.10 auth/2.39.0 auth-request-type/it cred-type/mds\r\nAccept: */*\r\nConnection: keep-alive\r\n"
		java     = "Accept-Encoding: gzip\r\n" + flavor + "User-Agent: Google-HTTP-Java-Client/1.42.0 (gzip)\r\n" + host + "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2\r\nConnection: keep-alive\r\n"
		gcloud   = "Accept-Encoding: identity\r\n" + host + "User-Agent: Python-urllib/3.12\r\nMetadata-flavor: Google\r\nConnection: close\r\n"
		platform = "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform"
		svc      = "https%3A%2F%2Fsvc.test%2Fpath"
		tokenIs  = `{"access_token":"orders: access token`
	)
	for _, tt := range []struct {
		name, target, head string
		status             int
		body               string
	}{
		{"Go credentials: token", sa + "/default/token?scopes=" + platform + "%2Chttps%3A%2F%2Fwww.googleapis.com%2Fauth%2Fuserinfo.email", goHead, 200, tokenIs},
		{"Go credentials: project", v1 + "project/project-id", goHead, 200, "acme"},
		{"Go credentials: universe", v1 + "universe/universe-domain", goHead, 200, metadata.DefaultUniverse},
		{"Go api/idtoken", sa + "/default/identity?audience=" + svc + "&format=full", goHead, 200, "https://svc.test/path, full true"},
		{"Go auth/idtoken, standard", sa + "/default/identity?audience=" + svc, goHead, 200, "https://svc.test/path, full false"},
		{"Go auth/idtoken, with licences", sa + "/default/identity?audience=" + svc + "&format=full&licenses=TRUE", goHead, 200, "https://svc.test/path, full true"},
		{"Go Subscribe: first", v1 + "instance/attributes/foo", goHead, 200, "bar"},
		{"Go Subscribe: again with an old ETag", v1 + "instance/attributes/foo?wait_for_change=true&last_etag=abc123", goHead, 200, "bar"},
		{"Go Subscribe: a key that is gone ends it", v1 + "instance/attributes/gone?wait_for_change=true&last_etag=abc123", goHead, 404, "not found"},
		{"Go's probe sends no flavor", "/", goProbe, 200, "computeMetadata/"},

		{"Node isAvailable", v1 + "instance", node, 301, ""},
		{"Node isAvailable, redirected", v1 + "instance/", node, 200, "service-accounts/"},
		{"Node project", v1 + "project/project-id", node, 200, "acme"},
		{"Node token", sa + "/default/token?scopes=" + platform, node, 200, tokenIs},
		{"Node identity: the audience is not escaped", sa + "/default/identity?format=full&audience=https://svc.test/path", node, 200, "https://svc.test/path, full true"},
		{"Node identity: half an audience is noticed", sa + "/default/identity?format=full&audience=https://svc.test/path?x=1&y=2", node, 400, "unknown parameter"},
		{"Node getCredentials", sa + "/default/email", node, 200, "orders@sa.test"},
		{"Node universe", v1 + "universe/universe-domain", node, 200, metadata.DefaultUniverse},

		{"Python's ping", "/", python, 200, "computeMetadata/"},
		{"Python default(): project", v1 + "project/project-id", python, 200, "acme"},
		{"Python account", sa + "/default/?recursive=true", python, 200, account},
		{"Python 2.39 token, under the address", sa + "/orders@sa.test/token?scopes=", python, 200, tokenIs},
		{"Python 2.48 token", sa + "/default/token?scopes=" + platform, python, 200, tokenIs},
		{"Python identity", sa + "/default/identity?audience=" + svc + "&format=full", python, 200, "https://svc.test/path, full true"},
		{"Python universe", v1 + "universe/universe-domain", python, 200, metadata.DefaultUniverse},
		{"Python impersonation", sa + "/orders@sa.test/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fiam", python, 200, tokenIs},
		{"Python 1.5.1 token", sa + "/orders@sa.test/token", python, 200, tokenIs},

		{"Java's ping", "/", java, 200, "computeMetadata/"},
		{"Java token", sa + "/default/token", java, 200, tokenIs},
		{"Java identity", sa + "/default/identity?format=full&license=TRUE&audience=https://svc.test/p?x%3D1%26y%3D2", java, 200, "https://svc.test/p?x=1&y=2, full true"},
		{"Java getAccount", sa + "/?recursive=true", java, 200, `{"default":` + account},

		{"gcloud's probe", v1 + "project/numeric-project-id", gcloud, 200, "42"},
		{"gcloud account", sa + "/default/email", gcloud, 200, "orders@sa.test"},
		{"gcloud accounts", sa + "/", gcloud, 200, "default/\norders@sa.test/\n"},
		{"gcloud universe", v1 + "universe/universe-domain", gcloud, 200, metadata.DefaultUniverse},
		{"gcloud's own audience", sa + "/default/identity?audience=32555940559.apps.googleusercontent.com&format=standard&licenses=FALSE", gcloud, 404, "not allowed"},
		{"gcloud account by address", sa + "/orders@sa.test/?recursive=true", gcloud, 200, account},
		{"gcloud token by address", sa + "/orders@sa.test/token", gcloud, 200, tokenIs},
		{"gcloud identity", sa + "/default/identity?audience=https://svc.test&format=standard&licenses=FALSE", gcloud, 200, "https://svc.test, full false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := send(t, withAttributes().door(t), "GET "+tt.target+" HTTP/1.1\r\n"+tt.head+"\r\n")
			if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.body) {
				t.Errorf("got %d %s, want %d with %q", got.Code, got.Body, tt.status, tt.body)
			}
		})
	}
}

// An ETag is the body's, and Subscribe waits with it: until the time it names, until
// the server ends, or until it goes away.
func TestWaitForChange(t *testing.T) {
	t.Parallel()
	w := withAttributes()
	first := send(t, w.door(t), get(v1+"instance/attributes/foo"))
	tag := first.Header().Get("ETag")
	if tag == "" || tag == send(t, w.door(t), get(v1+"instance/name")).Header().Get("ETag") {
		t.Fatalf("ETag %q", tag)
	}
	for _, tt := range []struct {
		name, query string
		end         func(d *metadata.Door, cancel func())
		wait        time.Duration
	}{
		{"an old ETag is answered at once", "wait_for_change=true&last_etag=abc", nil, 0},
		{"so is a request that does not wait", "last_etag=" + tag, nil, 0},
		{"the same ETag waits for as long as it says", "wait_for_change=true&timeout_sec=30&last_etag=" + tag, nil, 30 * time.Second},
		{"no ETag waits too", "wait_for_change=TRUE&timeout_sec=30", nil, 30 * time.Second},
		{"without a time, an hour", "wait_for_change=true&last_etag=" + tag, nil, time.Hour},
		{"a time beyond that is an hour", "wait_for_change=true&timeout_sec=999999&last_etag=" + tag, nil, time.Hour},
		{"the server's end ends it", "wait_for_change=true&last_etag=" + tag, func(d *metadata.Door, _ func()) { d.Close() }, 10 * time.Second},
		{"the caller's end ends it", "wait_for_change=true&last_etag=" + tag, func(_ *metadata.Door, cancel func()) { cancel() }, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := withAttributes().door(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.end != nil {
					time.AfterFunc(10*time.Second, func() { tt.end(d.(*metadata.Door), cancel) })
				}
				began := time.Now()
				got := sendIn(t, ctx, d, get(v1+"instance/attributes/foo?"+tt.query))
				if took := time.Since(began); took != tt.wait {
					t.Errorf("answered after %v, want %v", took, tt.wait)
				}
				if got.Code != http.StatusOK || got.Body.String() != "bar" || got.Header().Get("ETag") != tag {
					t.Errorf("got %d %q, ETag %q", got.Code, got.Body, got.Header().Get("ETag"))
				}
			})
		})
	}
}

// One caller can have only so many requests waiting; others wait all the same.
func TestWaitersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := withAttributes()
		d := w.door(t)
		answers := make(chan *httptest.ResponseRecorder, 100)
		for range 65 {
			go func() {
				answers <- sendIn(t, t.Context(), d, get(v1+"instance/name?wait_for_change=true&timeout_sec=60"))
			}()
		}
		synctest.Wait()
		refused := <-answers // the others wait
		if refused.Code != http.StatusTooManyRequests || refused.Header().Get("Retry-After") != "5" {
			t.Errorf("one too many got %d %s", refused.Code, refused.Body)
		}
		for range 64 {
			if got := <-answers; got.Code != http.StatusOK {
				t.Errorf("got %d", got.Code)
			}
		}
	})
}
