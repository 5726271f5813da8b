package sink_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
)

func eventOf(k audit.Kind, d audit.Decision, service, rule, state string, p *audit.Payload) string {
	l := audit.Line{ID: "a-7", Seq: 7, Time: time.Date(2026, 11, 28, 8, 0, 0, 123456789, time.UTC), Kind: k, Decision: d, Service: service, Rule: rule, Policy: "r1",
		State: state, Leaf: `{"v":1,"seq":7}`}
	return string(sink.OCSF([]byte("before "), &l, p, "acme.internal/a", "v1"))
}

// Each kind of record becomes an event that the schema accepts, of the class and
// activity that docs/spec/ocsf.md names.
func TestOCSF(t *testing.T) {
	t.Parallel()
	open := func(k audit.Kind, d audit.Decision, p audit.Payload) string { return eventOf(k, d, "", "", "open", &p) }
	on := func(k audit.Kind, d audit.Decision, p audit.Payload) string {
		return eventOf(k, d, "invoices", "may", "open", &p)
	}
	for _, tt := range []struct {
		name, event string
		class       int
		want        []string // parts of the JSON
	}{
		{"a call that was allowed", on("admit", "allow", audit.Payload{Principal: "serviceAccount:orders", Actors: []string{"serviceAccount:front", "user:lab/1"}, Provider: "self", Action: "http.get",
			Peer: "192.0.2.1:4711", TraceID: "4bf9", Vars: map[string]string{"request.path": "/v1/x"}}), 6003, []string{`"type_uid":600302`, `"type_name":"API Activity: Read"`, `"time":1795852800123`,
			`"original_time":"2026-11-28T08:00:00.123456789Z"`, `"uid":"a-7"`, `"log_name":"acme.internal/a"`, `"status_id":1`, `"user":{"name":"orders","uid":"serviceAccount:orders","domain":"self","type_id":4`,
			`"app_uid":"serviceAccount:front"`, `"src_endpoint":{"ip":"192.0.2.1","port":4711}`, `"svc_name":"invoices"`, `"http_request":{"http_method":"GET","url":{"path":"/v1/x"}}`,
			`"policy":{"name":"may","uid":"r1","version":"r1"}`, `"trace":{"uid":"4bf9"}`, `"profiles":["security_control","trace"]`, `"leaf":"{\"v\":1,\"seq\":7}"`}},
		{"a call that policy denied", on("admit", "deny", audit.Payload{Principal: "principal:lab/x", Action: "http.delete", Reason: "no_match"}), 6003,
			[]string{`"activity_id":4`, `"status_id":2`, `"severity_id":2`, `"disposition_id":26`, `"status_code":"no_match"`, `"type_id":99`}},
		{"what a POST does is not ours to say", open("check", "allow", audit.Payload{Principal: "user:local/0", Action: "http.post"}), 6003, []string{`"activity_id":99,"activity_name":"http.post"`, `"type_id":1`}},
		{"a token that was minted", open("admit", "allow", audit.Payload{Principal: "serviceAccount:orders", Action: "token.mint", IssuedTokenID: "new"}), 3002,
			[]string{`"activity_name":"token.mint"`, `"session":{"uid":"new","issuer":"acme.internal/a"}`, `"service":{"name":"sallyport"}`}},
		{"a credential that was refused", on("refuse", "deny", audit.Payload{Action: "http.get", Reason: "token_expired", TraceID: "4bf9", Unverified: map[string]string{"iss": "x\x1b\n"}, Cut: true}), 3002,
			[]string{`"activity_id":1`, `"disposition_id":2`, `"user":{"name":"Unknown","type_id":0`, `"trace_id":"4bf9"`, `"iss":"x\u001b\n"`, `"is_truncated":true`}},
		{"many refusals in one record", open("refuse", "deny", audit.Payload{Reason: "credential_missing", Peer: "192.0.2.0/24", Count: 9000}), 3002, []string{`"src_endpoint":{"name":"192.0.2.0/24"}`, `"count":9000`}},
		{"a request that was malformed", open("refuse", "deny", audit.Payload{Action: "http.get", Reason: "path_not_canonical"}), 6003, []string{`"src_endpoint":{"name":"Unknown"}`}},
		{"a request of no form at all", open("refuse", "deny", audit.Payload{Reason: "host_unknown"}), 6003, []string{`"operation":"refuse"`}},
		{"a program that ran as an account", open("admit", "allow", audit.Payload{Principal: "user:local/1000", Action: "workload.run", Resource: "serviceAccount:orders"}), 3002,
			[]string{`"activity_id":7`, `"user":{"name":"orders","uid":"serviceAccount:orders","type_id":4`, `"actor":{"user":{"name":"local/1000"`}},
		{"a session that ended", on("close", "", audit.Payload{Principal: "serviceAccount:orders", Action: "http.get", Detail: "of a-3", DurationMS: 1500}), 6003, []string{`"activity_name":"Close"`, `"correlation_uid":"a-3"`, `"duration_ms":1500`}},
		{"the server started", open("note", "", audit.Payload{Action: "server.start", Version: "v2", TornBytes: 5}), 6002, []string{`"activity_id":3`, `"version":"v2"}`, `"severity_id":3`}},
		{"the server did something new", open("note", "", audit.Payload{Action: "server.reload"}), 6002, []string{`"type_uid":600299`}},
		{"a key was made", open("note", "", audit.Payload{Action: "keys.create", Detail: "key k1 (tokens, RS256), used at once"}), 3004, []string{`"activity_id":1`, `"entity":{"name":"k1","type":"key"}`, `"type_id":3`}},
		{"an operator asked for keys", open("admit", "allow", audit.Payload{Principal: "user:local/0", Action: "admin.keys.rotate", Resource: "keys for tokens", Peer: "@"}), 3004, []string{`"activity_id":3`, `"entity":{"name":"keys for tokens"`, `"src_endpoint":{"name":"@"}`}},
		{"an operator asked for an erasure", open("admit", "deny", audit.Payload{Principal: "user:local/0", Action: "admin.audit.erase", Entries: []string{"1-3"}}), 3004, []string{`"activity_id":4`, `"type":"audit log"`, `"entries":["1-3"]`}},
		{"an operator asked for something new", open("admit", "deny", audit.Payload{Principal: "user:local/7", Action: "admin.revoke.all"}), 3004, []string{`"activity_name":"admin.revoke.all"`}},
		{"an action that this version does not know", open("admit", "allow", audit.Payload{Action: "ssh.exec", Principal: "a\xff\u202e"}), 6003, []string{`"activity_name":"ssh.exec"`}},
		{"a record that was lost", eventOf("gap", "", "", "", "open", nil), 6003, []string{`"activity_name":"gap"`, `"severity_id":3`}},
		{"a payload that is sealed", eventOf("admit", "deny", "invoices", "no-go", "sealed", nil), 6003, []string{`"type_uid":600300`, `"status_id":2`, `"message":"admit (payload sealed) on invoices: denied"`}},
		{"a payload that is damaged", eventOf("admit", "allow", "", "", "damaged", nil), 6003, []string{`"severity_id":4`}},
		{"a decision that is not there", eventOf("admit", "", "", "", "erased", nil), 6003, []string{`"status_id":0`}},
	} {
		line, ok := strings.CutPrefix(tt.event, "before ")
		line, ended := strings.CutSuffix(line, "\n")
		var ev map[string]any
		if err := json.Unmarshal([]byte(line), &ev); err != nil || !ok || !ended || strings.ContainsAny(line, "\n\r") {
			t.Fatalf("%s: not one line of JSON: %v %q", tt.name, err, tt.event)
		}
		if ev["class_uid"] != float64(tt.class) {
			t.Errorf("%s: class %v, want %d", tt.name, ev["class_uid"], tt.class)
		}
		for _, w := range tt.want {
			if !strings.Contains(line, w) {
				t.Errorf("%s: no %s in\n%s", tt.name, w, line)
			}
		}
		if wrong := holds(ev); wrong != nil {
			t.Errorf("%s: %v\n%s", tt.name, wrong, line)
		}
	}
}

