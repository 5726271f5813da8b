package audit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// keeps verifies against checkpoints that somebody put aside.
func keeps(o audit.Options, notes ...[]byte) (*audit.Report, error) {
	var kept []audit.Kept
	for i, n := range notes {
		kept = append(kept, audit.Kept{Name: fmt.Sprintf("kept-%d", i), Note: n})
	}
	return audit.Verify(o.Dir, o.VerifierKey, o.Sealer, kept...)
}

// What the log's own checkpoint cannot show, one that somebody else kept does: the
// directory was set back, rewritten with the right key, or put together from two.
func TestKeptCheckpoints(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	var notes [][]byte
	var copies []audit.Options
	l := open(t, o)
	for i, n := range []int{10, 300, 600, 601} {
		size := int(l.Size())
		appendN(t, l, size, n-size)
		mustSign(t, l)
		note, covers := l.SignedHead()
		if covers != uint64(n) {
			t.Fatalf("checkpoint %d covers %d", i, covers)
		}
		notes = append(notes, note)
		copies = append(copies, copyLog(t, o))
	}
	if rep, err := keeps(o, notes[3], notes[0], notes[2], notes[1], notes[0]); err != nil || len(rep.Kept) != 5 {
		t.Errorf("%+v, %v", rep, err)
	}
	t.Run("the directory was set back", func(t *testing.T) {
		if _, err := keeps(copies[1], notes[0], notes[1]); err != nil {
			t.Errorf("with what was kept before: %v", err)
		}
		_, err := keeps(copies[1], notes[0], notes[2])
		wantBad(t, err, "kept-1: the log ends after 300 entries, this checkpoint covers 600: it was rolled back or cut")
	})
	t.Run("the log was rewritten with its own key", func(t *testing.T) {
		forged := copies[0]
		forged.Now = func() time.Time { return time.Date(2026, 8, 1, 12, 0, 1, 0, time.UTC) }
		l := open(t, forged)
		appendN(t, l, 10, 591)
		mustClose(t, l)
		verified(t, forged)
		_, err := keeps(forged, notes[0], notes[1])
		wantBad(t, err, "kept-1: the first 300 entries are not those that this checkpoint signed")
	})
	t.Run("the checkpoint is of another log", func(t *testing.T) {
		_, err := keeps(o, notes[0], readFile(t, filled(t, 3).Dir, "checkpoint"))
		wantBad(t, err, "kept-1: the checkpoint is not signed by key")
	})
	t.Run("a pruned log still holds to it", func(t *testing.T) {
		if _, err := l.Prune(512, noted(l, audit.ActionPrune)); err != nil {
			t.Fatal(err)
		}
		rep, err := keeps(o, notes...)
		if err != nil || rep.First != 512 || len(rep.Kept) != 4 {
			t.Errorf("%+v, %v", rep, err)
		}
		_, err = keeps(o, readFile(t, filledWith(t, o, 20).Dir, "checkpoint"))
		wantBad(t, err, "are not those that this checkpoint signed")
	})
}

// filledWith returns another log of the same key with n entries.
func filledWith(tb testing.TB, o audit.Options, n int) audit.Options {
	tb.Helper()
	o.Dir = filepath.Join(tb.TempDir(), "log")
	l := open(tb, o)
	appendN(tb, l, 0, n)
	mustClose(tb, l)
	return o
}

// Two logs of one key, spliced: each half is well, the whole is not.
func TestSplicedLogsAreFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 12)
	other := filledWith(t, o, 12)
	for _, name := range []string{seg(0), seg(4), seg(8), "checkpoint", "tile/0/000.p/12", "tile/entries/000.p/12"} {
		c := copyLog(t, o)
		writeFile(t, readFile(t, other.Dir, name), c.Dir, name)
		if _, err := audit.Verify(c.Dir, c.VerifierKey, nil); err == nil {
			t.Errorf("%s of another log goes unseen", name)
		}
	}
	// all of it but one file is a splice, too
	c := copyLog(t, o)
	for _, name := range filesIn(t, other.Dir) {
		if name != seg(0) && filepath.Dir(name) != "periods" {
			writeFile(t, readFile(t, other.Dir, name), c.Dir, name)
		}
	}
	if _, err := audit.Verify(c.Dir, c.VerifierKey, nil); err == nil {
		t.Error("a segment of another log goes unseen")
	}
}

// Two writers on one directory, past every lock: one of them notices at its next
// checkpoint and takes no more records, and says what to do.
func TestTwoWritersAreFound(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	a := open(t, o)
	appendN(t, a, 0, 3)
	b, err := audit.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(record(3), audit.Written); err != nil {
		t.Fatal(err)
	}
	appendN(t, a, 3, 1)
	mustSign(t, a)
	for range 2 {
		if err := b.Checkpoint(); !errors.Is(err, audit.ErrUnavailable) && (err == nil || !strings.Contains(err.Error(), "another process writes to this log")) {
			t.Errorf("the second writer signs: %v", err)
		}
	}
	if _, err := b.Append(record(4), audit.Written); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("it goes on writing: %v", err)
	}
	if err := b.Health(); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Health: %v", err)
	}
	_ = b.Close()
	mustClose(t, a)
}

// A clock that steps back an hour changes nothing but times, and the report counts it.
func TestClockStepsBack(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	c := newClock(time.Date(2026, 8, 2, 0, 30, 0, 0, time.UTC))
	o.Now = c.now
	l := open(t, o)
	appendN(t, l, 0, 3)
	c.add(-time.Hour) // and a day
	appendN(t, l, 3, 3)
	c.add(2 * time.Hour)
	appendN(t, l, 6, 3)
	mustClose(t, l)
	rep := verified(t, o)
	if rep.BackSteps != 1 || rep.Open != 9 {
		t.Errorf("report %+v", rep)
	}
	l = open(t, o)
	appendN(t, l, 9, 1)
	mustClose(t, l)
	verified(t, o)
}

// A backup is a copy of the directory while the server writes: it verifies and opens.
func TestCopyBesideAWriter(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	o.Checkpoint = 100 * time.Millisecond
	l := open(t, o)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond): // or it outgrows the copies
				_, _ = l.Append(record(i), audit.Written)
			}
		}
	}()
	for range 4 {
		c := o
		c.Dir = filepath.Join(t.TempDir(), "backup")
		if err := audit.Backup(t.Context(), o.Dir, c.Dir); err != nil {
			t.Fatal(err)
		}
		verified(t, c)
		again := open(t, c)
		mustClose(t, again)
		verified(t, c)
		if err := audit.Backup(t.Context(), o.Dir, c.Dir); err == nil {
			t.Error("a backup was overwritten")
		}
		if err := os.RemoveAll(c.Dir); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
}
