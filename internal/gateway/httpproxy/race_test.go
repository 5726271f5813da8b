package httpproxy_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/internal/guard"
)

// h2get opens a stream.
func h2get(f *http2.Framer, id uint32, token string, end bool, more ...[2]string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	method := "GET"
	if !end {
		method = "POST"
	}
	for _, x := range append([][2]string{{":method", method}, {":scheme", "http"}, {":authority", "app.test"}, {":path", "/v1"}, {"authorization", "Bearer " + token}}, more...) {
		_ = e.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// A client that resets its streams while answers inform it ends none of ours with them: the
// race detector sees who reads what.
func TestInformedAndReset(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, _ *http.Request) {
		for i := range 40 {
			w.Header().Set("Link"+string(rune('A'+i)), "</a.css>; rel=preload")
		}
		for range 20 {
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(w, "done")
	}})
	raw := good(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			conn, err := net.Dial("tcp", b.gateway)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, http2.ClientPreface)
			f := http2.NewFramer(conn, conn)
			_ = f.WriteSettings()
			_ = f.WriteSettingsAck()
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			id := uint32(1)
			for i := range 300 {
				h2get(f, id, raw, true)
				time.Sleep(time.Duration(i%40) * 50 * time.Microsecond)
				_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
				id += 2
			}
		})
	}
	wg.Wait()
}

// A request whose pass ends just before it is sent is not sent.
func TestEndsBeforeItIsSent(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{admitted: func(b *rig) { b.guard.Drain(func(*guard.Session) bool { return true }) }})
	raw := good(t)
	for range 200 {
		if got := b.send(t, request("GET /v1", bearer(raw))); got.status != http.StatusServiceUnavailable {
			t.Fatalf("got %d", got.status)
		}
	}
	if got := b.take(); len(got) > 0 {
		t.Errorf("the upstream got %d of them", len(got))
	}
}
