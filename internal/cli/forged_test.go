package cli

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
)

// Whoever has the directory names the log: its name is no command to a terminal.
func TestNameOfALogDoesNotReachTheTerminal(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal\x1b[2J/a\x1b]0;owned\u009b\u202e")
	for range 3 {
		if _, err := l.Append(&audit.Record{Kind: audit.Note, Payload: audit.Payload{Action: "server.start"}}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"audit", "verify"}, {"audit", "tail"}, {"audit", "search", "--limit", "1"}, {"audit", "show", "b-1"}, {"audit", "show", "1"},
		{"audit", "report", "soc2", "--from", "2020-01-01", "--to", "2099-01-01"}, {"audit", "prove", "b-1"}, {"audit", "export", "--from", "b-1"},
	} {
		var out, errs bytes.Buffer
		_ = Main(append(args, "--data-dir", l.Dir), strings.NewReader(""), &out, &errs)
		printsPlain(t, strings.Join(args, " "), out.String(), false)
		printsPlain(t, strings.Join(args, " "), errs.String(), false)
	}
}

// A proof says no more than what was held against it.
func TestProofSaysWhatItDoesNotShow(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Deny, Payload: audit.Payload{Principal: "user:okta/eve"}}, audit.Written); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		return Main(args, strings.NewReader(""), &out, &errs), out.String(), errs.String()
	}
	_, proof, _ := run("audit", "prove", "--data-dir", l.Dir, "a-0")
	file := filepath.Join(l.Dir, "proof")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(proof)
	if status, out, errs := run("audit", "verify", "--proof", file, "--key", l.Key); status != 0 || !strings.Contains(out, "eve") || errs != "" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	// a checkpoint of somebody's is not passed over as if it had been compared
	kept := filepath.Join(l.Dir, "log", "checkpoint")
	if status, out, errs := run("audit", "verify", "--proof", file, "--key", l.Key, "--checkpoint", kept); status != exitMisuse || out != "" || !strings.Contains(errs, "are for a log or an export") {
		t.Errorf("with a checkpoint: status %d: %s%s", status, out, errs)
	}
	// nor is a payload that is kept back
	extra := regexp.MustCompile(`(?m)^extra (.*)$`)
	text, err := base64.StdEncoding.DecodeString(extra.FindStringSubmatch(proof)[1])
	if err != nil {
		t.Fatal(err)
	}
	var line audit.Line
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatal(err)
	}
	line.State, line.Payload = "erased", nil
	if text, err = json.Marshal(line); err != nil {
		t.Fatal(err)
	}
	write(extra.ReplaceAllString(proof, "extra "+base64.StdEncoding.EncodeToString(text)))
	if status, _, errs := run("audit", "verify", "--proof", file, "--key", l.Key); status != 0 || !strings.Contains(errs, "calls its payload erased, and does not show it") {
		t.Errorf("without the payload: status %d: %s", status, errs)
	}
}