// The checker refuses what the schema refuses.
func TestTheSchemaRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(map[string]any){
		"an attribute that is missing":       func(ev map[string]any) { delete(ev, "api") },
		"an attribute of another class":      func(ev map[string]any) { ev["app"] = map[string]any{"name": "x"} },
		"a number that is in no enum":        func(ev map[string]any) { ev["status_id"] = 7.0 },
		"a caption of another number":        func(ev map[string]any) { ev["status"] = "Failure" },
		"a type that is not class, activity": func(ev map[string]any) { ev["type_uid"] = 600399.0 },
		"text for a number":                  func(ev map[string]any) { ev["time"] = "now" },
		"an endpoint without a name":         func(ev map[string]any) { ev["src_endpoint"] = map[string]any{"port": 1.0} },
		"a profile that is not named":        func(ev map[string]any) { delete(ev["metadata"].(map[string]any), "profiles") },
		"no object where one is due":         func(ev map[string]any) { ev["actor"] = "me" },
		"no list where one is due":           func(ev map[string]any) { ev["authorizations"] = map[string]any{} },
	} {
		var ev map[string]any
		text := eventOf("admit", "allow", "s", "r", "open", &audit.Payload{Principal: "a", Action: "http.get"})
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "before ")), &ev); err != nil || holds(ev) != nil {
			t.Fatal(err, holds(ev))
		}
		if spoil(ev); holds(ev) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
