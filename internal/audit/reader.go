package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Reader reads a log, also beside a running writer, and up to the last whole
// record. It holds no file open and is safe for concurrent use. It believes what
// it reads: Verify is who does not.
type Reader struct {
	dir    string
	origin string
	keys   *keyring
	places places
}

// OpenReader opens the log in dir for reading. Payloads are opened with opener;
// with nil they stay sealed.
func OpenReader(dir string, opener Sealer) (*Reader, error) {
	origin, err := readOrigin(dir)
	if err != nil {
		return nil, fmt.Errorf("read audit log %s: %w", dir, err)
	}
	return &Reader{dir: dir, origin: origin, keys: newKeyring(dir, origin, opener, nil), places: places{at: map[uint64][]int64{}}}, nil
}

// readOrigin takes the log's name from its public key or its checkpoint.
func readOrigin(dir string) (string, error) {
	public, err := readPublic(dir)
	if err != nil {
		return "", err
	}
	if name, _, ok := strings.Cut(public, "+"); ok {
		return name, nil
	}
	h, err := unsignedHead(dir)
	if err != nil {
		return "", err
	}
	if h.origin == "" {
		return "", errors.New("there is no log: neither checkpoint.pub nor checkpoint")
	}
	return h.origin, nil
}

// unsignedHead reads the checkpoint and asks nobody whether it is true.
func unsignedHead(dir string) (head, error) {
	msg, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if errors.Is(err, os.ErrNotExist) {
		return head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	h, err := parseHead(string(msg))
	if err != nil {
		return head{}, &Bad{File: checkpointFile, What: err.Error()}
	}
	h.note = msg
	return h, nil
}

// Origin returns the log's name: <trust domain>/<replica>.
func (r *Reader) Origin() string { return r.origin }

// First returns the first entry that is here: those before it were pruned.
func (r *Reader) First() (uint64, error) {
	firsts, err := segments(r.dir)
	if err != nil || len(firsts) == 0 {
		return 0, err
	}
	return firsts[0], nil
}

// from returns seq, or the first entry that is here if it is later.
func (r *Reader) from(seq uint64) (uint64, error) {
	first, err := r.First()
	if first%bundleEntries != 0 {
		first = 0 // so that the missing segment is found
	}
	return max(seq, first), err
}

// Size returns the number of whole entries, those that were pruned included. It reads the last segment.
func (r *Reader) Size() (uint64, error) {
	firsts, err := segments(r.dir)
	if err != nil || len(firsts) == 0 {
		return 0, err
	}
	c := r.cursor(firsts[len(firsts)-1])
	defer c.close()
	for {
		if _, err := c.next(); err == errEnd {
			return c.seq, nil
		} else if err != nil {
			return c.seq, err
		}
	}
}

// Entry returns entry seq, or ErrNotFound. It reads up to one segment.
func (r *Reader) Entry(seq uint64) (*Entry, error) {
	c := r.cursor(seq)
	defer c.close()
	e, err := r.read(c)
	if err == errEnd {
		return nil, fmt.Errorf("%w: %d", ErrNotFound, seq)
	}
	return e, err
}

// Entries yields the entries from seq on, or from the first that is here, in order, and stops after the last whole
// one, or after an error: *Bad if the log is damaged, or ctx's.
func (r *Reader) Entries(ctx context.Context, from uint64) iter.Seq2[*Entry, error] {
	return r.Pick(ctx, from, func(uint64) bool { return true })
}

// Pick is Entries without those that want says no to, whose payloads are not opened.
func (r *Reader) Pick(ctx context.Context, from uint64, want func(seq uint64) bool) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		at, err := r.from(from)
		if err != nil {
			yield(nil, err)
			return
		}
		c := r.cursor(at)
		defer c.close()
		for {
			e, err := r.pick(c, want)
			if err == errEnd {
				return
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if e != nil && !yield(e, nil) {
				return
			}
		}
	}
}

// Follow yields the entries from seq on and then each new one, looking for it at
// this interval. It ends when ctx does, or after an error.
func (r *Reader) Follow(ctx context.Context, from uint64, every time.Duration) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		at, err := r.from(from)
		if err != nil {
			yield(nil, err)
			return
		}
		c := r.cursor(at)
		defer c.close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		stuck := int64(-1) // bytes behind the last frame when we last looked
		for ctx.Err() == nil {
			e, err := r.read(c)
			if err == errEnd {
				if rest := c.rest(); c.moved() || rest > 0 && rest != stuck {
					// the writer may have cut and overwritten what we stand behind
					stuck = rest
					c.close()
				}
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (r *Reader) cursor(seq uint64) *cursor {
	return &cursor{dir: r.dir, seq: seq, places: &r.places, covered: func() uint64 {
		h, err := unsignedHead(r.dir)
		if err != nil {
			return 0 // then nothing is known to be durable
		}
		return h.size
	}}
}

// read returns the next entry of c.
func (r *Reader) read(c *cursor) (*Entry, error) {
	return r.pick(c, func(uint64) bool { return true })
}

// pick returns the next entry of c, or nil if it is not wanted.
func (r *Reader) pick(c *cursor, want func(seq uint64) bool) (*Entry, error) {
	f, err := c.next()
	if err != nil || !want(c.seq-1) {
		return nil, err
	}
	return decode(&f, c.seq-1, segmentName(c.first), r.keys)
}

// decode reads entry seq out of its frame. The error is *Bad for a leaf that is
// none, or says why a key that is here cannot be used.
func decode(f *frame, seq uint64, file string, keys *keyring) (*Entry, error) {
	h, err := parseLeaf(f.leaf)
	if err == nil && h.Seq != seq {
		err = fmt.Errorf("leaf says entry %d", h.Seq)
	}
	if err != nil {
		return nil, &Bad{File: file, Seq: seq, What: err.Error()}
	}
	e := &Entry{Header: h, State: f.state(), Leaf: bytes.Clone(f.leaf)}
	if e.State != stateSealed {
		return e, nil
	}
	text, err := keys.open(f.sealed)
	switch {
	case errors.Is(err, errNoKey):
		return e, nil
	case errors.Is(err, errDamaged):
		e.State = stateDamaged
		return e, nil
	case err != nil:
		return nil, err
	}
	if sha256.Sum256(text) != h.Commitment {
		e.State = stateDamaged
		return e, nil
	}
	var p Payload
	if err := json.Unmarshal(text, &p); err != nil {
		e.State = stateDamaged
		return e, nil
	}
	e.State, e.Payload, e.PayloadText = stateOpen, &p, text
	return e, nil
}
