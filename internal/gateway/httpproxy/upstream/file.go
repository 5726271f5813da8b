package upstream

import (
	"fmt"
	"io"
	"os"
	"time"
)

const (
	maxFile = 1 << 20     // of certificates and credentials, in bytes
	settled = time.Second // after which a file's time tells one content from another
)

// file is a file that is read again when it changes. One goroutine at a time uses it.
type file struct {
	path string
	info os.FileInfo // of what was read; nil: read again
	text []byte
}

// read returns the content, and whether that was read anew.
func (f *file) read() (text []byte, changed bool, err error) {
	info, err := os.Stat(f.path)
	if err != nil {
		f.info = nil
		return nil, false, err
	}
	if f.info != nil && os.SameFile(info, f.info) && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) {
		return f.text, false, nil
	}
	r, err := os.Open(f.path)
	if err != nil {
		return nil, false, err
	}
	defer r.Close()
	text, err = io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", f.path, maxFile)
	}
	if err != nil {
		return nil, false, err
	}
	f.text, f.info = text, info
	if time.Since(info.ModTime()) < settled {
		f.info = nil // it may change again within the same tick of the file system's clock
	}
	return text, true, nil
}
