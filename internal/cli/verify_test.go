package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
)

// command runs a command line and returns its status and what it printed.
func command(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = Main(args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// aLog returns a closed log of three records, all of them signed.
func aLog(t *testing.T) *audittest.Log {
	t.Helper()
	l := audittest.Open(t, "acme.internal/a")
	for _, who := range []string{"one", "two", "three"} {
		if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Allow, Payload: audit.Payload{Principal: "serviceAccount:" + who}}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l
}

// A proof is held to its own checkpoint: whoever gives another is not to think that it
// was compared.
func TestAProofTakesNoOtherCheckpoint(t *testing.T) {
	t.Parallel()
	l := aLog(t)
	status, proof, errs := command("audit", "prove", "--data-dir", l.Dir, "a-1")
	if status != 0 {
		t.Fatal(errs)
	}
	file := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(file, []byte(proof), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := []string{"audit", "verify", "--proof", file, "--key", l.Key}
	if status, out, errs := command(verify...); status != 0 || !strings.HasPrefix(out, "a-1: ok") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	other := filepath.Join(l.Dir, "log", "checkpoint")
	for _, more := range [][]string{{"--checkpoint", other}, {"--checkpoint", other, "--witness", l.Key}, {"--witness", l.Key}} {
		if status, out, errs := command(append(verify, more...)...); status != exitMisuse || out != "" || !strings.Contains(errs, "says nothing of another") {
			t.Errorf("%v: status %d: %s%s", more, status, out, errs)
		}
	}
}
