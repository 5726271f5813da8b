package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func exported(tb testing.TB, o audit.Options, x audit.Export) []byte {
	tb.Helper()
	var out bytes.Buffer
	if _, _, err := x.Write(tb.Context(), &out, reader(tb, o)); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestExport(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 300)
	mustClose(t, l) // with it ends the checkpoint that a full bundle asks for, whenever it comes
	l = open(t, o)
	old, _ := l.SignedHead()
	appendN(t, l, 300, 77)
	mustSign(t, l)
	appendN(t, l, 377, 3) // behind the checkpoint
	kept := audit.Kept{Name: "kept", Note: old}
	for _, tt := range []struct {
		x                                audit.Export
		entries, signed, shown, withheld uint64
		kept                             int
	}{
		{audit.Export{}, 380, 377, 380, 0, 1},
		{audit.Export{First: 1}, 379, 376, 379, 0, 1},
		{audit.Export{First: 300}, 80, 77, 80, 0, 1},
		{audit.Export{First: 101, End: 377}, 276, 276, 276, 0, 1},
		{audit.Export{First: 101, End: 376}, 275, 275, 275, 0, 1},
		{audit.Export{End: 1}, 1, 1, 1, 0, 0},
		{audit.Export{First: 255, End: 257}, 2, 2, 2, 0, 0},
		{audit.Export{Show: of(7, 299)}, 380, 377, 2, 378, 1},
	} {
		text := exported(t, o, tt.x)
		rep, err := audit.VerifyExport(bytes.NewReader(text), o.VerifierKey, kept)
		if err != nil {
			t.Errorf("%+v: %v", tt.x, err)
			continue
		}
		if rep.First != tt.x.First || rep.Entries != tt.entries || rep.Signed != tt.signed || rep.Open != tt.shown || rep.Withheld != tt.withheld || len(rep.Kept) != tt.kept {
			t.Errorf("%+v: report %+v", tt.x, rep)
		}
	}
	// of a part it says what is not in it, and that nothing shows what was put behind it
	part := exported(t, o, audit.Export{First: 101, End: 376})
	rep, err := audit.VerifyExport(bytes.NewReader(part), o.VerifierKey)
	if not := fmt.Sprint(rep.NotChecked); err != nil || !strings.Contains(not, "the 101 entries before 101 said: they are not in this export") || !strings.Contains(not, "the 1 entries from 376 on said") {
		t.Errorf("a part: %v, %v", rep.NotChecked, err)
	}
	other := filledWith(t, o, 377)
	forged := bytes.SplitAfter(exported(t, other, audit.Export{First: 375}), []byte("\n"))[1]
	forged = append(forged[:bytes.Index(forged, []byte(`,"checkpoint"`))], "}\n"...)
	_, err = audit.VerifyExport(bytes.NewReader(append(part, forged...)), o.VerifierKey)
	wantBad(t, err, "line 276: is behind the checkpoint, which covers it")
	mustClose(t, l)
	// a log that was pruned exports what it has
	p := pruned(t)
	if rep, err := audit.VerifyExport(bytes.NewReader(exported(t, p, audit.Export{})), p.VerifierKey); err != nil || rep.First != 512 || rep.Signed != 267 {
		t.Errorf("pruned: %+v, %v", rep, err)
	}
}

