package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// An Export says what is exported.
type Export struct {
	// First and End bound the entries: from First up to End. Default: all.
	First, End uint64

	// Show says whose payloads are shown; the others are commitments only. Nil shows
	// all that can be opened.
	Show func(*Entry) bool
}

// Write writes the records as JSON lines, so that VerifyExport needs nothing else but
// the log's public key. It returns how many there were and how many payloads it showed.
func (x Export) Write(ctx context.Context, w io.Writer, r *Reader) (entries, shown uint64, err error) {
	end := x.End
	if end == 0 {
		end = ^uint64(0)
	}
	p, err := r.frame(x.First, end)
	if err != nil {
		return 0, 0, err
	}
	out := bufio.NewWriter(w)
	for e, err := range r.Entries(ctx, p.first) {
		if err != nil {
			return entries, shown, err
		}
		if e.Seq >= end {
			break
		}
		if e.State == stateDamaged {
			return entries, shown, &Bad{File: segmentsDir, Seq: e.Seq, What: "payload does not fit its checksum, key or commitment"}
		}
		if e.State == stateOpen && x.Show != nil && !x.Show(e) {
			e.State, e.Payload, e.PayloadText = stateWithheld, nil, nil
		}
		l := r.Line(e)
		p.add(&l)
		if err := json.MarshalWrite(out, l, json.Deterministic(true)); err != nil {
			return entries, shown, err
		}
		if err := out.WriteByte('\n'); err != nil {
			return entries, shown, err
		}
		entries++
		if e.State == stateOpen {
			shown++
		}
	}
	return entries, shown, out.Flush()
}

// frame is what proves an export: it goes on its first line, and on the last that the
// checkpoint covers.
type exportFrame struct {
	first, last   uint64
	before, after []string
	checkpoint    string
}

// frame makes the frame of an export from entry first up to end.
func (r *Reader) frame(first, end uint64) (*exportFrame, error) {
	head, err := r.Head()
	if err != nil {
		return nil, err
	}
	if first, err = r.from(first); err != nil {
		return nil, err
	}
	p := &exportFrame{first: first, last: min(end, head.Size), checkpoint: string(head.Note)}
	if first >= p.last {
		p.last = 0 // nothing that is exported is covered
		return p, nil
	}
	before, err := r.Subtrees(head, 0, first)
	if err != nil {
		return nil, err
	}
	after, err := r.Subtrees(head, p.last, head.Size)
	p.before, p.after = hashTexts(before), hashTexts(after)
	return p, err
}

func (p *exportFrame) add(l *Line) {
	if p.last == 0 {
		return
	}
	if l.Seq == p.first {
		l.Before = p.before
	}
	if l.Seq+1 == p.last {
		l.Checkpoint, l.After = p.checkpoint, p.after
	}
}

// maxLine bounds a line of an export, in bytes: a leaf and a payload, escaped.
const maxLine = 1 << 20

// VerifyExport checks an export against the log's public key: that its records are
// those under the signed checkpoint in it, that none between its first and its last is
// left out, that each payload that is shown fits its commitment, and that it holds to
// each kept checkpoint that it reaches. The first thing that is wrong is a *Bad error,
// beside a Report of what came before it.
func VerifyExport(in io.Reader, verifierKey string, kept ...Kept) (*Report, error) {
	rep := &Report{Key: verifierKey}
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return rep, fmt.Errorf("key %q: %w", verifierKey, err)
	}
	rep.Origin = v.Name()
	x := &exported{walk: walk{Report: rep, tree: new(tree)}, verifier: v}
	if x.kept, err = openKept(v, kept); err != nil {
		return rep, err
	}
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = x.line(line)
		}
		if err != nil {
			return rep, &Bad{File: fmt.Sprintf("line %d", n), Seq: x.next, What: err.Error()}
		}
	}
	if err := x.end(); err != nil {
		return rep, err
	}
	if x.First > 0 {
		x.not("what the %d entries before %d said: they are not in this export, and their hashes fit", x.First, x.First)
	}
	if !x.whole {
		x.not("what the %d entries from %d on said: they are not in this export, and their hashes fit", x.head.size-x.next, x.next)
	}
	x.unchecked(true)
	return rep, nil
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return nil, fmt.Errorf("is longer than %d bytes", maxLine)
		}
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(line) > 0:
			return nil, errors.New("ends without a line break: the export was cut")
		default:
			return nil, err
		}
	}
}

// exported is one verification of an export under way.
type exported struct {
	walk
	verifier note.Verifier
	left     compact
	next     uint64 // entry
	signed   bool   // the checkpoint has come
	whole    bool   // and covers nothing behind this export
	early    []string
}

