package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"sync"
	"sync/atomic"
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

	// KeepFree is how many bytes of the disk are for proven callers and operators:
	// see Room. Default 1 GiB, or a twentieth of the disk if that is less.
	KeepFree *Bytes

	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Logger hears of each change between working and not. Default: nobody.
	Logger *slog.Logger

	fs       filesystem                                      // default disk{}
	segment  uint64                                          // entries of a segment; default segmentEntries
	patience time.Duration                                   // default defaultPatience
	space    func(dir string) (free, total int64, err error) // default diskSpace
}

// Log is the writing end. Its methods are safe for concurrent use.
type Log struct {
	opt    Options
	keys   *keyring
	torn   int64          // bytes that Open set aside
	lost   uint64         // entries that Open wrote for records that were lost
	first  chan struct{}  // holds one: an entry waits for a checkpoint
	full   chan struct{}  // holds one: a bundle of them waits
	stop   chan struct{}  // closed by Close
	tasks  sync.WaitGroup // what ends when stop is closed
	queue  queue
	stall  stall
	space  space
	state  state
	counts counts

	// lock order: maintaining, checkpointing, mu
	maintaining   sync.Mutex  // held by who erases or prunes
	checkpointing sync.Mutex  // held by who makes a checkpoint; guards the next two
	partials      [2][]string // partial tiles on disk: of the last checkpoint, and of those before it
	written       [][]byte    // the checkpoint on disk is one of these: the last, and those that failed after it

	mu      sync.Mutex    // guards the rest
	synced  uint64        // entries that fdatasync covers
	syncing chan struct{} // closed when the fdatasync under way has ended; nil when there is none
	tree    *tree
	file    file   // the last segment
	start   uint64 // its first entry
	day     uint32 // the period of its first entry
	off     int64  // its length in whole frames, in bytes
	waiting []byte // frames that belong behind them and are not written yet
	reserve reservation
	retired []file // segments before it, closed by the next to call fdatasync
	covered uint64 // entries that a checkpoint covers
	signed  []byte // the last checkpoint
	closed  bool
	broken  error // why nothing can be written until a restart; never cleared
}

// buffer is what one Append works in.
type buffer struct {
	durability Durability
	salt       [saltSize]byte
	payload    []byte // JSON
	version    int    // of the leaf
	tail       []byte // of the leaf
	period     uint32
	sealed     []byte
	sum        uint32 // of sealed
	frame      []byte
	leaf       int // where the leaf in frame ends

	left atomic.Bool  // nobody waits for it any more
	done chan outcome // holds one
}

// outcome is how an Append ended.
type outcome struct {
	seq uint64
	err error
}

var buffers = sync.Pool{New: func() any { return &buffer{done: make(chan outcome, 1)} }}

// Append adds r to the log and returns its sequence number once it is as durable
// as d says. On any error the action that r is about must not happen: ErrClosed
// after Close, ErrUnavailable if the log cannot be written, also when the disk has
// not answered for some seconds, else r or d is no good.
func (l *Log) Append(r *Record, d Durability) (uint64, error) {
	if err := d.check(); err != nil {
		return 0, fmt.Errorf("audit: durability %w", err)
	}
	if err := r.check(); err != nil {
		return 0, err
	}
	stalled := l.stall.signal()
	select {
	case <-stalled:
		l.counts.failures.Add(1)
		return 0, unavailable(errStalled)
	default:
	}
	b := buffers.Get().(*buffer)
	if err := b.encode(r, d); err != nil {
		buffers.Put(b)
		return 0, err
	}
	if n := periodOf(l.opt.Now()); l.keys.ready(n) {
		_ = b.seal(l.keys, n) // what fails here fails again in write, which says so
	}
	if !l.queue.put(b) {
		buffers.Put(b)
		return 0, ErrClosed
	}
	o, ok := b.wait(stalled)
	if ok && o.err == nil && d == Synced {
		seq := o.seq
		go func() { b.done <- outcome{seq, l.sync(seq + 1)} }()
		o, ok = b.wait(stalled)
	}
	if !ok {
		l.counts.failures.Add(1)
		return 0, unavailable(errStalled) // and b is not to be used again
	}
	buffers.Put(b)
	if o.err != nil {
		return 0, o.err
	}
	return o.seq, nil
}

// wait waits for how it ended, or until the disk does not answer.
func (b *buffer) wait(stalled <-chan struct{}) (o outcome, ok bool) {
	select {
	case o = <-b.done:
		return o, true
	case <-stalled:
		b.left.Store(true)
		return o, false
	}
}

