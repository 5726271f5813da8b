package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// noted returns what Erase and Prune tell, which writes the record they ask for.
func noted(l *audit.Log, action string) func([]string) error {
	return func(entries []string) error {
		_, err := l.Append(&audit.Record{Kind: audit.Note, Payload: audit.Payload{Action: action, Entries: entries}}, audit.Synced)
		return err
	}
}

// of says yes to records of one of the principals that appendN makes.
func of(numbers ...int) func(*audit.Entry) bool {
	return func(e *audit.Entry) bool {
		return slices.ContainsFunc(numbers, func(n int) bool { return e.Payload.Principal == fmt.Sprintf("serviceAccount:n%d", n) })
	}
}

func TestErase(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	appendN(t, l, 0, 10)
	before := readFile(t, o.Dir, seg(0))
	n, err := l.Erase(t.Context(), of(1, 2, 3, 7), noted(l, audit.ActionErase))
	if err != nil || n != 4 {
		t.Fatalf("Erase: %d, %v", n, err)
	}
	appendN(t, l, 11, 1)
	all := readAll(t, o)
	var erased []uint64
	for _, e := range all {
		if e.State == "erased" {
			erased = append(erased, e.Seq)
		}
	}
	if !slices.Equal(erased, []uint64{1, 2, 3, 7}) || !slices.Equal(all[10].Payload.Entries, []string{"1-3", "7"}) {
		t.Errorf("erased %v, record %+v", erased, all[10].Payload)
	}
	if after := readFile(t, o.Dir, seg(0)); len(after) != len(before) || bytes.Equal(after, before) {
		t.Error("the segment changed its length, or not at all")
	}
	// erasing again finds nothing and records nothing; the record itself stays
	if n, err := l.Erase(t.Context(), func(*audit.Entry) bool { return true }, func([]string) error { return errInjected }); n != 0 || !errors.Is(err, errInjected) {
		t.Errorf("without a record: %d, %v", n, err)
	}
	if n, err := l.Erase(t.Context(), of(1, 2, 3, 7), func([]string) error { return errInjected }); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	mustClose(t, l)
	rep := verified(t, o)
	every := copyLog(t, o)
	e := open(t, every)
	if n, err := e.Erase(t.Context(), func(*audit.Entry) bool { return true }, noted(e, audit.ActionErase)); n != 7 || err != nil {
		t.Errorf("everything: %d, %v", n, err)
	}
	mustClose(t, e)
	if all := readAll(t, every); all[10].State != "open" || all[12].State != "open" || all[0].State != "erased" {
		t.Errorf("what says who was erased is %s and %s", all[10].State, all[12].State)
	}
	verified(t, every)
	if rep.Erased != 4 || rep.Open != 8 {
		t.Errorf("report %+v", rep)
	}
	strangerTiles(t, o.Dir, strangerBundles(t, o.Dir, 12)) // every proof is whole
	// without the key nobody can say who accounts for them, and the report says so
	rep, err = audit.Verify(o.Dir, o.VerifierKey, nil)
	if err != nil || rep.Erased != 4 || !strings.Contains(fmt.Sprint(rep.NotChecked), "accounts for what was erased") {
		t.Errorf("without the key: %+v, %v", rep, err)
	}
}

