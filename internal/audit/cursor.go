package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// Bad says where a log is not what it should be.
type Bad struct {
	File string // name in the log directory
	Seq  uint64 // the entry, if the file is not enough to say
	What string // what is wrong, and for whoever can act on it, what to do
}

// Error names file, entry and mistake.
func (b *Bad) Error() string {
	if !strings.HasSuffix(b.File, segmentSuffix) && b.File != segmentsDir {
		return b.File + ": " + b.What
	}
	return fmt.Sprintf("%s: entry %d: %s", b.File, b.Seq, b.What)
}

// errEnd says that the log holds no further whole frame for now.
var errEnd = errors.New("end of log")

// cursor reads frames in order, across segments, beside a running writer.
type cursor struct {
	dir string

	// covered returns how many entries are known to be durable: up to there a
	// damaged frame is damage, behind it perhaps a write that is under way
	covered func() uint64

	places *places // where bundles begin; may be nil
	seq    uint64  // of the next frame
	file   *os.File
	first  uint64 // of file
	known  uint64 // what covered said last
	begin  uint64 // of the log, as far as it was looked for: what is before it was pruned
	scan   *scanner
}

// next returns the next frame, errEnd, or *Bad. The frame is valid until the next
// call; its leaf fits its checksum, its payload perhaps not.
func (c *cursor) next() (frame, error) {
	for {
		if c.file == nil {
			if err := c.open(); err != nil {
				return frame{}, err
			}
		}
		f, n, err := c.scan.peek()
		if err != nil || !c.settled(&f) {
			if f, n, err = c.again(); err == errMoved {
				continue
			}
		}
		if err != nil {
			return frame{}, err
		}
		c.scan.skip(n)
		c.seq++
		return f, nil
	}
}

// settled reports whether a frame needs no second look: it is whole, or erased where
// that may be, as far as is known without asking.
func (c *cursor) settled(f *frame) bool {
	state := f.state()
	return state == stateSealed || state == stateErased && c.seq < c.known
}

// errMoved says that the cursor now stands in the next segment.
var errMoved = errors.New("next segment")

// again looks a second time, after finding out how far the log is sure to reach:
// what was half there at first sight is whole by now, or is damaged.
func (c *cursor) again() (frame, int, error) {
	covered := c.covered()
	c.known = max(c.known, covered)
	later, more, err := c.later()
	if err != nil {
		return frame{}, 0, err
	}
	if c.seq < c.begin {
		return frame{}, 0, fmt.Errorf("%w: %d was pruned meanwhile, the log begins with entry %d", ErrNotFound, c.seq, c.begin)
	}
	c.scan.have = nil
	f, n, err := c.scan.peek()
	sure := more || c.seq < covered
	switch {
	case err == nil && (sure || f.state() == stateSealed):
		return f, n, nil
	case err == io.EOF && more && later == c.seq:
		c.close()
		return frame{}, 0, errMoved
	case err == io.EOF && more:
		return frame{}, 0, c.bad(fmt.Sprintf("segment ends here, the next begins with entry %d", later))
	case sure && err == io.EOF:
		return frame{}, 0, c.bad(fmt.Sprintf("the log ends here, the checkpoint covers %d entries", covered))
	case sure:
		return frame{}, 0, c.bad(fmt.Sprintf("at byte %d: %v", c.scan.off, err))
	}
	return frame{}, 0, errEnd
}

func (c *cursor) bad(what string) error {
	return &Bad{File: segmentName(c.first), Seq: c.seq, What: what}
}

// later returns the first entry of the segment after the current one, if any.
func (c *cursor) later() (uint64, bool, error) {
	firsts, err := segments(c.dir)
	if len(firsts) > 0 && firsts[0]%bundleEntries == 0 {
		c.begin = firsts[0]
	}
	for _, first := range firsts {
		if first > c.first {
			return first, true, err
		}
	}
	return 0, false, err
}

// open stands at the start of the segment that holds entry c.seq, or of the one
// before it that should, and moves on to the entry.
func (c *cursor) open() error {
	firsts, err := segments(c.dir)
	if err != nil {
		return err
	}
	found := false
	for _, first := range firsts {
		if first <= c.seq {
			c.first, found = first, true
		}
	}
	if !found {
		if len(firsts) > 0 && firsts[0]%bundleEntries == 0 {
			return fmt.Errorf("%w: %d was pruned, the log begins with entry %d", ErrNotFound, c.seq, firsts[0])
		}
		if len(firsts) > 0 || c.covered() > c.seq {
			return &Bad{File: segmentsDir, Seq: c.seq, What: "its segment is missing"}
		}
		return errEnd
	}
	f, err := os.Open(segmentPath(c.dir, c.first))
	if errors.Is(err, fs.ErrNotExist) { // it was here a moment ago
		return fmt.Errorf("%w: %d was pruned meanwhile", ErrNotFound, c.seq)
	}
	if err != nil {
		return err
	}
	c.file, c.scan = f, newScanner(f)
	target := c.seq
	if c.jump(target) {
		return nil
	}
	c.scan = newScanner(f)
	for c.seq = c.first; c.seq < target; {
		if _, err := c.next(); err != nil {
			c.close()
			if err == errEnd {
				c.seq = target
			}
			return err
		}
	}
	return nil
}

// jump moves to entry target of the open segment by lengths alone. If it fails, the
// frames before tell more.
func (c *cursor) jump(target uint64) bool {
	from := c.first
	if known, off := c.places.before(c.first, target); off > 0 {
		from, c.scan.off = known, off
	}
	return c.scan.jump(target-from, func(skipped uint64, off int64) { c.places.note(c.first, from+skipped, off) }) == nil
}

// places remembers where the bundles of segments begin. It is safe for concurrent
// use; nil remembers nothing.
type places struct {
	mu sync.Mutex
	at map[uint64][]int64 // by first entry of a segment: of each bundle; 0 unknown
}

// before returns the last entry up to target whose place in its segment is known.
func (p *places) before(first, target uint64) (seq uint64, off int64) {
	if p == nil {
		return first, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.at[first]
	for i := min(int((target-first)/bundleEntries), len(at)-1); i > 0; i-- {
		if at[i] > 0 {
			return first + uint64(i)*bundleEntries, at[i]
		}
	}
	return first, 0
}

func (p *places) note(first, seq uint64, off int64) {
	i := int((seq - first) / bundleEntries)
	if p == nil || (seq-first)%bundleEntries != 0 || i >= segmentEntries/bundleEntries {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at[first] == nil {
		p.at[first] = make([]int64, segmentEntries/bundleEntries)
	}
	p.at[first][i] = off
}

// rest returns how many bytes follow the last frame in the current segment.
func (c *cursor) rest() int64 {
	if c.file == nil {
		return 0
	}
	info, err := c.file.Stat()
	if err != nil {
		return 0
	}
	return max(0, info.Size()-c.scan.off)
}

// moved reports whether the file no longer fits where the cursor stands: a
// recovery may have cut a frame off that had been read.
func (c *cursor) moved() bool {
	if c.file == nil {
		return false
	}
	info, err := c.file.Stat()
	return err != nil || info.Size() < c.scan.off
}

// close releases the file. The cursor keeps its entry and opens again by itself.
func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close() // only read from
		c.file, c.scan = nil, nil
	}
}
