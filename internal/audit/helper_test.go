package audit_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

const origin = "acme.internal/a"

// kek is the smallest Sealer.
type kek struct{ aead cipher.AEAD }

func newKEK(tb testing.TB) kek {
	tb.Helper()
	block, err := aes.NewCipher([]byte(rand.Text()[:16]))
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		tb.Fatal(err)
	}
	return kek{aead}
}

func (k kek) Seal(p, context []byte) ([]byte, error) { return k.aead.Seal(nil, nil, p, context), nil }
func (k kek) Open(s, context []byte) ([]byte, error) { return k.aead.Open(nil, nil, s, context) }

// newOptions returns options for a new log of four entries a segment, on a clock
// that stands still in August 2026.
func newOptions(tb testing.TB) audit.Options {
	tb.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		tb.Fatal(err)
	}
	o := audit.Options{
		Dir: filepath.Join(tb.TempDir(), "log"), Origin: origin, Sealer: newKEK(tb), Signer: signer, VerifierKey: vkey,
		Checkpoint: time.Minute, // tests ask for checkpoints themselves
		Now:        func() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 5000, time.UTC) },
	}
	o.SetSegment(4)
	return o
}

func open(tb testing.TB, o audit.Options) *audit.Log {
	tb.Helper()
	l, err := audit.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

// record returns the record that tests call number i.
func record(i int) *audit.Record {
	return &audit.Record{Kind: audit.Admit, Decision: audit.Allow, Rule: "may-read", Service: "invoices", Policy: "r1",
		Payload: audit.Payload{Principal: fmt.Sprintf("serviceAccount:n%d", i), Action: "http.get", Resource: "/v1/x",
			Vars: map[string]string{"b": "2", "a": "1"}}}
}

func appendN(tb testing.TB, l *audit.Log, from, n int) {
	tb.Helper()
	for i := from; i < from+n; i++ {
		seq, err := l.Append(record(i), audit.Written)
		if err != nil || seq != uint64(i) {
			tb.Fatalf("Append(%d) = %d, %v", i, seq, err)
		}
	}
}

// filled returns the options of a closed log with n entries.
func filled(tb testing.TB, n int) audit.Options {
	tb.Helper()
	o := newOptions(tb)
	l := open(tb, o)
	appendN(tb, l, 0, n)
	mustClose(tb, l)
	return o
}

func mustClose(tb testing.TB, l *audit.Log) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

// mustSign makes a checkpoint over all that is there.
func mustSign(tb testing.TB, l *audit.Log) {
	tb.Helper()
	if err := l.Checkpoint(); err != nil {
		tb.Fatal(err)
	}
}

// readAll returns every entry that a reader sees.
func readAll(tb testing.TB, o audit.Options) []*audit.Entry {
	tb.Helper()
	r, err := audit.OpenReader(o.Dir, o.Sealer)
	if err != nil {
		tb.Fatal(err)
	}
	var all []*audit.Entry
	for e, err := range r.Entries(context.Background(), 0) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// verified fails the test unless the log verifies.
func verified(tb testing.TB, o audit.Options) *audit.Report {
	tb.Helper()
	rep, err := audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	if err != nil {
		tb.Fatalf("Verify: %v (%+v)", err, rep)
	}
	return rep
}

// wantBad fails the test unless err is a *Bad that says what.
func wantBad(tb testing.TB, err error, what string) {
	tb.Helper()
	var bad *audit.Bad
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), what) {
		tb.Errorf("got error %v, want a *Bad with %q", err, what)
	}
}

func readFile(tb testing.TB, elem ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func writeFile(tb testing.TB, data []byte, elem ...string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(elem...), data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// copyLog copies a log's directory and returns options for the copy.
func copyLog(tb testing.TB, o audit.Options) audit.Options {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(o.Dir)); err != nil {
		tb.Fatal(err)
	}
	o.Dir = dir
	return o
}

func seg(first int) string { return fmt.Sprintf("segments/%012d.seg", first) }

// frames cuts a segment into its frames, by the lengths alone.
func frames(tb testing.TB, b []byte) [][]byte {
	tb.Helper()
	var all [][]byte
	for len(b) > 0 {
		_, _, _, _, n, err := audit.ParseFrame(b)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, b[:n:n])
		b = b[n:]
	}
	return all
}

// clock is one that a test moves while the log looks at it.
type clock struct{ at atomic.Int64 }

func newClock(t time.Time) *clock {
	c := &clock{}
	c.at.Store(t.UnixNano())
	return c
}

func (c *clock) now() time.Time      { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) add(d time.Duration) { c.at.Add(int64(d)) }

func reader(tb testing.TB, o audit.Options) *audit.Reader {
	tb.Helper()
	r, err := audit.OpenReader(o.Dir, o.Sealer)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
