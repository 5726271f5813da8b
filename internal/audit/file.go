package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// filesystem is every way in which a Log changes its directory, so that a test can
// break each. Reading goes past it.
type filesystem interface {
	// OpenFile opens name with these flags, for the owner only.
	OpenFile(name string, flag int) (file, error)
	// Rename replaces newname by oldname in one step.
	Rename(oldname, newname string) error
	// SyncDir returns once the directory's names survive a power cut.
	SyncDir(name string) error
	// MkdirAll makes a directory and those above it, for the owner only.
	MkdirAll(name string) error
	// Remove removes a file, or a directory with the files in it.
	Remove(name string) error
}

// file is what a Log writes to.
type file interface {
	io.WriterAt
	Truncate(size int64) error
	// Sync returns once the content survives a power cut.
	Sync() error
	Close() error
}

// disk is the filesystem that is no test.
type disk struct{}

func (disk) OpenFile(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, fileMode)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

func (disk) MkdirAll(name string) error { return os.MkdirAll(name, dirMode) }

func (disk) Remove(name string) error { return os.RemoveAll(name) }

func (disk) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return datasync(f.File) }

// ReplaceFile makes data the content of a file that lies beside the log, in one step and
// for good, for the owner only.
func ReplaceFile(name string, data []byte) error { return replaceFile(disk{}, name, data) }

// replaceFile makes data the content of name, in one step and for good.
func replaceFile(fs filesystem, name string, data []byte) error {
	if err := writeNew(fs, name+tempSuffix, data); err != nil {
		return err
	}
	if err := fs.Rename(name+tempSuffix, name); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(name))
}

func writeNew(fs filesystem, name string, data []byte) error {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func segmentName(first uint64) string {
	return fmt.Sprintf("%0*d%s", segmentDigits, first, segmentSuffix)
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, segmentsDir, segmentName(first))
}

// segments returns the first sequence numbers of dir's segments, in order. A file
// that is no segment is an error: it may be one under a wrong name.
func segments(dir string) ([]uint64, error) {
	names, err := os.ReadDir(filepath.Join(dir, segmentsDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var firsts []uint64
	for _, n := range names {
		digits, ok := strings.CutSuffix(n.Name(), segmentSuffix)
		first, err := strconv.ParseUint(digits, 10, 63)
		if !ok || err != nil || segmentName(first) != n.Name() {
			return nil, &Bad{File: segmentsDir, What: fmt.Sprintf("%q is not the name of a segment", n.Name())}
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	return firsts, nil
}
