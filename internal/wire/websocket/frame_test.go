package websocket_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/wire/websocket"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	t.Parallel()
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for _, tt := range []struct {
		name, bytes string
		want        websocket.Header
		size        int
		violation   string
	}{
		{"a text message (RFC 6455 section 5.7)", "81 05 48656c6c6f", websocket.Header{Fin: true, Opcode: websocket.Text, Length: 5}, 2, ""},
		{"a masked text message (section 5.7)", "81 85 37fa213d 7f9f4d5158", websocket.Header{Fin: true, Opcode: websocket.Text, Masked: true, Key: key, Length: 5}, 6, ""},
		{"the first fragment (section 5.7)", "01 03 48656c", websocket.Header{Opcode: websocket.Text, Length: 3}, 2, ""},
		{"the last fragment (section 5.7)", "80 02 6c6f", websocket.Header{Fin: true, Length: 2}, 2, ""},
		{"a ping (section 5.7)", "89 05 48656c6c6f", websocket.Header{Fin: true, Opcode: websocket.Ping, Length: 5}, 2, ""},
		{"a masked pong (section 5.7)", "8a 85 37fa213d 7f9f4d5158", websocket.Header{Fin: true, Opcode: websocket.Pong, Masked: true, Key: key, Length: 5}, 6, ""},
		{"256 bytes (section 5.7)", "82 7e 0100", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 256}, 4, ""},
		{"64 KiB (section 5.7)", "82 7f 0000000000010000", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 65536}, 10, ""},
		{"a compressed message (RFC 7692 section 7.2.3.1)", "c1 07 f248cdc9c90700", websocket.Header{Fin: true, RSV1: true, Opcode: websocket.Text, Length: 7}, 2, ""},
		{"nothing after the header", "82 00", websocket.Header{Fin: true, Opcode: websocket.Binary}, 2, ""},
		{"the longest in one byte", "82 7d", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 125}, 2, ""},
		{"the shortest in two bytes", "82 7e 007e", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 126}, 4, ""},
		{"the longest in two bytes", "82 7e ffff", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 65535}, 4, ""},
		{"the longest of all", "82 7f 7fffffffffffffff", websocket.Header{Fin: true, Opcode: websocket.Binary, Length: 1<<63 - 1}, 10, ""},
		{"no byte yet", "", websocket.Header{}, 0, ""},
		{"one byte of it", "81", websocket.Header{}, 0, ""},
		{"half a length", "81 7e 01", websocket.Header{}, 0, ""},
		{"seven of eight bytes of length", "81 7f 00000000000100", websocket.Header{}, 0, ""},
		{"three of four bytes of key", "81 85 37fa21", websocket.Header{}, 0, ""},
		{"RSV2 is set, and more is not needed to say so", "a1", websocket.Header{}, 0, "a reserved bit is set"},
		{"RSV3 is set", "91", websocket.Header{}, 0, "a reserved bit is set"},
		{"opcode 3", "83", websocket.Header{}, 0, "the opcode is reserved"},
		{"opcode 7", "87", websocket.Header{}, 0, "the opcode is reserved"},
		{"opcode 11", "8b", websocket.Header{}, 0, "the opcode is reserved"},
		{"opcode 15", "8f", websocket.Header{}, 0, "the opcode is reserved"},
		{"a ping in fragments", "09", websocket.Header{}, 0, "a control frame is fragmented"},
		{"a compressed close", "c8", websocket.Header{}, 0, "a control frame is compressed"},
		{"a continuation marked as compressed", "c0", websocket.Header{}, 0, "a continuation is marked as compressed"},
		{"a ping of 126 bytes", "89 7e", websocket.Header{}, 0, "a control frame is longer than 125 bytes"},
		{"a close of eight bytes of length", "88 7f", websocket.Header{}, 0, "a control frame is longer than 125 bytes"},
		{"125 in two bytes", "82 7e 007d", websocket.Header{}, 0, "the length is not in its shortest form"},
		{"65535 in eight bytes", "82 7f 000000000000ffff", websocket.Header{}, 0, "the length is not in its shortest form"},
		{"the top bit of eight bytes", "82 7f 8000000000000000", websocket.Header{}, 0, "the length has its top bit set"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, n, err := websocket.Parse(unhex(t, tt.bytes))
			said := ""
			if v, ok := errors.AsType[*websocket.Violation](err); ok {
				said = v.Rule
				if v.Code != websocket.ProtocolError {
					t.Errorf("code %d", v.Code)
				}
			}
			if got != tt.want || n != tt.size || said != tt.violation {
				t.Errorf("got %+v, %d bytes, %v", got, n, err)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	text, more, last := websocket.Header{Fin: true, Opcode: websocket.Text, Length: 3}, websocket.Header{Opcode: websocket.Text, Length: 3}, websocket.Header{Fin: true, Length: 3}
	next := websocket.Header{Length: 3}
	ping, bye := websocket.Header{Fin: true, Opcode: websocket.Ping}, websocket.Header{Fin: true, Opcode: websocket.Close}
	masked, deflated := text, text
	masked.Masked, deflated.RSV1 = true, true
	huge := websocket.Header{Opcode: websocket.Binary, Length: 1<<63 - 1}
	for _, tt := range []struct {
		name      string
		order     websocket.Order
		frames    []websocket.Header
		violation string // of the last
		code      websocket.Code
	}{
		{"messages one after the other", websocket.Order{}, []websocket.Header{text, text, ping, text, bye}, "", 0},
		{"a message in fragments", websocket.Order{}, []websocket.Header{more, next, next, last, text}, "", 0},
		{"control frames between fragments", websocket.Order{}, []websocket.Header{more, ping, next, ping, last, text}, "", 0},
		{"a close frame between fragments", websocket.Order{}, []websocket.Header{more, bye}, "", 0},
		{"lengths whose sum is no number, and no limit", websocket.Order{}, []websocket.Header{huge, {Length: 1<<63 - 1}, last}, "", 0},
		{"a continuation of nothing", websocket.Order{}, []websocket.Header{last}, "a continuation continues nothing", websocket.ProtocolError},
		{"a continuation after the last fragment", websocket.Order{}, []websocket.Header{more, last, next}, "a continuation continues nothing", websocket.ProtocolError},
		{"a message inside another", websocket.Order{}, []websocket.Header{more, ping, text}, "a message begins inside another", websocket.ProtocolError},
		{"a ping after close", websocket.Order{}, []websocket.Header{bye, ping}, "a frame follows the close frame", websocket.ProtocolError},
		{"a masked frame of a server", websocket.Order{}, []websocket.Header{masked}, "a server's frame is masked", websocket.ProtocolError},
		{"a masked frame of a client", websocket.Order{Masked: true}, []websocket.Header{masked}, "", 0},
		{"an unmasked frame of a client", websocket.Order{Masked: true}, []websocket.Header{text}, "a client's frame is not masked", websocket.ProtocolError},
		{"an unmasked ping of a client", websocket.Order{Masked: true}, []websocket.Header{ping}, "a client's frame is not masked", websocket.ProtocolError},
		{"compressed, as agreed", websocket.Order{Deflate: true}, []websocket.Header{deflated, text}, "", 0},
		{"compressed, though not agreed", websocket.Order{}, []websocket.Header{deflated}, "a reserved bit is set", websocket.ProtocolError},
		{"exactly as long as may be, twice", websocket.Order{Limit: 6}, []websocket.Header{more, last, more, last}, "", 0},
		{"one byte longer", websocket.Order{Limit: 5}, []websocket.Header{more, last}, "the message is too long", websocket.TooBig},
		{"as long as a number can be", websocket.Order{Limit: 5}, []websocket.Header{more, {Length: 1<<63 - 1}}, "the message is too long", websocket.TooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, h := range tt.frames {
				err := tt.order.Next(h)
				v, _ := errors.AsType[*websocket.Violation](err)
				if i < len(tt.frames)-1 {
					if err != nil {
						t.Fatalf("frame %d: %v", i, err)
					}
					continue
				}
				if (v == nil) != (tt.violation == "") || v != nil && (v.Rule != tt.violation || v.Code != tt.code) {
					t.Errorf("the last frame: got %v", err)
				}
			}
		})
	}
}

