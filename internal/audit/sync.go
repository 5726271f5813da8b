package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// due reports whether the next entry begins a segment: the last one is full, or a new
// day has begun and its last bundle is whole, so that retention can go by days. Called
// with mu held.
func (l *Log) due() bool {
	switch n := l.tree.size - l.start; {
	case n >= l.opt.segment:
		return true
	case n == 0 || l.tree.size%bundleEntries != 0:
		return false
	}
	return periodOf(l.opt.Now()) != l.day
}

// roll starts the next segment. What is before it is durable when it exists, so
// that only the last segment can have a torn tail. Called with mu held.
func (l *Log) roll() error {
	if err := l.writeOut(); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return l.breaks(fsyncFailed(err))
	}
	f, err := l.opt.fs.OpenFile(segmentPath(l.opt.Dir, l.tree.size), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("start a segment: %w", err)
	}
	if err := l.opt.fs.SyncDir(filepath.Join(l.opt.Dir, segmentsDir)); err != nil {
		_ = f.Close() // the other error is the one to hear of
		return l.breaks(fsyncFailed(err))
	}
	l.retired = append(l.retired, l.file)
	l.file, l.start, l.off = f, l.tree.size, 0
	return nil
}

// fsyncFailed says why there is no second try: after a failed fsync the kernel may
// have dropped the pages it could not write and call the next fsync a success.
func fsyncFailed(err error) error {
	return fmt.Errorf("what was written may be lost although it can be read: %w", err)
}

// sync returns once fdatasync covers the first size entries. Whoever finds none under
// way calls it for all who wrote before. The others are woken together when it ends:
// each finds its entry covered, or one of them calls the next.
func (l *Log) sync(size uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.syncing != nil && l.synced < size {
		l.awaitSync()
	}
	if l.synced >= size {
		return nil
	}
	if l.broken != nil {
		return unavailable(l.broken)
	}
	ended := make(chan struct{})
	l.syncing = ended
	l.mu.Unlock()
	// under load those who are about to write come first, and are covered too: a third
	// fewer syncs than without; alone, it costs nothing
	runtime.Gosched()
	l.mu.Lock()
	over := l.stall.begin(&l.stall.writing)
	unwritten := l.writeOut()
	over()
	f, target, retired := l.file, l.tree.size, l.retired
	l.retired = nil
	l.mu.Unlock()
	for _, old := range retired {
		_ = old.Close() // it is synced; nothing is left to lose
	}
	over = l.stall.begin(&l.stall.syncing)
	err := f.Sync()
	over()

	l.mu.Lock()
	l.syncing = nil
	close(ended)
	if unwritten != nil {
		return l.failed(unwritten)
	}
	if err != nil {
		return unavailable(l.breaks(fsyncFailed(err)))
	}
	if l.broken != nil {
		// the kernel tells one caller only; roll may have been the one
		return unavailable(l.broken)
	}
	l.synced = target
	return nil
}

// awaitSync waits for the fdatasync that is under way. Called with mu held, which it
// gives up meanwhile.
func (l *Log) awaitSync() {
	ended := l.syncing
	l.mu.Unlock()
	<-ended
	l.mu.Lock()
}

// Checkpoint signs the log as it is now. There is nothing to do if the last
// checkpoint covers it.
func (l *Log) Checkpoint() error {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return l.checkpoint()
}

func (l *Log) checkpoint() error {
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	l.mu.Lock()
	h := head{origin: l.opt.Origin, size: l.tree.size}
	if h.size == l.covered {
		l.mu.Unlock()
		return nil
	}
	h.root = l.tree.root()
	full, partial := l.tree.take(), l.tree.partial()
	l.mu.Unlock()
	err := l.writeTiles(full, partial)
	if err == nil {
		err = l.publish(&h)
	}
	if err != nil {
		err = fmt.Errorf("sign a checkpoint over %d entries: %w", h.size, err)
	}
	l.state.signing(l.opt.Logger, h.size, err)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.tree.full = append(full, l.tree.full...) // writing one twice does no harm
		return err
	}
	l.covered, l.signed = h.size, h.note
	l.counts.signed.Store(h.size)
	switch {
	case l.tree.size/bundleEntries > l.covered/bundleEntries:
		wake(l.full)
	case l.tree.size > l.covered:
		wake(l.first)
	}
	return nil
}

