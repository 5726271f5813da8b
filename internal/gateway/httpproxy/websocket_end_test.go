package httpproxy_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

var (
	errRevoked  = &fault.Error{Code: fault.Unproven, Public: "token revoked", Decision: "a-17"}
	errDraining = &fault.Error{Code: fault.Busy, Public: "shutting down"}
)

const (
	revokedSeen = `close 1008 "token revoked (a-17)"`
	goingAway   = `close masked 1001 "token revoked (a-17)"`
)

// hasty are terms for tests in which somebody does not do what it should, patient
// those for tests in which all do, on a machine that may be busy.
var (
	hasty   = httpproxy.RelayTerms{Farewell: time.Second}
	patient = httpproxy.RelayTerms{Farewell: 30 * time.Second}
)

// What each end sees, and what was said before, when a session is ended.
func TestWebSocketEnds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		name                   string
		err                    error
		fromClient, fromServer []byte // before the end
		upstream, client       []string
		upstreamEnd, clientEnd string
	}{
		{"by revocation, when nothing was said", errRevoked, nil, nil, nil, nil, goingAway, revokedSeen},
		{"by revocation, after messages both ways", errRevoked, c(0x81, "a"), s(0x81, "b"), []string{`text masked "a"`}, []string{`text "b"`}, goingAway, revokedSeen},
		{"by policy", fault.New(fault.Denied, io.EOF, "not allowed"), nil, nil, nil, nil, `close masked 1001 "not allowed"`, `close 1008 "not allowed"`},
		{"by a server that drains", errDraining, nil, nil, nil, nil, `close masked 1001 "shutting down"`, `close 1012 "shutting down"`},
		{"by something that is not for others", errors.New("disk 7"), nil, nil, nil, nil, `close masked 1001 "session ended"`, `close 1008 "session ended"`},
		{"between the fragments of messages", errRevoked, c(0x01, "a"), s(0x02, "b"), []string{`text unfinished masked "a"`}, []string{`binary unfinished "b"`}, goingAway, revokedSeen},
		{"within a long frame of the upstream", errRevoked, nil, s(0x82, long)[:40000], nil, nil, goingAway, "cut"},
		{"within a long frame of the client", errRevoked, c(0x82, long)[:40000], nil, nil, nil, "cut", revokedSeen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, upstream, b := newSession(t, patient)
			client.send(tt.fromClient)
			upstream.send(tt.fromServer)
			upstream.want(tt.upstream...)
			client.want(tt.client...)
			if tt.clientEnd == "cut" { // it is under way
				if _, err := client.r.Peek(20); err != nil {
					t.Fatal(err)
				}
			}
			if tt.upstreamEnd == "cut" {
				if _, err := upstream.r.Peek(20); err != nil {
					t.Fatal(err)
				}
			}
			b.pass.end(tt.err)
			// Of a frame that is cut nothing follows, least of all a close frame that would be
			// taken for its payload.
			toClient, toUpstream := int64(-1), int64(-1)
			if tt.clientEnd == "cut" {
				toClient = rest(client)
			} else {
				client.want(tt.clientEnd)
			}
			if tt.upstreamEnd == "cut" {
				toUpstream = rest(upstream)
			} else {
				upstream.want(tt.upstreamEnd)
			}
			if tt.upstreamEnd == "cut" { // the rest, which goes nowhere
				client.send(c(0x82, long)[40000:])
			}
			if tt.clientEnd == "cut" {
				upstream.send(s(0x82, long)[40000:])
			}
			_, _ = client.conn.Write(c(0x88, bye(1000, ""))) // it may be gone
			_, _ = upstream.conn.Write(s(0x88, bye(1000, "")))
			if tt.clientEnd != "cut" {
				client.want("gone")
			}
			if tt.upstreamEnd != "cut" {
				upstream.want("gone")
			}
			o := b.ended(t)
			if toClient >= 0 && toClient != o.out || toUpstream >= 0 && toUpstream != o.in {
				t.Errorf("the ends got %d and %d bytes, the relay passed on %+v", toClient, toUpstream, o)
			}
			if f, ok := errors.AsType[*fault.Error](o.err); !ok || !errors.Is(f, tt.err) {
				t.Errorf("the relay returned %v", o.err)
			}
		})
	}
}

// rest reads until the end and returns how many bytes came.
func rest(p *peer) int64 {
	n, _ := io.Copy(io.Discard, p.r) // a reset is an end too
	return n
}

// What has begun to arrive of a short frame is not passed on, nor what comes after.
func TestWebSocketEndsWithinAShortFrame(t *testing.T) {
	t.Parallel()
	client, upstream, b := newSession(t, patient)
	payload := strings.Repeat("x", 16<<10)
	upstream.send(s(0x81, "before"), s(0x82, payload)[:10000])
	client.send(c(0x81, "before"), c(0x82, payload)[:10000])
	client.want(`text "before"`)
	upstream.want(`text masked "before"`)
	b.pass.end(errRevoked)
	client.want(revokedSeen)
	upstream.want(goingAway)
	upstream.send(s(0x82, payload)[10000:], s(0x81, "after"), s(0x88, bye(1000, "")))
	client.send(c(0x82, payload)[10000:], c(0x81, "after"), c(0x88, bye(1000, "")))
	client.want("gone")
	upstream.want("gone")
	if o := b.ended(t); o.in != 12 || o.out != 8 {
		t.Errorf("the relay returned %+v", o)
	}
}