// Zeros that no record accounts for are somebody's who had the disk.
func TestErasedWithoutARecordIsFound(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	appendN(t, l, 0, 6)
	if _, err := l.Erase(t.Context(), of(1), noted(l, audit.ActionErase)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	verified(t, o)
	b := readFile(t, o.Dir, seg(0))
	fs := frames(t, b)
	leaf, _, _, _, n, err := audit.ParseFrame(fs[2])
	if err != nil {
		t.Fatal(err)
	}
	at := len(fs[0]) + len(fs[1])
	clear(b[at+10+len(leaf) : at+n])
	writeFile(t, b, o.Dir, seg(0))
	_, err = audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	wantBad(t, err, "entry 2: its payload is erased, and no record says that somebody erased it")
	for i := at + 10 + len(leaf); i < at+n; i++ { // one bit left over is damage
		c := bytes.Clone(b)
		c[i] = 1
		writeFile(t, c, o.Dir, seg(0))
		_, err := audit.Verify(o.Dir, o.VerifierKey, nil)
		wantBad(t, err, "entry 2")
	}
}

// Nor do zeros everywhere pass: the records that say what was erased are never erased.
func TestEverythingErasedIsFound(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 6)
	if _, err := l.Erase(t.Context(), of(1), noted(l, audit.ActionErase)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	b := readFile(t, o.Dir, seg(0))
	at := 0
	for _, f := range frames(t, b) {
		leaf, _, _, _, _, err := audit.ParseFrame(f)
		if err != nil {
			t.Fatal(err)
		}
		clear(b[at+10+len(leaf) : at+len(f)])
		at += len(f)
	}
	writeFile(t, b, o.Dir, seg(0))
	for _, opener := range []audit.Sealer{o.Sealer, nil} {
		_, err := audit.Verify(o.Dir, o.VerifierKey, opener)
		wantBad(t, err, "entry 0: its payload is erased, and no record says that somebody erased it")
	}
	var out bytes.Buffer
	if _, _, err := (audit.Export{}).Write(t.Context(), &out, reader(t, o)); err != nil {
		t.Fatal(err)
	}
	_, err := audit.VerifyExport(&out, o.VerifierKey)
	wantBad(t, err, "the payload of entry 0 is erased, and no signed record says that somebody erased it")
}

// Whatever fails while something is erased: either nothing is, or a record says what,
// and the next start ends it.
func TestEraseSurvivesEveryFailure(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		for at := 0; ; at++ {
			o := newOptions(t)
			good := o
			fs := &faultFS{FS: audit.Disk(), at: -1, done: done}
			o.SetFS(fs)
			l := open(t, o)
			appendN(t, l, 0, 6)
			fs.mu.Lock()
			fs.at = fs.n + at
			fs.until = 1 << 30
			fs.mu.Unlock()
			_, err := l.Erase(t.Context(), of(1, 5), noted(l, audit.ActionErase))
			fs.mu.Lock()
			hit := fs.hit
			fs.at = -1
			fs.mu.Unlock()
			_ = l.Close()
			l = open(t, good)
			mustClose(t, l)
			verified(t, good)
			recorded, erased := false, 0
			for _, e := range readAll(t, good) {
				if e.State == "erased" {
					erased++
				} else if e.Payload.Action == audit.ActionErase {
					recorded = true
				}
			}
			if erased != 0 && erased != 2 || erased == 2 && !recorded {
				t.Errorf("operation %d, %s, %v: %d erased, recorded %v", at, hit, err, erased, recorded)
			}
			if hit == "" {
				if err != nil || erased != 2 {
					t.Errorf("nothing failed: %v, %d erased", err, erased)
				}
				break
			}
		}
	}
}

// pruned returns a closed log over three segments of 256 entries, each of another day,
// of which the first two were pruned.
func pruned(t *testing.T) audit.Options {
	t.Helper()
	o := newOptions(t)
	o.SetSegment(256)
	c := newClock(time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC))
	o.Now = c.now
	l := open(t, o)
	for range 3 {
		appendN(t, l, int(l.Size()), 256)
		c.add(24 * time.Hour)
	}
	appendN(t, l, 768, 10)
	mustSign(t, l)
	if first, err := l.Prune(600, noted(l, audit.ActionPrune)); err != nil || first != 512 {
		t.Fatalf("Prune: %d, %v", first, err)
	}
	mustClose(t, l)
	return o
}

