package audit

import (
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8                              // levels of the tree in one tile (c2sp.org/tlog-tiles)
	tileBytes  = tlog.HashSize << tileHeight    // of a full tile
	tileLevels = (63 + tileHeight) / tileHeight // of the largest tree
)

// tree is the right edge of the Merkle tree: enough to add leaves and to know the
// root without reading anything back.
type tree struct {
	size uint64

	// edge[k] is the root of the last complete subtree of 2^k leaves that is not
	// part of a larger one; it means something only if bit k of size is set
	edge [64]tlog.Hash

	open   [tileLevels][]byte // the hashes of each level's last tile, which is not full
	bundle []byte             // the last entry bundle, which is not full
	full   []tile             // became full, and nobody has taken them yet
}

// add takes the next leaf.
func (t *tree) add(leaf []byte) {
	t.bundle = binary.BigEndian.AppendUint16(t.bundle, uint16(len(leaf)))
	t.bundle = append(t.bundle, leaf...)
	t.size++
	t.push(0, tlog.RecordHash(leaf))
}

// push takes the hash of the next complete subtree of 256^level leaves.
func (t *tree) push(level int, h tlog.Hash) {
	at := len(t.open[level])
	t.open[level] = append(t.open[level], h[:]...)
	k := level * tileHeight
	for n := at / tlog.HashSize; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.edge[k], h)
		k++
	}
	if len(t.open[level]) < tileBytes {
		t.edge[k] = h
		return
	}
	n := t.size>>(tileHeight*(level+1)) - 1
	t.full = append(t.full, tile{level, n, tileWidth, t.open[level]})
	t.open[level] = nil
	if level == 0 {
		t.full = append(t.full, tile{entriesLevel, n, tileWidth, t.bundle})
		t.bundle = nil
	}
	t.push(level+1, h)
}

// root returns the tree's hash, RFC 6962 section 2.1.
func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	var root tlog.Hash
	found := false
	for k := range t.edge {
		switch {
		case t.size>>k&1 == 0:
		case !found:
			root, found = t.edge[k], true
		default:
			root = tlog.NodeHash(t.edge[k], root)
		}
	}
	return root
}

// take returns the tiles that became full since it was last called.
func (t *tree) take() []tile {
	full := t.full
	t.full = nil
	return full
}

// partial returns copies of the tiles that are not full.
func (t *tree) partial() []tile {
	var out []tile
	for level, open := range t.open {
		if len(open) > 0 {
			n := t.size >> (tileHeight * (level + 1))
			out = append(out, tile{level, n, len(open) / tlog.HashSize, append([]byte(nil), open...)})
		}
	}
	if len(t.bundle) > 0 {
		out = append(out, tile{entriesLevel, t.size / bundleEntries, int(t.size % bundleEntries), append([]byte(nil), t.bundle...)})
	}
	return out
}

// loadTree reads the tree over the first size leaves, a multiple of 256, from the
// full tiles in dir. Nothing proves it right but a root to compare with.
func loadTree(dir string, size uint64) (*tree, error) {
	t := &tree{size: size}
	for level := 1; level < tileLevels; level++ {
		// the hashes of this level's open tile are the roots of full tiles below
		end := size >> (tileHeight * level)
		for n := end &^ (tileWidth - 1); n < end; n++ {
			data, err := readTile(dir, tile{level: level - 1, n: n, width: tileWidth})
			if err != nil {
				return nil, err
			}
			t.push(level, tileRoot(data))
		}
	}
	return t, nil
}

// tileRoot returns the root of the complete subtree over a tile's hashes.
func tileRoot(hashes []byte) tlog.Hash {
	if len(hashes) == tlog.HashSize {
		return tlog.Hash(hashes)
	}
	half := len(hashes) / 2
	return tlog.NodeHash(tileRoot(hashes[:half]), tileRoot(hashes[half:]))
}