// Which codes may be sent (RFC 6455 section 7.4), at every edge.
func TestCodes(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		from, to int
		valid    bool
	}{
		{0, 999, false}, {1000, 1003, true}, {1004, 1006, false}, {1007, 1014, true}, {1015, 2999, false}, {3000, 4999, true}, {5000, 65535, false},
	} {
		for c := r.from; c <= r.to; c++ {
			if websocket.Code(c).Valid() != r.valid {
				t.Fatalf("%d: valid is %v", c, !r.valid)
			}
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, payload string
		code          websocket.Code
		reason        string
		violation     websocket.Code
	}{
		{"no code", "", websocket.NoCode, "", 0},
		{"a code", "03e8", websocket.Normal, "", 0},
		{"a code and a reason", "03f0 6e6f", websocket.PolicyViolation, "no", 0},
		{"a reason in Greek", "03e8 cebaceb1", websocket.Normal, "κα", 0},
		{"half a code", "03", 0, "", websocket.ProtocolError},
		{"a code that is for interfaces only", "03ee", 0, "", websocket.ProtocolError},
		{"a reason that is not UTF-8", "03e8 cebaff", 0, "", websocket.InvalidData},
		{"a reason that is cut inside a character", "03e8 cebace", 0, "", websocket.InvalidData},
		{"a surrogate", "03e8 eda080", 0, "", websocket.InvalidData},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, reason, err := websocket.ParseClose(unhex(t, tt.payload))
			v, _ := errors.AsType[*websocket.Violation](err)
			if code != tt.code || reason != tt.reason || (v == nil) != (tt.violation == 0) || v != nil && v.Code != tt.violation {
				t.Errorf("got %d %q %v", code, reason, err)
			}
		})
	}
}

