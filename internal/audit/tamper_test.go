package audit_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// Every file that says something is flipped, byte by byte: segments, tiles, bundles,
// checkpoint, public key, period key, reserved numbers. Without the key-encryption key
// the period key is the only one that cannot be checked.
func TestEveryFlippedByteIsFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 6)
	names := filesIn(t, o.Dir)
	if len(names) != 8 {
		t.Fatalf("files %v", names)
	}
	for _, name := range names {
		good := readFile(t, o.Dir, name)
		for _, opener := range []audit.Sealer{o.Sealer, nil} {
			if opener == nil && strings.HasPrefix(name, "periods/") {
				continue
			}
			for i := range good {
				for _, flip := range []byte{0x01, 0x80, 0xff} {
					b := bytes.Clone(good)
					b[i] ^= flip
					writeFile(t, b, o.Dir, name)
					if _, err := audit.Verify(o.Dir, o.VerifierKey, opener); err == nil {
						t.Fatalf("%s: byte %d of %d xor %#x goes unseen (opener %v)", name, i, len(good), flip, opener != nil)
					}
				}
			}
		}
		writeFile(t, good, o.Dir, name)
	}
	verified(t, o)
}

// filesIn returns the names of all files below dir.
func filesIn(tb testing.TB, dir string) []string {
	tb.Helper()
	var out []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// The last character of a signature has two bits that mean nothing.
func TestSignatureHasOneSpelling(t *testing.T) {
	t.Parallel()
	o := filled(t, 1)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	good := readFile(t, o.Dir, "checkpoint")
	i := bytes.LastIndexByte(good, '=') - 1
	for spare := range 4 {
		b := bytes.Clone(good)
		b[i] = alphabet[bytes.IndexByte([]byte(alphabet), good[i])+spare]
		writeFile(t, b, o.Dir, "checkpoint")
		if _, err := audit.Verify(o.Dir, o.VerifierKey, nil); (err == nil) != (spare == 0) {
			t.Errorf("last character %q for %q: %v", b[i], good[i], err)
		}
	}
}

// A forger who knows the format mends the checksums, too.
func TestForgedPayloadIsFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 3)
	fs := frames(t, readFile(t, o.Dir, seg(0)))
	leaf, _, sealed, _, _, err := audit.ParseFrame(fs[1])
	if err != nil {
		t.Fatal(err)
	}
	_, _, other, _, _, err := audit.ParseFrame(fs[2])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		sealed []byte
		opener audit.Sealer
		what   string
	}{
		{"changed ciphertext does not open", flip(sealed, 20), o.Sealer, "payload does not fit"},
		{"another record's payload opens and is not this one's", other, o.Sealer, "payload does not fit"},
		{"a payload moved to a period without a key", flip(sealed, 3), nil, "its leaf of period"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := copyLog(t, o)
			forged := audit.WriteFrame(leaf, checksum(tt.sealed), tt.sealed)
			writeFile(t, slices.Concat(fs[0], forged, fs[2]), o.Dir, seg(0))
			_, err := audit.Verify(o.Dir, o.VerifierKey, tt.opener)
			wantBad(t, err, tt.what)
			wantBad(t, err, "entry 1")
		})
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func TestRearrangedRecordsAreFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 6)
	a, b := frames(t, readFile(t, o.Dir, seg(0))), frames(t, readFile(t, o.Dir, seg(4)))
	edit := func(first int, fs ...[]byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { writeFile(t, slices.Concat(fs...), dir, seg(first)) }
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name string
		edit func(t *testing.T, dir string)
		what string
	}{
		{"the last record is cut off", edit(4, b[0]), "the log ends here, the checkpoint covers 6 entries"},
		{"half of the last record is cut off", edit(4, b[0], b[1][:40]), "frame is not complete"},
		{"the last segment is emptied", edit(4), "the log ends here"},
		{"the last segment is deleted", remove(seg(4)), "the log ends here"},
		{"the first segment is deleted", remove(seg(0)), "its segment is missing"},
		{"a full segment is cut at a record", edit(0, a[0], a[1], a[2]), "segment ends here, the next begins with entry 4"},
		{"a record in the middle is deleted", edit(0, a[0], a[2], a[3]), "leaf says entry 2"},
		{"two records are swapped", edit(0, a[0], a[2], a[1], a[3]), "leaf says entry 2"},
		{"a record is duplicated", edit(0, a[0], a[1], a[1], a[2], a[3]), "leaf says entry 1"},
		{"a record is inserted at the end", edit(4, b[0], b[1], b[1]), "leaf says entry 5"},
		{"bytes are inserted between records", edit(0, a[0], []byte("x"), a[1], a[2], a[3]), "entry 1: at byte"},
		{"a segment has a wrong name", func(t *testing.T, dir string) { writeFile(t, nil, dir, "segments", "8.seg") }, "is not the name of a segment"},
		{"the public key is garbage", func(t *testing.T, dir string) { writeFile(t, []byte("x\n"), dir, "checkpoint.pub") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := copyLog(t, o)
			tt.edit(t, o.Dir)
			key := o.VerifierKey
			if tt.what == "" {
				key, tt.what = "", "is no verifier key"
			}
			_, err := audit.Verify(o.Dir, key, o.Sealer)
			wantBad(t, err, tt.what)
			if l, err := audit.Open(o); err == nil && key != "" {
				// startup does not read old segments; those it reads must not pass
				if rep, verr := audit.Verify(o.Dir, key, o.Sealer); verr == nil {
					t.Errorf("Open repaired it unseen: %+v", rep)
				}
				_ = l.Close()
			}
		})
	}
}

