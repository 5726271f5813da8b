package httpproxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// BenchmarkIdleWebSockets opens 5,000 sessions, or $SALLYPORT_BENCH_SESSIONS, through a
// gateway in a process of its own, each of which has carried messages both ways, and prints
// what one costs there: on the heap, with stacks, and in resident memory. The budget is 64
// KiB. It is done once, however often a benchmark is to run.
func BenchmarkIdleWebSockets(b *testing.B) {
	sessions := 5000
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_BENCH_SESSIONS")); err == nil {
		sessions = min(sessions, n)
	}
	for _, scheme := range []string{"ws", "wss"} {
		b.Run(scheme, func(b *testing.B) {
			address, peers := rawUpstream(b, "")
			g := startGateway(b, scheme, address)
			heapBefore, residentBefore := g.memory(b)
			for range sessions {
				exchange(b, open(b, g.dial(b)), <-peers)
			}
			heapAfter, residentAfter := g.memory(b)
			for b.Loop() { // nothing takes time here
			}
			b.ReportMetric(float64(heapAfter-heapBefore)/float64(sessions), "B/session")
			b.ReportMetric(float64(residentAfter-residentBefore)/float64(sessions), "resident-B/session")
		})
	}
}

// gatewayProcess is TestWebSocketGateway in a process of its own.
type gatewayProcess struct {
	scheme  string
	address string
	ask     io.Writer
	answers *bufio.Reader
}

// What tells TestWebSocketGateway what to be.
const (
	upstreamVariable = "SALLYPORT_TEST_UPSTREAM"
	schemeVariable   = "SALLYPORT_TEST_SCHEME"
)

func startGateway(b *testing.B, scheme, upstream string) *gatewayProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketGateway$")
	cmd.Env = append(os.Environ(), upstreamVariable+"="+upstream, schemeVariable+"="+scheme)
	ask, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = ask.Close() // which ends it
		_ = cmd.Wait()
	})
	g := &gatewayProcess{scheme: scheme, ask: ask, answers: bufio.NewReader(out)}
	if _, err := fmt.Fscanln(g.answers, &g.address); err != nil {
		b.Fatal(err)
	}
	return g
}

func (g *gatewayProcess) dial(b *testing.B) net.Conn {
	b.Helper()
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		b.Fatal(err)
	}
	if g.scheme == "wss" {
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // whose certificate it is does not weigh
	}
	return conn
}

func (g *gatewayProcess) memory(b *testing.B) (heap, resident int) {
	b.Helper()
	_, _ = io.WriteString(g.ask, "memory\n") // it answers, or not
	if _, err := fmt.Fscanln(g.answers, &heap, &resident); err != nil {
		b.Fatal(err)
	}
	return heap, resident
}

// TestWebSocketGateway is the gateway of BenchmarkIdleWebSockets.
func TestWebSocketGateway(t *testing.T) {
	upstream := os.Getenv(upstreamVariable)
	if upstream == "" {
		t.Skip("for the benchmark alone")
	}
	_, front := newFront(upstream, httpproxy.RelayTerms{})
	if os.Getenv(schemeVariable) == "wss" {
		front.StartTLS()
	} else {
		front.Start()
	}
	fmt.Println(front.Listener.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(memory(t))
	}
	os.Exit(0) // sessions are open
}

// memory returns the heap with stacks, and what is resident, in bytes.
func memory(t *testing.T) (heap, resident int) {
	debug.FreeOSMemory()
	debug.FreeOSMemory() // pools empty in two steps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(status), new(int), &resident); err != nil {
		t.Fatal(err)
	}
	return int(m.HeapInuse + m.StackInuse), resident * os.Getpagesize()
}

func exchange(b *testing.B, client, upstream *peer) {
	client.send(c(0x81, "hello"), c(0x82, strings.Repeat("x", 20000)))
	upstream.want(`text masked "hello"`, "binary masked of 20000")
	upstream.send(s(0x81, "hello"), s(0x82, strings.Repeat("x", 20000)))
	client.want(`text "hello"`, "binary of 20000")
}

// BenchmarkWebSocketMessage is a message there and back through the gateway.
func BenchmarkWebSocketMessage(b *testing.B) {
	for _, tt := range []struct {
		name string
		size int
	}{{"100B", 100}, {"10KiB", 10 << 10}, {"1MiB", 1 << 20}} {
		b.Run(tt.name, func(b *testing.B) {
			address, peers := rawUpstream(b, "")
			br := newBridge(b, address, httpproxy.RelayTerms{})
			client := dial(b, br.address)
			upstream := <-peers
			request, reply := c(0x82, strings.Repeat("x", tt.size)), s(0x82, strings.Repeat("x", tt.size))
			go answer(upstream.conn, len(request), reply)
			got := make([]byte, len(reply))
			b.SetBytes(int64(2 * tt.size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.conn.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client.r, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// answer reads requests of one size and writes reply to each.
func answer(conn net.Conn, size int, reply []byte) {
	got := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, got); err != nil {
			return // the benchmark is over
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}
