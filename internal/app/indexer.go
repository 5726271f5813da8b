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

	behind atomic.Uint64 // entries

	mu     sync.Mutex // held while a step is under way; guards the rest
	index  *store.Index
	filler *search.Indexer
	failed bool
}

// openIndex opens the index, and refuses a log that ends before, or differs from, what
// the index has seen: its directory was set back while the rest of data_dir was not.
func (a *App) openIndex(ctx context.Context, kek *sealing.Key) error {
	r, err := audit.OpenReader(LogDir(a.c.DataDir), kek)
	if err != nil {
		return fmt.Errorf("open the index: %w", err)
	}
	a.index = &indexing{dataDir: a.c.DataDir, reader: r, logger: a.o.Logger}
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
	if x.index == nil {
		return nil
	}
	err := x.index.Close()
	x.index = nil
	return err
}

// renew throws the index away, and what names it holds, and begins another.
func (x *indexing) renew(ctx context.Context) error {
	err := x.close()
	x.mu.Lock()
	defer x.mu.Unlock()
	if err = errors.Join(err, store.RemoveIndex(x.dataDir)); err != nil {
		return err
	}
	return x.open(ctx)
}

// run fills the index until ctx ends, and yields to everything else: it rests three
// times as long as it works.
func (x *indexing) run(ctx context.Context) {
	for {
		began := time.Now()
		done, err := x.step(ctx)
		rest := min(3*time.Since(began), 2*time.Second)
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
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.index == nil {
		return true, nil
	}
	done, err = x.filler.Step(ctx)
	x.behind.Store(x.filler.Lag())
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
