package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
)

// Whatever a stranger had written into the log, no command prints what a terminal would
// obey, or a reader not see.
func TestNothingInTheLogReachesTheTerminal(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	dir, vkey := l.Dir, l.Key
	evil := "x\x1b[2J\x1b]0;owned\x07\u009b31m\u0085\u202egnp\u2066\r\nfake-1  allow  serviceAccount:root\x00\x7f\xff\u2028"
	for _, kind := range []audit.Kind{audit.Admit, audit.Refuse, audit.Check, audit.Close, audit.Note} {
		if _, err := l.Append(&audit.Record{Kind: kind, Decision: audit.Deny, Rule: evil, Service: evil, Policy: evil, Payload: audit.Payload{
			Principal: evil, Actors: []string{evil}, Provider: evil, Attested: map[string]string{evil: evil}, TokenID: evil, IssuedTokenID: evil, Action: evil, Resource: evil,
			Reason: evil, Peer: evil, Replica: evil, TraceID: evil, Vars: map[string]string{evil: evil, "request.path": evil}, Shadow: []string{evil}, Near: evil, Detail: evil,
			Count: 3, Unverified: map[string]string{evil: evil}, Version: evil, Entries: []string{evil},
		}}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	export := filepath.Join(dir, "export")
	at := []string{"--data-dir", dir}
	for _, args := range [][]string{
		{"audit", "tail"}, {"audit", "search"}, {"audit", "search", "--count-by", "principal"}, {"audit", "search", "--count-by", "reason"}, {"audit", "show", "a-0"},
		{"audit", "search", "--principal", evil}, {"audit", "search", "--count-by", evil}, {"audit", "show", evil}, {"audit", "search", "--kind", evil},
		{"policy", "explain", "a-0"}, {"policy", "explain", "a-1"}, {"audit", "verify"}, {"audit", "report", "soc2", "--from", "2020-01-01", "--to", "2099-01-01"},
		{"audit", "tail", "--output", "json"}, {"audit", "export"}, {"audit", "export", "--format", "ocsf"}, {"audit", "report", "soc2", "--from", "2020-01-01", "--to", "2099-01-01", "--output", "json"},
		{"policy", "explain", "a-0", "--output", "json"},
	} {
		var out, errs bytes.Buffer
		status := Main(append(args, at...), strings.NewReader(""), &out, &errs)
		if args[1] == "export" && len(args) == 2 {
			if err := os.WriteFile(export, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		asJSON := fmt.Sprint(args) != fmt.Sprint(args[:2]) && args[len(args)-1] == "json" || args[1] == "export"
		printsPlain(t, fmt.Sprintf("%v (status %d) stdout", args, status), out.String(), asJSON)
		printsPlain(t, fmt.Sprintf("%v (status %d) stderr", args, status), errs.String(), false)
		if out.Len()+errs.Len() == 0 {
			t.Errorf("%v says nothing", args)
		}
	}
	var out, errs bytes.Buffer
	if status := Main([]string{"audit", "verify", "--export", export, "--key", vkey}, strings.NewReader(""), &out, &errs); status != 0 {
		t.Errorf("the export does not verify: %s", errs.String())
	}
}

// A log that somebody hands over has a name, too.
func TestALogsNameReachesNoTerminal(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a\u009b2J")
	if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Deny, Payload: audit.Payload{Reason: "no_match"}}, audit.Written); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Deny}, audit.Written); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"audit", "tail"}, {"audit", "search", "--limit", "1"}, {"audit", "show", "a\u009b2J-0"}, {"audit", "show", "b-0"}, {"audit", "show", "b"},
		{"audit", "verify"}, {"audit", "report", "soc2", "--from", "2020-01-01", "--to", "2099-01-01"}, {"policy", "explain", "a\u009b2J-0"}} {
		_, out, errs := command(append(args, "--data-dir", l.Dir)...)
		printsPlain(t, fmt.Sprintf("%v", args), out+errs, false)
		if out+errs == "" {
			t.Errorf("%v says nothing", args)
		}
	}
}

// JSON is for programs, which take it as it was recorded; a terminal gets the same texts
// with escapes.
func TestJSONOnATerminal(t *testing.T) {
	t.Parallel()
	evil := map[string]string{"a": "x\x1b[2J\u009b31m\u0085\u202egnp\x7f\u2028é\U0001F600"}
	for _, terminal := range []bool{false, true} {
		var out bytes.Buffer
		if err := (&env{out: &out, terminal: terminal}).json(evil); err != nil {
			t.Fatal(err)
		}
		printsPlain(t, fmt.Sprintf("terminal %v", terminal), out.String(), !terminal)
		var back map[string]string
		if err := unmarshal(out.Bytes(), &back); err != nil || back["a"] != evil["a"] {
			t.Errorf("terminal %v: %q, %v", terminal, back, err)
		}
	}
}

func printsPlain(t *testing.T, what, text string, asJSON bool) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "fake-1") || !utf8.ValidString(line) {
			t.Errorf("%s has a line of a stranger's: %q", what, line)
		}
		for _, r := range line {
			// JSON has its own escapes for what is below U+0020, and is for programs
			if r < 0x20 && r != '\t' || !asJSON && (unicode.Is(unicode.Cc, r) && r != '\t' || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028') {
				t.Errorf("%s has %U in %.80q", what, r, line)
				return
			}
		}
	}
}
