package audit

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Report is what Verify found.
type Report struct {
	Origin     string    `json:"origin"`                // the log's name
	Key        string    `json:"key"`                   // verifier key that the checkpoint was checked with
	KeyFromLog bool      `json:"key_from_log"`          // Key came from the log: it proves nothing against its holder
	First      uint64    `json:"first"`                 // entries before it were pruned: only their hashes were checked
	Entries    uint64    `json:"entries"`               // whole entries that are here
	Signed     uint64    `json:"signed"`                // of them, how many the checkpoint covers
	Unsigned   uint64    `json:"unsigned"`              // of them, how many only the next checkpoint will protect
	Open       uint64    `json:"open"`                  // payloads that were opened and fit their commitment
	Sealed     uint64    `json:"sealed"`                // payloads whose key is not here
	Withheld   uint64    `json:"withheld"`              // payloads that an export left out
	Erased     uint64    `json:"erased"`                // payloads that were overwritten on purpose
	Gaps       uint64    `json:"gaps"`                  // numbers whose records a killed process may have lost
	BackSteps  uint64    `json:"back_steps"`            // entries whose time is before that of the one before
	Kept       []string  `json:"kept,omitempty"`        // earlier checkpoints that the log still holds to
	TornBytes  int64     `json:"torn_bytes"`            // bytes after the last whole entry: a crash, or a write under way
	From       time.Time `json:"from,omitzero"`         // time of the first entry
	To         time.Time `json:"to,omitzero"`           // time of the last
	NotChecked []string  `json:"not_checked,omitempty"` // what could not be checked, and why
}

// A Kept checkpoint is one that somebody put aside, with a name to speak of it by.
type Kept struct {
	Name string
	Note []byte
}

// Verify checks all of the log in dir: checksums, leaves, payloads that opener can
// open (nil: none), the tiles, the root and its signature, that nothing was erased or
// pruned without a record, and that it holds to each kept checkpoint. It runs beside a
// writer. With verifierKey "" it takes the key that the log holds. The first thing that
// is wrong is a *Bad error, beside a Report of what came before it.
func Verify(dir, verifierKey string, opener Sealer, kept ...Kept) (*Report, error) {
	rep := &Report{Key: verifierKey}
	v, err := rep.verifier(dir)
	if err != nil {
		return rep, err
	}
	// first the checkpoint, then the entries: a later one could cover entries
	// that were not there when we read past their place
	h, err := readHead(dir, v)
	if err != nil {
		return rep, err
	}
	w := &walk{Report: rep, dir: dir, head: h, blind: opener == nil, keys: newKeyring(dir, v.Name(), opener, nil), tree: new(tree)}
	if w.kept, err = openKept(v, kept); err != nil {
		return rep, err
	}
	if err := w.run(); err != nil {
		return rep, err
	}
	if w.First > 0 {
		w.not("what the %d entries before %d said: they were pruned, and their hashes fit", w.First, w.First)
	}
	w.unchecked(opener != nil)
	return rep, nil
}

// verifier returns the key to check with, and compares it with the log's own.
func (rep *Report) verifier(dir string) (note.Verifier, error) {
	own, err := readPublic(dir)
	if err != nil {
		return nil, err
	}
	switch {
	case rep.Key == "" && own == "":
		return nil, &Bad{File: publicFile, What: "is missing, and no other key was given"}
	case rep.Key == "":
		rep.Key, rep.KeyFromLog = own, true
	}
	v, err := note.NewVerifier(rep.Key)
	switch {
	case err != nil && rep.KeyFromLog:
		return nil, &Bad{File: publicFile, What: fmt.Sprintf("is no verifier key: %v", err)}
	case err != nil:
		return nil, fmt.Errorf("key %q: %w", rep.Key, err)
	case own != "" && own != rep.Key:
		return nil, &Bad{File: publicFile, What: fmt.Sprintf("is %s, the key that was given is %s: this is another log, or it was made anew", own, rep.Key)}
	}
	rep.Origin = v.Name()
	return v, nil
}

// keptHead is a Kept checkpoint whose signature was checked.
type keptHead struct {
	head
	name string
}

// openKept checks the signatures of kept checkpoints and returns them by size.
func openKept(v note.Verifier, kept []Kept) ([]keptHead, error) {
	var out []keptHead
	for _, k := range kept {
		h, err := openHead(k.Note, v)
		if err != nil {
			return nil, &Bad{File: k.Name, What: "the checkpoint " + err.Error()}
		}
		out = append(out, keptHead{h, k.Name})
	}
	slices.SortStableFunc(out, func(a, b keptHead) int { return int(int64(a.size) - int64(b.size)) })
	return out, nil
}

