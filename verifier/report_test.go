package verifier_test

import (
	"bytes"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/verifier"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// What is told of a call, field by field.
func TestReports(t *testing.T) {
	t.Parallel()
	s := serve(t)
	good := s.orders(t, nil)
	lab := s.lab.sign(t, "", with(claims{"iss": "https://lab", "sub": "repo:o/r"}))
	stranger := s.lab.sign(t, "", with(claims{"iss": "https://nobody"}))
	app := verifier.Report{Time: now.UTC(), Kind: "refuse", Decision: "deny", Service: "app", Action: "http.get", Resource: "/v1/x", TraceID: traceID, Reported: true}
	report := func(change func(*verifier.Report)) verifier.Report {
		r := app
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name, method, path string
		auth               string
		want               verifier.Report
	}{
		{"an account is admitted", "GET", "/v1/x?q=1", good, report(func(r *verifier.Report) {
			r.Kind, r.Decision, r.Principal, r.Provider, r.TokenID = "admit", "allow", "serviceAccount:orders", "https://id", "token-1"
		})},
		{"another issuer's subject is admitted", "POST", "/a%20b", lab, report(func(r *verifier.Report) {
			r.Kind, r.Decision, r.Principal, r.Provider = "admit", "allow", "principal:https://lab/repo:o/r", "https://lab"
			r.Action, r.Resource = "http.post", "/a b"
		})},
		{"no credential", "DELETE", "/v1/x", "", report(func(r *verifier.Report) { r.Reason, r.Action = "credential_missing", "http.delete" })},
		{"a method that the gateway does not forward", "get", "/v1/x", "", report(func(r *verifier.Report) { r.Reason, r.Action = "credential_missing", "" })},
		{"a method that would pass for an upgrade", "WEBSOCKET", "/v1/x", "", report(func(r *verifier.Report) { r.Reason, r.Action = "credential_missing", "" })},
		{"no token", "GET", "/v1/x", "abc", report(func(r *verifier.Report) { r.Reason = "token_malformed" })},
		{"of a stranger is told what it claims", "GET", "/v1/x", stranger, report(func(r *verifier.Report) {
			r.Reason, r.Unverified = "issuer_unknown", map[string]string{"iss": "https://nobody", "kid": "l"}
		})},
		{"of a forger too, and not as verified", "GET", "/v1/x", flip(good), report(func(r *verifier.Report) {
			r.Reason, r.Unverified = "signature_invalid", map[string]string{"iss": "https://id", "kid": "k"}
		})},
		{"who it was is known when only the audience is wrong", "GET", "/v1/x", s.orders(t, claims{"aud": "https://other"}), report(func(r *verifier.Report) {
			r.Reason, r.Principal, r.Provider, r.TokenID = "audience_wrong", "serviceAccount:orders", "https://id", "token-1"
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				h := http.Header{"Traceparent": {traceparent}}
				if tt.auth != "" {
					h["Authorization"] = []string{"Bearer " + tt.auth}
				}
				s.send(t, tt.method, tt.path, h)
				got := s.reports.take()
				if len(got) != 1 || !strings.HasPrefix(got[0].Peer, "127.0.0.1:") {
					t.Fatalf("reported %+v", got)
				}
				got[0].Peer = ""
				if !reflect.DeepEqual(got[0], tt.want) {
					t.Errorf("got  %+v\nwant %+v", got[0], tt.want)
				}
			}
		})
	}
}

// A caller cannot make a report long, and cannot hide what it cuts.
func TestReportsAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := strings.Repeat("é", 4096)
	a := bearerHeader(w.lab.sign(t, "", with(claims{"iss": "x" + long[:600]})))
	a.Resource, a.Peer = "/"+long, "\xff\xfe"
	if _, err := w.gate.Admit(t.Context(), a); err == nil {
		t.Fatal("admitted")
	}
	r := w.reports.take()[0]
	if len(r.Resource) > 4096 || len(r.Resource) < 4090 || len(r.Unverified["iss"]) > 256 || len(r.Unverified["iss"]) < 250 || r.Peer != "\uFFFD" || !r.Cut {
		t.Errorf("resource has %d bytes, iss %d, peer is %q, cut %v", len(r.Resource), len(r.Unverified["iss"]), r.Peer, r.Cut)
	}
	if _, err := w.gate.Admit(t.Context(), bearerHeader(w.orders(t, nil))); err != nil {
		t.Fatal(err)
	}
	if r := w.reports.take()[0]; r.Cut {
		t.Errorf("nothing was cut, and it says so: %+v", r)
	}
}

