package httpproxy_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// fakePass ends when a test says so.
type fakePass struct {
	done chan struct{}
	mu   sync.Mutex
	err  error
}

func newFakePass() *fakePass { return &fakePass{done: make(chan struct{})} }

func (p *fakePass) Done() <-chan struct{} { return p.done }

func (p *fakePass) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *fakePass) end(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(p.done)
}

// outcome is what a relay returned.
type outcome struct {
	in, out int64
	err     error
}

// bridge is a gateway on a real socket without admission, and what its relays returned.
type bridge struct {
	address string
	pass    *fakePass
	over    chan outcome
}

func newBridge(t testing.TB, upstream string, terms httpproxy.RelayTerms) *bridge {
	t.Helper()
	b, front := newFront(upstream, terms)
	front.Start()
	t.Cleanup(front.Close)
	b.address = front.Listener.Addr().String()
	return b
}

// newFront is newBridge before it has a socket.
func newFront(upstream string, terms httpproxy.RelayTerms) (*bridge, *httptest.Server) {
	b := &bridge{pass: newFakePass(), over: make(chan outcome, 1024)}
	return b, httptest.NewUnstartedServer(httpproxy.WebSocketOnly(upstream, b.pass, terms, func(in, out int64, err error) { b.over <- outcome{in, out, err} }))
}

// ended returns what the one relay returned.
func (b *bridge) ended(t testing.TB) outcome {
	t.Helper()
	select {
	case o := <-b.over:
		return o
	case <-time.After(time.Minute):
		t.Fatal("the relay does not end")
		return outcome{}
	}
}

// peer is a raw end of a session: it says and sees bytes, and knows no rules.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	head http.Header // of the other's handshake
}

const testKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455 section 1.3

// dial opens a session as a client; more are further header lines.
func dial(t testing.TB, address string, more ...string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, conn, more...)
}

// open opens a session over conn.
func open(t testing.TB, conn net.Conn, more ...string) *peer {
	t.Helper()
	p, resp := ask(t, conn, append([]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: " + testKey, "Sec-WebSocket-Version: 13"}, more...)...)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("the handshake is answered %d %s", resp.StatusCode, body)
	}
	return p
}

// ask sends a request and returns the answer, whatever it is.
func ask(t testing.TB, conn net.Conn, header ...string) (*peer, *http.Response) {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a TCP connection has deadlines
	p := &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
	p.send([]byte(request("GET /v1", header...)))
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.head = resp.Header
	return p, resp
}

// rawUpstream accepts sessions and hands them over; more are further header lines of
// its 101, after which the bytes of first come at once.
func rawUpstream(t testing.TB, first string, more ...string) (string, <-chan *peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	peers := make(chan *peer, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a TCP connection has deadlines
			p := &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
			r, err := http.ReadRequest(p.r)
			if err != nil {
				_ = conn.Close()
				continue
			}
			p.head = r.Header
			sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			lines := append([]string{"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:])}, more...)
			_, _ = io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+first) // the test sees when it did not arrive
			peers <- p
		}
	}()
	t.Cleanup(func() {
		for {
			select {
			case p := <-peers:
				_ = p.conn.Close()
			default:
				return
			}
		}
	})
	return l.Addr().String(), peers
}

// session opens one through a bridge and returns all three.
func newSession(t testing.TB, terms httpproxy.RelayTerms) (client, upstream *peer, b *bridge) {
	t.Helper()
	address, peers := rawUpstream(t, "")
	b = newBridge(t, address, terms)
	client = dial(t, b.address)
	upstream = <-peers
	t.Cleanup(func() { _ = upstream.conn.Close() })
	return client, upstream, b
}

func (p *peer) send(b ...[]byte) {
	p.t.Helper()
	for _, b := range b {
		if _, err := p.conn.Write(b); err != nil {
			p.t.Fatalf("send: %v", err)
		}
	}
}

// next returns the next frame, with what it means, such as `text "hello"`; "gone" when
// the connection ends between two frames, "cut" when it does within one.
func (p *peer) next() string {
	var h [2]byte
	if n, err := io.ReadFull(p.r, h[:]); err != nil {
		if n > 0 {
			return "cut"
		}
		return "gone"
	}
	length := uint64(h[1] & 0x7f)
	var long [8]byte
	switch length {
	case 126:
		if _, err := io.ReadFull(p.r, long[6:]); err != nil {
			return "cut"
		}
		length = binary.BigEndian.Uint64(long[:])
	case 127:
		if _, err := io.ReadFull(p.r, long[:]); err != nil {
			return "cut"
		}
		length = binary.BigEndian.Uint64(long[:])
	}
	var key [4]byte
	masked := h[1]&0x80 != 0
	if masked {
		if _, err := io.ReadFull(p.r, key[:]); err != nil {
			return "cut"
		}
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(p.r, payload); err != nil {
		return "cut"
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	return describe(h[0], masked, payload)
}

func describe(first byte, masked bool, payload []byte) string {
	name := map[byte]string{0: "more", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}[first&0x0f]
	if name == "" {
		name = fmt.Sprintf("opcode %d", first&0x0f)
	}
	if first&0x80 == 0 {
		name += " unfinished"
	}
	if first&0x40 != 0 {
		name += " compressed"
	}
	if masked {
		name += " masked"
	}
	switch {
	case first&0x0f == 8 && len(payload) >= 2:
		return fmt.Sprintf("%s %d %q", name, binary.BigEndian.Uint16(payload), payload[2:])
	case len(payload) > 200:
		return fmt.Sprintf("%s of %d", name, len(payload))
	}
	return fmt.Sprintf("%s %q", name, payload)
}

// want reads frames and compares.
func (p *peer) want(frames ...string) {
	p.t.Helper()
	for _, w := range frames {
		if got := p.next(); got != w {
			p.t.Fatalf("got %s, want %s", got, w)
		}
	}
}

// frame writes a frame by hand: a second opinion on package websocket.
func frame(first byte, payload string, masked bool) []byte {
	b := []byte{first}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 65536:
		b = append(b, mask|126, byte(n>>8), byte(n))
	default:
		b = append(b, mask|127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	if !masked {
		return append(b, payload...)
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	start := len(b)
	b = append(b, payload...)
	for i := range b[start:] {
		b[start+i] ^= key[i%4]
	}
	return b
}

// c is a frame of a client, s one of a server.
func c(first byte, payload string) []byte { return frame(first, payload, true) }
func s(first byte, payload string) []byte { return frame(first, payload, false) }

// bye is the payload of a close frame.
func bye(code int, reason string) string { return string([]byte{byte(code >> 8), byte(code)}) + reason }
