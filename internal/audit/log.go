package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrClosed is what a Log says after Close.
	ErrClosed = errors.New("audit log is closed")
	// ErrUnavailable wraps why the log cannot take a record: refuse the action.
	ErrUnavailable = errors.New("audit log cannot be written")
	// ErrNotFound is what a Reader says about an entry that is not there.
	ErrNotFound = errors.New("no such entry in the audit log")
)

// Options are what Open needs. Fields without a default are required.
type Options struct {
	// Dir is the log directory; it is created. Nobody else may write to it.
	Dir string

	// Origin names the log: <trust domain>/<replica>, without spaces or "+".
	Origin string

	// Sealer wraps period keys.
	Sealer Sealer

	// Signer signs checkpoints. Its name must be Origin.
	Signer note.Signer

	// VerifierKey is Signer's note verifier key; Dir/checkpoint.pub keeps it.
	VerifierKey string

	// Checkpoint is how long a record may wait for a checkpoint. Default 1s.
	Checkpoint time.Duration

	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Logger hears of each change between working and not. Default: nobody.
	Logger *slog.Logger

	fs      filesystem // default disk{}
	segment uint64     // entries of a segment; default segmentEntries
}

// Log is the writing end. Its methods are safe for concurrent use.
type Log struct {
	opt   Options
	keys  *keyring
	torn  int64         // bytes that Open set aside
	first chan struct{} // holds one: an entry waits for a checkpoint
	full  chan struct{} // holds one: a bundle of them waits
	stop  chan struct{} // closed by Close
	done  chan struct{} // closed when the checkpointer has ended

	// lock order: checkpointing, mu
	checkpointing sync.Mutex // held by who makes a checkpoint

	mu       sync.Mutex    // guards the rest
	synced   uint64        // entries that fdatasync covers
	syncing  chan struct{} // closed when the fdatasync under way has ended; nil when there is none
	tree     *tree
	hashes   file
	file     file   // the last segment
	start    uint64 // its first entry
	off      int64  // its length in whole frames, in bytes
	retired  []file // segments before it, closed by the next to call fdatasync
	covered  uint64 // entries that a checkpoint covers
	closed   bool
	broken   error // why nothing can be written until a restart; never cleared
	failing  error // why the last Append failed; nil after one that worked
	unsigned error // why the last checkpoint failed; nil after one that worked
}

// buffer is what one Append works in.
type buffer struct {
	salt    [saltSize]byte
	payload []byte // JSON
	tail    []byte // of the leaf
	period  uint32
	sealed  []byte
	sum     uint32 // of sealed
	frame   []byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Append adds r to the log and returns its sequence number once it is as durable
// as d says. On any error the action that r is about must not happen: ErrClosed
// after Close, ErrUnavailable if the log cannot be written, else r or d is no good.
func (l *Log) Append(r *Record, d Durability) (seq uint64, err error) {
	if err := d.check(); err != nil {
		return 0, fmt.Errorf("audit: durability %w", err)
	}
	if err := r.check(); err != nil {
		return 0, err
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	if err := b.encode(r); err != nil {
		return 0, err
	}
	// a key that fails here fails again in write, which says so
	_ = b.seal(l.keys, periodOf(l.opt.Now()))
	seq, err = l.write(b)
	if err == nil && d == Synced {
		err = l.sync(seq + 1)
	}
	if err != nil {
		return 0, err
	}
	return seq, nil
}

// encode makes the payload and all of the leaf that is known before the lock.
func (b *buffer) encode(r *Record) (err error) {
	rand.Read(b.salt[:]) // never fails since Go 1.24
	b.payload, err = appendPayload(b.payload[:0], &b.salt, &r.Payload)
	if err != nil {
		return err
	}
	commitment := sha256.Sum256(b.payload)
	b.tail = appendLeafTail(b.tail[:0], r, &commitment)
	b.sealed = b.sealed[:0]
	return nil
}

// seal seals the payload under the key of period n.
func (b *buffer) seal(keys *keyring, n uint32) error {
	pk, err := keys.make(n)
	if err != nil {
		return err
	}
	b.period = n
	b.sealed = pk.seal(b.sealed[:0], n, b.payload)
	b.sum = crc32.Checksum(b.sealed, castagnoli)
	return nil
}

// write gives b its place in the log and writes it.
func (l *Log) write(b *buffer) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ErrClosed
	}
	if l.broken != nil {
		return 0, unavailable(l.broken)
	}
	if l.tree.size-l.start >= l.opt.segment {
		if err := l.roll(); err != nil {
			return 0, l.failed(err)
		}
	}
	now := l.opt.Now()
	if n := periodOf(now); len(b.sealed) == 0 || n != b.period {
		// midnight fell between sealing and now; or the key failed a moment ago
		if err := b.seal(l.keys, n); err != nil {
			return 0, l.failed(err)
		}
	}
	seq := l.tree.size
	b.frame = appendLeaf(beginFrame(b.frame[:0]), seq, now, b.tail)
	leaf := len(b.frame)
	b.frame = endFrame(b.frame, b.sum, b.sealed)
	if _, err := l.file.WriteAt(b.frame, l.off); err != nil {
		return 0, l.failed(l.undo(err))
	}
	l.off += int64(len(b.frame))
	l.tree.add(b.frame[frameHead:leaf])
	if l.failing != nil {
		l.failing = nil
		l.opt.Logger.Info("audit log is written again", "seq", seq)
	}
	switch waiting := l.tree.size - l.covered; {
	case waiting == 1:
		wake(l.first)
	case waiting%bundleEntries == 0:
		wake(l.full)
	}
	return seq, nil
}

// undo takes back what a failed write may have left. If even that fails, nobody
// knows what lies at the end of the file, and the next frame would land behind it.
func (l *Log) undo(cause error) error {
	if err := l.file.Truncate(l.off); err != nil {
		return l.breaks(fmt.Errorf("%w; then the partial record could not be removed: %w", cause, err))
	}
	return cause
}

// failed notes that an Append failed and returns what to tell its caller. It
// speaks up when that is news. Called with mu held.
func (l *Log) failed(err error) error {
	if l.failing == nil && l.broken == nil {
		l.opt.Logger.Error("audit log cannot be written; every action that needs a record is refused", "err", err)
	}
	l.failing = err
	return unavailable(err)
}

// breaks stops all writing until a restart. Called with mu held.
func (l *Log) breaks(err error) error {
	if l.broken == nil {
		l.broken = err
		l.opt.Logger.Error("audit log is broken until a restart; every action that needs a record is refused", "err", err)
	}
	return err
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// Size returns the number of entries.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.size
}

// Recovered returns how many bytes a crash had left after the last whole record,
// which Open moved to a file torn-… in Dir; 0 after a clean stop.
func (l *Log) Recovered() int64 { return l.torn }

// Health returns nil, or why records are refused (ErrUnavailable, ErrClosed) or
// are not being covered by checkpoints.
func (l *Log) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case l.broken != nil:
		return unavailable(l.broken)
	case l.failing != nil:
		return unavailable(l.failing)
	}
	return l.unsigned
}
