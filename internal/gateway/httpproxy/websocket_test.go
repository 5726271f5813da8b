package httpproxy_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// echoServer answers every message with itself. It is somebody else's implementation.
func echoServer(t testing.TB, o *websocket.AcceptOptions) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = echo(w, r, o) // what the client sees is what counts
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// hello in the form of RFC 7692 section 7.2.3.1.
const deflatedHello = "\xf2\x48\xcd\xc9\xc9\x07\x00"

// The cases of the Autobahn test suite that concern a relay, with a real echo server
// behind the gateway: what a client sends, and all that it sees.
func TestWebSocketFrames(t *testing.T) {
	t.Parallel()
	var (
		ok      = c(0x88, bye(1000, ""))
		okSeen  = `close 1000 ""`
		mega    = strings.Repeat("m", 16<<20)
		whole   = strings.Repeat("w", 16<<10)
		longest = strings.Repeat("p", 125)
		refused = func(rule string) []string { return []string{`close 1002 "` + rule + `"`, "gone"} }
	)
	all := func(b ...[]byte) [][]byte { return b }
	for _, tt := range []struct {
		name string
		send [][]byte
		want []string
	}{
		// 1: framing
		{"an empty text", all(c(0x81, ""), ok), []string{`text ""`, okSeen, "gone"}},
		{"a text", all(c(0x81, "hello"), ok), []string{`text "hello"`, okSeen, "gone"}},
		{"125 bytes", all(c(0x81, longest), ok), []string{`text "` + longest + `"`, okSeen, "gone"}},
		{"126 bytes", all(c(0x82, longest+"q"), ok), []string{`binary "` + longest + `q"`, okSeen, "gone"}},
		{"as long as a frame that is passed on whole", all(c(0x82, whole), ok), []string{"binary of 16384", okSeen, "gone"}},
		{"one byte longer", all(c(0x82, whole+"w"), ok), []string{"binary of 16385", okSeen, "gone"}},
		{"65535 bytes", all(c(0x82, mega[:65535]), ok), []string{"binary of 65535", okSeen, "gone"}},
		{"65536 bytes", all(c(0x82, mega[:65536]), ok), []string{"binary of 65536", okSeen, "gone"}},
		{"16 MB", all(c(0x82, mega), ok), []string{"binary of 16777216", okSeen, "gone"}},
		{"16 MB in fragments of 1 MB", append(fragments(mega, 1<<20), ok), []string{"binary of 16777216", okSeen, "gone"}},
		{"64 KiB in fragments of 64 bytes", append(fragments(mega[:1<<16], 64), ok), []string{"binary of 65536", okSeen, "gone"}},
		{"a thousand small messages at once", all([]byte(strings.Repeat(string(c(0x81, "hi")), 1000)), ok), append(times(1000, `text "hi"`), okSeen, "gone")},
		// 2: pings and pongs
		{"an empty ping", all(c(0x89, ""), ok), []string{`pong ""`, okSeen, "gone"}},
		{"a ping of 125 bytes", all(c(0x89, longest), ok), []string{`pong "` + longest + `"`, okSeen, "gone"}},
		{"an unasked pong", all(c(0x8a, "x"), c(0x89, "y"), ok), []string{`pong "y"`, okSeen, "gone"}},
		{"ten pings", all([]byte(strings.Repeat(string(c(0x89, "z")), 10)), ok), append(times(10, `pong "z"`), okSeen, "gone")},
		{"a ping of 126 bytes", all([]byte{0x89, 0xfe, 0, 126}), refused("a control frame is longer than 125 bytes")},
		// 3: reserved bits
		{"RSV1 that was not agreed on", all(c(0xc1, "hello")), refused("a reserved bit is set")},
		{"RSV2", all(c(0xa1, "hello")), refused("a reserved bit is set")},
		{"RSV3 in a ping", all(c(0x99, "")), refused("a reserved bit is set")},
		{"RSV1 in a close frame", all(c(0xc8, bye(1000, ""))), refused("a control frame is compressed")},
		// 4: reserved opcodes
		{"opcode 3", all(c(0x83, "")), refused("the opcode is reserved")},
		{"opcode 7 in a fragment", all(c(0x07, "x")), refused("the opcode is reserved")},
		{"opcode 11", all(c(0x8b, "x")), refused("the opcode is reserved")},
		{"opcode 15", all(c(0x8f, "")), refused("the opcode is reserved")},
		// 5: fragmentation
		{"a ping in fragments", all(c(0x09, "a")), refused("a control frame is fragmented")},
		{"a text in fragments", all(c(0x01, "he"), c(0x00, "ll"), c(0x80, "o"), ok), []string{`text "hello"`, okSeen, "gone"}},
		{"a ping between fragments", all(c(0x01, "he"), c(0x89, "p"), c(0x80, "y"), ok), []string{`pong "p"`, `text "hey"`, okSeen, "gone"}},
		{"empty fragments", all(c(0x01, ""), c(0x00, ""), c(0x80, ""), ok), []string{`text ""`, okSeen, "gone"}},
		{"a continuation of nothing", all(c(0x80, "x")), refused("a continuation continues nothing")},
		{"a text inside a text", all(c(0x01, "a"), c(0x81, "b")), refused("a message begins inside another")},
		// 7: closing
		{"a close without a code", all(c(0x88, "")), []string{`close ""`, "gone"}},
		{"a close with half a code", all(c(0x88, "\x03")), refused("a close frame has half a code")},
		{"a reason that fills it", all(c(0x88, bye(1000, longest[:123]))), []string{`close 1000 "` + longest[:123] + `"`, "gone"}},
		{"a reason that is not UTF-8", all(c(0x88, bye(1000, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"))), []string{`close 1007 "the reason of a close frame is not UTF-8"`, "gone"}},
		{"a message after close goes nowhere", all([]byte(string(ok) + string(c(0x81, "late")))), []string{okSeen, "gone"}},
		// and what Autobahn cannot send
		{"a frame that is not masked", all(s(0x81, "hello")), refused("a client's frame is not masked")},
		{"a length that is not minimal", all([]byte{0x81, 0xfe, 0, 5}), refused("the length is not in its shortest form")},
		{"a length of 64 bits that is not minimal", all([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff}), refused("the length is not in its shortest form")},
		{"a length with the top bit", all([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}), refused("the length has its top bit set")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t, echoServer(t, nil), httpproxy.RelayTerms{})
			p := dial(t, b.address)
			go func() { // what comes back does not wait until all is sent
				for _, f := range tt.send {
					if _, err := p.conn.Write(f); err != nil {
						return // and the frames that are seen tell
					}
				}
			}()
			for _, want := range tt.want {
				p.want(want)
				if strings.HasPrefix(want, "close") { // it has said all, and is not waited for
					_ = p.conn.(*net.TCPConn).CloseWrite()
				}
			}
		})
	}
}

// fragments cuts a binary message.
func fragments(payload string, size int) [][]byte {
	var out [][]byte
	for first := byte(0x02); payload != ""; first = 0 {
		n := min(size, len(payload))
		if n == len(payload) {
			first |= 0x80
		}
		out = append(out, c(first, payload[:n]))
		payload = payload[n:]
	}
	return out
}

func times(n int, s string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// Every code that may be sent passes, in both directions; none that may not.
func TestWebSocketCloseCodes(t *testing.T) {
	t.Parallel()
	const no = `close 1002 "a close frame has a code that may not be sent"`
	for _, tt := range []struct {
		code  int
		valid bool
	}{
		{0, false}, {999, false}, {1000, true}, {1001, true}, {1002, true}, {1003, true}, {1004, false}, {1005, false}, {1006, false},
		{1007, true}, {1008, true}, {1009, true}, {1010, true}, {1011, true}, {1012, true}, {1013, true}, {1014, true}, {1015, false},
		{1016, false}, {1100, false}, {2000, false}, {2999, false}, {3000, true}, {3999, true}, {4000, true}, {4999, true}, {5000, false}, {65535, false},
	} {
		client, upstream, b := newSession(t, httpproxy.RelayTerms{})
		client.send(c(0x88, bye(tt.code, "why")))
		if !tt.valid {
			client.want(no)
			if got := upstream.next(); got != strings.Replace(no, "close", "close masked", 1) {
				t.Errorf("%d: the upstream sees %s", tt.code, got)
			}
			_, _ = client.conn.Close(), upstream.conn.Close()
			if o := b.ended(t); o.err == nil || !strings.HasPrefix(o.err.Error(), "the client: ") || o.in != 0 {
				t.Errorf("%d: the relay returned %+v", tt.code, o)
			}
			continue
		}
		seen := describe(0x88, false, []byte(bye(tt.code, "why")))
		upstream.want(strings.Replace(seen, "close", "close masked", 1))
		upstream.send(s(0x88, bye(tt.code, "why")))
		client.want(seen, "gone")
		if o := b.ended(t); o.err != nil || o.in != 11 || o.out != 7 {
			t.Errorf("%d: the relay returned %+v", tt.code, o)
		}
	}
}

// An upstream that breaks the protocol ends the session, and nothing of it arrives.
func TestWebSocketUpstreamBreaks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		sent []byte
		code int
		rule string
	}{
		{"a masked frame", c(0x81, "x"), 1002, "a server's frame is masked"},
		{"a reserved opcode", s(0x84, "x"), 1002, "the opcode is reserved"},
		{"compressed, though not agreed", s(0xc1, deflatedHello), 1002, "a reserved bit is set"},
		{"a close frame that is not text", s(0x88, bye(1000, "\xff")), 1007, "the reason of a close frame is not UTF-8"},
		{"a message that is too long", s(0x82, strings.Repeat("x", 1001)), 1009, "the message is too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, upstream, b := newSession(t, httpproxy.RelayTerms{Limit: 1000})
			upstream.send(s(0x81, "good"), tt.sent)
			last := describe(0x88, false, []byte(bye(tt.code, tt.rule)))
			client.want(`text "good"`, last)
			upstream.want(strings.Replace(last, "close", "close masked", 1))
			client.send(c(0x88, bye(tt.code, "")))
			_ = upstream.conn.Close()
			client.want("gone")
			if o := b.ended(t); o.err == nil || !strings.HasPrefix(o.err.Error(), "the upstream: ") || o.out != 6 {
				t.Errorf("the relay returned %+v", o)
			}
		})
	}
}

