// Package websocket reads and writes the headers of WebSocket frames and the
// payload of close frames, strictly, from bytes that it is handed.
//
// It does no I/O and holds no payloads. The opening handshake and the relay are in
// internal/gateway/httpproxy. It does not check that text is UTF-8: under
// compression nobody but the two ends can see text.
//
// Sources: RFC 6455 section 5 and 7.4, RFC 7692 section 6; docs/spec/rfc6455.md.
package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"unicode/utf8"
)

// Sizes in bytes.
const (
	MaxHeader  = 14  // of a header: two bytes, eight of length, four of key
	MaxControl = 125 // of a control frame's payload (RFC 6455 section 5.5)
	maxReason  = MaxControl - 2
)

// An Opcode says what a frame is (RFC 6455 section 5.2). Parse lets no others
// through.
type Opcode byte

// The opcodes that mean something; the others are reserved.
const (
	Continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xA
)

// Control reports whether o is that of a control frame.
func (o Opcode) Control() bool { return o&0x8 != 0 }

func (o Opcode) known() bool { return o <= Binary || o >= Close && o <= Pong }

// The bits of a header's two first bytes.
const (
	finBit      = 0x80
	rsv1Bit     = 0x40
	rsvOthers   = 0x30
	opcodeBits  = 0x0F
	maskBit     = 0x80
	lengthBits  = 0x7F
	twoBytes    = 126 // in place of a length: it follows in two bytes
	eightBytes  = 127 // the same in eight
	smallest16  = 126
	smallest64  = 1 << 16
	lengthLimit = 1 << 63 // the top bit must be clear
)

// A Header is everything of a frame but its payload.
type Header struct {
	Fin    bool // the last frame of its message
	RSV1   bool // under permessage-deflate: the message is compressed
	Opcode Opcode
	Masked bool
	Key    [4]byte // that the payload is masked with; zero unless Masked
	Length int64   // of the payload in bytes, never negative
}

// A Violation is what a peer did that ends the connection, and the code that says so.
type Violation struct {
	Code Code
	Rule string // one lowercase clause, nothing of what the peer sent
}

// Error returns the rule.
func (v *Violation) Error() string { return v.Rule }

func broken(rule string) *Violation { return &Violation{ProtocolError, rule} }

// Parse reads the header at the beginning of b and returns how many bytes it has. 0
// without an error means that b ends before it does. The error is a *Violation and
// comes as soon as the bytes that are there cannot begin a frame.
func Parse(b []byte) (Header, int, error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	h := Header{Fin: b[0]&finBit != 0, RSV1: b[0]&rsv1Bit != 0, Opcode: Opcode(b[0] & opcodeBits)}
	switch {
	case b[0]&rsvOthers != 0:
		return Header{}, 0, broken("a reserved bit is set") // section 5.2: no extension of ours has a use for them
	case !h.Opcode.known():
		return Header{}, 0, broken("the opcode is reserved")
	case h.Opcode.Control() && !h.Fin:
		return Header{}, 0, broken("a control frame is fragmented") // section 5.5
	case h.Opcode.Control() && h.RSV1:
		return Header{}, 0, broken("a control frame is compressed") // RFC 7692 section 6.1
	case h.Opcode == Continuation && h.RSV1:
		return Header{}, 0, broken("a continuation is marked as compressed") // RFC 7692 section 6.1
	}
	if len(b) < 2 {
		return Header{}, 0, nil
	}
	h.Masked = b[1]&maskBit != 0
	n, err := h.length(b)
	if n == 0 || err != nil {
		return Header{}, 0, err
	}
	if h.Masked {
		if len(b) < n+len(h.Key) {
			return Header{}, 0, nil
		}
		n += copy(h.Key[:], b[n:])
	}
	return h, n, nil
}

// length reads the payload's length into h and returns how many bytes of b the
// header has up to there, 0 if b ends before.
func (h *Header) length(b []byte) (int, error) {
	short := b[1] & lengthBits
	if h.Opcode.Control() && short > MaxControl {
		return 0, broken("a control frame is longer than 125 bytes")
	}
	switch {
	case short < twoBytes:
		h.Length = int64(short)
		return 2, nil
	case short == twoBytes && len(b) >= 4:
		h.Length = int64(binary.BigEndian.Uint16(b[2:]))
		if h.Length < smallest16 {
			return 0, broken("the length is not in its shortest form") // section 5.2: the minimal number of bytes
		}
		return 4, nil
	case short == eightBytes && len(b) >= 10:
		long := binary.BigEndian.Uint64(b[2:])
		switch {
		case long >= lengthLimit:
			return 0, broken("the length has its top bit set")
		case long < smallest64:
			return 0, broken("the length is not in its shortest form")
		}
		h.Length = int64(long)
		return 10, nil
	}
	return 0, nil
}

// Append writes h to the end of b. A Length below zero is a mistake of the caller's
// and panics.
func (h Header) Append(b []byte) []byte {
	first, mask := byte(h.Opcode), byte(0)
	if h.Fin {
		first |= finBit
	}
	if h.RSV1 {
		first |= rsv1Bit
	}
	if h.Masked {
		mask = maskBit
	}
	switch {
	case h.Length < 0:
		panic("websocket: a length below zero")
	case h.Length < smallest16:
		b = append(b, first, mask|byte(h.Length))
	case h.Length < smallest64:
		b = append(b, first, mask|twoBytes)
		b = binary.BigEndian.AppendUint16(b, uint16(h.Length))
	default:
		b = append(b, first, mask|eightBytes)
		b = binary.BigEndian.AppendUint64(b, uint64(h.Length))
	}
	if h.Masked {
		b = append(b, h.Key[:]...)
	}
	return b
}

// Mask masks b, the beginning of a payload, in place, or takes the mask off (RFC 6455
// section 5.3).
func (h Header) Mask(b []byte) {
	if !h.Masked {
		return
	}
	for i := range b {
		b[i] ^= h.Key[i%len(h.Key)]
	}
}

// AppendClose writes a close frame to the end of b. What is too long of reason is left
// out, in whole characters. A frame for a server is masked with a key that nobody can
// foresee (section 10.3).
func AppendClose(b []byte, code Code, reason string, masked bool) []byte {
	if len(reason) > maxReason {
		end := maxReason
		for !utf8.RuneStart(reason[end]) {
			end--
		}
		reason = reason[:end]
	}
	h := Header{Fin: true, Opcode: Close, Masked: masked, Length: int64(2 + len(reason))}
	if masked {
		_, _ = rand.Read(h.Key[:]) // never fails
	}
	b = h.Append(b)
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = append(b, reason...)
	h.Mask(b[start:])
	return b
}