func TestRewrittenLogFails(t *testing.T) {
	t.Parallel()
	o := filled(t, 5)
	// the whole log made again by someone with another key
	forged := newOptions(t)
	l := open(t, forged)
	appendN(t, l, 0, 5)
	mustClose(t, l)
	_, err := audit.Verify(forged.Dir, o.VerifierKey, nil)
	wantBad(t, err, "this is another log, or it was made anew")
	writeFile(t, []byte(o.VerifierKey+"\n"), forged.Dir, "checkpoint.pub")
	_, err = audit.Verify(forged.Dir, o.VerifierKey, nil)
	wantBad(t, err, "is not signed by key")
	// the same, with the old signed checkpoint put beside it
	writeFile(t, readFile(t, o.Dir, "checkpoint"), forged.Dir, "checkpoint")
	_, err = audit.Verify(forged.Dir, o.VerifierKey, nil)
	wantBad(t, err, "the first 5 entries do not have the signed root")
	// a server with the old key takes over neither
	writeFile(t, []byte(forged.VerifierKey+"\n"), forged.Dir, "checkpoint.pub")
	forged.Signer, forged.VerifierKey = o.Signer, o.VerifierKey
	if _, err := audit.Open(forged); err == nil {
		t.Error("a log of another key was opened")
	}
	if err := os.Remove(filepath.Join(forged.Dir, "checkpoint.pub")); err != nil {
		t.Fatal(err)
	}
	_, err = audit.Open(forged)
	wantBad(t, err, "do not have the signed root: the log was altered")
}

func TestNothingSignedYet(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	appendN(t, l, 0, 6)
	rep := verified(t, o)
	if rep.Signed != 0 || rep.Unsigned != 6 || rep.Entries != 6 {
		t.Errorf("report %+v", rep)
	}
	mustSign(t, l)
	appendN(t, l, 6, 1)
	if rep := verified(t, o); rep.Signed != 6 || rep.Unsigned != 1 {
		t.Errorf("report %+v", rep)
	}
	if rep := verified(t, filled(t, 0)); rep.Entries != 0 {
		t.Errorf("empty log: %+v", rep)
	}
}
