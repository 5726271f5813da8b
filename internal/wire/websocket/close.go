package websocket

import (
	"encoding/binary"
	"unicode/utf8"
)

// A Code says why a connection is closed (RFC 6455 section 7.4 and its registry).
type Code uint16

// The codes that a relay says or reads; the rest of the registry passes as numbers.
const (
	Normal          Code = 1000
	GoingAway       Code = 1001
	ProtocolError   Code = 1002
	UnsupportedData Code = 1003
	NoCode          Code = 1005 // never sent: a close frame had no code
	InvalidData     Code = 1007
	PolicyViolation Code = 1008
	TooBig          Code = 1009
	ServiceRestart  Code = 1012 // registered since: try again, elsewhere or later
	BadGateway      Code = 1014 // registered since; the last of its range
)

// The ranges of section 7.4.2.
const (
	firstLibrary = 3000
	lastPrivate  = 4999
)

// Valid reports whether c may stand in a close frame. 1004 has no meaning, 1005, 1006
// and 1015 are for interfaces only, and what has not been registered of the protocol's
// own range means nothing yet.
func (c Code) Valid() bool {
	return c >= Normal && c <= UnsupportedData || c >= InvalidData && c <= BadGateway || c >= firstLibrary && c <= lastPrivate
}

// ParseClose reads the payload of a close frame, which is not masked any more. An
// empty one is NoCode. The error is a *Violation.
func ParseClose(payload []byte) (Code, string, error) {
	switch {
	case len(payload) == 0:
		return NoCode, "", nil
	case len(payload) == 1:
		return 0, "", broken("a close frame has half a code") // section 5.5.1
	}
	code, reason := Code(binary.BigEndian.Uint16(payload)), payload[2:]
	switch {
	case !code.Valid():
		return 0, "", broken("a close frame has a code that may not be sent")
	case !utf8.Valid(reason):
		return 0, "", &Violation{InvalidData, "the reason of a close frame is not UTF-8"} // section 8.1
	}
	return code, string(reason), nil
}
