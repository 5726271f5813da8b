package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Open opens the log in o.Dir for writing, or starts one. What a crash left behind
// the last whole record is set aside (see Recovered). It fails if the log belongs
// to another key, if it is shorter than its checkpoint or differs from it, or if a
// record that the checkpoint covers is damaged: *Bad says which and how.
func Open(o Options) (*Log, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open audit log %s: %w", o.Dir, err)
	}
	for _, task := range []func(){l.write, l.run, l.watch, l.survey, l.flush, l.mend} {
		l.tasks.Go(task)
	}
	return l, nil
}

func (o *Options) complete() error {
	if o.Dir == "" || o.Origin == "" || o.Sealer == nil || o.Signer == nil || o.VerifierKey == "" {
		return errors.New("audit options Dir, Origin, Sealer, Signer and VerifierKey are required")
	}
	v, err := note.NewVerifier(o.VerifierKey)
	if err != nil {
		return fmt.Errorf("verifier key %q: %w", o.VerifierKey, err)
	}
	if o.Signer.Name() != o.Origin {
		return fmt.Errorf("the signing key is named %q, not after the log's origin %q", o.Signer.Name(), o.Origin)
	}
	if v.Name() != o.Signer.Name() || v.KeyHash() != o.Signer.KeyHash() {
		return fmt.Errorf("verifier key %q is not that of signer %s+%08x", o.VerifierKey, o.Signer.Name(), o.Signer.KeyHash())
	}
	o.Checkpoint = cmp.Or(o.Checkpoint, defaultCheckpoint)
	o.segment = cmp.Or(o.segment, segmentEntries)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fs == nil {
		o.fs = disk{}
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	if o.space == nil {
		o.space = diskSpace
	}
	return nil
}

func open(o Options) (*Log, error) {
	h, err := claim(o)
	if err != nil {
		return nil, err
	}
	if err := finishErasing(o.fs, o.Dir); err != nil {
		return nil, err
	}
	firsts, err := segments(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := contiguous(firsts, o.segment); err != nil {
		return nil, err
	}
	r := &replay{opt: o, head: h, firsts: firsts, keys: newKeyring(o.Dir, o.Origin, o.Sealer, nil)}
	if err := r.run(); err != nil {
		return nil, err
	}
	l := &Log{
		opt: o, keys: newKeyring(o.Dir, o.Origin, o.Sealer, o.fs), torn: r.torn,
		first: make(chan struct{}, 1), full: make(chan struct{}, 1), stop: make(chan struct{}),
		tree: r.tree, start: r.start, day: r.day, off: r.off, covered: h.size, signed: h.note,
	}
	l.queue.wake = make(chan struct{}, 1)
	l.stall.init()
	l.keys.busy = func() func() { return l.stall.begin(&l.stall.keying) }
	l.counts.entries.Store(l.tree.size)
	l.counts.signed.Store(l.covered)
	l.partials[1] = partialsIn(o.Dir, l.tree)
	if h.note != nil {
		l.written = [][]byte{h.note}
	}
	if l.file, err = r.settle(); err != nil {
		return nil, err
	}
	if err := l.openReservation(); err != nil {
		_ = l.file.Close() // the other error is the one to hear of
		return nil, err
	}
	if l.tree.size > l.covered {
		wake(l.first)
	}
	return l, nil
}

// contiguous checks that no segment is missing between the others, as far as their
// names tell: the first may have been pruned, in whole bundles.
func contiguous(firsts []uint64, limit uint64) error {
	for i, first := range firsts {
		switch {
		case i == 0 && first%bundleEntries != 0:
			return &Bad{File: segmentsDir, What: "segment " + segmentName(0) + " is missing"}
		case i > 0 && first-firsts[i-1] > limit:
			want := firsts[i-1] + limit
			return &Bad{File: segmentsDir, Seq: want, What: "segment " + segmentName(want) + " is missing"}
		}
	}
	return nil
}

// claim makes the directory and its public key, or checks that they are ours, and
// returns what the checkpoint says.
func claim(o Options) (head, error) {
	for _, dir := range []string{o.Dir, filepath.Join(o.Dir, segmentsDir), filepath.Join(o.Dir, periodsDir)} {
		if err := os.MkdirAll(dir, dirMode); err != nil {
			return head{}, err
		}
	}
	if err := errors.Join(o.fs.SyncDir(filepath.Dir(o.Dir)), o.fs.SyncDir(o.Dir)); err != nil {
		return head{}, err
	}
	public, err := readPublic(o.Dir)
	if err != nil {
		return head{}, err
	}
	if public != "" && public != o.VerifierKey {
		return head{}, fmt.Errorf("the log belongs to key %q, the configured key is %q: use that key, or another directory", public, o.VerifierKey)
	}
	v, err := note.NewVerifier(o.VerifierKey)
	if err != nil {
		return head{}, err
	}
	h, err := readHead(o.Dir, v)
	if err != nil {
		return head{}, err
	}
	if public == "" {
		return h, replaceFile(o.fs, filepath.Join(o.Dir, publicFile), []byte(o.VerifierKey+"\n"))
	}
	return h, nil
}

// replay finds the end of the log and the tree over it.
type replay struct {
	opt    Options
	head   head
	firsts []uint64
	keys   *keyring

	tree  *tree
	start uint64 // first entry of the last segment
	day   uint32 // the period of that entry
	off   int64  // end of its last whole frame
	torn  int64  // bytes after it
}

// errRoot says that the entries do not have the root that the checkpoint signs.
var errRoot = errors.New("root differs")

// run replays from a segment before the end of the checkpoint: the root shows that
// the tiles before it are right, those after it are made anew. If it shows that they
// are not, the whole log is read.
func (r *replay) run() error {
	if len(r.firsts) == 0 {
		r.firsts = []uint64{0}
		if r.head.size == 0 {
			r.tree = new(tree)
			return nil
		}
	}
	from := 0
	for i, first := range r.firsts {
		if first <= r.head.size && first%bundleEntries == 0 {
			from = i
		}
	}
	err := r.from(from)
	if from > 0 && err != nil && !errors.As(err, new(*Bad)) {
		r.opt.Logger.Warn("audit log: the tiles are made anew from the segments", "err", err)
		err = r.from(0)
	}
	switch {
	case errors.Is(err, errRoot):
		return &Bad{File: checkpointFile, Seq: r.head.size, What: fmt.Sprintf(
			"the first %d entries do not have the signed root: the log was altered; %s", r.head.size, advice)}
	case errors.Is(err, errTile):
		return &Bad{File: tilesDir, Seq: r.firsts[0], What: fmt.Sprintf(
			"entries before this one are not here, and neither are their hashes: %v; %s", err, advice)}
	}
	return err
}

const advice = "keep this directory as evidence and restore a copy that `sallyport audit verify` accepts, or move it away to start a new log"

func (r *replay) from(segment int) (err error) {
	r.start, r.off, r.torn = 0, 0, 0
	r.tree = new(tree)
	if first := r.firsts[segment]; first > 0 {
		if r.tree, err = loadTree(r.opt.Dir, first); err != nil {
			return err
		}
	}
	for i := segment; i < len(r.firsts); i++ {
		if err := r.segment(i); err != nil {
			return err
		}
	}
	if r.tree.size < r.head.size {
		return &Bad{File: checkpointFile, Seq: r.tree.size, What: fmt.Sprintf(
			"the log ends after %d entries, the signed checkpoint covers %d: it was rolled back or cut; %s", r.tree.size, r.head.size, advice)}
	}
	if err := r.tiles(); err != nil {
		return err
	}
	return r.root()
}

// tiles writes the tiles that became full and are not there as they should be.
func (r *replay) tiles() error {
	for _, t := range r.tree.take() {
		if have, err := os.ReadFile(filepath.Join(r.opt.Dir, t.name())); err == nil && bytes.Equal(have, t.data) {
			continue
		}
		if err := t.write(r.opt.fs, r.opt.Dir); err != nil {
			return err
		}
	}
	return nil
}

// root compares the tree with the checkpoint where they have the same size.
func (r *replay) root() error {
	if r.tree.size == r.head.size && r.head.size > 0 && r.tree.root() != r.head.root {
		return errRoot
	}
	return nil
}

func (r *replay) segment(i int) error {
	name := segmentPath(r.opt.Dir, r.firsts[i])
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) { // of no other file
			return &Bad{File: segmentsDir, Seq: r.firsts[i], What: "segment " + segmentName(r.firsts[i]) + " is missing; " + advice}
		}
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	last := i == len(r.firsts)-1
	s := newScanner(f)
	for {
		if err := r.root(); err != nil {
			return err
		}
		fr, n, err := s.peek()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = r.whole(&fr)
		}
		if bad, ok := errors.AsType[*Bad](err); ok {
			return bad
		}
		if err != nil {
			if r.tree.size < r.head.size || !last {
				return r.bad(i, fmt.Sprintf("at byte %d: %v, where the signed checkpoint covers %d entries: the log was altered or the disk is damaged; %s",
					s.off, err, r.head.size, advice))
			}
			r.torn = info.Size() - s.off
			break
		}
		r.tree.add(fr.leaf)
		if len(r.tree.full) > tileWidth {
			if err := r.tiles(); err != nil {
				return err
			}
		}
		s.skip(n)
	}
	if !last && r.tree.size != r.firsts[i+1] {
		return r.bad(i, fmt.Sprintf("segment ends here, the next begins with entry %d; %s", r.firsts[i+1], advice))
	}
	r.start, r.off = r.firsts[i], s.off
	return nil
}

