package websocket

// An Order holds the frames of one direction to the rules that one frame alone cannot
// break. Its zero value is a server's direction without extensions.
type Order struct {
	Masked  bool  // frames must be masked; otherwise they must not be (section 5.1)
	Deflate bool  // permessage-deflate was agreed on, which uses RSV1
	Limit   int64 // of a message's payload, as it is on the wire, in bytes; 0 is none

	inside bool  // a message has begun and not ended
	length int64 // of its frames until now
	closed bool
}

// Next takes the header of the direction's next frame. The error is a *Violation.
func (o *Order) Next(h Header) error {
	switch {
	case o.closed:
		return broken("a frame follows the close frame") // section 5.5.1
	case h.Masked != o.Masked && o.Masked:
		return broken("a client's frame is not masked")
	case h.Masked != o.Masked:
		return broken("a server's frame is masked")
	case h.Opcode.Control():
		o.closed = h.Opcode == Close
		return nil
	case h.RSV1 && !o.Deflate:
		return broken("a reserved bit is set")
	case h.Opcode == Continuation && !o.inside:
		return broken("a continuation continues nothing") // section 5.4
	case h.Opcode != Continuation && o.inside:
		return broken("a message begins inside another")
	}
	if !o.inside {
		o.length = 0
	}
	if o.Limit > 0 && h.Length > o.Limit-o.length {
		return &Violation{TooBig, "the message is too long"}
	}
	if o.Limit > 0 { // else the sum has no bound and could run over
		o.length += h.Length
	}
	o.inside = !h.Fin
	return nil
}
