package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// zeroed overwrites the payloads of a segment's entries that which says yes to.
func zeroed(tb testing.TB, o audit.Options, first int, which func(seq int) bool) {
	tb.Helper()
	b := readFile(tb, o.Dir, seg(first))
	at := 0
	for i, f := range frames(tb, b) {
		leaf, _, _, _, n, err := audit.ParseFrame(f)
		if err != nil {
			tb.Fatal(err)
		}
		if which(first + i) {
			clear(b[at+10+len(leaf) : at+n])
		}
		at += n
	}
	writeFile(tb, b, o.Dir, seg(first))
}

// forged returns the leaf of a record that nobody recorded.
func forged(seq uint64, day time.Time, kind audit.Kind, payload string) []byte {
	return audit.LeafOf(audit.Header{Seq: seq, Time: day, Kind: kind, Commitment: sha256.Sum256([]byte(payload))})
}

// Whoever overwrites every payload leaves none that could account for it: that is no
// reason not to ask.
func TestZerosEverywhereAreFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 6)
	zeroed(t, o, 0, func(int) bool { return true })
	zeroed(t, o, 4, func(int) bool { return true })
	for _, opener := range []audit.Sealer{o.Sealer, nil} {
		_, err := audit.Verify(o.Dir, o.VerifierKey, opener)
		wantBad(t, err, "entry 0: its payload is erased, and no record says that somebody erased it")
	}
}

// A payload that nobody can open is behind the checkpoint, or of another kind, or before
// what it should account for: it cannot account for anything.
func TestSealedRecordDoesNotAccountForWhatItCannot(t *testing.T) {
	t.Parallel()
	o := filled(t, 6)
	zeroed(t, o, 0, func(seq int) bool { return seq == 1 })
	leaf := forged(6, o.Now().AddDate(1, 0, 0), audit.Note, "{}")
	sealed := make([]byte, 64)
	binary.BigEndian.PutUint32(sealed, uint32(o.Now().AddDate(1, 0, 0).Unix()/86400)) // a day that has no key
	frame := audit.WriteFrame(leaf, crc32.Checksum(sealed, crc32.MakeTable(crc32.Castagnoli)), sealed)
	writeFile(t, append(readFile(t, o.Dir, seg(4)), frame...), o.Dir, seg(4))
	_, err := audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	wantBad(t, err, "entry 1: its payload is erased, and no record says that somebody erased it")

	// two days, of which the first has lost its key
	o = newOptions(t)
	c := newClock(o.Now())
	o.Now = c.now
	l := open(t, o)
	if _, err := l.Append(&audit.Record{Kind: audit.Note, Payload: audit.Payload{Action: "server.start"}}, audit.Written); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 1, 1)
	c.add(24 * time.Hour)
	appendN(t, l, 2, 4)
	mustClose(t, l)
	first, err := filepath.Glob(filepath.Join(o.Dir, "periods", "*"))
	if err != nil || len(first) != 2 || os.Remove(first[0]) != nil {
		t.Fatal(first, err)
	}
	if rep := verified(t, o); rep.Sealed != 2 {
		t.Fatalf("report %+v", rep)
	}
	zeroed(t, o, 0, func(seq int) bool { return seq == 3 })
	_, err = audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	wantBad(t, err, "entry 3: its payload is erased, and no record says that somebody erased it")
}

// What stands behind the checkpoint of an export may be anybody's: it accounts for
// nothing that is missing before.
func TestForgedLineDoesNotAccountForErasure(t *testing.T) {
	t.Parallel()
	o := filled(t, 5)
	var out bytes.Buffer
	for text := range bytes.Lines(exported(t, o, audit.Export{})) {
		var l audit.Line
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatal(err)
		}
		if l.Seq == 2 {
			l.State, l.Payload = "erased", nil
		}
		if err := json.MarshalWrite(&out, l); err != nil {
			t.Fatal(err)
		}
		out.WriteByte('\n')
	}
	payload := `{"salt":"AAAA","action":"audit.erase","entries":["2"]}`
	l := audit.Line{ID: "a-5", Seq: 5, Time: o.Now(), Kind: audit.Note, State: "open", Payload: jsontext.Value(payload), Leaf: string(forged(5, o.Now(), audit.Note, payload))}
	if err := json.MarshalWrite(&out, l); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	_, err := audit.VerifyExport(&out, o.VerifierKey)
	wantBad(t, err, "the payload of entry 2 is erased")
}

// The record that accounts for an erasure is signed before anything is overwritten.
func TestErasureIsSignedFirst(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	appendN(t, l, 0, 5)
	if _, err := l.Erase(t.Context(), of(1), noted(l, audit.ActionErase)); err != nil {
		t.Fatal(err)
	}
	if _, size := l.SignedHead(); size != 6 {
		t.Errorf("%d entries are signed, want 6", size)
	}
	if _, err := audit.VerifyExport(bytes.NewReader(exported(t, o, audit.Export{})), o.VerifierKey); err != nil {
		t.Error(err)
	}
}