func (r *replay) bad(segment int, what string) error {
	return &Bad{File: segmentName(r.firsts[segment]), Seq: r.tree.size, What: what}
}

// whole refuses a frame that a crash may have left, and with *Bad one that no
// crash leaves: checksums that fit a leaf which does not.
func (r *replay) whole(f *frame) error {
	switch state := f.state(); {
	case state == stateDamaged:
		return errors.New("payload does not fit its checksum")
	case state == stateErased && r.tree.size >= r.head.size:
		return errors.New("payload is zeros and no checkpoint covers it")
	}
	h, err := parseLeaf(f.leaf)
	if err == nil && h.Seq != r.tree.size {
		err = fmt.Errorf("leaf says entry %d", h.Seq)
	}
	if slices.Contains(r.firsts, r.tree.size) {
		r.day = periodOf(h.Time)
	}
	if err == nil && r.tree.size >= r.head.size {
		err = r.ours(f, &h)
	}
	if err != nil {
		return &Bad{File: segmentsDir, Seq: r.tree.size, What: fmt.Sprintf("%v: the log was altered; %s", err, advice)}
	}
	return nil
}

// ours refuses an entry that no checkpoint covers and whose payload this log's keys did not
// seal: the next checkpoint would sign what somebody else wrote. An entry is only written when
// the key of its day is on disk.
func (r *replay) ours(f *frame, h *Header) error {
	if n := binary.BigEndian.Uint32(f.sealed); n != periodOf(h.Time) {
		return fmt.Errorf("payload is of period %d, its leaf of period %d", n, periodOf(h.Time))
	}
	text, err := r.keys.open(f.sealed)
	if err != nil {
		return err
	}
	if sha256.Sum256(text) != h.Commitment {
		return errors.New("payload is not the one that the leaf commits to")
	}
	return nil
}

