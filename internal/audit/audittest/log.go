// Package audittest opens audit logs for the tests of packages that read them. The tests
// of package audit itself, which break what lies below it, do not use it.
package audittest

import (
	"crypto/rand"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

// A Log is an audit log in a data_dir of its own, which is closed when the test ends. It
// signs nothing but when it is asked to, and its clock stands still but for Pass.
type Log struct {
	*audit.Log
	Reader *audit.Reader
	Dir    string // data_dir: the key-encryption key is in kek, the log in log
	Key    string // verifier key

	clock atomic.Int64 // nanoseconds; the log looks at it by itself, too
}

// Now returns what the clock says.
func (l *Log) Now() time.Time { return time.Unix(0, l.clock.Load()).UTC() }

// Pass moves the clock, also back.
func (l *Log) Pass(d time.Duration) { l.clock.Add(int64(d)) }

// Open opens a new log of this origin, at noon of 1 August 2026, UTC.
func Open(tb testing.TB, origin string) *Log {
	tb.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		tb.Fatal(err)
	}
	l := &Log{Dir: tb.TempDir(), Key: vkey}
	l.clock.Store(time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	kek, err := sealing.ReadOrMake(filepath.Join(l.Dir, "kek"))
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(l.Dir, "log")
	if l.Log, err = audit.Open(audit.Options{Dir: dir, Origin: origin, Sealer: kek, Signer: signer, VerifierKey: vkey, Checkpoint: time.Minute, Now: l.Now}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // a test may have closed it
	if l.Reader, err = audit.OpenReader(dir, kek); err != nil {
		tb.Fatal(err)
	}
	return l
}

// Sign makes a checkpoint over all that is there.
func (l *Log) Sign(tb testing.TB) {
	tb.Helper()
	if err := l.Checkpoint(); err != nil {
		tb.Fatal(err)
	}
}
