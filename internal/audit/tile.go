package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileWidth    = 1 << tileHeight // hashes of a full tile, entries of a full bundle
	entriesLevel = -1              // of a tile that is an entry bundle
)

// tile is one file of c2sp.org/tlog-tiles: hashes of one level of the tree, or an
// entry bundle.
type tile struct {
	level int
	n     uint64
	width int    // tileWidth if it is full
	data  []byte // what the file holds
}

// name returns the path of the tile in the log directory.
func (t tile) name() string {
	level := entriesName
	if t.level != entriesLevel {
		level = strconv.Itoa(t.level)
	}
	index := fmt.Sprintf("%03d", t.n%1000)
	for n := t.n / 1000; n > 0; n /= 1000 {
		index = fmt.Sprintf("x%03d/%s", n%1000, index)
	}
	name := filepath.Join(tilesDir, level, filepath.FromSlash(index))
	if t.width < tileWidth {
		name = filepath.Join(name+partialSuffix, strconv.Itoa(t.width))
	}
	return name
}

// fullName returns the path that the tile has once it is full.
func (t tile) fullName() string {
	t.width = tileWidth
	return t.name()
}

// write makes the tile's file, in one step for whoever reads beside. It is derived
// from the segments, so that it need not survive a power cut.
func (t tile) write(fsys filesystem, dir string) error {
	name := filepath.Join(dir, t.name())
	f, err := fsys.OpenFile(name+tempSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if errors.Is(err, fs.ErrNotExist) {
		if err = fsys.MkdirAll(filepath.Dir(name)); err == nil {
			f, err = fsys.OpenFile(name+tempSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
		}
	}
	if err == nil {
		_, err = f.WriteAt(t.data, 0)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = fsys.Rename(name+tempSuffix, name)
	}
	if err != nil {
		return fmt.Errorf("write tile: %w", err)
	}
	return nil
}

// errTile says that a tile cannot be read, or is none.
var errTile = errors.New("the hashes are not all here")

// readTile reads the hashes of t, whose file may hold more of them than t has.
func readTile(dir string, t tile) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, t.fullName()))
	if errors.Is(err, fs.ErrNotExist) && t.width < tileWidth {
		data, err = os.ReadFile(filepath.Join(dir, t.name()))
	}
	if errors.Is(err, fs.ErrNotExist) && t.width < tileWidth {
		data, err = readWider(dir, t)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTile, err)
	}
	if want := t.width * tlog.HashSize; len(data) < want || len(data) > tileBytes || len(data)%tlog.HashSize != 0 {
		return nil, fmt.Errorf("%w: %s has %d bytes, want %d", errTile, t.name(), len(data), want)
	}
	return data[:t.width*tlog.HashSize], nil
}

// readWider reads a partial tile of a later checkpoint, whose beginning t is.
func readWider(dir string, t tile) ([]byte, error) {
	names, err := os.ReadDir(filepath.Join(dir, t.fullName()+partialSuffix))
	for _, n := range names {
		if width, werr := strconv.Atoi(n.Name()); werr == nil && width > t.width {
			if data, err := os.ReadFile(filepath.Join(dir, t.fullName()+partialSuffix, n.Name())); err == nil {
				return data, nil
			}
		}
	}
	return nil, errors.Join(err, fs.ErrNotExist)
}

// hashes reads nodes of the tree with size leaves out of tiles: it is a
// tlog.HashReader. Nothing proves them right but a root to compare with.
type hashes struct {
	size uint64
	read func(tile) ([]byte, error)
	have map[string][]byte // what was read, by name
}

func newHashes(size uint64, read func(tile) ([]byte, error)) *hashes {
	return &hashes{size, read, map[string][]byte{}}
}

// ReadHashes implements tlog.HashReader.
func (h *hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		node, err := h.node(level, uint64(n))
		if err != nil {
			return nil, err
		}
		out[i] = node
	}
	return out, nil
}

// node returns the root of the n-th complete subtree of 2^level leaves.
func (h *hashes) node(level int, n uint64) (tlog.Hash, error) {
	t := tile{level: level / tileHeight}
	within := level % tileHeight
	first := n << within // of the tile level's hashes
	t.n = first / tileWidth
	t.width = int(min(tileWidth, h.size>>(tileHeight*t.level)-t.n*tileWidth))
	name := t.name()
	data, ok := h.have[name]
	if !ok {
		var err error
		if data, err = h.read(t); err != nil {
			return tlog.Hash{}, err
		}
		h.have[name] = data
	}
	from := first % tileWidth * tlog.HashSize
	to := from + tlog.HashSize<<within
	if to > uint64(len(data)) {
		return tlog.Hash{}, fmt.Errorf("the tree of %d leaves has no node %d at level %d", h.size, n, level)
	}
	return tileRoot(data[from:to]), nil
}

// end returns the first entry that is not below the tile.
func (t tile) end() uint64 { return (t.n + 1) << (tileHeight * (max(0, t.level) + 1)) }