// What AppendClose writes is a frame that says just that; the reason is cut where a
// character ends.
func TestAppendClose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, reason, want string }{
		{"none", "", ""},
		{"as long as may be", strings.Repeat("x", 123), strings.Repeat("x", 123)},
		{"too long", strings.Repeat("x", 124), strings.Repeat("x", 123)},
		{"too long, with a character across the end", strings.Repeat("x", 122) + "é", strings.Repeat("x", 122)},
	} {
		for _, masked := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				frame := websocket.AppendClose([]byte("before"), websocket.PolicyViolation, tt.reason, masked)[len("before"):]
				h, n, err := websocket.Parse(frame)
				if err != nil || h.Opcode != websocket.Close || !h.Fin || h.Masked != masked || int64(len(frame)-n) != h.Length {
					t.Fatalf("got %+v %v of %d bytes", h, err, len(frame))
				}
				h.Mask(frame[n:])
				code, reason, err := websocket.ParseClose(frame[n:])
				if code != websocket.PolicyViolation || reason != tt.want || err != nil {
					t.Errorf("got %d %q %v", code, reason, err)
				}
			})
		}
	}
	a, b := websocket.AppendClose(nil, websocket.Normal, "", true), websocket.AppendClose(nil, websocket.Normal, "", true)
	if bytes.Equal(a, b) {
		t.Error("two frames have the same key")
	}
}

// A header that is read is written in the same bytes; it is read from no fewer; what
// follows does not matter.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"8105", "818537fa213d", "827e0100", "827f0000000000010000", "82ff000000000001000037fa213d", "c107", "897e", "827e007d"} {
		f.Add(unhex(f, seed), []byte("rest"))
	}
	f.Fuzz(func(t *testing.T, b, rest []byte) {
		h, n, err := websocket.Parse(b)
		if err != nil {
			if _, ok := errors.AsType[*websocket.Violation](err); !ok || n != 0 {
				t.Fatalf("%d, %v", n, err)
			}
			if _, _, later := websocket.Parse(append(bytes.Clone(b), rest...)); later == nil {
				t.Fatal("more bytes made a good frame of a bad one")
			}
			return
		}
		if n == 0 {
			if len(b) >= websocket.MaxHeader {
				t.Fatalf("%x is no header, and not too short either", b)
			}
			return
		}
		if again := h.Append(nil); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x is written %x", b[:n], again)
		}
		if h.Length < 0 || h.Opcode.Control() && (!h.Fin || h.Length > websocket.MaxControl) {
			t.Fatalf("%+v", h)
		}
		for i := range n {
			if _, m, err := websocket.Parse(b[:i]); m != 0 || err != nil {
				t.Fatalf("read from %d bytes of %d: %v", i, n, err)
			}
		}
		if _, m, _ := websocket.Parse(append(bytes.Clone(b[:n]), rest...)); m != n {
			t.Fatalf("with more behind it, it has %d bytes, not %d", m, n)
		}
	})
}

// Whatever is to be said, the frame can be read and says as much of it as fits.
func FuzzAppendClose(f *testing.F) {
	f.Add(uint16(1008), "not allowed", true)
	f.Add(uint16(1012), strings.Repeat("é", 70), false)
	f.Fuzz(func(t *testing.T, code uint16, reason string, masked bool) {
		if !websocket.Code(code).Valid() || !utf8.ValidString(reason) {
			return
		}
		frame := websocket.AppendClose(nil, websocket.Code(code), reason, masked)
		h, n, err := websocket.Parse(frame)
		if err != nil || int64(len(frame)-n) != h.Length {
			t.Fatalf("%+v %v", h, err)
		}
		h.Mask(frame[n:])
		got, said, err := websocket.ParseClose(frame[n:])
		if err != nil || uint16(got) != code || !strings.HasPrefix(reason, said) || len(said) < len(reason) && len(said) < 120 {
			t.Fatalf("%d %q %v", got, said, err)
		}
	})
}