// writeTiles writes the tiles of a tree that is about to be signed. Of the partial
// ones those of the last two checkpoints stay, so that whoever has just read one finds
// them. Called with checkpointing held.
func (l *Log) writeTiles(full, partial []tile) error {
	for _, t := range slices.Concat(full, partial) {
		if err := t.write(l.opt.fs, l.opt.Dir); err != nil {
			return err
		}
	}
	var now []string
	for _, t := range partial {
		now = append(now, t.name())
	}
	for _, old := range l.partials[1] {
		if !slices.Contains(now, old) && !slices.Contains(l.partials[0], old) {
			if err := l.opt.fs.Remove(filepath.Join(l.opt.Dir, old)); err != nil {
				return fmt.Errorf("remove a partial tile: %w", err)
			}
		}
	}
	// not all of these are needed any more; what is left of a tile that is full goes
	// with its folder
	for _, t := range full {
		if err := l.opt.fs.Remove(filepath.Join(l.opt.Dir, t.fullName()+partialSuffix)); err != nil {
			return fmt.Errorf("remove partial tiles: %w", err)
		}
	}
	l.partials = [2][]string{now, l.partials[0]}
	return nil
}

// partialsIn returns the names of the partial tiles that lie where the tree's open
// tiles will.
func partialsIn(dir string, t *tree) []string {
	var out []string
	for _, p := range t.partial() {
		folder := p.fullName() + partialSuffix
		names, _ := os.ReadDir(filepath.Join(dir, folder)) // most often there are none
		for _, n := range names {
			out = append(out, filepath.Join(folder, n.Name()))
		}
	}
	return out
}

// publish writes the checkpoint h, after the entries it covers are durable.
func (l *Log) publish(h *head) error {
	if err := l.sync(h.size); err != nil {
		return err
	}
	msg, err := h.sign(l.opt.Signer)
	if err != nil {
		return err
	}
	if err := l.alone(); err != nil {
		return err
	}
	h.note = msg
	if n := len(l.written); n == 0 || !bytes.Equal(l.written[n-1], msg) { // or each second of a full disk adds one
		l.written = append(l.written, msg)
	}
	if err := replaceFile(l.opt.fs, filepath.Join(l.opt.Dir, checkpointFile), msg); err != nil {
		return err
	}
	l.written = l.written[len(l.written)-1:]
	return nil
}

// alone fails when the checkpoint on disk is not one that this process wrote, or meant
// to: then another writes to the log, past the lock on data_dir, and what either has
// written is not to be counted on. Called with checkpointing held.
func (l *Log) alone() error {
	have, err := os.ReadFile(filepath.Join(l.opt.Dir, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) && (len(l.written) == 0 || l.covered == 0) {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(l.written, func(w []byte) bool { return bytes.Equal(w, have) }) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.breaks(errors.New("another process writes to this log: stop one of them, and verify what they left"))
}

// wake tells the checkpointer, if nobody has since it last looked.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// minApart is the least time between two checkpoints that a full bundle causes:
// under load an fdatasync per 256 records would be most of what the disk does.
const minApart = 100 * time.Millisecond

// run makes checkpoints when they are due, until stop.
func (l *Log) run() {
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	waiting := false // for timer
	var last time.Time
	for {
		select {
		case <-l.stop:
			return
		case <-l.first:
			if !waiting {
				timer.Reset(l.opt.Checkpoint)
				waiting = true
			}
		case <-l.full:
			timer.Reset(min(l.opt.Checkpoint, max(0, minApart-time.Since(last))))
			waiting = true
		case <-timer.C:
			waiting = false
			last = time.Now()
			if err := l.checkpoint(); err != nil {
				// Health and the logger have it; it stays due
				timer.Reset(l.opt.Checkpoint)
				waiting = true
			}
		}
	}
}

// Close signs a last checkpoint and releases the files. Appends that come after it
// fail with ErrClosed, and so does a second Close.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.state.close()
	l.mu.Unlock()
	close(l.stop)
	l.tasks.Wait()
	err := l.checkpoint()

	l.mu.Lock()
	defer l.mu.Unlock()
	for l.syncing != nil { // a Synced Append may still wait for its fdatasync
		l.awaitSync()
	}
	if len(l.waiting) > 0 { // the checkpoint, which says why, did not write it
		err = errors.Join(err, fmt.Errorf("%d bytes of buffered records are lost", len(l.waiting)))
	} else if l.broken == nil {
		err = errors.Join(err, l.settleReservation())
	}
	for _, f := range append(l.retired, l.file, l.reserve.file) {
		_ = f.Close() // all is synced, or err says that it is not
	}
	l.retired = nil
	return err
}
