package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// What follows is written from c2sp.org/tlog-tiles, RFC 6962 section 2.1 and RFC 9162
// sections 2.1.3.2 and 2.1.4.2 and shares no code with the package nor with sumdb/tlog.

// strangerTile returns the path of a tile of a tree with size leaves; level "entries"
// for a bundle.
func strangerTile(level string, n, width int) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	path = "tile/" + level + "/" + path
	if width < 256 {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// strangerBundles reads all leaves of a tree with size leaves out of entry bundles.
func strangerBundles(t *testing.T, dir string, size int) (leaves [][]byte) {
	t.Helper()
	for n := 0; n*256 < size; n++ {
		width := min(256, size-n*256)
		b := readFile(t, dir, strangerTile("entries", n, width))
		for range width {
			length := int(binary.BigEndian.Uint16(b))
			leaves = append(leaves, b[2:2+length])
			b = b[2+length:]
		}
		if len(b) > 0 {
			t.Errorf("bundle %d has %d bytes too many", n, len(b))
		}
	}
	return leaves
}

// strangerTiles checks every tile of the tree over leaves, by its definition.
func strangerTiles(t *testing.T, dir string, leaves [][]byte) (tiles int) {
	t.Helper()
	for level, span := 0, 1; span <= len(leaves); level, span = level+1, span*256 {
		hashes := len(leaves) / span
		for n := 0; n*256 < hashes; n++ {
			width := min(256, hashes-n*256)
			var want []byte
			for i := n * 256; i < n*256+width; i++ {
				h := strangerRoot(leaves[i*span : (i+1)*span])
				want = append(want, h[:]...)
			}
			name := strangerTile(fmt.Sprint(level), n, width)
			if got := readFile(t, dir, name); !bytes.Equal(got, want) {
				t.Errorf("%s is not what its %d hashes are", name, width)
			}
			tiles++
		}
	}
	return tiles
}

func pair(l, r []byte) []byte {
	h := sha256.Sum256(append(append([]byte{1}, l...), r...))
	return h[:]
}

// included is RFC 9162 section 2.1.3.2.
func included(leaf []byte, index, size uint64, proof [][]byte, root []byte) bool {
	if index >= size {
		return false
	}
	sum := sha256.Sum256(append([]byte{0}, leaf...))
	r, fn, sn := sum[:], index, size-1
	for _, p := range proof {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			r = pair(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = pair(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && bytes.Equal(r, root)
}

// consistent is RFC 9162 section 2.1.4.2.
func consistent(first, second uint64, firstRoot, secondRoot []byte, proof [][]byte) bool {
	if first == second {
		return len(proof) == 0 && bytes.Equal(firstRoot, secondRoot)
	}
	if first&(first-1) == 0 {
		proof = append([][]byte{firstRoot}, proof...)
	}
	if len(proof) == 0 {
		return false
	}
	fn, sn := first-1, second-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr := proof[0], proof[0]
	for _, c := range proof[1:] {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = pair(c, fr), pair(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = pair(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && bytes.Equal(fr, firstRoot) && bytes.Equal(sr, secondRoot)
}

func bytesOf[H ~[32]byte](hashes []H) (out [][]byte) {
	for _, h := range hashes {
		out = append(out, bytes.Clone(h[:]))
	}
	return out
}

// A stranger rebuilds the log from tiles and bundles alone, checks every tile, a
// hundred random inclusions and a hundred consistencies.
func TestStrangerChecksTilesAndProofs(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 255, 256, 257, 1000} {
		o := newOptions(t)
		o.SetSegment(512)
		l := open(t, o)
		appendN(t, l, 0, n/2)
		if err := l.Checkpoint(); err != nil { // whose partial tiles are to go
			t.Fatal(err)
		}
		appendN(t, l, n/2, n-n/2)
		mustSign(t, l)
		leaves := strangerBundles(t, o.Dir, n)
		for i, leaf := range leaves {
			if !strings.HasPrefix(string(leaf), fmt.Sprintf(`{"v":1,"seq":%d,`, i)) {
				t.Fatalf("leaf %d is %s", i, leaf)
			}
		}
		strangerTiles(t, o.Dir, leaves)
		root := strangerRoot(leaves)
		r, err := audit.OpenReader(o.Dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		head, err := r.Head()
		if err != nil || head.Size != uint64(n) || head.Root != root {
			t.Fatalf("head %+v, %v; root %x", head, err, root)
		}
		for range 100 {
			i := rand.Uint64N(uint64(n))
			proof, err := r.Inclusion(head, i)
			if err != nil || !included(leaves[i], i, uint64(n), bytesOf(proof), root[:]) {
				t.Errorf("inclusion of %d in %d: %v", i, n, err)
			}
			size := 1 + rand.Uint64N(uint64(n))
			old := 1 + rand.Uint64N(size)
			a, b := strangerRoot(leaves[:old]), strangerRoot(leaves[:size])
			hashes, err := l.ConsistencyProof(old, size)
			if err != nil || !consistent(old, size, a[:], b[:], bytesOf(hashes)) {
				t.Errorf("consistency of %d and %d: %v", old, size, err)
			}
			whole, err := r.Consistency(head, old)
			if err != nil || !consistent(old, uint64(n), a[:], root[:], bytesOf(whole)) {
				t.Errorf("a reader's consistency of %d and %d: %v", old, n, err)
			}
		}
		if n > 1 { // the checkers can say no
			proof, _ := r.Inclusion(head, 0)
			if included(leaves[1], 0, uint64(n), bytesOf(proof), root[:]) || included(leaves[0], 1, uint64(n), bytesOf(proof), root[:]) {
				t.Error("the checker takes any leaf")
			}
		}
		mustClose(t, l)
	}
}

func TestTilePaths(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "tile/entries/000", 70: "tile/entries/070", 1234067: "tile/entries/x001/x234/067"} {
		if got := strangerTile("entries", n, 256); got != want {
			t.Errorf("the checker has %s for %d", got, n)
		}
		if got := audit.TileName(-1, uint64(n), 256); got != want {
			t.Errorf("tile %d is %s, want %s", n, got, want)
		}
	}
	if got := audit.TileName(1, 1234067, 8); got != "tile/1/x001/x234/067.p/8" {
		t.Errorf("partial tile is %s", got)
	}
}

// Partial tiles of the last two checkpoints stay, older ones go, and with a full tile all.
func TestPartialTilesAreFew(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(512)
	l := open(t, o)
	partials := func() int {
		n := 0
		for _, name := range filesIn(t, o.Dir) {
			if strings.Contains(name, ".p/") {
				n++
			}
		}
		return n
	}
	for i := range 10 {
		appendN(t, l, 5*i, 5)
		mustSign(t, l)
		if got, want := partials(), min(4, 2*(i+1)); got != want {
			t.Fatalf("%d partial tiles after %d checkpoints, want %d", got, i+1, want)
		}
	}
	mustClose(t, l)
	l = open(t, o)
	appendN(t, l, 50, 212) // 262: the first tile is full
	mustSign(t, l)
	// hashes, entries, and one hash a level up; and those of the checkpoint that the full
	// bundle may have caused before
	if got := partials(); got < 3 || got > 6 {
		t.Errorf("%d partial tiles after reopening: %v", got, filesIn(t, o.Dir))
	}
	for _, name := range filesIn(t, o.Dir) {
		if strings.Contains(name, "/000.p/") && !strings.HasPrefix(name, "tile/1/") {
			t.Errorf("%s is left of a tile that is full", name)
		}
	}
	mustClose(t, l)
	verified(t, o)
}

// Tiles that are lost or damaged are made anew at start, as far as segments go.
func TestTilesAreMadeAnew(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendN(t, l, 0, 600)
	mustClose(t, l)
	good := map[string][]byte{}
	for _, name := range filesIn(t, o.Dir) {
		if strings.HasPrefix(name, "tile/") && !strings.Contains(name, ".p/") {
			good[name] = readFile(t, o.Dir, name)
		}
	}
	if len(good) != 4 {
		t.Fatalf("full tiles %v", good)
	}
	for name, was := range good {
		for what, bad := range map[string][]byte{"missing": nil, "short": was[:len(was)-1], "empty": {}} {
			if what == "short" && strings.Contains(name, "entries") {
				continue // only its records tell how long it is, and Verify reads them
			}
			c := copyLog(t, o)
			if what == "missing" {
				if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
					t.Fatal(err)
				}
			} else {
				writeFile(t, bad, c.Dir, name)
			}
			_, err := audit.Verify(c.Dir, c.VerifierKey, c.Sealer)
			wantBad(t, err, name)
			l := open(t, c)
			appendN(t, l, 600, 5)
			l.Mend()
			mustClose(t, l)
			if got := readFile(t, c.Dir, name); !bytes.Equal(got, was) {
				t.Errorf("%s, %s, was not made anew", name, what)
			}
			verified(t, c)
		}
	}
}
