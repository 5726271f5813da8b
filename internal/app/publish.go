package app

import (
	"context"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
	"github.com/sallyport-dev/sallyport/internal/audit/witness"
)

// openOutside makes what takes checkpoints and records outside.
func (a *App) openOutside(ctx context.Context, opener audit.Sealer) (err error) {
	if a.outside, err = witness.New(a.c.Audit.Outside, a.log, LogDir(a.c.DataDir), a.o.Logger); err != nil {
		return err
	}
	if a.c.Telemetry.OTLP == nil {
		return nil
	}
	r, err := audit.OpenReader(LogDir(a.c.DataDir), opener)
	if err != nil {
		return err
	}
	a.follower, err = sink.NewFollower(ctx, *a.c.Telemetry.OTLP, r, filepath.Join(a.c.DataDir, "otlp.cursor"), a.o.Version, a.o.Logger)
	return err
}

// publish takes checkpoints outside until ctx ends.
func (a *App) publish(ctx context.Context) {
	if !a.outside.Any() {
		if a.o.Dev {
			return // nobody is to rely on it
		}
		a.o.Logger.Warn("nobody outside keeps the audit log's checkpoints: whoever holds this machine can rewrite it unseen; name a place in audit.publish, or a witness in audit.witnesses")
		return
	}
	a.outside.Run(ctx)
}

// follow sends records to a collector until ctx ends.
func (a *App) follow(ctx context.Context) {
	if a.follower != nil {
		a.follower.Run(ctx)
	}
}
