package audit

import "time"

// What the tests may reach: the seams, and the two parsers.

type (
	FS   = filesystem
	File = file
)

const MaxPayload = maxPayload

func Disk() FS { return disk{} }

// Checkpoints returns how many checkpoints the log has to know its own by.
func (l *Log) Checkpoints() int {
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	return len(l.written)
}

func (o *Options) SetFS(fs FS)         { o.fs = fs }
func (o *Options) SetSegment(n uint64) { o.segment = n }

func ParseLeaf(b []byte) (Header, error) { return parseLeaf(b) }
func LeafOf(h Header) []byte             { return h.leaf() }

// ParseFrame returns the frame's parts, its state and its length.
func ParseFrame(b []byte) (leaf []byte, sum uint32, sealed []byte, state string, n int, err error) {
	f, n, err := parseFrame(b)
	if err != nil {
		return nil, 0, nil, "", 0, err
	}
	return f.leaf, f.sum, f.sealed, f.state(), n, nil
}

// WriteFrame is what Append does to lay out a frame.
func WriteFrame(leaf []byte, sum uint32, sealed []byte) []byte {
	return endFrame(append(beginFrame(nil), leaf...), sum, sealed)
}

func (o *Options) SetPatience(d time.Duration) { o.patience = d }

// SetSpace makes free the answer to how much is free of a disk of total bytes.
func (o *Options) SetSpace(total int64, free func() int64) {
	o.space = func(string) (int64, int64, error) { return free(), total, nil }
}

// Measure asks the disk now.
func (l *Log) Measure() { l.measure() }

// TileName returns the path of a tile; level -1 for an entry bundle.
func TileName(level int, n uint64, width int) string {
	return tile{level: level, n: n, width: width}.name()
}

// Mend makes tiles that are missing.
func (l *Log) Mend() { l.mend() }
