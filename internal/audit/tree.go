package audit

import (
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is the right edge of the Merkle tree: enough to add leaves and to know the
// root without reading anything back.
type tree struct {
	size uint64

	// edge[k] is the root of the last complete subtree of 2^k leaves that is not
	// part of a larger one; it means something only if bit k of size is set
	edge [64]tlog.Hash

	// pending are the stored hashes, in file order, that flush has yet to write
	pending []byte
}

// add takes the next leaf. The hashes it makes pending are in the order of
// tlog.StoredHashIndex: the leaf's, then each node that it completes.
func (t *tree) add(leaf []byte) {
	h := tlog.RecordHash(leaf)
	t.pending = append(t.pending, h[:]...)
	k := 0
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.edge[k], h)
		t.pending = append(t.pending, h[:]...)
		k++
	}
	t.edge[k] = h
	t.size++
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

// flush writes the pending hashes to their place. It may be repeated after a failure.
func (t *tree) flush(f file) error {
	if len(t.pending) == 0 {
		return nil
	}
	if _, err := f.WriteAt(t.pending, t.stored()-int64(len(t.pending))); err != nil {
		return fmt.Errorf("write hashes: %w", err)
	}
	t.pending = t.pending[:0]
	return nil
}

// stored returns the length of the hashes file of this tree, in bytes.
func (t *tree) stored() int64 { return tlog.StoredHashCount(int64(t.size)) * tlog.HashSize }

// loadTree reads the edge of the tree with size leaves from a hashes file. Nothing
// proves it right but a root to compare with.
func loadTree(r io.ReaderAt, size uint64) (*tree, error) {
	t := &tree{size: size}
	for k := range t.edge {
		if size>>k&1 == 0 {
			continue
		}
		at := tlog.StoredHashIndex(k, int64(size>>k)-1) * tlog.HashSize
		if _, err := r.ReadAt(t.edge[k][:], at); err != nil {
			return nil, fmt.Errorf("read hashes: %w", err)
		}
	}
	return t, nil
}
