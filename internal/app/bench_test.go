package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/token"
)

// doors is a server with a metadata door for each kind of account that is measured.
type doors struct{ rs256, es256, executable string }

func startDoors(b *testing.B) doors {
	b.Helper()
	listeners := map[string]net.Listener{}
	listen := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners[l.Addr().String()] = l
		return l.Addr().String()
	}
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	uid := uint32(os.Getuid())
	d := doors{listen(), listen(), listen()}
	c := &config.Config{
		TrustDomain: "bench.internal", Replica: "b", DataDir: b.TempDir(), Telemetry: config.Telemetry{Listen: listen()},
		Issuer: issuer.Config{Listen: listen(), Audiences: []string{"*"}},
		ServiceAccounts: []config.ServiceAccount{
			{Account: attest.Account{Name: "rs256", Attest: []attest.Rule{{UID: &uid}}}},
			{Account: attest.Account{Name: "es256", Attest: []attest.Rule{{UID: &uid}}}, Minting: issuer.Minting{Algorithm: token.ES256}},
			{Account: attest.Account{Name: "executable", Attest: []attest.Rule{{UID: &uid, Executable: self}}}},
		},
		Metadata: []metadata.Config{
			{Listen: d.rs256, ServiceAccounts: []string{"rs256"}},
			{Listen: d.es256, ServiceAccounts: []string{"es256"}},
			{Listen: d.executable, ServiceAccounts: []string{"executable"}},
		},
	}
	c.Issuer.URL = "http://" + c.Issuer.Listen
	if err := c.Complete("/"); err != nil {
		b.Fatal(err)
	}
	a, err := app.New(b.Context(), c, app.Options{Logger: slog.New(slog.DiscardHandler), Listen: func(addr string) (net.Listener, error) { return listeners[addr], nil }})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.Cleanup(func() { stop(); <-done })
	return d
}

// handler serves h as an app's own servers do.
func handler(b *testing.B, h http.HandlerFunc) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// answer is what a static handler gives: as long as an ID token.
var answer = bytes.Repeat([]byte("x"), 900)

// exchange sends one request and reads its answer, with as little as possible of its
// own: what is measured is the server.
func exchange(c net.Conn, r *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%s", line)
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	_, err = r.Discard(length)
	return err
}

func request(address, audience string) []byte {
	return []byte("GET " + metadata.Base + "instance/service-accounts/default/identity?audience=" + audience + "&format=full HTTP/1.1\r\nHost: " + address + "\r\nUser-Agent: gcloud-golang/0.1\r\nMetadata-Flavor: Google\r\n\r\n")
}

// kept measures requests over kept connections, 32 for each processor. audience is
// the one that a request is for.
func kept(b *testing.B, address string, audience func() string) {
	b.Helper()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if err := exchange(c, r, request(address, audience())); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func one() string { return "https://svc.test" }

var audiences atomic.Int64

func ever() string { return "https://" + strconv.FormatInt(audiences.Add(1), 10) + ".test" }

// BenchmarkDoor is an ID token from a metadata door: one that was minted before, and a
// new one of each algorithm, recorded and synced; beside a static handler and beside
// one that makes the same signature and nothing else.
func BenchmarkDoor(b *testing.B) {
	d := startDoors(b)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	signs := func(k crypto.Signer) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			sum := sha256.Sum256([]byte(r.RequestURI))
			if _, err := k.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = w.Write(answer)
		}
	}
	for _, tt := range []struct {
		name, address string
		audience      func() string
	}{
		{"static", handler(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }), one},
		{"cached", d.rs256, one},
		{"signed-RS256", handler(b, signs(rsaKey)), ever},
		{"minted-RS256", d.rs256, ever},
		{"signed-ES256", handler(b, signs(ecKey)), ever},
		{"minted-ES256", d.es256, ever},
	} {
		b.Run(tt.name, func(b *testing.B) { kept(b, tt.address, tt.audience) })
	}
}

// BenchmarkNewConnection is a token that was minted before over a connection of its
// own, by an entry with uid and by one with executable, which looks at every process
// of the machine twice.
func BenchmarkNewConnection(b *testing.B) {
	d := startDoors(b)
	for _, tt := range []struct{ name, address string }{
		{"static", handler(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })},
		{"uid", d.rs256},
		{"executable", d.executable},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				c, err := net.Dial("tcp", tt.address)
				if err != nil {
					b.Fatal(err)
				}
				err = exchange(c, bufio.NewReader(c), request(tt.address, one()))
				_ = c.Close()
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
