package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Prunable returns the first entry that has to stay if records older than retain are
// to go, and the oldest, until the log takes at most maxSize bytes; 0 stands for no
// such bound. reason says which of the two it was; "" if nothing has to go.
func (l *Log) Prunable(retain time.Duration, maxSize int64) (end uint64, reason string, err error) {
	firsts, err := segments(l.opt.Dir)
	if err != nil {
		return 0, "", err
	}
	l.mu.Lock()
	covered := l.covered
	l.mu.Unlock()
	before := l.opt.Now().Add(-retain)
	size := int64(0)
	if maxSize > 0 {
		if size, err = directorySize(l.opt.Dir); err != nil {
			return 0, "", err
		}
	}
	for i := 0; i+1 < len(firsts) && firsts[i+1] <= covered && firsts[i+1]%bundleEntries == 0; i++ {
		next, err := firstTime(l.opt.Dir, firsts[i+1])
		if err != nil {
			return 0, "", err
		}
		freed, err := segmentSize(l.opt.Dir, firsts[i], firsts[i+1])
		if err != nil {
			return 0, "", err
		}
		switch {
		case retain > 0 && next.Before(before):
			end, reason = firsts[i+1], "older than audit.retain"
		case maxSize > 0 && size > maxSize:
			end, reason = firsts[i+1], "the log is over audit.max_size"
		default:
			return end, reason, nil
		}
		size -= freed
	}
	return end, reason, nil
}

// firstTime returns the time of a segment's first entry.
func firstTime(dir string, first uint64) (time.Time, error) {
	f, err := os.Open(segmentPath(dir, first))
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	fr, _, err := newScanner(f).peek()
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", segmentName(first), err)
	}
	h, err := parseLeaf(fr.leaf)
	return h.Time, err
}

// segmentSize returns the bytes that go with a segment: its own, and its entry bundles'.
func segmentSize(dir string, first, end uint64) (int64, error) {
	info, err := os.Stat(segmentPath(dir, first))
	if err != nil {
		return 0, err
	}
	size := info.Size()
	for n := first / bundleEntries; n < end/bundleEntries; n++ {
		info, err := os.Stat(filepath.Join(dir, tile{level: entriesLevel, n: n, width: tileWidth}.name()))
		if err == nil {
			size += info.Size()
		}
	}
	return size, nil
}

func directorySize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return ignoreGone(err)
	})
	return size, err
}

// ignoreGone passes over what was removed while somebody looked.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Prune deletes the segments that end at or before entry end and that a checkpoint
// covers, their entry bundles, and the keys of days that only they had; it returns the
// first entry that is still here. Their hashes stay, so that every proof about what is
// here, and every checkpoint, stays good.
//
// First record is told which entries the log will not have any more, from 0; it has to
// append a Note with ActionPrune that names them, or nothing is deleted. It may be
// repeated after a failure.
func (l *Log) Prune(end uint64, record func(entries []string) error) (uint64, error) {
	l.maintaining.Lock()
	defer l.maintaining.Unlock()
	firsts, err := segments(l.opt.Dir)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	end = min(end, l.covered)
	l.mu.Unlock()
	gone := 0
	for gone+1 < len(firsts) && firsts[gone+1] <= end && firsts[gone+1]%bundleEntries == 0 {
		gone++
	}
	if gone == 0 {
		if len(firsts) == 0 {
			return 0, nil
		}
		return firsts[0], nil
	}
	first := firsts[gone]
	for i := range gone {
		if err := l.keepHashes(firsts[i], firsts[i+1]); err != nil {
			return firsts[0], fmt.Errorf("keep the hashes of %s: %w", segmentName(firsts[i]), err)
		}
	}
	if err := record(ranges{{0, first - 1}}.texts()); err != nil {
		return firsts[0], err
	}
	// what the checkpoint does not cover yet is the note that says so
	if err := l.Checkpoint(); err != nil {
		return firsts[0], err
	}
	for i := range gone {
		if err := l.discard(firsts[i], firsts[i+1]); err != nil {
			return firsts[i], fmt.Errorf("prune %s: %w", segmentName(firsts[i]), err)
		}
	}
	return first, l.discardKeys(first)
}

