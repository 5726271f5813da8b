package search

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// ErrIndex means that the index cannot be read. Nothing was found yet, and without the
// index all of it can be.
var ErrIndex = errors.New("read the index")

// A Log is what is searched.
type Log struct {
	Reader *audit.Reader
	Index  Index // nil: there is none, and everything is read
}

// Page says which of the records that are found are wanted.
type Page struct {
	After  *uint64 // those after this entry, in the order that they come in; nil: all
	Newest bool    // the newest comes first
}

// Search yields the records that are like q, oldest first unless the page says
// otherwise.
func (l *Log) Search(ctx context.Context, q *Query, p Page) iter.Seq2[*audit.Entry, error] {
	return func(yield func(*audit.Entry, error) bool) {
		bundles, err := l.bundles(ctx, q, false)
		if err != nil {
			yield(nil, err)
			return
		}
		if p.Newest {
			slices.Reverse(bundles)
		}
		for run := range runs(bundles, p.Newest) {
			if p.After != nil && (!p.Newest && run.end*Bundle <= *p.After || p.Newest && run.first*Bundle > *p.After) {
				continue
			}
			for e, err := range l.run(ctx, run, p.Newest) {
				if err == nil && (!q.Matches(e) || p.After != nil && (!p.Newest && e.Seq <= *p.After || p.Newest && e.Seq >= *p.After)) {
					continue
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// found is a bundle to read, and which of its records.
type found struct {
	number uint64
	at     *Places // nil: all
}

// span is bundles from first up to end, in any order.
type span struct {
	first, end uint64
	of         []found
}

// wants reports whether an entry of the span has to be read.
func (s *span) wants(seq uint64) bool {
	n := seq/Bundle - s.first
	return n >= uint64(len(s.of)) || s.of[n].at == nil || s.of[n].at.Has(seq%Bundle)
}

// runs joins bundles that follow each other, so that a segment is read once; those that
// are read backwards stay single.
func runs(bundles []found, single bool) iter.Seq[span] {
	return func(yield func(span) bool) {
		for i := 0; i < len(bundles); {
			j := i + 1
			for !single && j < len(bundles) && bundles[j].number == bundles[j-1].number+1 {
				j++
			}
			if !yield(span{bundles[i].number, bundles[j-1].number + 1, bundles[i:j]}) {
				return
			}
			i = j
		}
	}
}

// run yields the records of some bundles.
func (l *Log) run(ctx context.Context, s span, backwards bool) iter.Seq2[*audit.Entry, error] {
	forwards := func(yield func(*audit.Entry, error) bool) {
		for e, err := range l.Reader.Pick(ctx, s.first*Bundle, func(seq uint64) bool { return seq >= s.end*Bundle || s.wants(seq) }) {
			if err == nil && e.Seq >= s.end*Bundle {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
	if !backwards {
		return forwards
	}
	return func(yield func(*audit.Entry, error) bool) {
		var all []*audit.Entry
		for e, err := range forwards {
			if err != nil {
				yield(nil, err)
				return
			}
			all = append(all, e)
		}
		for _, e := range slices.Backward(all) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// bundles returns those that may hold records like q, in order: what the index says,
// without those that lie within q's time if skip, and all that it does not cover.
func (l *Log) bundles(ctx context.Context, q *Query, skip bool) ([]found, error) {
	var out []found
	next, first, size, err := l.covered(ctx)
	if err != nil {
		return nil, err
	}
	if next > 0 {
		marks := q.marks()
		for f, err := range l.Index.Bundles(ctx, q, len(marks) > 0) {
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrIndex, err)
			}
			if f.Number >= first && f.Number < next && f.may(marks) && !(skip && f.Within(q)) {
				out = append(out, found{f.Number, f.At})
			}
		}
	}
	for n := max(next, first); n*Bundle < size; n++ {
		out = append(out, found{n, nil})
	}
	return out, nil
}

// may reports whether the marks have one of each list.
func (f *Found) may(marks [][]string) bool {
	for _, any := range marks {
		if !slices.ContainsFunc(any, func(m string) bool { return marked(f.Marks, m) }) {
			return false
		}
	}
	return true
}

// covered returns up to which bundle the index goes, with which the log begins, and how
// many entries it has.
func (l *Log) covered(ctx context.Context) (next, first, size uint64, err error) {
	if size, err = l.Reader.Size(); err != nil {
		return 0, 0, 0, err
	}
	if first, err = l.Reader.First(); err != nil {
		return 0, 0, 0, err
	}
	if l.Index != nil {
		s, err := l.Index.State(ctx)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("%w: %w", ErrIndex, err)
		}
		if s.Origin == l.Reader.Origin() && s.Size <= size {
			next = s.Next
		}
	}
	return next, first / Bundle, size, nil
}

// Behind returns how many records have to be read for want of an index.
func (l *Log) Behind(ctx context.Context) (uint64, error) {
	next, first, size, err := l.covered(ctx)
	return size - min(size, max(next, first)*Bundle), err
}

// A Count is how many records have one value.
type Count struct {
	Value string `json:"value"`
	Count uint64 `json:"count"`
}

// fields are what records can be counted by.
func fields() map[string]func(*audit.Entry) string {
	payload := func(get func(*audit.Payload) string) func(*audit.Entry) string {
		return func(e *audit.Entry) string {
			if e.Payload == nil {
				return "(" + e.State + ")"
			}
			return get(e.Payload)
		}
	}
	return map[string]func(*audit.Entry) string{
		"service":   func(e *audit.Entry) string { return e.Service },
		"decision":  func(e *audit.Entry) string { return string(e.Decision) },
		"rule":      func(e *audit.Entry) string { return e.Rule },
		"kind":      func(e *audit.Entry) string { return string(e.Kind) },
		"hour":      func(e *audit.Entry) string { return e.Time.Format("2006-01-02T15:00Z") },
		"day":       func(e *audit.Entry) string { return e.Time.Format("2006-01-02") },
		"principal": payload(func(p *audit.Payload) string { return p.Principal }),
		"action":    payload(func(p *audit.Payload) string { return p.Action }),
		"reason":    payload(func(p *audit.Payload) string { return p.Reason }),
		"peer":      payload(func(p *audit.Payload) string { return host(p.Peer) }),
	}
}

// host returns a peer without its port.
func host(peer string) string {
	if a, ok := address(peer); ok {
		return a.String()
	}
	return peer
}

// columns reports whether the index has a column of a field.
func columns(by string) bool {
	return slices.Contains([]string{"", "principal", "service", "action", "decision", "rule"}, by)
}

// ErrField means that records cannot be counted by something.
var ErrField = errors.New("records are counted by action, day, decision, hour, kind, peer, principal, reason, rule or service")

// Count counts the records that are like q, by a field, most first; by "" it counts
// them all. Where the index alone can say, the records are not read.
func (l *Log) Count(ctx context.Context, q *Query, by string) ([]Count, error) {
	value := fields()[by]
	if value == nil && by != "" {
		return nil, fmt.Errorf("%q: %w", by, ErrField)
	}
	counts := map[string]uint64{}
	summed := columns(by) && q.inRows()
	bundles, err := l.bundles(ctx, q, summed)
	if err != nil {
		return nil, err
	}
	if summed {
		if err := l.sum(ctx, q, by, counts); err != nil {
			return nil, err
		}
	}
	for run := range runs(bundles, false) {
		for e, err := range l.run(ctx, run, false) {
			if err != nil {
				return nil, err
			}
			if !q.Matches(e) {
				continue
			}
			v := ""
			if value != nil {
				v = value(e)
			}
			counts[v]++
		}
	}
	var out []Count
	for v, n := range counts {
		out = append(out, Count{v, n})
	}
	slices.SortFunc(out, func(a, b Count) int {
		if a.Count != b.Count {
			return int(int64(b.Count) - int64(a.Count))
		}
		return strings.Compare(a.Value, b.Value)
	})
	return out, nil
}

// sum counts what the index says of bundles that lie within the query's time.
func (l *Log) sum(ctx context.Context, q *Query, by string, counts map[string]uint64) error {
	next, first, _, err := l.covered(ctx)
	if err != nil || next == 0 {
		return err
	}
	all, err := l.Index.Sum(ctx, q, by, first, next)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	for _, c := range all {
		counts[c.Value] += c.Count
	}
	return nil
}
