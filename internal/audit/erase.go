package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ranges are entries in order, without doubles, as "7" and "9-12".
type ranges []span

type span struct{ first, last uint64 }

func (r *ranges) add(seq uint64) {
	if n := len(*r); n > 0 && (*r)[n-1].last+1 == seq {
		(*r)[n-1].last = seq
		return
	}
	*r = append(*r, span{seq, seq})
}

// has reports whether seq is in r, which is in order.
func (r ranges) has(seq uint64) bool {
	i, found := slices.BinarySearchFunc(r, seq, func(s span, seq uint64) int { return cmp.Compare(s.first, seq) })
	return found || i > 0 && seq <= r[i-1].last
}

// sorted returns r in order, with ranges joined that overlap.
func (r ranges) sorted() ranges {
	slices.SortFunc(r, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var out ranges
	for _, s := range r {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
		} else {
			out = append(out, s)
		}
	}
	return out
}

func (r ranges) texts() []string {
	var out []string
	for _, s := range r {
		text := strconv.FormatUint(s.first, 10)
		if s.last > s.first {
			text += "-" + strconv.FormatUint(s.last, 10)
		}
		out = append(out, text)
	}
	return out
}

func parseRanges(texts []string) (ranges, error) {
	var out ranges
	for _, t := range texts {
		a, b, two := strings.Cut(t, "-")
		if !two {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 63)
		last, err2 := strconv.ParseUint(b, 10, 63)
		if err1 != nil || err2 != nil || last < first {
			return nil, fmt.Errorf("%q is not an entry, nor a range of them", t)
		}
		out = append(out, span{first, last})
	}
	return out, nil
}

// perRecord is how many ranges one record names: more would not fit its payload.
const perRecord = 1000

// Actions of the notes that say what is not in the log any more; the note's Entries
// say which. Verify counts on them.
const (
	ActionErase = "audit.erase"
	ActionPrune = "audit.prune"
)

const askedFor = "asked for in "

// AskedFor is the detail of such a note: the decision id of the operator who asked, and
// why. It names nobody, so that the note need not be erased for anyone.
func AskedFor(id, reason string) string {
	return strings.TrimSuffix(askedFor+id+"; "+reason, "; ")
}

// AskedIn returns the decision id that a note's detail names, "" if the server acted by
// itself.
func AskedIn(detail string) string {
	text, ok := strings.CutPrefix(detail, askedFor)
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(text, ";")
	return id
}

// Erase overwrites the payloads of the records that match says yes to, of all that are
// in the log when it begins, and returns how many. Leaves, hashes and proofs stay. Notes
// of erasing and pruning are never asked about.
//
// First record is told which entries, in pieces; it has to append a Note with
// ActionErase that names them, or nothing is erased. A crash after that does not undo
// it: the next Open goes on.
func (l *Log) Erase(ctx context.Context, match func(*Entry) bool, record func(entries []string) error) (int, error) {
	l.maintaining.Lock()
	defer l.maintaining.Unlock()
	if err := l.Checkpoint(); err != nil { // nothing that is not covered may be erased
		return 0, err
	}
	l.mu.Lock()
	end := l.covered
	l.mu.Unlock()
	found, n, err := l.matching(ctx, end, match)
	if err != nil || n == 0 {
		return 0, err
	}
	texts := found.texts()
	for part := range chunks(texts, perRecord) {
		if err := record(part); err != nil {
			return 0, err
		}
	}
	// zeros count as erased only if a record says so that is signed
	if err := l.Checkpoint(); err != nil {
		return 0, err
	}
	plan := filepath.Join(l.opt.Dir, erasingFile)
	if err := replaceFile(l.opt.fs, plan, []byte(strings.Join(texts, "\n")+"\n")); err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	return n, finishErasing(l.opt.fs, l.opt.Dir)
}

func chunks[T any](all []T, n int) func(yield func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			part := all[:min(n, len(all))]
			if all = all[len(part):]; !yield(part) {
				return
			}
		}
	}
}

// matching returns the entries below end whose payload is here and matches.
func (l *Log) matching(ctx context.Context, end uint64, match func(*Entry) bool) (found ranges, n int, err error) {
	r := &Reader{dir: l.opt.Dir, origin: l.opt.Origin, keys: newKeyring(l.opt.Dir, l.opt.Origin, l.opt.Sealer, nil)}
	for e, err := range r.Entries(ctx, 0) {
		if err != nil {
			return nil, 0, fmt.Errorf("look for what to erase: %w", err)
		}
		if e.Seq >= end {
			break
		}
		p := e.Payload
		if p != nil && p.Action != ActionErase && p.Action != ActionPrune && match(e) {
			found.add(e.Seq)
			n++
		}
	}
	return found, n, nil
}

// finishErasing erases what the plan in dir says, if there is one.
func finishErasing(fs filesystem, dir string) error {
	plan := filepath.Join(dir, erasingFile)
	text, err := os.ReadFile(plan)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	todo, err := parseRanges(strings.Fields(string(text)))
	if err != nil {
		return &Bad{File: erasingFile, What: err.Error()}
	}
	firsts, err := segments(dir)
	if err != nil {
		return err
	}
	for i, first := range firsts {
		var in ranges
		for _, s := range todo {
			if s.last >= first && (i+1 == len(firsts) || s.first < firsts[i+1]) {
				in = append(in, s)
			}
		}
		if len(in) > 0 {
			if err := eraseIn(fs, dir, first, in); err != nil {
				return fmt.Errorf("erase in %s: %w", segmentName(first), err)
			}
		}
	}
	if err := fs.Remove(plan); err != nil {
		return err
	}
	return fs.SyncDir(dir)
}

// eraseIn overwrites payloads of one segment with zeros, their checksum included, and
// returns once that survives a power cut.
func eraseIn(fs filesystem, dir string, first uint64, which ranges) error {
	in, err := os.Open(segmentPath(dir, first))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := fs.OpenFile(segmentPath(dir, first), os.O_RDWR)
	if err != nil {
		return err
	}
	s := newScanner(in)
	for seq := first; err == nil && seq <= which[len(which)-1].last; seq++ {
		var f frame
		var n int
		if f, n, err = s.peek(); err != nil {
			break // only entries that a checkpoint covers are ever in a plan
		}
		if which.has(seq) {
			_, err = out.WriteAt(make([]byte, frameSum+len(f.sealed)), s.off+int64(n-frameSum-len(f.sealed)))
		}
		s.skip(n)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