// A number that no log reaches does not keep the auditor busy for ever.
func TestExportFromTheEndOfTime(t *testing.T) {
	t.Parallel()
	o := filled(t, 1)
	for _, seq := range []uint64{1 << 63, 1<<64 - 1} {
		leaf := forged(seq, o.Now(), audit.Admit, "{}")
		text := fmt.Sprintf(`{"id":"a-%d","seq":%d,"time":%q,"kind":"admit","state":"withheld","leaf":%q,"before":[%q]}`+"\n",
			seq, seq, o.Now().Format(time.RFC3339Nano), leaf, base64.StdEncoding.EncodeToString(make([]byte, 32)))
		done := make(chan error, 1)
		go func() {
			_, err := audit.VerifyExport(strings.NewReader(text), o.VerifierKey)
			done <- err
		}()
		select {
		case err := <-done:
			wantBad(t, err, "line 1")
		case <-time.After(10 * time.Second):
			t.Fatalf("entry %d: no answer after ten seconds", seq)
		}
	}
}

// A checkpoint that is put back to an older one frees what comes after it from every
// signature. Nothing shows that but how much there is.
func TestCheckpointThatWasSetBackIsTold(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	c := newClock(o.Now())
	o.Now = c.now
	l := open(t, o)
	appendN(t, l, 0, 3)
	mustSign(t, l)
	old, _ := l.SignedHead()
	c.add(time.Hour)
	appendN(t, l, 3, 1)
	c.add(time.Hour)
	appendN(t, l, 4, 1)
	mustClose(t, l)
	if rep := verified(t, o); len(rep.NotChecked) != 0 {
		t.Errorf("%q", rep.NotChecked)
	}
	writeFile(t, old, o.Dir, "checkpoint")
	if rep := verified(t, o); !strings.Contains(fmt.Sprint(rep.NotChecked), "no checkpoint was signed in the last 1h0m0s") {
		t.Errorf("set back: %q", rep.NotChecked)
	}
	if err := os.Remove(filepath.Join(o.Dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if rep := verified(t, o); !strings.Contains(fmt.Sprint(rep.NotChecked), "no checkpoint was signed in the last 2h0m0s") {
		t.Errorf("removed: %q", rep.NotChecked)
	}
}

// A checkpoint that cannot be put in its place is tried again each second, and takes no
// more memory each time.
func TestCheckpointsThatFailTakeNoMemory(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	fs := &faultFS{FS: audit.Disk(), at: -1, only: "rename " + filepath.Join(o.Dir, "checkpoint")}
	o.SetFS(fs)
	l := open(t, o)
	appendN(t, l, 0, 3)
	fs.mu.Lock()
	fs.at, fs.until = fs.n, 1<<30
	fs.mu.Unlock()
	for range 100 {
		if l.Checkpoint() == nil {
			t.Fatal("the disk takes it")
		}
	}
	if n := l.Checkpoints(); n > 1 {
		t.Errorf("%d checkpoints are remembered", n)
	}
	fs.mu.Lock()
	fs.at = -1
	fs.mu.Unlock()
	mustSign(t, l)
	mustClose(t, l)
	verified(t, o)
}

// A process that is killed while it prunes leaves headers of what is gone; the next one
// ends it.
func TestBundlesOfWhatWasPrunedGo(t *testing.T) {
	t.Parallel()
	o := pruned(t)
	for _, name := range []string{"tile/entries/000", "tile/entries/001"} {
		writeFile(t, []byte("headers"), o.Dir, name)
	}
	mustClose(t, open(t, o))
	left, err := os.ReadDir(filepath.Join(o.Dir, "tile/entries"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if f.Name() == "000" || f.Name() == "001" {
			t.Errorf("%s is still here", f.Name())
		}
	}
	if len(left) == 0 {
		t.Error("nothing is left")
	}
	verified(t, o)
}

// Who can write the directory, and has no key, puts no record behind the last one for the
// server to sign at its next start.
func TestForgedRecordIsNotSigned(t *testing.T) {
	t.Parallel()
	o := filled(t, 3)
	for name, day := range map[string]time.Time{"a day that has a key": o.Now(), "a day that has none": o.Now().AddDate(1, 0, 0)} {
		c := copyLog(t, o)
		sealed := make([]byte, 64)
		binary.BigEndian.PutUint32(sealed, uint32(day.Unix()/86400))
		frame := audit.WriteFrame(forged(3, day, audit.Admit, "{}"), crc32.Checksum(sealed, crc32.MakeTable(crc32.Castagnoli)), sealed)
		writeFile(t, append(readFile(t, c.Dir, seg(0)), frame...), c.Dir, seg(0))
		l, err := audit.Open(c)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "the log was altered") {
			t.Errorf("%s: Open: %v", name, err)
		}
	}
}