// Every byte of an export that says something is flipped; so are lines left out, added
// and put elsewhere.
func TestChangedExportIsFound(t *testing.T) {
	t.Parallel()
	o := filled(t, 5)
	text := exported(t, o, audit.Export{})
	for i := range text {
		for _, x := range []byte{1, 0x20, 0x80} {
			b := flip(text, i)
			b[i] = text[i] ^ x
			if rep, err := audit.VerifyExport(bytes.NewReader(b), o.VerifierKey); err == nil {
				line := b[:i+min(40, len(b)-i)]
				t.Fatalf("byte %d xor %#x goes unseen: …%s\n%+v", i, x, line[max(0, len(line)-80):], rep)
			}
		}
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	join := func(which ...int) (out []byte) {
		for _, i := range which {
			out = append(out, lines[i]...)
		}
		return out
	}
	for _, tt := range []struct {
		name string
		text []byte
		want string
	}{
		{"cut at the end", join(0, 1, 2, 3), "has no checkpoint: it was cut"},
		{"cut in a line", text[:len(text)-5], "ends without a line break"},
		{"one left out", join(0, 1, 3, 4), "is entry 3, where 2 should be"},
		{"the first left out", join(1, 2, 3, 4), "signed root"},
		{"two swapped", join(0, 2, 1, 3, 4), "is entry 2, where 1 should be"},
		{"one twice", join(0, 1, 1, 2, 3, 4), "is entry 1, where 2 should be"},
		{"an empty line", bytes.Join([][]byte{join(0), []byte("\n"), join(1, 2, 3, 4)}, nil), "is empty"},
		{"nothing", nil, "has no checkpoint"},
		{"a line of another kind", []byte("{}\n"), "leaf"},
		{"a member that nobody knows", bytes.Replace(text, []byte(`{"id"`), []byte(`{"note":"","id"`), 1), "unknown"},
		{"another log's line", bytes.Join([][]byte{join(0), bytes.SplitAfter(exported(t, filledWith(t, o, 5), audit.Export{}), []byte("\n"))[1], join(2, 3, 4)}, nil), "do not have the signed root"},
		{"another log", exported(t, filled(t, 5), audit.Export{}), "is not signed by key"},
		{"a line that is too long", bytes.Repeat([]byte("x"), 2<<20), "is longer than"},
	} {
		_, err := audit.VerifyExport(bytes.NewReader(tt.text), o.VerifierKey)
		if bad := new(audit.Bad); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	later := filledWith(t, o, 9)
	_, err := audit.VerifyExport(bytes.NewReader(text), o.VerifierKey, audit.Kept{Name: "kept", Note: readFile(t, later.Dir, "checkpoint")})
	wantBad(t, err, "kept: the log ends after 5 entries, this checkpoint covers 9")
	_, err = audit.VerifyExport(bytes.NewReader(text), o.VerifierKey, audit.Kept{Name: "kept", Note: readFile(t, filledWith(t, o, 3).Dir, "checkpoint")})
	wantBad(t, err, "are not those that checkpoint kept signed")
}

func TestProof(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 300)
	mustClose(t, l) // as in TestExport
	l = open(t, o)
	appendN(t, l, 300, 1)
	r := reader(t, o)
	if _, err := r.Proof(300); !errors.Is(err, audit.ErrNotFound) || !strings.Contains(err.Error(), "no checkpoint covers") {
		t.Errorf("of one that is not signed: %v", err)
	}
	text, err := r.Proof(123)
	if err != nil {
		t.Fatal(err)
	}
	line, err := audit.VerifyProof(text, o.VerifierKey)
	if err != nil || line.ID != "a-123" || !strings.Contains(string(line.Payload), "serviceAccount:n123") {
		t.Fatalf("%+v, %v", line, err)
	}
	other, err := r.Proof(124)
	if err != nil {
		t.Fatal(err)
	}
	top, _, _ := bytes.Cut(text, []byte("\n\n"))
	_, note, _ := bytes.Cut(other, []byte("\n\n"))
	for name, bad := range map[string][]byte{
		"another index":               bytes.Replace(text, []byte("index 123"), []byte("index 124"), 1),
		"another record":              bytes.Replace(text, bytes.Split(text, []byte("\n"))[1], bytes.Split(other, []byte("\n"))[1], 1),
		"no checkpoint":               append(top, "\n\n"...),
		"a checkpoint of another log": append(append(bytes.Clone(top), "\n\n"...), readFile(t, filled(t, 300).Dir, "checkpoint")...),
		"a hash too many":             append(append(bytes.Clone(top), "\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"...), note...),
		"nothing":                     nil,
	} {
		if _, err := audit.VerifyProof(bad, o.VerifierKey); err == nil {
			t.Errorf("%s goes unseen", name)
		}
	}
	for i := range text {
		if _, err := audit.VerifyProof(flip(text, i), o.VerifierKey); err == nil {
			t.Fatalf("byte %d goes unseen: %s", i, text[max(0, i-40):min(len(text), i+40)])
		}
	}
	mustClose(t, l)
	if _, err := audit.VerifyProof(text, o.VerifierKey); err != nil {
		t.Errorf("later: %v", err)
	}
}
