package config_test

import (
	"bytes"
	"encoding"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/config"
)

const good = `
trust_domain: acme.internal
replica: a
issuer: {url: "http://127.0.0.1:8400", listen: "127.0.0.1:8400"}
data_dir: /var/lib/sallyport
`

const service = `
gateway: {listen: "127.0.0.1:8443"}
services:
  - name: invoices
    audiences: [https://invoices.acme.internal]
    http: {hosts: [Invoices.Test.], upstream: "http://127.0.0.1:9000"}
`

// Each mistake has the line it is on and says what would be right.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"nothing wrong", good + service, ""},
		{"an empty file", "", `f.yaml:1: trust_domain: "": want lower-case letters`},
		{"an unknown key", good + "trustdomain: x\n", `f.yaml:6: trustdomain: unknown key: did you mean trust_domain?`},
		{"an unknown key deep inside", good + "gateway:\n  listen: a:1\n  tsl: []\n", `f.yaml:8: gateway.tsl: unknown key: this version knows listen, tls, trusted_proxies here`},
		{"a key twice", good + "replica: b\n", "f.yaml:6: replica: is there twice: first on line 3"},
		{"a list where one value belongs", good + "replicas: [a]\n", "f.yaml:6: replicas: unknown key: did you mean replica?"},
		{"a value where a list belongs", good + "services: x\n", "f.yaml:6: services: want a list"},
		{"a value where a mapping belongs", good + "gateway: x\n", "f.yaml:6: gateway: want a mapping"},
		{"a mapping where a value belongs", good + "gateway: {listen: {a: b}}\n", "f.yaml:6: gateway.listen: want a single value"},
		{"yes is not text", good + "groups: [{name: true}]\n", "f.yaml:6: groups[0].name: want text: put it in quotes"},
		{"a number that is none", good + "service_accounts: [{name: a, attest: [{uid: me}]}]\n", `f.yaml:6: service_accounts[0].attest[0].uid: "me": want a whole number`},
		{"a uid below zero", good + "service_accounts: [{name: a, attest: [{uid: -1}]}]\n", `f.yaml:6: service_accounts[0].attest[0].uid: "-1": want a whole number`},
		{"an alias", good + "gateway: &g {listen: a:1}\n", "f.yaml:6: gateway: anchors, aliases and tags are not read"},
		{"a tag", good + "gateway: !x {listen: a:1}\n", "f.yaml:6: gateway: anchors, aliases and tags are not read"},
		{"not YAML", good + "gateway: [\n", "not YAML: "},
		{"two documents", good + "---\nreplica: b\n", "f.yaml:6: a second document"},
		{"no data_dir", strings.ReplaceAll(good, "data_dir: /var/lib/sallyport\n", ""), "f.yaml:1: data_dir: is missing"},
		{"a replica that would end a decision id", strings.Replace(good, "replica: a", "replica: a-", 1), `f.yaml:3: replica: "a-": want`},
		{"a replica with a plus", strings.Replace(good, "replica: a", "replica: a+b", 1), `f.yaml:3: replica: "a+b": want`},
		{"an issuer with a slash", strings.Replace(good, `8400", l`, `8400/", l`, 1), `f.yaml:4: issuer.url: "http://127.0.0.1:8400/": an issuer here is scheme and host alone`},
		{"an issuer over http", strings.Replace(good, `http://127.0.0.1:8400"`, `http://id.acme"`, 1), `f.yaml:4: issuer.url: "http://id.acme": an issuer is https`},
		{"services without a listener", good + strings.Replace(service, `gateway: {listen: "127.0.0.1:8443"}`, "", 1), "gateway.listen: is missing"},
		{"two services of one name", good + service + "  - {name: invoices, audiences: [b], http: {hosts: [b], upstream: 'http://b:1'}}\n", `f.yaml:12: services[1].name: "invoices" is there twice`},
		{"an audience of two services", good + service + "  - {name: b, audiences: [https://invoices.acme.internal], http: {hosts: [b], upstream: 'http://b:1'}}\n", `f.yaml:12: services[1].audiences[0]: "https://invoices.acme.internal" is the audience of invoices`},
		{"a host of two services", good + service + "  - {name: b, audiences: [b], http: {hosts: [invoices.test], upstream: 'http://b:1'}}\n", `f.yaml:12: services[1].http.hosts[0]: "invoices.test" is a host of invoices`},
		{"our own audience", good + service + "  - {name: b, audiences: [https://id], http: {hosts: [b], upstream: 'http://b:1'}}\n", ""},
		{"the issuer's audience", good + strings.Replace(service, "[https://invoices.acme.internal]", `["http://127.0.0.1:8400"]`, 1), "is the audience of this issuer itself"},
		{"a door of an account that is not there", good + "metadata: {listen: '127.0.0.1:1', service_accounts: [x]}\n", `f.yaml:6: metadata[0].service_accounts[0]: "x" is not among service_accounts`},
		{"a door for everybody", good + "service_accounts: [{name: x}]\nmetadata: {listen: '0.0.0.0:1', service_accounts: [x]}\n", "f.yaml:7: metadata[0].listen: \"0.0.0.0:1\": want a loopback address"},
		{"a door without accounts", good + "metadata: [{listen: '127.0.0.1:1'}]\n", "f.yaml:6: metadata[0].service_accounts: is empty"},
		{"an account twice", good + "service_accounts: [{name: x}, {name: x}]\n", `f.yaml:6: service_accounts[1].name: "x" is there twice`},
		{"a provider that nobody declared", good + strings.Replace(service, "    http:", "    accept: [lab]\n    http:", 1), `f.yaml:11: services[0].accept[0]: "lab" is neither self nor a provider`},
		{"a provider that poses as us", good + "providers: [{name: lab, oidc: {issuer: 'http://127.0.0.1:8400', jwks_url: 'https://x/k', audiences: [a]}}]\n", "is another provider's, or our own"},
		{"a provider without keys", good + "providers: [{name: lab, oidc: {issuer: 'https://i', audiences: [a]}}]\n", "f.yaml:6: providers[0].oidc: needs jwks_file or jwks_url"},
		{"a provider of an unknown kind", good + "providers: [{name: lab, saml: {}}]\n", "f.yaml:6: providers[0].saml: unknown key: this version knows name, oidc, x509 here"},
		{"a key file that is not there", good + "providers: [{name: lab, oidc: {issuer: 'https://i', jwks_file: no.json, audiences: [a]}}]\n", "f.yaml:6: providers[0].oidc.jwks_file: open "},
		{"an algorithm we do not verify", good + "providers: [{name: lab, oidc: {issuer: 'https://i', jwks_url: 'https://x', audiences: [a], algorithms: [HS256]}}]\n", `providers[0].oidc.algorithms[0]: "HS256" is not an algorithm we verify`},
		{"a condition, on the line of the rule", good + service + "policies:\n  - name: p\n    allow: [anyAuthenticated]\n    to: [invoices]\n    actions: [http.get]\n    when: request.pth == ''\n", "f.yaml:17: policies[0].when: 1:8: undeclared reference to 'request.pth'"},
		{"a durability that is not served", good + "audit: {durability: buffered}\n", "f.yaml:6: audit.durability: \"buffered\" is for reads of single services"},
		{"a store that is not served", good + "store: {url: 'postgres://x'}\n", "f.yaml:6: store.url: "},
		{"a password in the upstream's URL", good + strings.Replace(service, "http://127.0.0.1:9000", "http://u:hunter2@h:1", 1), `http.upstream: "http://u:xxxxx@h:1": a password has no place in the file`},
		{"a header that carries something else", good + strings.Replace(service, `9000"}`, `9000", identity_headers: {Authorization: principal.id}}`, 1), "cannot carry an identity"},
		{"an account's algorithm", good + "service_accounts: [{name: x, algorithm: HS256}]\n", `f.yaml:6: service_accounts[0].algorithm: "HS256": tokens are signed with RS256 or ES256`},
		{"an entry without an anchor", good + "service_accounts:\n  - name: x\n    attest:\n      - executable: /bin/x\n", "f.yaml:9: service_accounts[0].attest[0]: needs uid or cgroup"},
		{"a relative cgroup", good + "service_accounts: [{name: x, attest: [{cgroup: orders.service}]}]\n", `f.yaml:6: service_accounts[0].attest[0].cgroup: "orders.service": write the whole path`},
		{"a uid that is none", good + "service_accounts: [{name: x, attest: [{uid: root}]}]\n", "f.yaml:6: service_accounts[0].attest[0].uid: "},
		{"a fact that nobody can attest", good + "service_accounts: [{name: x, attest: [{uid: 1, container: a}]}]\n", "f.yaml:6: service_accounts[0].attest[0].container: unknown key: this version knows cgroup, executable, gid, sha256, uid here"},
		{"a signing algorithm", strings.Replace(good, "issuer: {", "issuer: {signing: {algorithm: EdDSA}, ", 1), `issuer.signing.algorithm: "EdDSA": tokens are signed with RS256 or ES256`},
		{"keys that are published too late", strings.Replace(good, "issuer: {", "issuer: {signing: {publish_before: 30m}, ", 1), "issuer.signing.publish_before: 30m0s is less than 1h5m0s"},
		{"keys that are rotated too soon", strings.Replace(good, "issuer: {", "issuer: {signing: {rotate: 2h}, ", 1), "issuer.signing.rotate: 2h0m0s is not between"},
		{"a key-encryption key in two places", strings.Replace(good, "issuer: {", "issuer: {key_encryption: {file: a, env: B}, ", 1), "issuer.key_encryption.file and env are both set: keep one"},
		{"an earlier key-encryption key in none", strings.Replace(good, "issuer: {", "issuer: {key_encryption: {previous: [{}]}, ", 1), "issuer.key_encryption.previous[0]: needs file or env"},
		{"a universe that is no domain", good + "service_accounts: [{name: x}]\nmetadata: {listen: '127.0.0.1:1', service_accounts: [x], universe_domain: 'https://x'}\n", `f.yaml:7: metadata[0].universe_domain: "https://x": want a domain`},
		{"a network namespace that is no path", good + "service_accounts: [{name: x}]\nmetadata: {listen: '127.0.0.1:1', service_accounts: [x], network_namespace: orders}\n", `f.yaml:7: metadata[0].network_namespace: "orders": want a whole path`},
		{"administrators by name", good + "admin: {uids: [root]}\n", "f.yaml:6: admin.uids[0]: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.Parse("f.yaml", []byte(tt.text), t.TempDir())
			if tt.want == "" {
				if err != nil || c == nil {
					t.Fatalf("got %v", err)
				}
				return
			}
			m, ok := errors.AsType[config.Mistakes](err)
			if !ok || c != nil || !strings.Contains(m.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
			for _, line := range m {
				if strings.Contains(line, "hunter2") {
					t.Errorf("a mistake shows a password: %s", line)
				}
				if !strings.HasPrefix(line, "f.yaml:") {
					t.Errorf("a mistake without its place: %s", line)
				}
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "s.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(good, "/var/lib/sallyport", "data", 1)+service), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != filepath.Join(dir, "data") {
		t.Errorf("data_dir %s does not start at the file's folder", c.DataDir)
	}
	if got := c.Services[0].HTTP.Hosts[0]; got != "invoices.test" {
		t.Errorf("host %q is not in the form it is compared in", got)
	}
	if c.Telemetry.Listen != "127.0.0.1:8402" || c.Issuer.Audience != c.Issuer.URL || c.Services[0].Accept[0] != "self" {
		t.Errorf("defaults are not filled in: %+v", c)
	}
	text, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.Parse("printed", text, "/")
	if err != nil {
		t.Fatalf("what is printed does not read back: %v\n%s", err, text)
	}
	text2, err := again.Print()
	if err != nil || !bytes.Equal(text, text2) {
		t.Errorf("printed differs:\n%s\n%s", text, text2)
	}
	if _, err := config.Load(filepath.Join(dir, "no.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestDevIsAConfiguration(t *testing.T) {
	t.Parallel()
	c := config.Dev(config.DefaultDevAddresses(), t.TempDir(), 1000)
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	text, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse("dev", text, "/"); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if w := c.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "issuer.audiences") {
		t.Errorf("warnings %q", w)
	}
	c.Services[0].Accept = append(c.Services[0].Accept, "lab")
	if w := c.Warnings(); len(w) != 2 || !strings.Contains(w[1], "principal.name does not say who vouched") {
		t.Errorf("several issuers behind one name: warnings %q", w)
	}
	c.Services[0].Accept = c.Services[0].Accept[:1]
	c.Gateway.Listen, c.Issuer.Listen = "0.0.0.0:8443", "[::]:8400"
	if w := c.Warnings(); len(w) != 3 {
		t.Errorf("listeners that everybody reaches: warnings %q", w)
	}
}

// A value that does not decode is told what it should look like, for every type
// that the file uses.
func TestEveryLeafHasAKind(t *testing.T) {
	t.Parallel()
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				if f := typ.Field(i); f.Tag.Get("yaml") != "" {
					walk(f.Type)
				}
			}
		case reflect.String:
		default:
			if reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
				return // which says it itself
			}
			if config.KindForTest(typ.String()) == "" {
				t.Errorf("%s has no description in kinds", typ)
			}
		}
	}
	walk(reflect.TypeFor[config.Config]())
	if len(seen) < 20 {
		t.Errorf("walked %d types only", len(seen))
	}
}

// Whatever the text, Parse gives a configuration or mistakes with their places,
// and what it takes, it prints and takes again.
func FuzzParse(f *testing.F) {
	f.Add(good + service)
	f.Add("a: [b, {c: d}]\n")
	f.Add("services: [{http: {identity_headers: {a: b}}}]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse("f", []byte(text), "/nowhere")
		if err != nil {
			if _, ok := errors.AsType[config.Mistakes](err); !ok {
				t.Fatalf("not mistakes: %v", err)
			}
			return
		}
		printed, err := c.Print()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse("f", printed, "/nowhere"); err != nil {
			t.Fatalf("what is printed does not read back: %v\n%s", err, printed)
		}
	})
}
