package httpproxy_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An answer that says nothing for longer than a client may leave one unread still has its
// end.
func TestQuietEnd(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, stall: 300 * time.Millisecond, answer: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(600 * time.Millisecond)
	}})
	conn, err := net.Dial("tcp", b.gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, request("GET /v1", bearer(good(t))))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("got %q %v", body, err)
	}
}

// A stream of HTTP/2 ends whose client takes nothing of its answer, short as that is and
// whoever wrote it.
func TestUnreadStream(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, stall: 300 * time.Millisecond, answer: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}})
	for name, token := range map[string]string{"the service's": good(t), "ours": "nonsense"} {
		conn, err := net.Dial("tcp", b.gateway)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, http2.ClientPreface)
		f := http2.NewFramer(conn, conn)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for _, x := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "app.test"}, {":path", "/v1"}, {"authorization", "Bearer " + token}} {
			_ = e.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Errorf("%s: %v, want the stream reset", name, err)
				break
			}
			if _, ok := frame.(*http2.RSTStreamFrame); ok {
				break
			}
		}
	}
}