func TestPrune(t *testing.T) {
	t.Parallel()
	o := pruned(t)
	rep := verified(t, o)
	if rep.First != 512 || rep.Entries != 267 || rep.Signed != 267 || !strings.Contains(fmt.Sprint(rep.NotChecked), "the 512 entries before 512") {
		t.Errorf("report %+v", rep)
	}
	for _, name := range filesIn(t, o.Dir) {
		if name == seg(0) || name == seg(256) || name == "tile/entries/000" || name == "tile/entries/001" || name == "periods/20666" {
			t.Errorf("%s is still there", name)
		}
	}
	r := reader(t, o)
	if first, err := r.First(); first != 512 || err != nil {
		t.Errorf("First: %d, %v", first, err)
	}
	if all := readAll(t, o); len(all) != 267 || all[0].Seq != 512 || all[266].Payload.Action != audit.ActionPrune || !slices.Equal(all[266].Payload.Entries, []string{"0-511"}) {
		t.Errorf("%d entries, the last %+v", len(all), all[len(all)-1].Payload)
	}
	if _, err := r.Entry(511); !errors.Is(err, audit.ErrNotFound) || !strings.Contains(err.Error(), "was pruned") {
		t.Errorf("entry 511: %v", err)
	}
	// it goes on, and proofs about what is left stay good
	l := open(t, o)
	appendN(t, l, 779, 30)
	mustClose(t, l)
	verified(t, o)
	head, err := r.Head()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := r.Entry(700)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := r.Inclusion(head, 700)
	if err != nil || !included(leaf.Leaf, 700, head.Size, bytesOf(proof), head.Root[:]) {
		t.Errorf("inclusion of 700: %v", err)
	}
	for _, name := range []string{"tile/0/000", "tile/0/001"} {
		c := copyLog(t, o)
		writeFile(t, flip(readFile(t, c.Dir, name), 100), c.Dir, name)
		if _, err := audit.Verify(c.Dir, c.VerifierKey, nil); err == nil {
			t.Errorf("a changed hash in %s goes unseen", name)
		}
		if l, err := audit.Open(c); err == nil {
			_ = l.Close()
			t.Errorf("a changed hash in %s is taken at start", name)
		}
		if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(c.Dir, c.VerifierKey, nil)
		wantBad(t, err, "neither are their hashes")
		_, err = audit.Open(c)
		wantBad(t, err, "neither are their hashes")
	}
}

