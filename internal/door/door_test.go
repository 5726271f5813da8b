package door_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
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
	shares := door.NewShares(2, 0)
	l := door.Listen(inner, nil, shares)
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
			_, _ = two.Close(), server.Close()
			if n := shares.Kept(); n != 0 {
				t.Errorf("%d origins are kept of whom nothing is open", n)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("a place that was given back cannot be had")
}

// When every share is taken, who holds the most loses its oldest to whoever holds fewer,
// and nobody loses one to who holds as many.
// Of one origin, who has said nothing makes way for who comes; a request that came keeps
// its connection.
func TestSharesOfWhoSaysNothing(t *testing.T) {
	t.Parallel()
	s := door.NewShares(0, 3).Yielding()
	var closed []string
	take := func(name string, served ...bool) bool {
		return s.Take("a", func() { closed = append(closed, name) }, served...)
	}
	if !take("1", true) || !take("2") || !take("3") || !take("4", true) || !take("5", true) || take("6", true) {
		t.Error("shares went another way")
	}
	if got := fmt.Sprint(closed); got != "[2 3]" {
		t.Errorf("closed %s, want those that said nothing", got)
	}
}

func TestSharesGoToWhoHasFew(t *testing.T) {
	t.Parallel()
	s := door.NewShares(5, 6)
	var closed []string
	take := func(origin, name string) bool { return s.Take(origin, func() { closed = append(closed, name) }) }
	for _, name := range []string{"a1", "a2", "a3", "a4", "a5"} {
		if !take("a", name) {
			t.Fatal(name)
		}
	}
	if take("a", "a6") {
		t.Error("one origin has more than it may")
	}
	for _, name := range []string{"b1", "b2", "b3"} {
		if !take("b", name) {
			t.Errorf("%s is kept out by a", name)
		}
	}
	if got := fmt.Sprint(closed); got != "[a1 a2]" {
		t.Errorf("closed %s, want the oldest of a, for b2 and b3", got)
	}
	if take("b", "b4") || take("a", "a7") {
		t.Error("taken from who holds as many")
	}
	if !take("c", "c1") || !take("c", "c2") || take("c", "c3") {
		t.Error("three hold two each")
	}
	if s.Kept() != 3 || len(closed) != 4 {
		t.Errorf("%d origins are kept, closed %v", s.Kept(), closed)
	}
	for _, name := range []string{"d", "e", "f", "g", "h"} { // now who holds one each
		if !take(name, name) {
			t.Errorf("%s, who holds none, is kept out", name)
		}
	}
	if got := fmt.Sprint(closed[4:]); len(closed) != 9 || s.Kept() != 6 && s.Kept() != 5 {
		t.Errorf("closed %s, %d are kept", got, s.Kept())
	}
}

// Connections that are closed to make room are closed for whoever is behind them, and
// their places are given back once.
func TestListenerMakesRoom(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test connects as another user: it needs root, and CI has to run it as root")
		}
		t.Skip("needs root to connect as another user")
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := door.Listen(inner, nil, door.NewShares(0, 3))
	server := &http.Server{ConnContext: door.ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") })}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	var held []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	for range 4 { // one after the other, each another connection of the same user
		cmd := exec.Command("curl", "-s", "-m", "10", "http://"+l.Addr().String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}}
		if out, err := cmd.Output(); err != nil || string(out) != "hello" {
			t.Errorf("another user: %q, %v", out, err)
		}
	}
	_ = held[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := held[0].Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest is still there: %v", err)
	}
	_ = held[1].SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(held[1], "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if n, err := held[1].Read(make([]byte, 15)); n != 15 || err != nil {
		t.Errorf("the next is not: %v", err)
	}
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
