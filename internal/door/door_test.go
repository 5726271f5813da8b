package door_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
)

func TestCheckAudience(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, audience string
		want           string // "" for none
	}{
		{"a URL", "https://svc.test", ""},
		{"any text", "abc", ""},
		{"the longest", strings.Repeat("a", 256), ""},
		{"none", "", "non-empty audience parameter required"},
		{"too long", strings.Repeat("a", 257), "longer than 256"},
		{"a space", "a b", "white space"},
		{"a line break", "a\r\nb", "white space"},
		{"a NUL", "a\x00", "control"},
		{"not UTF-8", "\xff", "UTF-8"},
	} {
		err := door.CheckAudience(tt.audience)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

// Places are given and given back, to each uid its own, and to all together no more
// than there are.
func TestPlaces(t *testing.T) {
	t.Parallel()
	p := door.NewPlaces(2, 3)
	a1, ok1 := p.Enter(1)
	_, ok2 := p.Enter(1)
	if _, third := p.Enter(1); !ok1 || !ok2 || third {
		t.Fatal("one uid has two places")
	}
	b1, ok := p.Enter(2)
	if !ok {
		t.Error("another uid is kept out by the first")
	}
	if _, ok := p.Enter(3); ok {
		t.Error("more than there are")
	}
	a1()
	a1() // a second time gives nothing back
	if _, ok := p.Enter(1); !ok {
		t.Error("a place that was given back cannot be had")
	}
	b1()
	if _, ok := p.Enter(1); ok {
		t.Error("given back twice")
	}
}

// Whoever holds nothing any more is forgotten, or callers under many uids would fill
// the memory.
func TestNobodyIsRememberedForEver(t *testing.T) {
	t.Parallel()
	p, turns := door.NewPlaces(1, 0), door.NewTurns()
	for uid := range uint32(3000) {
		leave, ok := p.Enter(uid)
		end, err := turns.Wait(t.Context(), uid)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		leave()
		end()
	}
	if p.Kept() != 0 || turns.Kept() > 1024 {
		t.Errorf("%d uids have places, and %d turns", p.Kept(), turns.Kept())
	}
}

// A caller that has everything in the making delays itself and nobody else.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := door.NewTurns()
		var ends []func()
		for range 64 {
			end, err := turns.Wait(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		if _, err := turns.Wait(t.Context(), 2); err != nil {
			t.Errorf("another uid waits: %v", err)
		}
		began := time.Now()
		_, err := turns.Wait(t.Context(), 1)
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != fault.TooMany || f.RetryAfter == 0 || time.Since(began) != 5*time.Second {
			t.Errorf("one too many after %v: %v", time.Since(began), err)
		}
		var had atomic.Bool
		go func() {
			if end, err := turns.Wait(t.Context(), 1); err == nil {
				had.Store(true)
				end()
			}
		}()
		synctest.Wait()
		if had.Load() {
			t.Error("had a turn before one ended")
		}
		ends[0]()
		synctest.Wait()
		if !had.Load() {
			t.Error("had no turn after one ended")
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		more, err := turns.Wait(t.Context(), 1) // full again
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, err := turns.Wait(ctx, 1); gone <- err }()
		synctest.Wait()
		cancel()
		if <-gone == nil {
			t.Error("a caller that went away had a turn")
		}
		more()
		for _, end := range ends[1:] {
			end()
		}
	})
}

// Too many connections of one uid are closed; what is given back can be had again.
// Whoever is behind one is known to the handler.
func TestListener(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := door.Listen(inner, nil, door.NewPlaces(2, 0))
	server := &http.Server{ConnContext: door.ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := door.Caller(r.Context())
		if !ok || c.UID() != uint32(os.Getuid()) || c.Peer.String() != r.RemoteAddr {
			t.Errorf("the caller is %+v, %v", c, ok)
		}
		_, _ = io.WriteString(w, "hello")
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	hello := func(c net.Conn) bool {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		b := make([]byte, 15)
		n, _ := io.ReadFull(c, b)
		return string(b[:n]) == "HTTP/1.1 200 OK"
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two, three := dial(), dial(), dial()
	defer two.Close()
	if !hello(one) || !hello(two) || hello(three) {
		t.Error("want two of three to be served")
	}
	_ = one.Close()
	for range 1000 { // the server notices in its own time
		c := dial()
		ok := hello(c)
		_ = c.Close()
		if ok {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("a place that was given back cannot be had")
}

func TestCallerOfAnotherListener(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if _, ok := door.Caller(door.ConnContext(t.Context(), a)); ok {
		t.Error("a connection that nobody attests has a caller")
	}
	if _, ok := door.Caller(door.WithCaller(t.Context(), attest.Conn{})); !ok {
		t.Error("a caller that was put there is not found")
	}
}
