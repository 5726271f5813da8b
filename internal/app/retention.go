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
		if _, err := a.prune(time.Duration(a.c.Audit.Retain), int64(a.c.Audit.MaxSize), itself); err != nil {
			a.o.Logger.Error("the audit log cannot be pruned; it is tried again", "error", err.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// itself is why the server prunes: what it says is not changed.
func itself(reason string) string { return reason }

// prune deletes what retain and size say, and records it first, as detail words the reason.
func (a *App) prune(retain time.Duration, size int64, detail func(reason string) string) (first uint64, err error) {
	end, reason, err := a.log.Prunable(retain, size)
	if err != nil {
		return 0, err
	}
	first, err = a.log.Prune(end, func(entries []string) error {
		return a.guard.Note(context.Background(), guard.Event{Action: audit.ActionPrune, Detail: detail(reason), Entries: entries})
	})
	if reason != "" && err == nil {
		a.o.Logger.Info("audit log pruned", "first", first, "reason", detail(reason))
	}
	return first, err
}

// curator is what the admin door may do to the log.
type curator struct{ app *App }

// Erase implements admin.Log.
func (c curator) Erase(ctx context.Context, by, subject, reason string) (int, error) {
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
			return c.app.guard.Note(ctx, guard.Event{Action: audit.ActionErase, Detail: audit.AskedFor(by, reason), Entries: entries})
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	return n, nil
}

// Prune implements admin.Log.
func (c curator) Prune(_ context.Context, by string, before time.Time) (uint64, error) {
	asked := func(reason string) string { return audit.AskedFor(by, reason) }
	if before.IsZero() {
		return c.app.prune(time.Duration(c.app.c.Audit.Retain), int64(c.app.c.Audit.MaxSize), asked)
	}
	return c.app.prune(c.app.o.Now().Sub(before), 0, func(string) string { return asked("before " + before.UTC().Format(time.RFC3339)) })
}
