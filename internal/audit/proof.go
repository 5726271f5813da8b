package audit

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// SignedHead returns the last checkpoint, a signed note, and how many entries it covers.
// The note is nil before the first.
func (l *Log) SignedHead() (note []byte, size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signed, l.covered
}

// ConsistencyProof proves that the log's first old entries are the beginning of its
// first size ones (RFC 6962 section 2.1.2). Both have to be in the log, old first; it
// is empty if old is 0 or size.
func (l *Log) ConsistencyProof(old, size uint64) ([]tlog.Hash, error) {
	if whole := l.Size(); size > whole {
		return nil, fmt.Errorf("%w: the log has %d entries, not %d", ErrNotFound, whole, size)
	}
	return consistency(old, l.hashes(size))
}

func consistency(old uint64, h *hashes) ([]tlog.Hash, error) {
	switch {
	case old > h.size:
		return nil, fmt.Errorf("%w: %d entries are more than %d", ErrNotFound, old, h.size)
	case old == 0 || old == h.size:
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(h.size), int64(old), h)
	return proof, err
}

// A Head is a checkpoint as a reader finds it. Nothing here asks who signed it.
type Head struct {
	Note []byte // the signed note
	Size uint64 // entries it covers
	Root tlog.Hash
}

// Head returns the log's checkpoint; one without a Note if there is none yet.
func (r *Reader) Head() (Head, error) {
	h, err := unsignedHead(r.dir)
	return Head{h.note, h.size, h.root}, err
}

// Inclusion proves that entry seq is in the tree of head (RFC 6962 section 2.1.1). It
// fails if the tiles do not have the head's root.
func (r *Reader) Inclusion(head Head, seq uint64) ([]tlog.Hash, error) {
	if seq >= head.Size {
		return nil, fmt.Errorf("%w: %d, under a checkpoint over %d entries", ErrNotFound, seq, head.Size)
	}
	h := r.hashes(head.Size)
	proof, err := tlog.ProveRecord(int64(head.Size), int64(seq), h)
	if err != nil {
		return nil, err
	}
	return proof, r.rooted(head, h)
}

// Consistency proves that the tree of old entries is the beginning of head's.
func (r *Reader) Consistency(head Head, old uint64) ([]tlog.Hash, error) {
	h := r.hashes(head.Size)
	proof, err := consistency(old, h)
	if err != nil {
		return nil, err
	}
	return proof, r.rooted(head, h)
}

// Subtrees returns the roots of the complete subtrees that the entries from first up to
// end split into, from left to right, largest where they can be: with the leaves
// beside them they give the root.
func (r *Reader) Subtrees(head Head, first, end uint64) ([]tlog.Hash, error) {
	h := r.hashes(head.Size)
	var out []tlog.Hash
	for _, s := range splitRange(first, end) {
		node, err := h.node(s.level, s.index)
		if err != nil {
			return nil, err
		}
		out = append(out, node)
	}
	return out, r.rooted(head, h)
}

// subtree is a complete subtree of 2^level leaves, the index-th of them.
type subtree struct {
	level int
	index uint64
}

// splitRange returns the complete subtrees of the tree that the entries from first up to end
// consist of, from left to right.
func splitRange(first, end uint64) []subtree {
	var out []subtree
	for first < end {
		level := 0
		for first>>level&1 == 0 && first+2<<level <= end {
			level++
		}
		out = append(out, subtree{level, first >> level})
		first += 1 << level
	}
	return out
}

func (r *Reader) hashes(size uint64) *hashes {
	return newHashes(size, func(t tile) ([]byte, error) {
		data, err := readTile(r.dir, t)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: the log has grown meanwhile, or the tile is lost: try again, or restart the server, which makes it anew", err)
		}
		return data, err
	})
}

// rooted fails unless the tiles have the root that head says.
func (r *Reader) rooted(head Head, h *hashes) error {
	root, err := tlog.TreeHash(int64(head.Size), h)
	if err != nil {
		return err
	}
	if root != head.Root {
		return &Bad{File: tilesDir, Seq: head.Size, What: "the tiles do not have the root that the checkpoint says: run `sallyport audit verify`"}
	}
	return nil
}

// Extends fails with *Bad unless the log begins with the entries that an earlier
// checkpoint of it signed: it was set back, or rewritten.
func (l *Log) Extends(checkpoint []byte) error {
	v, err := note.NewVerifier(l.opt.VerifierKey)
	if err != nil {
		return err
	}
	h, err := openHead(checkpoint, v)
	if err != nil {
		return &Bad{File: checkpointFile, What: err.Error()}
	}
	if size := l.Size(); h.size > size {
		return &Bad{File: checkpointFile, What: fmt.Sprintf("%d entries were signed, the log ends after %d: it was set back", h.size, size)}
	}
	root, err := tlog.TreeHash(int64(h.size), l.hashes(h.size))
	if err != nil {
		return err
	}
	if root != h.root {
		return &Bad{File: checkpointFile, What: fmt.Sprintf("the first %d entries are not those that were signed: the log was rewritten", h.size)}
	}
	return nil
}

// hashes reads the tree of the first size entries, also where it is not on disk yet.
func (l *Log) hashes(size uint64) *hashes {
	l.mu.Lock()
	open := append(l.tree.partial(), l.tree.full...)
	l.mu.Unlock()
	return newHashes(size, func(t tile) ([]byte, error) {
		for _, o := range open {
			if o.level == t.level && o.n == t.n {
				return o.data[:t.width*tlog.HashSize], nil
			}
		}
		return readTile(l.opt.Dir, t)
	})
}
