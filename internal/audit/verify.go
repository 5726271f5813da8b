package audit

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// Report is what Verify found.
type Report struct {
	Origin     string // the log's name
	Key        string // verifier key that the checkpoint was checked with
	KeyFromLog bool   // Key came from the log: it proves nothing against its holder
	Entries    uint64 // whole entries
	Signed     uint64 // of them, how many the checkpoint covers; 0: nothing is signed yet
	Unsigned   uint64 // of them, how many only the next checkpoint will protect
	Open       uint64 // payloads that were opened and fit their commitment
	Sealed     uint64 // payloads whose key is not here
	Erased     uint64 // payloads that were overwritten on purpose
	TornBytes  int64  // bytes after the last whole entry: a crash, or a write under way
}

// Verify checks all of the log in dir: checksums, leaves, payloads that opener can
// open (nil: none), tree and signature. It runs beside a writer. With verifierKey
// "" it takes the key that the log holds. The first thing that is wrong is a *Bad
// error, beside a Report of what came before it.
func Verify(dir, verifierKey string, opener Sealer) (*Report, error) {
	rep := &Report{Key: verifierKey}
	if verifierKey == "" {
		key, err := readPublic(dir)
		if err != nil {
			return rep, err
		}
		if key == "" {
			return rep, &Bad{File: publicFile, What: "is missing, and no other key was given"}
		}
		rep.Key, rep.KeyFromLog = key, true
	}
	v, err := note.NewVerifier(rep.Key)
	if err != nil {
		if rep.KeyFromLog {
			return rep, &Bad{File: publicFile, What: fmt.Sprintf("is no verifier key: %v", err)}
		}
		return rep, fmt.Errorf("key %q: %w", rep.Key, err)
	}
	rep.Origin = v.Name()
	// first the checkpoint, then the entries: a later one could cover entries
	// that were not there when we read past their place
	h, err := readHead(dir, v)
	if err != nil {
		return rep, err
	}
	w := &walk{Report: rep, head: h, keys: newKeyring(dir, v.Name(), opener, nil)}
	return rep, w.run(dir)
}

// walk is one verification under way.
type walk struct {
	*Report
	head head
	keys *keyring
	tree tree
}

func (w *walk) run(dir string) error {
	c := &cursor{dir: dir, covered: func() uint64 { return w.head.size }}
	defer c.close()
	for {
		f, err := c.next()
		if err == errEnd {
			break
		}
		if err != nil {
			return err
		}
		if err := w.entry(&f, c); err != nil {
			return err
		}
	}
	w.TornBytes = c.rest()
	return nil
}

func (w *walk) entry(f *frame, c *cursor) error {
	e, err := decode(f, w.tree.size, segmentName(c.first), w.keys)
	if err != nil {
		if !errors.As(err, new(*Bad)) {
			err = &Bad{File: segmentName(c.first), Seq: w.tree.size, What: err.Error()}
		}
		return err
	}
	bad := func(what string) error {
		return &Bad{File: segmentName(c.first), Seq: e.Seq, What: what}
	}
	if e.State != stateErased {
		if n := binary.BigEndian.Uint32(f.sealed); n != periodOf(e.Time) {
			return bad(fmt.Sprintf("payload is of period %d, its leaf of period %d", n, periodOf(e.Time)))
		}
	}
	switch e.State {
	case stateDamaged:
		return bad("payload does not fit its checksum, key or commitment")
	case stateErased:
		if e.Seq >= w.head.size {
			return bad("payload is erased and no checkpoint covers the entry")
		}
		w.Erased++
	case stateSealed:
		w.Sealed++
	case stateOpen:
		w.Open++
	}
	w.tree.add(e.Leaf)
	w.tree.pending = w.tree.pending[:0] // nobody asks for them
	w.Entries++
	if e.Seq < w.head.size {
		w.Signed++
	} else {
		w.Unsigned++
	}
	if w.tree.size == w.head.size && w.tree.root() != w.head.root {
		return &Bad{File: checkpointFile, Seq: w.head.size, What: fmt.Sprintf("the first %d entries do not have the signed root", w.head.size)}
	}
	return nil
}