// maxUnsigned is how long records wait for a checkpoint without a word from verify.
const maxUnsigned = time.Minute

// walk is one verification under way.
type walk struct {
	*Report
	dir   string
	head  head
	blind bool       // no payload can be opened
	kept  []keptHead // those that are still to be reached
	keys  *keyring
	tree  *tree

	erased, accounted ranges    // entries that are erased; that a record says are
	prunedTo          uint64    // a record says that what is before it was pruned
	unsigned          time.Time // of the first entry that no checkpoint covers
	untold            uint64    // up to here there are notes that cannot be read: one may account for what is before it
}

func (w *walk) run() error {
	firsts, err := segments(w.dir)
	if err != nil {
		return err
	}
	if _, err := readReservation(w.dir); err != nil {
		return err
	}
	if len(firsts) > 0 && firsts[0] > 0 && firsts[0]%bundleEntries == 0 {
		if err := w.pruned(firsts[0]); err != nil {
			return err
		}
	}
	c := &cursor{dir: w.dir, seq: w.First, covered: func() uint64 { return w.head.size }}
	defer c.close()
	for {
		if err := w.reached(); err != nil {
			return err
		}
		f, err := c.next()
		if err == errEnd {
			break
		}
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("the log was pruned while it was read: verify it again: %w", err)
		}
		if err != nil {
			return err
		}
		if err := w.entry(&f, c); err != nil {
			return err
		}
	}
	w.TornBytes = c.rest()
	return w.end()
}

// pruned checks the hashes of the entries before first, and takes them for the tree.
func (w *walk) pruned(first uint64) error {
	w.First = first
	for n := range first / bundleEntries {
		data, err := readTile(w.dir, tile{level: 0, n: n, width: tileWidth})
		if err != nil {
			return &Bad{File: tilesDir, Seq: n * bundleEntries, What: fmt.Sprintf("the entries are not here, and neither are their hashes: %v", err)}
		}
		for k := 0; k < tileBytes; k += tlog.HashSize {
			w.tree.size++
			w.tree.push(0, tlog.Hash(data[k:k+tlog.HashSize]))
			if err := w.reached(); err != nil {
				return err
			}
		}
		w.tree.bundle = nil
		if err := w.tiles(); err != nil {
			return err
		}
	}
	return nil
}

// tiles compares the tiles that became full with those on disk: a stranger's tools read
// them in place of the segments.
func (w *walk) tiles() error {
	for _, t := range w.tree.take() {
		entries := t.level == entriesLevel
		if entries && t.n < w.First/bundleEntries || t.end() > w.head.size {
			continue // pruned, or not signed yet
		}
		have, err := os.ReadFile(filepath.Join(w.dir, t.name()))
		if err != nil {
			return &Bad{File: t.name(), What: fmt.Sprintf("is derived from the records and cannot be read: %v; a server that starts makes it anew", err)}
		}
		if !bytes.Equal(have, t.data) {
			return &Bad{File: t.name(), What: fmt.Sprintf("does not fit the records before %d, from which it is derived: delete it, a server that starts makes it anew", t.end())}
		}
	}
	return nil
}