// A limit counts all fragments of a message, and no other.
func TestWebSocketLimit(t *testing.T) {
	t.Parallel()
	client, upstream, b := newSession(t, httpproxy.RelayTerms{Limit: 10})
	client.send(c(0x01, "12345"), c(0x89, "ping"), c(0x80, "67890"), c(0x82, "1234567890"), c(0x02, "123456"), c(0x80, "78901"))
	upstream.want(`text unfinished masked "12345"`, `ping masked "ping"`, `more masked "67890"`, `binary masked "1234567890"`,
		`binary unfinished masked "123456"`, `close masked 1009 "the message is too long"`)
	client.want(`close 1009 "the message is too long"`)
	_, _ = client.conn.Close(), upstream.conn.Close()
	b.ended(t)
}

// However the bytes come, the frames are the same, and those of a client keep their
// masks.
func TestWebSocketByteByByte(t *testing.T) {
	t.Parallel()
	client, upstream, b := newSession(t, httpproxy.RelayTerms{Deflate: true})
	var sent []byte
	for _, f := range [][]byte{c(0x81, "hello"), c(0x01, "a"), c(0x89, "p"), c(0x80, strings.Repeat("b", 300)), c(0x88, bye(1000, "done"))} {
		sent = append(sent, f...)
	}
	go func() {
		for i := range sent {
			if _, err := client.conn.Write(sent[i : i+1]); err != nil {
				return // and the upstream does not see it all
			}
		}
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(upstream.r, got); err != nil || string(got) != string(sent) {
		t.Fatalf("got %x, %v, sent %x", got, err, sent)
	}
	for _, one := range s(0x88, bye(1000, "done")) {
		upstream.send([]byte{one})
	}
	client.want(`close 1000 "done"`, "gone")
	if o := b.ended(t); o.err != nil || o.in != int64(len(sent)) || o.out != 8 {
		t.Errorf("the relay returned %+v, %d bytes were sent", o, len(sent))
	}
}

// permessage-deflate is between the two ends: offered, agreed on, and its frames
// passed on as they are.
func TestWebSocketDeflate(t *testing.T) {
	t.Parallel()
	address, peers := rawUpstream(t, "", "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
	b := newBridge(t, address, httpproxy.RelayTerms{})
	client := dial(t, b.address, `Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, bbf-multiplex; x="a,permessage-deflate"`, "Sec-WebSocket-Extensions: permessage-deflate")
	upstream := <-peers
	if got := upstream.head.Values("Sec-Websocket-Extensions"); len(got) != 1 || got[0] != "permessage-deflate; client_max_window_bits, permessage-deflate" {
		t.Errorf("the upstream is offered %q", got)
	}
	if got := client.head.Get("Sec-Websocket-Extensions"); got != "permessage-deflate; server_no_context_takeover" {
		t.Errorf("the client is told %q", got)
	}
	client.send(c(0xc1, deflatedHello), c(0x41, "\xf2\x48"), c(0x80, "\xcd\xc9\xc9\x07\x00"), c(0x81, "plain"))
	upstream.want(`text compressed masked "\xf2H\xcd\xc9\xc9\a\x00"`, `text unfinished compressed masked "\xf2H"`, `more masked "\xcd\xc9\xc9\a\x00"`, `text masked "plain"`)
	upstream.send(s(0xc1, deflatedHello))
	client.want(`text compressed "\xf2H\xcd\xc9\xc9\a\x00"`)
	client.send(c(0x41, "\xf2"), c(0xc0, "\x48"))
	client.want(`close 1002 "a continuation is marked as compressed"`)
}

// Bytes that came with a handshake are the first of the session.
func TestWebSocketBytesWithTheHandshake(t *testing.T) {
	t.Parallel()
	address, peers := rawUpstream(t, string(s(0x81, "early")))
	b := newBridge(t, address, httpproxy.RelayTerms{})
	conn, err := net.Dial("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, request("GET /v1", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Key: "+testKey, "Sec-WebSocket-Version: 13")+string(c(0x81, "eager")))
	upstream := <-peers
	upstream.want(`text masked "eager"`)
	all := make([]byte, 1024)
	for n := 0; !strings.HasSuffix(string(all[:n]), "\r\n\r\n"+string(s(0x81, "early"))); {
		m, err := conn.Read(all[n:])
		if n += m; err != nil {
			t.Fatalf("%v after %q", err, all[:n])
		}
	}
}

// A client's handshake is read strictly, and so is the upstream's.
func TestWebSocketHandshake(t *testing.T) {
	t.Parallel()
	good := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: " + testKey, "Sec-WebSocket-Version: 13"}
	with := func(i int, line string) []string {
		return append(append(append([]string{}, good[:i]...), line), good[i+1:]...)
	}
	for _, tt := range []struct {
		name     string
		client   []string
		upstream string // a further line of its 101
		status   int
		says     string
	}{
		{"as in the RFC", good, "", 101, ""},
		{"with a subprotocol that was offered", append(good, "Sec-WebSocket-Protocol: chat, superchat"), "Sec-WebSocket-Protocol: superchat", 101, ""},
		{"with no subprotocol of those offered", append(good, "Sec-WebSocket-Protocol: chat"), "", 101, ""},
		{"Upgrade names another protocol too", with(1, "Upgrade: websocket, h2c"), "", 400, "the field Upgrade is not websocket alone"},
		{"Connection does not name it", with(0, "Connection: keep-alive"), "", 400, "the field Connection does not name upgrade"},
		{"a key of 15 bytes", with(2, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"), "", 400, "16 bytes"},
		{"a key that is not canonical", with(2, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), "", 400, "16 bytes"},
		{"two keys", append(good, "Sec-WebSocket-Key: "+testKey), "", 400, "16 bytes"},
		{"version 8", with(3, "Sec-WebSocket-Version: 8"), "", 400, "the version"},
		{"a subprotocol twice", append(good, "Sec-WebSocket-Protocol: chat, chat"), "", 400, "different tokens"},
		{"a subprotocol that is no token", append(good, "Sec-WebSocket-Protocol: a/b"), "", 400, "different tokens"},
		{"a body", append(good, "Content-Length: 1\r\n\r\nx"), "", 400, "no body"},
		{"a subprotocol that was not offered", append(good, "Sec-WebSocket-Protocol: chat"), "Sec-WebSocket-Protocol: Chat", 502, "not offered"},
		{"an extension that was not offered", good, "Sec-WebSocket-Extensions: permessage-deflate", 502, "not offered"},
		{"an extension that was not passed on", append(good, "Sec-WebSocket-Extensions: x-webkit-deflate-frame"), "Sec-WebSocket-Extensions: x-webkit-deflate-frame", 502, "not offered"},
		{"two extensions", append(good, "Sec-WebSocket-Extensions: permessage-deflate"), "Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate", 502, "not offered"},
		{"a second Accept", good, "Sec-WebSocket-Accept: x", 502, "not that of the key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var more []string
			if tt.upstream != "" {
				more = append(more, tt.upstream)
			}
			address, _ := rawUpstream(t, "", more...)
			b := newBridge(t, address, httpproxy.RelayTerms{})
			conn, err := net.Dial("tcp", b.address)
			if err != nil {
				t.Fatal(err)
			}
			p, resp := ask(t, conn, tt.client...)
			if resp.StatusCode != tt.status {
				t.Fatalf("got %d", resp.StatusCode)
			}
			if tt.status == http.StatusSwitchingProtocols {
				if got := p.head.Get("Sec-Websocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // of section 1.3
					t.Errorf("Accept is %q", got)
				}
				return
			}
			if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), tt.says) {
				t.Errorf("got %s", body)
			}
		})
	}
}