// settle sets the torn tail aside and opens the last segment for writing.
func (r *replay) settle() (file, error) {
	if r.torn > 0 {
		if err := r.setAside(); err != nil {
			return nil, fmt.Errorf("set the torn tail aside: %w", err)
		}
	}
	f, err := r.opt.fs.OpenFile(segmentPath(r.opt.Dir, r.start), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if r.torn > 0 {
		err = errors.Join(f.Truncate(r.off), f.Sync())
	}
	if err == nil {
		err = r.opt.fs.SyncDir(filepath.Join(r.opt.Dir, segmentsDir))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// setAside copies what lies behind the last whole record to a file of its own.
func (r *replay) setAside() error {
	in, err := os.Open(segmentPath(r.opt.Dir, r.start))
	if err != nil {
		return err
	}
	defer in.Close()
	name := fmt.Sprintf("%s%d-%d", tornPrefix, r.tree.size, r.opt.Now().UnixNano())
	out, err := r.opt.fs.OpenFile(filepath.Join(r.opt.Dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY)
	if err != nil {
		return err
	}
	w := io.NewOffsetWriter(out, 0)
	_, err = io.Copy(w, io.NewSectionReader(in, r.off, r.torn))
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	r.opt.Logger.Warn("audit log: a torn record was set aside", "file", name, "seq", r.tree.size, "bytes", r.torn)
	return r.opt.fs.SyncDir(r.opt.Dir)
}
