package httpproxy_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/wire/websocket"
)

// scripted is an end that says what it is given, in pieces, and keeps what it is told.
type scripted struct {
	says  []byte
	piece func() int
	stay  chan struct{} // then it waits until closed; nil: it goes

	mu    sync.Mutex
	heard bytes.Buffer
	once  sync.Once
	after func(heard int) // called after each Write; may be nil
}

func (s *scripted) Read(b []byte) (int, error) {
	if len(s.says) == 0 {
		if s.stay != nil {
			<-s.stay
		}
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.piece())], s.says)
	s.says = s.says[n:]
	return n, nil
}

func (s *scripted) Write(b []byte) (int, error) {
	s.mu.Lock()
	n, err := s.heard.Write(b)
	heard := s.heard.Len()
	s.mu.Unlock()
	if s.after != nil {
		s.after(heard)
	}
	return n, err
}

func (s *scripted) Close() error {
	s.once.Do(func() {
		if s.stay != nil {
			close(s.stay)
		}
	})
	return nil
}

// stream makes frames of a client from seeds: each byte of shape is one.
func stream(shape []byte, random *rand.Rand) []byte {
	var out []byte
	inside := false
	for _, b := range shape {
		h := websocket.Header{Fin: b&1 != 0, Opcode: websocket.Binary, Masked: true, Length: int64(b>>4) * 9}
		switch {
		case b&14 == 2:
			h.Fin, h.Opcode = true, websocket.Ping
			h.Length = min(h.Length, websocket.MaxControl)
		case b&14 == 4:
			h.Length = 16<<10 - 8 + int64(b>>4) // around what is passed on whole
		case b&14 == 6:
			h.Length *= 700
		}
		if h.Opcode != websocket.Ping {
			if inside {
				h.Opcode = websocket.Continuation
			}
			inside = !h.Fin
		}
		for i := range h.Key {
			h.Key[i] = byte(random.Uint32())
		}
		out = h.Append(out)
		for range h.Length {
			out = append(out, byte(random.Uint32()))
		}
	}
	return out
}

// What comes in goes out, however it is cut to pieces; and what an ended session has
// passed on is its beginning, ends between frames, and has our close frame after it -
// or ends within a long frame and has nothing.
func FuzzRelay(f *testing.F) {
	f.Add([]byte{0x51, 0x13, 0x05, 0xf4, 0x87, 0xf6, 0x03, 0xf1}, uint64(1), 50, 40000)
	f.Add([]byte{0xf5, 0xf5, 0xf5}, uint64(2), 100000, 0)
	f.Add([]byte{0xf0, 0xf7, 0x02, 0xf1}, uint64(3), 1, 9000)
	f.Fuzz(func(t *testing.T, shape []byte, seed uint64, most, endAfter int) {
		if most < 1 || len(shape) > 40 {
			return
		}
		random := rand.New(rand.NewPCG(seed, 0))
		sent := stream(shape, random)
		if most < len(sent)/2000 {
			most = len(sent)/2000 + 1 // byte by byte through a megabyte takes too long
		}
		pieces := func() int { return 1 + random.IntN(most) }
		pass := newFakePass()
		client := &scripted{says: bytes.Clone(sent), piece: pieces}
		upstream := &scripted{stay: make(chan struct{})}
		var once sync.Once
		if endAfter > 0 && endAfter < len(sent) {
			upstream.after = func(heard int) {
				if heard >= endAfter {
					once.Do(func() { pass.end(errRevoked) })
				}
			}
		}
		in, _, err := httpproxy.Relay(client, upstream, pass, httpproxy.RelayTerms{Farewell: 20 * time.Millisecond})
		got := upstream.heard.Bytes()
		if int64(len(got)) < in || !bytes.HasPrefix(sent, got[:in]) {
			t.Fatalf("%d bytes were passed on, and are not the first of what was sent", in)
		}
		short := unfinished(got[:in])
		switch _, ended := errors.AsType[*fault.Error](err); {
		case !ended && int64(len(sent)) != in:
			t.Fatalf("%d bytes of %d were passed on: %v", in, len(sent), err)
		case ended && short && len(got) != int(in):
			t.Fatal("something follows half a frame")
		case ended && !short:
			if h, n, err := websocket.Parse(got[in:]); err != nil || h.Opcode != websocket.Close || int64(n)+h.Length != int64(len(got))-in {
				t.Fatalf("%+v %v follows the last frame", h, err)
			}
		}
		if heard := client.heard.Bytes(); len(heard) > 0 && !strings.Contains(string(heard), errRevoked.Public) {
			t.Fatalf("the client heard %q", heard)
		}
	})
}

// unfinished reports whether frames end within one.
func unfinished(b []byte) bool {
	for len(b) > 0 {
		h, n, err := websocket.Parse(b)
		if err != nil || n == 0 || h.Length > int64(len(b)-n) {
			return true
		}
		b = b[n+int(h.Length):]
	}
	return false
}
