package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// KEKFile is where the key-encryption key of a data_dir lies unless the file says
// otherwise.
func KEKFile(dataDir string) string { return filepath.Join(dataDir, "kek") }

// OpenKEK returns the key-encryption key of a completed Config, and those that may
// have sealed what is there before. Where the file names none, one is made for a
// data_dir that is new: one that holds something was sealed by a key that is missing,
// and a new one would only hide that.
func OpenKEK(c *config.Config) (kek *sealing.Key, previous []*sealing.Key, err error) {
	e := c.Issuer.KeyEncryption
	for _, p := range e.Previous {
		old, err := p.Read()
		if err != nil {
			return nil, nil, err
		}
		previous = append(previous, old)
	}
	if e.File != "" || e.Env != "" {
		kek, err = e.Secret.Read()
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (make one with: openssl rand -base64 32)", err)
		}
		return kek, previous, err
	}
	if kek, err = ReadKEK(c); errors.Is(err, fs.ErrNotExist) {
		kek, err = sealing.ReadOrMake(KEKFile(c.DataDir))
	}
	return kek, previous, err
}

// ReadKEK returns the key-encryption key that a completed Config names, and makes
// none. fs.ErrNotExist is of one that may be made.
func ReadKEK(c *config.Config) (*sealing.Key, error) {
	if e := c.Issuer.KeyEncryption; e.File != "" || e.Env != "" {
		return e.Secret.Read()
	}
	kek, err := sealing.Read(KEKFile(c.DataDir))
	if !errors.Is(err, fs.ErrNotExist) {
		return kek, err
	}
	for _, used := range []string{LogDir(c.DataDir), store.File(c.DataDir)} {
		if _, serr := os.Stat(used); serr == nil && len(c.Issuer.KeyEncryption.Previous) == 0 {
			return nil, fmt.Errorf("the key-encryption key %s is missing, and %s was sealed with it: put it back", KEKFile(c.DataDir), used)
		}
	}
	return nil, err
}

// turnEvery is how often the schedule of keys is looked at.
const turnEvery = 30 * time.Second

// turnKeys does what the schedule asks for until ctx ends. What fails is tried again:
// keys that were not rotated go on signing.
func (a *App) turnKeys(ctx context.Context) {
	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	for {
		if err := a.keys.Turn(ctx, a.recordKeys); err != nil && ctx.Err() == nil {
			a.o.Logger.Error("the keys cannot be rotated; the current ones stay in use", "error", err.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *App) recordKeys(e keys.Event) error {
	a.o.Logger.Info("keys", "action", e.Action, "detail", e.Detail)
	return a.guard.Note(context.Background(), guard.Event{Action: e.Action, Detail: e.Detail})
}

// operator is what the admin door may do to the keys.
type operator struct{ app *App }

// List implements admin.Keys.
func (o operator) List() []admin.Key {
	out := []admin.Key{}
	for _, k := range o.app.keys.List() {
		out = append(out, admin.Key{ID: k.ID, Purpose: string(k.Purpose), Algorithm: k.Algorithm, State: string(k.State),
			Created: k.Created, Activates: k.Activates, Until: k.Until})
	}
	return out
}

// Rotate implements admin.Keys.
func (o operator) Rotate(ctx context.Context, names []string) error {
	var purposes []keys.Purpose
	for _, n := range names {
		p, err := keys.ParsePurpose(n)
		if err != nil {
			return fmt.Errorf("%w: %w", admin.ErrPurpose, err)
		}
		purposes = append(purposes, p)
	}
	if len(names) == 0 {
		purposes = keys.Rotating()
	}
	return kept(o.app.keys.Rotate(ctx, purposes, o.app.recordKeys))
}

// Revoke implements admin.Keys.
func (o operator) Revoke(ctx context.Context, kid string) error {
	if err := kept(o.app.keys.Revoke(ctx, kid, o.app.recordKeys)); err != nil {
		return err
	}
	// sessions whose token has expired are asked for its key no more
	_, _, err := o.app.guard.Revoke(guard.Revocation{Kind: guard.RevokeKey, Value: kid, Reason: "keys revoke"})
	return err
}

func kept(err error) error {
	if errors.Is(err, keys.ErrKept) {
		return fmt.Errorf("%w: %w", admin.ErrKept, err)
	}
	return err
}
