package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// retainEvery is how often it is looked for records that are to go.
const retainEvery = time.Minute

// retain prunes the log as audit.retain and audit.max_size say, until ctx ends.
func (a *App) retain(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if _, err := a.prune(time.Duration(a.c.Audit.Retain), int64(a.c.Audit.MaxSize)); err != nil {
			a.o.Logger.Error("the audit log cannot be pruned; it is tried again", "error", err.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// prune deletes what retain and size say, and records it first.
func (a *App) prune(retain time.Duration, size int64) (first uint64, err error) {
	end, reason, err := a.log.Prunable(retain, size)
	if err != nil {
		return 0, err
	}
	first, err = a.log.Prune(end, func(entries []string) error {
		return a.guard.Note(context.Background(), guard.Event{Action: audit.ActionPrune, Detail: reason, Entries: entries})
	})
	if reason != "" && err == nil {
		a.o.Logger.Info("audit log pruned", "first", first, "reason", reason)
	}
	return first, err
}

// curator is what the admin door may do to the log.
type curator struct{ app *App }

// Erase implements admin.Log.
func (c curator) Erase(ctx context.Context, subject, reason string) (int, error) {
	// what was begun is ended, though the operator hangs up
	ctx = context.WithoutCancel(ctx)
	n := 0
	err := c.app.index.whileErasing(ctx, func(drop func() error) (err error) {
		n, err = c.app.log.Erase(ctx, func(e *audit.Entry) bool {
			return e.Payload.Principal == subject || slices.Contains(e.Payload.Actors, subject)
		}, func(entries []string) error {
			if err := drop(); err != nil {
				return err
			}
			return c.app.guard.Note(ctx, guard.Event{Action: audit.ActionErase, Detail: reason, Entries: entries})
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	return n, nil
}

// Prune implements admin.Log.
func (c curator) Prune(_ context.Context, before time.Time) (uint64, error) {
	if before.IsZero() {
		return c.app.prune(time.Duration(c.app.c.Audit.Retain), int64(c.app.c.Audit.MaxSize))
	}
	return c.app.prune(c.app.o.Now().Sub(before), 0)
}