func TestPrunedWithoutARecordIsFound(t *testing.T) {
	t.Parallel()
	o := pruned(t)
	for _, name := range []string{seg(512), "tile/entries/002"} {
		if err := os.Remove(filepath.Join(o.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	wantBad(t, err, "the entries before 768 are not here, and no record says that somebody pruned them")
}

func TestPruneTakesNothingItShouldNot(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 300)
	mustSign(t, l)
	appendN(t, l, 300, 211)
	refuse := func([]string) error { return errInjected }
	for end, want := range map[uint64]uint64{0: 0, 255: 0} {
		if first, err := l.Prune(end, refuse); first != want || err != nil {
			t.Errorf("Prune(%d) = %d, %v", end, first, err)
		}
	}
	if first, err := l.Prune(256, refuse); first != 0 || !errors.Is(err, errInjected) {
		t.Errorf("without a record: %d, %v", first, err)
	}
	if n := len(readAll(t, o)); n != 511 {
		t.Errorf("%d entries are left", n)
	}
	if first, err := l.Prune(1<<40, noted(l, audit.ActionPrune)); first != 256 || err != nil { // the last segment stays
		t.Errorf("Prune(all) = %d, %v", first, err)
	}
	mustClose(t, l)
	verified(t, o)
	// nor what no checkpoint covers
	o = newOptions(t)
	o.SetSegment(256)
	fs := &faultFS{FS: audit.Disk(), at: -1, only: "rename " + o.Dir + "/checkpoint"}
	o.SetFS(fs)
	l = open(t, o)
	fs.mu.Lock() // from now on nothing is signed
	fs.at, fs.until = fs.n, 1<<30
	fs.mu.Unlock()
	appendN(t, l, 0, 600)
	if first, err := l.Prune(1<<40, refuse); first != 0 || err != nil || len(readAll(t, o)) != 600 {
		t.Errorf("what is not signed: %d, %v", first, err)
	}
}

func TestPruneSurvivesEveryFailure(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		for at := 0; ; at++ {
			o := newOptions(t)
			o.SetSegment(256)
			good := o
			fs := &faultFS{FS: audit.Disk(), at: -1, done: done}
			o.SetFS(fs)
			l := open(t, o)
			appendN(t, l, 0, 600)
			mustSign(t, l)
			l.Mend() // and nothing else goes on beside
			fs.mu.Lock()
			fs.at, fs.until = fs.n+at, 1<<30
			fs.mu.Unlock()
			_, err := l.Prune(512, noted(l, audit.ActionPrune))
			fs.mu.Lock()
			hit := fs.hit
			fs.at = -1
			fs.mu.Unlock()
			_ = l.Close()
			l = open(t, good)
			if _, err := l.Prune(512, noted(l, audit.ActionPrune)); err != nil {
				t.Errorf("operation %d, %s: again: %v", at, hit, err)
			}
			mustClose(t, l)
			if rep := verified(t, good); rep.First != 512 {
				t.Errorf("operation %d, %s: %+v", at, hit, rep)
			}
			if hit == "" {
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
	}
}

func TestPrunable(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(16384)
	c := newClock(time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC))
	o.Now = c.now
	l := open(t, o)
	for range 4 { // a new day begins a segment where a bundle ends
		appendN(t, l, int(l.Size()), 300)
		c.add(24 * time.Hour)
	}
	mustSign(t, l)
	want := []string{seg(0), seg(512), seg(768), seg(1024)}
	var have []string
	for _, name := range filesIn(t, o.Dir) {
		if strings.HasPrefix(name, "segments/") {
			have = append(have, name)
		}
	}
	if !slices.Equal(have, want) {
		t.Fatalf("segments %v, want %v", have, want)
	}
	for _, tt := range []struct {
		retain time.Duration
		size   int64
		end    uint64
		reason string
	}{
		{0, 0, 0, ""},
		{100 * 24 * time.Hour, 0, 0, ""},
		{60 * time.Hour, 0, 512, "older than audit.retain"}, // the segment from 512 begins on the 2nd
		{36 * time.Hour, 0, 768, "older than audit.retain"},
		{time.Hour, 0, 1024, "older than audit.retain"},
		{0, 1 << 30, 0, ""},
		{0, 1, 1024, "the log is over audit.max_size"},
		{100 * 24 * time.Hour, 1, 1024, "the log is over audit.max_size"},
	} {
		if end, reason, err := l.Prunable(tt.retain, tt.size); end != tt.end || reason != tt.reason || err != nil {
			t.Errorf("Prunable(%v, %d) = %d, %q, %v", tt.retain, tt.size, end, reason, err)
		}
	}
	mustClose(t, l)
	verified(t, o)
}

// A reader that stands where the log is pruned is told so.
func TestReadingWhatIsPruned(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 600)
	mustSign(t, l)
	r := reader(t, o)
	var last error
	n := 0
	for _, err := range r.Entries(context.Background(), 0) {
		if last = err; err != nil {
			break
		}
		if n++; n == 10 {
			if _, err := l.Prune(512, noted(l, audit.ActionPrune)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != 256 || !errors.Is(last, audit.ErrNotFound) {
		t.Errorf("read %d entries, then %v", n, last)
	}
}

// Hashes are all that is left of what is pruned: a tile that was lost is made anew before,
// and one that is wrong stops it.
func TestPruneKeepsTheHashes(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 600)
	mustSign(t, l)
	l.Mend()
	name := "tile/0/000"
	good := readFile(t, o.Dir, name)
	writeFile(t, flip(good, 9), o.Dir, name)
	if _, err := l.Prune(512, noted(l, audit.ActionPrune)); err == nil || len(readAll(t, o)) != 600 {
		t.Errorf("a wrong tile: %v", err)
	}
	if err := os.Remove(filepath.Join(o.Dir, name)); err != nil {
		t.Fatal(err)
	}
	if first, err := l.Prune(512, noted(l, audit.ActionPrune)); first != 512 || err != nil {
		t.Errorf("a lost tile: %d, %v", first, err)
	}
	mustClose(t, l)
	if !bytes.Equal(readFile(t, o.Dir, name), good) {
		t.Error("the tile was not made anew")
	}
	verified(t, o)
}