// keepHashes makes sure that the tiles of a segment that is to go are on disk, right
// and durable: they cannot be made again.
func (l *Log) keepHashes(first, end uint64) error {
	tiles, err := segmentTiles(l.opt.Dir, first, end)
	if err != nil {
		return err
	}
	for _, t := range tiles {
		if t.level == entriesLevel {
			continue
		}
		have, err := os.ReadFile(filepath.Join(l.opt.Dir, t.name()))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && len(have) < tileBytes:
			err = t.write(l.opt.fs, l.opt.Dir) // a power cut took it
		case err == nil && !bytes.Equal(have, t.data):
			err = &Bad{File: t.name(), What: "does not fit the entries below it; " + advice}
		}
		if err == nil {
			err = l.persist(t.name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// segmentTiles makes the tiles that became full with the entries of one segment. It
// needs those before them.
func segmentTiles(dir string, first, end uint64) ([]tile, error) {
	f, err := os.Open(segmentPath(dir, first))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := loadTree(dir, first)
	if err != nil {
		return nil, err
	}
	s := newScanner(f)
	for t.size < end {
		fr, n, err := s.peek()
		if err != nil {
			return nil, err
		}
		t.add(fr.leaf)
		s.skip(n)
	}
	return t.take(), nil
}

// mend ends what pruning left, and makes tiles anew that a power cut took: they are derived, and nobody waited until
// they were durable. Those of what Open has read are right already.
func (l *Log) mend() {
	l.maintaining.Lock()
	defer l.maintaining.Unlock()
	firsts, err := segments(l.opt.Dir)
	if err == nil && len(firsts) > 0 {
		err = l.sweep(firsts[0])
	}
	for i := 0; err == nil && i+1 < len(firsts); i++ {
		select {
		case <-l.stop:
			return
		default:
			err = l.mendSegment(firsts[i], firsts[i+1])
		}
	}
	if err != nil {
		l.opt.Logger.Error("audit log: tiles that are missing cannot be made anew; the log itself is not touched", "err", err)
	}
}

// sweep removes the entry bundles before the log's first entry that a pruning did not come
// to any more: it had removed their segment, and they lie at the end of what was pruned.
func (l *Log) sweep(first uint64) error {
	for n := first / bundleEntries; n > 0; n-- {
		name := tile{level: entriesLevel, n: n - 1, width: tileWidth}.name()
		if _, err := os.Stat(filepath.Join(l.opt.Dir, name)); err != nil {
			return ignoreGone(err)
		}
		if err := l.opt.fs.Remove(filepath.Join(l.opt.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) mendSegment(first, end uint64) error {
	if first%bundleEntries != 0 || l.tilesThere(first, end) {
		return nil
	}
	tiles, err := segmentTiles(l.opt.Dir, first, end)
	if err != nil {
		return err
	}
	l.opt.Logger.Warn("audit log: tiles are made anew", "segment", segmentName(first))
	for _, t := range tiles {
		if err := t.write(l.opt.fs, l.opt.Dir); err != nil {
			return err
		}
	}
	return nil
}

// tilesThere reports whether the tiles that became full with these entries are there,
// as far as their lengths tell.
func (l *Log) tilesThere(first, end uint64) bool {
	for level := entriesLevel; level < tileLevels; level++ {
		shift := tileHeight * (max(0, level) + 1)
		for n := first >> shift; n < end>>shift; n++ {
			info, err := os.Stat(filepath.Join(l.opt.Dir, tile{level: level, n: n, width: tileWidth}.name()))
			if err != nil || level >= 0 && info.Size() != tileBytes || info.Size() == 0 {
				return false
			}
		}
	}
	return true
}

// persist returns once a file, and its name, survive a power cut.
func (l *Log) persist(name string) error {
	f, err := l.opt.fs.OpenFile(filepath.Join(l.opt.Dir, name), os.O_RDWR)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if err := l.opt.fs.SyncDir(filepath.Join(l.opt.Dir, dir)); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a segment, then its entry bundles.
func (l *Log) discard(first, end uint64) error {
	if err := l.opt.fs.Remove(segmentPath(l.opt.Dir, first)); err != nil {
		return err
	}
	if err := l.opt.fs.SyncDir(filepath.Join(l.opt.Dir, segmentsDir)); err != nil {
		return err
	}
	for n := first / bundleEntries; n < end/bundleEntries; n++ {
		name := tile{level: entriesLevel, n: n, width: tileWidth}.name()
		if err := l.opt.fs.Remove(filepath.Join(l.opt.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// discardKeys removes the keys of days before that of the log's first entry, unless a
// later entry is of such a day: a clock may have stepped back.
func (l *Log) discardKeys(first uint64) error {
	oldest := periodOf(l.opt.Now())
	firsts, err := segments(l.opt.Dir)
	if err != nil {
		return err
	}
	for _, f := range firsts {
		if f < first {
			continue
		}
		t, err := firstTime(l.opt.Dir, f)
		if err != nil {
			return err
		}
		oldest = min(oldest, periodOf(t))
	}
	names, err := os.ReadDir(filepath.Join(l.opt.Dir, periodsDir))
	if err != nil {
		return err
	}
	for _, n := range names {
		// one day more than the first entries of segments tell
		if day, err := strconv.ParseUint(n.Name(), 10, 32); err == nil && uint32(day)+1 < oldest {
			if err := l.opt.fs.Remove(filepath.Join(l.opt.Dir, periodsDir, n.Name())); err != nil {
				return err
			}
		}
	}
	return l.opt.fs.SyncDir(filepath.Join(l.opt.Dir, periodsDir))
}
