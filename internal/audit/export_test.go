package audit

// What the tests may reach: the seams, and the two parsers.

type (
	FS   = filesystem
	File = file
)

const MaxPayload = maxPayload

func Disk() FS { return disk{} }

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
