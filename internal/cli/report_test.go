package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A log that is damaged has a report, which says so and ends where the damage begins.
func TestAReportOfADamagedLog(t *testing.T) {
	t.Parallel()
	l := aLog(t)
	segment := filepath.Join(l.Dir, "log", "segments", "000000000000.seg")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.LastIndex(b, []byte(`{"v":1,"seq":2`))+20] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(t.TempDir(), "report.html")
	status, out, errs := command("audit", "report", "soc2", "--data-dir", l.Dir, "--from", "2026-01-01", "--to", "2026-12-31", "--html", page)
	if status != exitNo || !strings.Contains(out, "a: 2 records, 2 allowed") || !strings.Contains(out, "THE LOG DOES NOT VERIFY") || !strings.Contains(errs, "What the log says from its damage on") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<strong>No.</strong> 000000000000.seg: entry 2", "from its damage on", "serviceAccount:two"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
