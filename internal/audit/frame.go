package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// frame is one entry as it lies in a segment. Its slices belong to whoever parsed it.
type frame struct {
	leaf   []byte
	sum    uint32 // as stored
	sealed []byte
}

var errShort = errors.New("frame is not complete")

// beginFrame appends room for a frame's head; endFrame fills it in.
func beginFrame(dst []byte) []byte { return append(dst, make([]byte, frameHead)...) }

// endFrame completes a frame that begins at dst[0] and ends with its leaf.
func endFrame(dst []byte, sum uint32, sealed []byte) []byte {
	binary.BigEndian.PutUint32(dst, uint32(len(sealed)))
	binary.BigEndian.PutUint16(dst[4:], uint16(len(dst)-frameHead))
	binary.BigEndian.PutUint32(dst[6:], leafSum(dst))
	dst = binary.BigEndian.AppendUint32(dst, sum)
	return append(dst, sealed...)
}

// leafSum returns the checksum over both lengths and the leaf; b ends with the leaf.
func leafSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:6], castagnoli), castagnoli, b[frameHead:])
}

// parseFrame reads the frame at the start of b and returns its length. The error
// is errShort if b may be the beginning of a frame. A wrong checksum of the
// payload is no error: see frame.state.
func parseFrame(b []byte) (frame, int, error) {
	if len(b) < frameHead {
		return frame{}, 0, errShort
	}
	sealed := int(binary.BigEndian.Uint32(b))
	leaf := int(binary.BigEndian.Uint16(b[4:]))
	if sealed < minSealed || sealed > maxSealed || leaf == 0 {
		return frame{}, 0, fmt.Errorf("frame has impossible lengths: leaf %d, payload %d", leaf, sealed)
	}
	mid := frameHead + leaf
	end := mid + frameSum + sealed
	if len(b) < mid {
		return frame{}, 0, errShort
	}
	if want, got := leafSum(b[:mid]), binary.BigEndian.Uint32(b[6:]); want != got {
		return frame{}, 0, fmt.Errorf("leaf checksum is %08x, its bytes give %08x", got, want)
	}
	if len(b) < end {
		return frame{}, 0, errShort
	}
	return frame{leaf: b[frameHead:mid:mid], sum: binary.BigEndian.Uint32(b[mid:]), sealed: b[mid+frameSum : end : end]}, end, nil
}

// state returns stateSealed if the payload is whole, stateErased or stateDamaged.
func (f *frame) state() string {
	if f.sum == crc32.Checksum(f.sealed, castagnoli) {
		return stateSealed
	}
	if f.sum != 0 {
		return stateDamaged
	}
	for _, b := range f.sealed {
		if b != 0 {
			return stateDamaged
		}
	}
	return stateErased
}

// scanner reads the frames of a segment one after the other.
type scanner struct {
	r    io.ReaderAt
	off  int64 // of the next frame
	buf  []byte
	have []byte // part of buf that holds the file from off on
}

func newScanner(r io.ReaderAt) *scanner {
	return &scanner{r: r, buf: make([]byte, 2*maxFrame)}
}

// peek returns the frame at off and its length, io.EOF exactly at the end of the
// file, errShort if the file ends within the frame. The frame is valid until the
// next peek. A failed peek forgets what it read, so that the next looks again.
func (s *scanner) peek() (frame, int, error) {
	for {
		f, n, err := parseFrame(s.have)
		if err == nil {
			return f, n, nil
		}
		if err != errShort {
			s.have = nil
			return frame{}, 0, err
		}
		kept := copy(s.buf, s.have)
		got, rerr := s.r.ReadAt(s.buf[kept:], s.off+int64(kept))
		s.have = s.buf[:kept+got]
		if got > 0 {
			continue
		}
		s.have = nil
		if rerr != nil && rerr != io.EOF {
			return frame{}, 0, rerr
		}
		if kept == 0 {
			return frame{}, 0, io.EOF
		}
		return frame{}, 0, errShort
	}
}

// skip moves past the n bytes of a frame that peek returned.
func (s *scanner) skip(n int) {
	s.off += int64(n)
	s.have = s.have[n:]
}

// jump skips n frames by their lengths alone; at is told where each begins.
func (s *scanner) jump(n uint64, at func(skipped uint64, off int64)) error {
	for i := range n {
		at(i, s.off)
		for len(s.have) < frameHead {
			kept := copy(s.buf, s.have)
			got, err := s.r.ReadAt(s.buf[kept:], s.off+int64(kept))
			s.have = s.buf[:kept+got]
			if got == 0 {
				s.have = nil
				return err
			}
		}
		sealed := int(binary.BigEndian.Uint32(s.have))
		leaf := int(binary.BigEndian.Uint16(s.have[4:]))
		if sealed < minSealed || sealed > maxSealed || leaf == 0 {
			s.have = nil
			return errShort
		}
		size := frameHead + leaf + frameSum + sealed
		s.off += int64(size)
		s.have = s.have[min(size, len(s.have)):]
	}
	return nil
}
