package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/search"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// indexing is the index of the audit log, and what fills it behind the log.
type indexing struct {
	dataDir string
	reader  *audit.Reader
	logger  *slog.Logger

	entries func() uint64 // of the log
	behind  atomic.Uint64 // entries

	// lock order: erasing, mu
	erasing sync.Mutex // held by who erases, and while a step is under way
	failed  bool       // the last step; guarded by erasing

	mu     sync.Mutex // guards the rest
	index  *store.Index
	filler *search.Indexer
	seen   search.State // of the index that was dropped last
}

// openIndex opens the index, and refuses a log that ends before, or differs from, what
// the index has seen: its directory was set back while the rest of data_dir was not.
func (a *App) openIndex(ctx context.Context, kek *sealing.Key) error {
	r, err := audit.OpenReader(LogDir(a.c.DataDir), kek)
	if err != nil {
		return fmt.Errorf("open the index: %w", err)
	}
	a.index = &indexing{dataDir: a.c.DataDir, reader: r, logger: a.o.Logger, entries: func() uint64 { return a.log.Stats().Entries }}
	if err := a.index.open(ctx); err != nil {
		return err
	}
	s, err := a.index.index.State(ctx)
	if err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	if s.Origin != r.Origin() || s.Head == nil {
		return nil
	}
	if err := a.log.Extends(s.Head); err != nil {
		_ = a.index.close()
		a.index = nil // the file stays as it is: it is evidence
		return fmt.Errorf("%s has seen another audit log than %s: %w; put the log back, or, if you mean it, run `sallyport audit reindex` and keep what it replaces as evidence",
			store.IndexFile(a.c.DataDir), LogDir(a.c.DataDir), err)
	}
	return nil
}

func (x *indexing) open(ctx context.Context) (err error) {
	if x.index, err = store.OpenIndex(ctx, x.dataDir); err != nil {
		return err
	}
	x.filler = &search.Indexer{Reader: x.reader, Index: x.index}
	return nil
}

func (x *indexing) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shut()
}

// shut closes the index. Called with mu held.
func (x *indexing) shut() error {
	if x.index == nil {
		return nil
	}
	err := x.index.Close()
	x.index = nil
	return err
}

// last keeps the checkpoint that the log was closed with, so that a log that is set back
// while nothing runs is found out, and closes the index.
func (x *indexing) last() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = x.step(ctx) // it says so itself
	return x.close()
}

// whileErasing lets do call drop before it erases what the index may name, and begins a
// new index afterwards.
func (x *indexing) whileErasing(ctx context.Context, do func(drop func() error) error) error {
	x.erasing.Lock()
	defer x.erasing.Unlock()
	err := do(func() error { return x.drop(ctx) })
	return errors.Join(err, x.restore(ctx))
}

// drop throws the index away, and what names it holds. Were it done after names were
// erased from the log, a killed process would leave them here.
func (x *indexing) drop(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.index != nil {
		if s, err := x.index.State(ctx); err == nil { // what cannot be read tells nothing
			x.seen = s
		}
	}
	return errors.Join(x.shut(), store.RemoveIndex(x.dataDir))
}

// restore begins a new index where there is none, which has seen the same checkpoint.
func (x *indexing) restore(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.index != nil {
		return nil
	}
	if err := x.open(ctx); err != nil || x.seen.Head == nil {
		return err
	}
	if s, err := x.index.State(ctx); err != nil || s.Head != nil {
		return err // it could not be removed
	}
	x.seen.Next = 0
	return x.index.Add(ctx, x.seen, nil)
}

// How the index yields to traffic.
const (
	busyRate = 2000    // records a second: then somebody needs the processors more
	patience = 500_000 // records that searches may have to read from the log meanwhile
)

// run fills the index until ctx ends, and yields to everything else: it rests three
// times as long as it works, and thirty times while there is much traffic, as long as it
// is not far behind.
func (x *indexing) run(ctx context.Context) {
	seen, at := x.entries(), time.Now()
	for {
		began := time.Now()
		done, err := x.step(ctx)
		rest := min(3*time.Since(began), 2*time.Second)
		now := x.entries()
		if rate := float64(now-seen) / max(time.Since(at).Seconds(), 0.001); rate > busyRate && x.behind.Load() < patience {
			rest = min(10*rest, 5*time.Second)
		}
		seen, at = now, time.Now()
		if done || err != nil {
			rest = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

func (x *indexing) step(ctx context.Context) (done bool, err error) {
	if !x.erasing.TryLock() {
		return true, nil
	}
	defer x.erasing.Unlock()
	err = x.restore(ctx) // where it failed after erasing
	if err == nil {
		done, err = x.fill(ctx)
	}
	switch failed := err != nil && ctx.Err() == nil; {
	case failed && !x.failed:
		x.logger.Error("the audit log cannot be indexed; searches read the log, and it is tried again", "error", err.Error())
		x.failed = true
	case !failed && x.failed:
		x.logger.Info("the audit log is indexed again")
		x.failed = false
	}
	return done, err
}

// fill takes one step, and begins a new index if this one is damaged.
func (x *indexing) fill(ctx context.Context) (done bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	done, err = x.filler.Step(ctx)
	x.behind.Store(x.filler.Lag())
	if !store.IsUnusable(err) {
		return done, err
	}
	x.logger.Error("the index is damaged and made anew", "error", err.Error())
	if err := errors.Join(x.shut(), store.RemoveIndex(x.dataDir)); err != nil {
		return false, err
	}
	return false, x.open(ctx)
}

// Reindex makes the index of a data_dir anew while no server runs, and tells how far it is.
func Reindex(ctx context.Context, dataDir string, r *audit.Reader, progress func(left uint64)) error {
	lock, err := lockDir(dataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := store.RemoveIndex(dataDir); err != nil {
		return err
	}
	if err := makeAs(dataDir, store.IndexFile(dataDir)); err != nil {
		return fmt.Errorf("make the index: %w", err)
	}
	x, err := store.OpenIndex(ctx, dataDir)
	if err != nil {
		return err
	}
	filler := &search.Indexer{Reader: r, Index: x}
	for done := false; !done && err == nil; {
		if done, err = filler.Step(ctx); err == nil {
			progress(filler.Lag())
		}
	}
	return errors.Join(err, x.Close())
}