// partial compares the partial tiles of the checkpoint. One that is gone is no mistake:
// a newer checkpoint may have taken its place.
func (w *walk) partial() error {
	for _, t := range w.tree.partial() {
		have, err := os.ReadFile(filepath.Join(w.dir, t.name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(have, t.data) {
			return &Bad{File: t.name(), What: "does not fit its entries"}
		}
	}
	return nil
}

// reached compares the tree with the checkpoints over just as many entries.
func (w *walk) reached() error {
	size := w.tree.size
	for len(w.kept) > 0 && w.kept[0].size == size {
		k := w.kept[0]
		if w.tree.root() != k.root {
			return &Bad{File: k.name, Seq: size, What: fmt.Sprintf("the first %d entries are not those that this checkpoint signed: the log was rewritten after it", size)}
		}
		w.kept, w.Kept = w.kept[1:], append(w.Kept, fmt.Sprintf("%s: %d entries", k.name, size))
	}
	if size != w.head.size || size == 0 {
		return nil
	}
	if w.tree.root() != w.head.root {
		return &Bad{File: checkpointFile, Seq: size, What: fmt.Sprintf("the first %d entries do not have the signed root", size)}
	}
	return w.partial()
}

func (w *walk) entry(f *frame, c *cursor) error {
	seq := w.tree.size
	e, err := decode(f, seq, segmentName(c.first), w.keys)
	if err != nil {
		if !errors.As(err, new(*Bad)) {
			err = &Bad{File: segmentName(c.first), Seq: seq, What: err.Error()}
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
		w.erased.add(e.Seq)
	}
	if err := w.count(e, w.head.size); err != nil {
		return bad(err.Error())
	}
	w.tree.add(e.Leaf)
	return w.tiles()
}

// count takes an entry into the report.
func (w *walk) count(e *Entry, signed uint64) error {
	switch e.State {
	case stateErased:
		w.Erased++
	case stateSealed:
		w.Sealed++
		// behind the checkpoint anybody can write what nobody can open
		if e.Kind == Note && (e.Seq < signed || w.blind) {
			w.untold = e.Seq
		}
	case stateWithheld:
		w.Withheld++
	case stateOpen:
		w.Open++
		// what a period's key opened is the log's own; a line of an export is anybody's
		if e.Seq < signed || w.keys != nil {
			if err := w.account(e); err != nil {
				return err
			}
		}
	}
	if e.Kind == Gap {
		w.Gaps++
	}
	w.Entries++
	if e.Seq < signed {
		w.Signed++
	} else {
		w.Unsigned++
		w.unsigned = cmp.Or(w.unsigned, e.Time)
	}
	if w.From.IsZero() {
		w.From = e.Time
	}
	if e.Time.Before(w.To) {
		w.BackSteps++
	}
	w.To = e.Time
	return nil
}

// account takes note of what a record says is gone.
func (w *walk) account(e *Entry) error {
	if e.Kind != Note || e.Payload.Action != ActionErase && e.Payload.Action != ActionPrune {
		return nil
	}
	r, err := parseRanges(e.Payload.Entries)
	if err != nil {
		return fmt.Errorf("says that it is about entries: %w", err)
	}
	for _, s := range r {
		if e.Payload.Action == ActionErase {
			w.accounted = append(w.accounted, s)
		} else if s.first == 0 {
			w.prunedTo = max(w.prunedTo, s.last+1)
		}
	}
	return nil
}

// unaccounted returns the first erased entry that no record says was erased. Such a record
// comes after the entry, and is never erased itself.
func (w *walk) unaccounted() (seq uint64, found bool) {
	accounted := w.accounted.sorted()
	for _, s := range w.erased {
		for seq := s.first; seq <= s.last; seq++ {
			if seq >= w.untold && !accounted.has(seq) {
				return seq, true
			}
		}
	}
	return 0, false
}

// end checks what can only be known when all was read.
func (w *walk) end() error {
	if len(w.kept) > 0 {
		k := w.kept[0]
		return &Bad{File: k.name, Seq: w.tree.size, What: fmt.Sprintf("the log ends after %d entries, this checkpoint covers %d: it was rolled back or cut", w.tree.size, k.size)}
	}
	if seq, ok := w.unaccounted(); ok {
		return &Bad{File: segmentsDir, Seq: seq, What: "its payload is erased, and no record says that somebody erased it"}
	}
	if w.prunedTo < w.First && w.untold == 0 {
		return &Bad{File: segmentsDir, Seq: w.prunedTo, What: fmt.Sprintf("the entries before %d are not here, and no record says that somebody pruned them", w.First)}
	}
	return nil
}

// not notes what the report does not speak for.
func (w *walk) not(format string, args ...any) {
	w.NotChecked = append(w.NotChecked, fmt.Sprintf(format, args...))
}

// unchecked says what the report does not speak for.
func (w *walk) unchecked(opened bool) {
	if w.Sealed > 0 {
		why := "their keys are not here"
		if !opened {
			why = "the key-encryption key is not here"
		}
		w.not("what %d sealed payloads say: %s", w.Sealed, why)
		if w.untold > 0 && (w.Erased > 0 || w.First > 0) {
			w.not("whether a record accounts for what was erased or pruned: it may be sealed")
		}
	}
	if w.Withheld > 0 {
		w.not("what %d payloads say that this export withholds", w.Withheld)
	}
	if w.Erased > 0 {
		w.not("what %d erased payloads said", w.Erased)
	}
	if w.Unsigned > 0 {
		w.not("whether the last %d records are all there were, and as they were written: only the next checkpoint protects them", w.Unsigned)
		if late := w.To.Sub(w.unsigned); late > maxUnsigned {
			w.not("why no checkpoint was signed in the last %s of the log, where a server signs one each second: it could not write it, or somebody set it back", late.Round(time.Second))
		}
	}
	if w.TornBytes > 0 {
		w.not("%d bytes behind the last whole record: a write that is under way, or was cut off by a crash", w.TornBytes)
	}
	if w.Gaps > 0 {
		w.not("%d records that a killed process may have lost: they were buffered, and the log says where", w.Gaps)
	}
}
