package audit_test

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// Another key-encryption key: the period keys are sealed again, the payloads stay
// readable and the log the same. What was begun and not finished is finished the next
// time; a key of neither is an error, and nothing is changed.
func TestRewrap(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	day := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return day }
	l := open(t, o)
	appendN(t, l, 0, 2)
	day = day.Add(24 * time.Hour)
	appendN(t, l, 2, 2)
	mustClose(t, l)
	was := [][]byte{readFile(t, o.Dir, "periods", "20666"), readFile(t, o.Dir, "periods", "20667")}
	before := o.Sealer
	o.Sealer = newKEK(t)

	if n, err := audit.Rewrap(o.Dir, o.Sealer, newKEK(t)); err == nil || n != 0 {
		t.Errorf("from a key that sealed none: %d, %v", n, err)
	}
	if string(readFile(t, o.Dir, "periods", "20666")) != string(was[0]) {
		t.Error("and it changed what is there")
	}
	if n, err := audit.Rewrap(o.Dir, o.Sealer, newKEK(t), before); err != nil || n != 2 {
		t.Fatalf("got %d, %v", n, err)
	}
	if rep := verified(t, o); rep.Open != 4 || rep.Sealed != 0 {
		t.Errorf("report %+v", rep)
	}
	if n, err := audit.Rewrap(o.Dir, o.Sealer, before); err != nil || n != 0 {
		t.Errorf("once more: %d, %v", n, err)
	}
	writeFile(t, was[1], o.Dir, "periods", "20667") // as after a power cut between the two
	writeFile(t, []byte("x"), o.Dir, "periods", "20667.tmp")
	if n, err := audit.Rewrap(o.Dir, o.Sealer, before); err != nil || n != 1 {
		t.Errorf("the rest: %d, %v", n, err)
	}
	if rep := verified(t, o); rep.Open != 4 || rep.Sealed != 0 {
		t.Errorf("report %+v", rep)
	}
	if _, err := audit.Verify(o.Dir, o.VerifierKey, before); err == nil {
		t.Error("the old key opens them still")
	}
	if n, err := audit.Rewrap(t.TempDir(), o.Sealer, before); err != nil || n != 0 {
		t.Errorf("no log: %d, %v", n, err)
	}
}