func TestTraceID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const parent = "-00f067aa0ba902b7"
	for _, tt := range []struct {
		name   string
		values []string
		valid  bool
	}{
		{"as the standard shows it", []string{traceparent}, true},
		{"a version to come, as long", []string{"cc-" + traceID + parent + "-01"}, true},
		{"a version to come, with more", []string{"cc-" + traceID + parent + "-01-what-the-future-will-be-like"}, true},
		{"none", nil, false},
		{"two", []string{traceparent, traceparent}, false},
		{"empty", []string{""}, false},
		{"the first version with more", []string{traceparent + "-x"}, false},
		{"a version to come, with more and no dash", []string{"cc-" + traceID + parent + "-01.x"}, false},
		{"the version that is forbidden", []string{"ff-" + traceID + parent + "-01"}, false},
		{"capital letters", []string{strings.ToUpper(traceparent)}, false},
		{"a trace id of zeros", []string{"00-" + strings.Repeat("0", 32) + parent + "-01"}, false},
		{"a parent id of zeros", []string{"00-" + traceID + "-0000000000000000-01"}, false},
		{"a trace id too short", []string{"00-" + traceID[1:] + parent + "-01"}, false},
		{"other separators", []string{strings.ReplaceAll(traceparent, "-", "_")}, false},
		{"flags that are not hexadecimal", []string{"00-" + traceID + parent + "-0x"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := w.gate.Admit(t.Context(), verifier.Attempt{Traceparent: tt.values}); err == nil {
				t.Fatal("admitted")
			}
			if got := w.reports.take()[0].TraceID; got != map[bool]string{true: traceID}[tt.valid] {
				t.Errorf("got %q", got)
			}
		})
	}
}

// jsonNames are the names that a struct's fields have in JSON.
func jsonNames(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		out = append(out, name)
	}
	return out
}

// The names are those of the audit log's payload and leaf, and one of our own. The
// leaf's are not exported: a record on disk is what settles them.
func TestNamesAreThoseOfRecords(t *testing.T) {
	t.Parallel()
	leaf := []string{"time", "kind", "decision", "service"}
	known := append(jsonNames(reflect.TypeFor[audit.Payload]()), append(leaf, "reported")...)
	for _, name := range jsonNames(reflect.TypeFor[verifier.Report]()) {
		if !slices.Contains(known, name) {
			t.Errorf("%s is no name of a record", name)
		}
	}
}

// A full report, as slog and JSON show it: the same names, the same values.
func TestLogObserver(t *testing.T) {
	t.Parallel()
	full := verifier.Report{Time: now.UTC().Add(5 * time.Millisecond), Kind: "refuse", Decision: "deny", Service: "app", Principal: "serviceAccount:orders", Provider: "https://id",
		TokenID: "t", Action: "http.get", Resource: "/x", Reason: "audience_wrong", Peer: "192.0.2.1:9", TraceID: traceID,
		Unverified: map[string]string{"kid": "k", "iss": "i"}, Cut: true, Reported: true}
	for i := range reflect.TypeOf(full).NumField() {
		if reflect.ValueOf(full).Field(i).IsZero() {
			t.Fatalf("the report is not full: %s", reflect.TypeOf(full).Field(i).Name)
		}
	}
	least := verifier.Report{Time: now.UTC(), Kind: "admit", Decision: "allow", Service: "app", Reported: true}
	for _, tt := range []struct {
		name   string
		report verifier.Report
		level  string
		msg    string
	}{
		{"what was refused, with everything", full, "WARN", "call refused"},
		{"what was let through, with what is always there", least, "INFO", "call admitted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			verifier.LogObserver(slog.New(slog.NewJSONHandler(&out, nil))).Observe(t.Context(), tt.report)
			var got, want map[string]any
			if err := json.Unmarshal(out.Bytes(), &got); err != nil { // strict: no name twice
				t.Fatalf("%v: %s", err, out.Bytes())
			}
			if got["level"] != tt.level || got["msg"] != tt.msg {
				t.Errorf("level and msg are %v, %v", got["level"], got["msg"])
			}
			delete(got, "level")
			delete(got, "msg")
			text, err := json.Marshal(tt.report)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) || got["reported"] != true {
				t.Errorf("slog has  %v\nJSON has %v", got, want)
			}
			attrs := map[string]any{}
			for _, a := range tt.report.LogValue().Group() {
				attrs[a.Key] = a.Value
			}
			if g, w := slices.Sorted(maps.Keys(attrs)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
				t.Errorf("LogValue has %q, want %q", g, w)
			}
		})
	}
}

func TestLogObserverKeepsTheLevel(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	o := verifier.LogObserver(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	o.Observe(t.Context(), verifier.Report{Decision: "allow"})
	if out.Len() != 0 {
		t.Errorf("it wrote %s", out.String())
	}
	o.Observe(t.Context(), verifier.Report{Decision: "deny"})
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("it wrote %q", out.String())
	}
}

// A token is in no report, whatever is wrong with it and wherever else it stands in
// the request but the path.
func TestNoTokenIsReported(t *testing.T) {
	t.Parallel()
	s := serve(t)
	var out bytes.Buffer
	log := verifier.LogObserver(slog.New(slog.NewJSONHandler(&out, nil)))
	good := s.orders(t, nil)
	for _, auth := range [][]string{{"Bearer " + good}, {"Bearer " + good, "Bearer " + good}, {"Basic " + good}, {"Bearer " + flip(good)}, {"Bearer " + good + "."},
		{"Bearer " + s.orders(t, claims{"aud": "x"})}, {"Bearer " + s.orders(t, claims{"exp": 1})}} {
		s.send(t, "GET", "/?token="+good, http.Header{"Authorization": auth, "Traceparent": {good}, "X-Token": {good}})
		reports := s.reports.take()
		if len(reports) != 1 {
			t.Fatalf("%q: reported %+v", auth, reports)
		}
		log.Observe(t.Context(), reports[0])
	}
	_, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	for _, part := range []string{"eyJ", payload, signature} {
		if strings.Contains(out.String(), part) {
			t.Errorf("a report has a part of a token: %s", out.String())
		}
	}
}