// encode makes the payload and all of the leaf that is known before the lock.
func (b *buffer) encode(r *Record, d Durability) (err error) {
	rand.Read(b.salt[:]) // never fails since Go 1.24
	b.payload, err = appendPayload(b.payload[:0], &b.salt, &r.Payload)
	if err != nil {
		return err
	}
	commitment := sha256.Sum256(b.payload)
	b.durability, b.version = d, versionOf(r.Kind)
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

// queue is what waits to be written.
type queue struct {
	wake chan struct{} // holds one: something waits

	mu     sync.Mutex // guards the rest
	closed bool
	bufs   []*buffer
	spare  []*buffer // what take returned before
}

// put lets b wait for the writer, unless there is none any more.
func (q *queue) put(b *buffer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.bufs = append(q.bufs, b)
	wake(q.wake)
	return true
}

// take returns what waits; it is good until the next take.
func (q *queue) take() []*buffer {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bufs, q.spare = q.spare[:0], q.bufs
	return q.spare
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// write writes what waits, all of it at once, until stop. It is one goroutine, so that
// the others can leave when a system call does not return; and under load it makes one
// such call for many records.
func (l *Log) write() {
	for {
		select {
		case <-l.queue.wake:
		case <-l.stop:
			l.queue.close()
			for _, b := range l.queue.take() {
				b.done <- outcome{err: ErrClosed}
			}
			return
		}
		l.mu.Lock()
		l.writeAll(l.queue.take())
		l.mu.Unlock()
	}
}

// writeAll gives each of bufs its place in the log, writes them as their durability
// asks, and tells whoever waits how it ended. Called with mu held.
func (l *Log) writeAll(bufs []*buffer) {
	defer l.stall.begin(&l.stall.writing)()
	for len(bufs) > 0 {
		n := 1
		if err := l.able(); err != nil {
			bufs[0].done <- outcome{err: err}
		} else {
			// a segment ends where it is full, whatever comes after
			n = min(len(bufs), int(l.opt.segment-(l.tree.size-l.start)))
			if rest := bundleEntries - l.tree.size%bundleEntries; rest < uint64(n) {
				n = int(rest) // or where a day does
			}
			l.writeSome(bufs[:n])
		}
		bufs = bufs[n:]
	}
}

// able starts a segment where it is due, and returns why nothing can be written.
func (l *Log) able() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.broken != nil:
		return unavailable(l.broken)
	case len(l.tree.full) > maxUntiled:
		return l.failed(errors.New("the tiles of what was written before cannot be written"))
	case l.due():
		if err := l.roll(); err != nil {
			return l.failed(err)
		}
	}
	return nil
}

// maxUntiled is how many full tiles may wait to be written, about 40 KiB each.
const maxUntiled = 4096

// writeSome writes bufs to the last segment, or lets them wait if all are Buffered.
func (l *Log) writeSome(bufs []*buffer) {
	now := l.opt.Now()
	before, seq := len(l.waiting), l.tree.size
	flush := false
	placed := bufs[:0:0]
	for _, b := range bufs {
		err := l.frame(b, seq+uint64(len(placed)), now)
		if err != nil {
			b.done <- outcome{err: err}
			continue
		}
		l.waiting = append(l.waiting, b.frame...)
		flush = flush || b.durability != Buffered || len(l.waiting) >= maxWaiting
		placed = append(placed, b)
	}
	if flush {
		if err := l.writeOut(); err != nil {
			l.waiting = l.waiting[:before]
			err = l.failed(err)
			for _, b := range placed {
				b.done <- outcome{err: err}
			}
			return
		}
	}
	l.counts.waiting.Store(int64(len(l.waiting)))
	for _, b := range placed {
		l.added(b, now)
	}
}

// frame makes the frame that b has as entry seq.
func (l *Log) frame(b *buffer, seq uint64, now time.Time) error {
	if b.left.Load() {
		return errLeft
	}
	if n := periodOf(now); len(b.sealed) == 0 || n != b.period {
		// midnight fell between sealing and now; or there was no key a moment ago
		if err := b.seal(l.keys, n); err != nil {
			return l.failed(err)
		}
	}
	if b.durability == Buffered {
		if err := l.reserve.cover(seq); err != nil {
			return l.failed(err)
		}
	}
	b.frame = appendLeaf(beginFrame(b.frame[:0]), b.version, seq, now, b.tail)
	b.leaf = len(b.frame)
	b.frame = endFrame(b.frame, b.sum, b.sealed)
	return nil
}

// errLeft is for nobody: whoever would hear it has gone.
var errLeft = errors.New("the caller has gone")

// added takes b into the tree and tells its caller the number.
func (l *Log) added(b *buffer, now time.Time) {
	seq := l.tree.size
	if seq == l.start {
		l.day = periodOf(now)
	}
	l.tree.add(b.frame[frameHead:b.leaf])
	l.counts.entries.Store(l.tree.size)
	l.state.worked(l.opt.Logger, seq)
	switch {
	case l.tree.size%bundleEntries == 0:
		wake(l.full)
	case l.tree.size-l.covered == 1:
		wake(l.first)
	}
	b.done <- outcome{seq: seq}
}

// writeOut writes what waits. On an error it goes on waiting: whoever it is about
// has had an answer. Called with mu held.
func (l *Log) writeOut() error {
	if len(l.waiting) == 0 {
		return nil
	}
	if _, err := l.file.WriteAt(l.waiting, l.off); err != nil {
		return l.undo(err)
	}
	l.off += int64(len(l.waiting))
	l.waiting = l.waiting[:0]
	return nil
}

// undo takes back what a failed write may have left. If even that fails, nobody
// knows what lies at the end of the file, and the next frame would land behind it.
func (l *Log) undo(cause error) error {
	if err := l.file.Truncate(l.off); err != nil {
		return l.breaks(fmt.Errorf("%w; then the partial record could not be removed: %w", cause, err))
	}
	return cause
}

// failed notes that an Append failed and returns what to tell its caller. Called
// with mu held.
func (l *Log) failed(err error) error {
	l.counts.failures.Add(1)
	if l.broken == nil {
		l.state.fails(l.opt.Logger, err)
	}
	return unavailable(err)
}

// breaks stops all writing until a restart. Called with mu held.
func (l *Log) breaks(err error) error {
	if l.broken == nil {
		l.broken = err
		l.state.breaks(l.opt.Logger, err)
	}
	return err
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// Size returns the number of entries, those that were pruned included.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.size
}

// Recovered returns how many bytes a crash had left after the last whole record,
// which Open moved to a file torn-… in Dir; 0 after a clean stop.
func (l *Log) Recovered() int64 { return l.torn }

// Lost returns how many numbers a killed process may have given to Buffered records
// that are gone; Open made an entry of kind Gap for each.
func (l *Log) Lost() uint64 { return l.lost }
