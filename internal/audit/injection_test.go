package audit_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// Every field of a record with every kind of text that could be taken for something
// else: it stays one record, one line, valid UTF-8, and bounded; and nothing of it is
// another record's.
func TestEveryFieldTakesAnything(t *testing.T) {
	t.Parallel()
	texts := map[string]string{
		"control characters":            "a\x00\x01\x07\x08\x1b[2J\x1b]0;owned\x07\x7f\u0085\u009b31m",
		"line breaks":                   "a\nb\r\nc\u2028d\u2029e\vf\fg",
		"invalid UTF-8":                 "a\xff\xfe\xc0\xaf\xed\xa0\x80\xf8b",
		"direction":                     "a\u202eb\u2066c\u200f\ufeff",
		"a record":                      `","decision":"allow","rule":"x"}` + "\n" + `{"v":1,"seq":99,"kind":"admit"}`,
		"a note":                        "\n\n— acme.internal/a AAAA\n",
		"a megabyte":                    strings.Repeat("x", 1<<20),
		"a megabyte of quotes":          strings.Repeat(`"`, 1<<20),
		"a megabyte of nothing":         strings.Repeat("\x00", 1<<20),
		"half a character at the limit": strings.Repeat("x", 4095) + "é",
	}
	o := newOptions(t)
	o.SetSegment(16384)
	l := open(t, o)
	var want []string
	fields := func(s string) []audit.Record {
		var out []audit.Record
		put := func(r audit.Record) { r.Kind, r.Decision = audit.Refuse, audit.Deny; out = append(out, r) }
		put(audit.Record{Rule: s})
		put(audit.Record{Service: s})
		put(audit.Record{Policy: s})
		for _, p := range []audit.Payload{{Principal: s}, {Actors: []string{s, s}}, {Provider: s}, {Attested: map[string]string{s: s}}, {TokenID: s}, {IssuedTokenID: s},
			{Action: s}, {Resource: s}, {Reason: s}, {Peer: s}, {Replica: s}, {TraceID: s}, {Vars: map[string]string{s: s, "b": s}}, {Shadow: []string{s}}, {Near: s},
			{Detail: s}, {Unverified: map[string]string{s: s}}, {Version: s}, {Entries: []string{s}}} {
			put(audit.Record{Payload: p})
		}
		return out
	}
	for name, s := range texts {
		for i, r := range fields(s) {
			if _, err := l.Append(&r, audit.Written); err != nil {
				t.Errorf("%s in field %d: %v", name, i, err)
				continue
			}
			want = append(want, name)
		}
	}
	mustClose(t, l)
	if rep := verified(t, o); rep.Open != uint64(len(want)) {
		t.Errorf("report %+v, want %d records", rep, len(want))
	}
	r := reader(t, o)
	for i, e := range readAll(t, o) {
		if e.Kind != audit.Refuse || e.Decision != audit.Deny || e.State != "open" || !utf8.Valid(e.PayloadText) || !utf8.Valid(e.Leaf) {
			t.Errorf("record %d, %s: %+v", i, want[i], e.Header)
		}
		if len(e.Leaf) > 1<<16 || len(e.PayloadText) > audit.MaxPayload {
			t.Errorf("record %d, %s: %d and %d bytes", i, want[i], len(e.Leaf), len(e.PayloadText))
		}
		text, err := json.Marshal(r.Line(e), json.Deterministic(true))
		if err != nil || strings.ContainsAny(string(text), "\n\r\x00\x1b\x07") {
			t.Errorf("record %d, %s, is no line: %v", i, want[i], err)
		}
	}
	strangerTiles(t, o.Dir, strangerBundles(t, o.Dir, len(want)))
}