// With traffic both ways, the close frame is between two frames, and the last.
func TestWebSocketEndsUnderTraffic(t *testing.T) {
	t.Parallel()
	for range 20 {
		client, upstream, b := newSession(t, patient)
		flood := func(p *peer, f, answer []byte, told <-chan struct{}) {
			for {
				select {
				case <-told:
					_, _ = p.conn.Write(answer) // the session ends with or without
					return
				default:
				}
				if _, err := p.conn.Write(f); err != nil {
					return // the session has ended
				}
			}
		}
		clientTold, upstreamTold := make(chan struct{}), make(chan struct{})
		go flood(client, append(c(0x81, "hello"), c(0x82, strings.Repeat("y", 5000))...), c(0x88, ""), clientTold)
		go flood(upstream, append(s(0x81, "hello"), s(0x82, strings.Repeat("z", 5000))...), s(0x88, ""), upstreamTold)
		watch := func(p *peer, last string, told chan<- struct{}, enough func()) error {
			for i := 0; ; i++ {
				if i == 50 {
					enough()
				}
				switch got := p.next(); {
				case got == last:
					close(told)
					if end := p.next(); end != "gone" {
						return errors.New("after the close frame: " + end)
					}
					return nil
				case !strings.Contains(got, "hello") && !strings.HasSuffix(got, "of 5000"):
					return errors.New(got)
				}
			}
		}
		seen := make(chan error, 2)
		started := make(chan struct{}, 2)
		go func() { seen <- watch(client, revokedSeen, clientTold, func() { started <- struct{}{} }) }()
		go func() { seen <- watch(upstream, goingAway, upstreamTold, func() { started <- struct{}{} }) }()
		<-started
		<-started
		b.pass.end(errRevoked)
		for range 2 {
			if err := <-seen; err != nil {
				t.Fatal(err)
			}
		}
		b.ended(t)
	}
}

// A session that ended before it began gets no byte through.
func TestWebSocketEndedAlready(t *testing.T) {
	t.Parallel()
	address, peers := rawUpstream(t, string(s(0x81, "early")))
	b := newBridge(t, address, hasty)
	b.pass.end(errRevoked)
	client := dial(t, b.address)
	client.want(revokedSeen)
	(<-peers).want(goingAway)
	if o := b.ended(t); o.out != 0 || o.in != 0 {
		t.Errorf("the relay returned %+v", o)
	}
}

// Nobody can keep a session by not doing its part.
func TestWebSocketUncooperative(t *testing.T) {
	t.Parallel()
	t.Run("a client that never answers the close frame", func(t *testing.T) {
		t.Parallel()
		client, upstream, b := newSession(t, hasty)
		b.pass.end(errRevoked)
		client.want(revokedSeen, "gone")
		upstream.want(goingAway, "gone")
		b.ended(t)
	})
	t.Run("a client that goes on sending", func(t *testing.T) {
		t.Parallel()
		client, upstream, b := newSession(t, hasty)
		b.pass.end(errRevoked)
		for {
			if _, err := client.conn.Write(c(0x81, "still here")); err != nil {
				break // at last
			}
		}
		upstream.want(goingAway)
		if o := b.ended(t); o.in != 0 {
			t.Errorf("the relay returned %+v", o)
		}
	})
	t.Run("a client that does not read", func(t *testing.T) {
		t.Parallel()
		client, upstream, b := newSession(t, hasty)
		stuck(upstream, s(0x82, strings.Repeat("x", 10000)))
		b.pass.end(errRevoked)
		o := b.ended(t)
		if !errors.Is(o.err, errRevoked) {
			t.Errorf("the relay returned %+v", o)
		}
		last := ""
		for got := ""; got != "gone" && got != "cut"; got = client.next() {
			last = got
		}
		if last != "binary of 10000" {
			t.Errorf("the last frame is %s", last)
		}
	})
	t.Run("a client that reads nothing for too long", func(t *testing.T) {
		t.Parallel()
		terms := hasty
		terms.Stall = 200 * time.Millisecond
		_, upstream, b := newSession(t, terms)
		stuck(upstream, s(0x82, strings.Repeat("x", 10000)))
		if o := b.ended(t); o.err == nil || !strings.Contains(o.err.Error(), "client") {
			t.Errorf("the relay returned %+v", o)
		}
	})
	t.Run("an upstream that reads nothing for too long", func(t *testing.T) {
		t.Parallel()
		terms := hasty
		terms.Stall = 200 * time.Millisecond
		client, _, b := newSession(t, terms)
		stuck(client, c(0x82, strings.Repeat("x", 10000)))
		if o := b.ended(t); o.err == nil || !strings.Contains(o.err.Error(), "upstream") {
			t.Errorf("the relay returned %+v", o)
		}
	})
	t.Run("an upstream that never answers a client's close frame", func(t *testing.T) {
		t.Parallel()
		terms := hasty
		terms.Stall = 200 * time.Millisecond
		client, upstream, b := newSession(t, terms)
		client.send(c(0x88, bye(1000, "")))
		upstream.want(`close masked 1000 ""`)
		client.want("gone")
		if o := b.ended(t); o.err == nil || !strings.Contains(o.err.Error(), "not answered") {
			t.Errorf("the relay returned %+v", o)
		}
	})
}

