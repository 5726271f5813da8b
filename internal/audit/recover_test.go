package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// unsigned returns the options of a log as kill -9 leaves it: six entries, five of
// them signed.
func unsigned(t *testing.T) audit.Options {
	t.Helper()
	o := newOptions(t)
	l := open(t, o)
	appendN(t, l, 0, 5)
	mustSign(t, l)
	appendN(t, l, 5, 1)
	return copyLog(t, o)
}

func TestTornTailIsSetAside(t *testing.T) {
	t.Parallel()
	o := unsigned(t)
	fs := frames(t, readFile(t, o.Dir, seg(4)))
	for cut := range len(fs[1]) {
		tails := [][]byte{fs[1][:cut], append(bytes.Clone(fs[1][:cut]), make([]byte, len(fs[1])-cut)...)}
		if cut%50 == 0 { // more than the next record will overwrite
			tails = append(tails, append(bytes.Clone(fs[1][:cut]), bytes.Repeat([]byte{0xff}, 3000)...))
		}
		for _, tail := range tails {
			if bytes.Equal(tail, fs[1]) {
				continue // what was cut off was zero
			}
			o := copyLog(t, o)
			writeFile(t, slices.Concat(fs[0], tail), o.Dir, seg(4))
			rep := verified(t, o)
			if rep.Signed != 5 || rep.Unsigned != 0 || rep.TornBytes != int64(len(tail)) {
				t.Fatalf("cut at %d: report %+v", cut, rep)
			}
			l := open(t, o)
			if l.Size() != 5 || l.Recovered() != int64(len(tail)) {
				t.Fatalf("cut at %d: size %d, recovered %d", cut, l.Size(), l.Recovered())
			}
			appendN(t, l, 5, 1)
			mustClose(t, l)
			if rep := verified(t, o); rep.Signed != 6 || rep.TornBytes != 0 {
				t.Fatalf("cut at %d: report %+v", cut, rep)
			}
			torn, err := filepath.Glob(filepath.Join(o.Dir, "torn-5-*"))
			if err != nil || len(tail) > 0 && (len(torn) != 1 || !bytes.Equal(readFile(t, torn[0]), tail)) {
				t.Fatalf("cut at %d: set aside %v, %v", cut, torn, err)
			}
		}
	}
}

func TestWholeEntriesAfterTheCheckpointAreAdopted(t *testing.T) {
	t.Parallel()
	o := unsigned(t)
	l := open(t, o)
	if l.Size() != 6 || l.Recovered() != 0 {
		t.Errorf("size %d, recovered %d", l.Size(), l.Recovered())
	}
	mustClose(t, l)
	if rep := verified(t, o); rep.Signed != 6 {
		t.Errorf("report %+v", rep)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	o := unsigned(t)
	a, b := frames(t, readFile(t, o.Dir, seg(0))), frames(t, readFile(t, o.Dir, seg(4)))
	other := newOptions(t)
	for _, tt := range []struct {
		name string
		edit func(*audit.Options)
		want string
	}{
		{"a damaged record that the checkpoint covers", func(o *audit.Options) { writeFile(t, slices.Concat(flip(b[0], 50), b[1]), o.Dir, seg(4)) }, "entry 4: at byte 0: leaf checksum is"},
		{"a damaged payload that the checkpoint covers", func(o *audit.Options) { writeFile(t, slices.Concat(flip(b[0], len(b[0])-1), b[1]), o.Dir, seg(4)) }, "payload does not fit its checksum"},
		{"a whole record that is not the next", func(o *audit.Options) { writeFile(t, slices.Concat(b[0], a[1]), o.Dir, seg(4)) }, "leaf says entry 1"},
		{"a log shorter than its checkpoint", func(o *audit.Options) { writeFile(t, nil, o.Dir, seg(4)) }, "rolled back or cut"},
		{"another record than was signed", func(o *audit.Options) {
			forged := copyLog(t, filled(t, 6))
			writeFile(t, readFile(t, forged.Dir, seg(4)), o.Dir, seg(4))
		}, "do not have the signed root: the log was altered"},
		{"a missing segment", func(o *audit.Options) { _ = os.Remove(filepath.Join(o.Dir, seg(0))) }, "segment 000000000000.seg is missing"},
		{"a damaged checkpoint", func(o *audit.Options) { writeFile(t, flip(readFile(t, o.Dir, "checkpoint"), 20), o.Dir, "checkpoint") }, "is not signed by key"},
		{"another key", func(o *audit.Options) { o.Signer, o.VerifierKey = other.Signer, other.VerifierKey }, "the log belongs to key"},
		{"a key that is not the signer's", func(o *audit.Options) { o.VerifierKey = other.VerifierKey }, "is not that of signer"},
		{"an origin that is not the key's name", func(o *audit.Options) { o.Origin = "x/y" }, "not after the log's origin"},
		{"no sealer", func(o *audit.Options) { o.Sealer = nil }, "are required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := copyLog(t, o)
			tt.edit(&o)
			l, err := audit.Open(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if l != nil {
				t.Error("a log came with the error")
			}
			if bad := new(audit.Bad); errors.As(err, &bad) && !strings.Contains(tt.want, "missing") && bad.File != "checkpoint" && !strings.Contains(err.Error(), "restore a copy") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}
