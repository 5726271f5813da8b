package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Backup copies the log in dir to a new directory, beside a running writer. What the
// copy's checkpoint covers is all there: the checkpoint is read first and written last.
// It fails if records are pruned or erased meanwhile; then it is to be made again.
func Backup(ctx context.Context, dir, to string) error {
	if err := os.Mkdir(to, dirMode); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	note, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back up: %w", err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		name, rerr := filepath.Rel(dir, path)
		switch {
		case err != nil || rerr != nil:
			return errors.Join(err, rerr)
		case name == "." || name == checkpointFile || strings.HasSuffix(name, tempSuffix):
			return nil
		case d.IsDir() && strings.HasSuffix(name, partialSuffix):
			return fs.SkipDir // they come and go, and whoever opens the copy makes them anew
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), dirMode)
		}
		return copyFile(path, filepath.Join(to, name))
	})
	if err == nil && len(note) > 0 {
		err = replaceFile(disk{}, filepath.Join(to, checkpointFile), note)
	}
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