// stuck sends f until nobody takes any more.
func stuck(p *peer, f []byte) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)) // a TCP connection has deadlines
	for {
		if _, err := p.conn.Write(f); err != nil {
			return
		}
	}
}

// A connection that is lost is passed on as that: no close frame claims otherwise.
func TestWebSocketLost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		act  func(client, upstream *peer)
		seen func(client, upstream *peer)
		err  string
	}{
		{"the upstream goes without a word", func(_, u *peer) { _ = u.conn.Close() }, func(c, _ *peer) { c.want("gone") }, "the upstream is lost"},
		{"the client goes without a word", func(c, _ *peer) { _ = c.conn.Close() }, func(_, u *peer) { u.want("gone") }, "the client is lost"},
		{"the client goes within a short frame, which does not arrive", func(p, _ *peer) { p.send(c(0x81, "hello")[:8]); _ = p.conn.Close() }, func(_, u *peer) { u.want("gone") }, "the client is lost"},
		{"the upstream goes within a long frame", func(_, u *peer) { u.send(s(0x82, strings.Repeat("x", 70000))[:60000]); _ = u.conn.Close() }, func(c, _ *peer) { c.want("cut") }, "the upstream is lost"},
		{"the upstream says close and goes at once", func(_, u *peer) { u.send(s(0x88, bye(1011, "oops"))); _ = u.conn.Close() }, func(p, _ *peer) {
			p.want(`close 1011 "oops"`)
			_, _ = p.conn.Write(c(0x88, bye(1011, ""))) // it may be too late
			p.want("gone")
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, upstream, b := newSession(t, httpproxy.RelayTerms{})
			tt.act(client, upstream)
			tt.seen(client, upstream)
			o := b.ended(t)
			if (o.err == nil) != (tt.err == "") || o.err != nil && !strings.HasPrefix(o.err.Error(), tt.err) {
				t.Errorf("the relay returned %v", o.err)
			}
		})
	}
}

// Ends that are no sockets: a pipe has no buffer, no half-close and, wrapped, no
// deadlines.
func TestWebSocketPipes(t *testing.T) {
	t.Parallel()
	type bare struct{ io.ReadWriteCloser }
	client, c1 := net.Pipe()
	upstream, u1 := net.Pipe()
	pass, over := newFakePass(), make(chan outcome, 1)
	go func() {
		in, out, err := httpproxy.Relay(bare{c1}, bare{u1}, pass, hasty)
		over <- outcome{in, out, err}
	}()
	go func() {
		_, _ = client.Write(c(0x81, "through")) // seen below
	}()
	got := make([]byte, len(c(0x81, "through")))
	if _, err := io.ReadFull(upstream, got); err != nil || string(got) != string(c(0x81, "through")) {
		t.Fatalf("got %x %v", got, err)
	}
	pass.end(errDraining) // and neither end reads
	if o := <-over; !errors.Is(o.err, errDraining) || o.in != int64(len(got)) {
		t.Errorf("the relay returned %+v", o)
	}
	for _, end := range []net.Conn{client, upstream} {
		if _, err := end.Write([]byte("x")); err == nil {
			t.Error("a connection is open")
		}
	}
}

// Who was told to close is told only once.
func TestWebSocketEndsWhileClosing(t *testing.T) {
	t.Parallel()
	client, upstream, b := newSession(t, hasty)
	upstream.send(s(0x88, bye(1000, "done")))
	client.want(`close 1000 "done"`)
	b.pass.end(errRevoked)
	upstream.want(goingAway, "gone")
	client.want("gone")
	if o := b.ended(t); !errors.Is(o.err, errRevoked) {
		t.Errorf("the relay returned %+v", o)
	}
}

// After a broken frame the rest is read, though it means nothing: unread bytes would
// make the kernel reset the connection, and the close frame could be lost.
func TestWebSocketReadsOnAfterABrokenFrame(t *testing.T) {
	t.Parallel()
	client := &scripted{says: append(s(0x81, "x"), make([]byte, 64<<10)...), piece: func() int { return 4096 }, stay: make(chan struct{})}
	upstream := &scripted{stay: make(chan struct{})}
	_, _, err := httpproxy.Relay(client, upstream, newFakePass(), hasty)
	if err == nil || len(client.says) != 0 {
		t.Errorf("the relay returned %v, with %d bytes unread", err, len(client.says))
	}
}