func (x *exported) line(text []byte) error {
	if bytes.TrimSpace(text) == nil {
		return errors.New("is empty")
	}
	l, e, err := parseLine(text, x.Origin)
	if err != nil {
		return err
	}
	switch {
	case x.Entries == 0:
		if err := x.begin(l); err != nil {
			return err
		}
	case e.Seq != x.next:
		return fmt.Errorf("is entry %d, where %d should be", e.Seq, x.next)
	case l.Before != nil:
		return errors.New("is not the first and tells what is before it")
	case x.signed && !x.whole:
		return errors.New("is behind the checkpoint, which covers it: nothing shows that it is the one that was signed")
	}
	x.left.push(node{subtree{0, e.Seq}, tlog.RecordHash(e.Leaf)})
	x.next = e.Seq + 1
	signed := x.next
	if x.signed {
		signed = 0 // behind the checkpoint
	}
	if e.State == stateErased {
		x.erased.add(e.Seq)
	}
	if err := x.count(e, signed); err != nil {
		return err
	}
	if err := x.reached(); err != nil {
		return err
	}
	if l.Checkpoint != "" {
		return x.checkpoint(l)
	}
	if l.After != nil {
		return errors.New("has hashes of what comes after and no checkpoint")
	}
	return nil
}

func (x *exported) begin(l *Line) error {
	x.First = l.Seq
	for len(x.kept) > 0 && (x.kept[0].size < l.Seq || x.kept[0].size == 0) {
		x.early = append(x.early, x.kept[0].name)
		x.kept = x.kept[1:]
	}
	if l.Seq == 0 || l.Before != nil {
		if err := x.left.pushAll(0, l.Seq, l.Before); err != nil {
			return err
		}
		x.next = l.Seq
		return x.reached()
	}
	return nil // then there can be no checkpoint, which is said at the end
}

// reached compares the tree with the kept checkpoints over just as many entries.
func (x *exported) reached() error {
	for len(x.kept) > 0 && x.kept[0].size <= x.next {
		k := x.kept[0]
		if root, err := x.left.root(); err != nil || k.size < x.next || root != k.root {
			return fmt.Errorf("the first %d entries are not those that checkpoint %s signed: the log was rewritten after it", k.size, k.name)
		}
		x.kept, x.Kept = x.kept[1:], append(x.Kept, fmt.Sprintf("%s: %d entries", k.name, k.size))
	}
	return nil
}

func (x *exported) checkpoint(l *Line) error {
	if x.signed {
		return errors.New("has a second checkpoint")
	}
	h, err := openHead([]byte(l.Checkpoint), x.verifier)
	if err != nil {
		return fmt.Errorf("the checkpoint %w", err)
	}
	if h.size < x.next {
		return fmt.Errorf("the checkpoint covers %d entries, and is behind %d", h.size, x.next)
	}
	all := slices.Clone(x.left)
	if err := all.pushAll(x.next, h.size, l.After); err != nil {
		return err
	}
	if root, err := all.root(); err != nil || root != h.root {
		return fmt.Errorf("the %d entries up to here do not have the signed root: one was changed, left out or added", x.Entries)
	}
	x.signed, x.whole, x.head = true, h.size == x.next, h
	return nil
}

// end checks what can only be known when all was read.
func (x *exported) end() error {
	if !x.signed {
		return &Bad{File: "export", Seq: x.next, What: "has no checkpoint: it was cut, or nothing in it is signed yet"}
	}
	if x.Unsigned > 0 {
		x.NotChecked = append(x.NotChecked, fmt.Sprintf("whether the last %d lines are records of this log: no checkpoint covers them, so whoever had the file can have written them", x.Unsigned))
	}
	if len(x.kept) > 0 && x.whole {
		k := x.kept[0]
		return &Bad{File: k.name, Seq: x.next, What: fmt.Sprintf("the log ends after %d entries, this checkpoint covers %d: it was rolled back or cut", x.next, k.size)}
	}
	for _, k := range x.kept {
		x.early = append(x.early, k.name)
	}
	for _, name := range x.early {
		x.NotChecked = append(x.NotChecked, fmt.Sprintf("checkpoint %s: it is not between the first and the last entry of this export", name))
	}
	if x.Withheld > 0 || !x.whole || x.Sealed > 0 {
		if x.Erased > 0 {
			x.NotChecked = append(x.NotChecked, "whether a record accounts for each payload that is erased: not all records are shown")
		}
		return nil
	}
	if seq, ok := x.unaccounted(); ok {
		return &Bad{File: "export", Seq: seq, What: fmt.Sprintf("the payload of entry %d is erased, and no signed record says that somebody erased it (if that was while the export was made, make it again)", seq)}
	}
	return nil
}
