package search

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

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
		bundles, err := l.bundles(ctx, q)
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

// span is bundles from first up to end.
type span struct{ first, end uint64 }

// runs joins bundles that follow each other, so that a segment is read once; those that
// are read backwards stay single.
func runs(bundles []uint64, single bool) iter.Seq[span] {
	return func(yield func(span) bool) {
		for i := 0; i < len(bundles); {
			j := i + 1
			for !single && j < len(bundles) && bundles[j] == bundles[j-1]+1 {
				j++
			}
			if !yield(span{bundles[i], bundles[j-1] + 1}) {
				return
			}
			i = j
		}
	}
}

// run yields the records of some bundles.
func (l *Log) run(ctx context.Context, s span, backwards bool) iter.Seq2[*audit.Entry, error] {
	forwards := func(yield func(*audit.Entry, error) bool) {
		for e, err := range l.Reader.Entries(ctx, s.first*Bundle) {
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

// bundles returns those that may hold records like q, in order: what the index says, and
// all that it does not cover.
func (l *Log) bundles(ctx context.Context, q *Query) ([]uint64, error) {
	var out []uint64
	next, first, size, err := l.covered(ctx)
	if err != nil {
		return nil, err
	}
	if next > 0 {
		marks := q.marks()
		for f, err := range l.Index.Rows(ctx, q, len(marks) > 0) {
			if err != nil {
				return nil, fmt.Errorf("read the index: %w", err)
			}
			if n := len(out); f.Number < first || f.Number >= next || n > 0 && out[n-1] == f.Number || !f.may(marks) {
				continue
			}
			out = append(out, f.Number)
		}
	}
	for n := max(next, first); n*Bundle < size; n++ {
		out = append(out, n)
	}
	return out, nil
}

func (f *Found) may(marks []string) bool {
	for _, m := range marks {
		if !marked(f.Marks, m) {
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
			return 0, 0, 0, fmt.Errorf("read the index: %w", err)
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
		"peer":      payload(func(p *audit.Payload) string { return p.Peer[:max(0, strings.LastIndexByte(p.Peer, ':'))] }),
	}
}

// column returns the value of a field that a row has, too.
func (r *Row) column(by string) (string, bool) {
	switch by {
	case "":
		return "", true
	case "principal":
		return r.Principal, true
	case "service":
		return r.Service, true
	case "action":
		return r.Action, true
	case "decision":
		return r.Decision, true
	case "rule":
		return r.Rule, true
	}
	return "", false
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
	bundles, err := l.bundles(ctx, q)
	if err != nil {
		return nil, err
	}
	if _, ok := new(Row).column(by); ok && q.inRows() {
		if bundles, err = l.fromRows(ctx, q, by, bundles, counts); err != nil {
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

// fromRows counts what rows say of bundles that lie within the query's time, and returns
// the bundles that are left to read.
func (l *Log) fromRows(ctx context.Context, q *Query, by string, bundles []uint64, counts map[string]uint64) ([]uint64, error) {
	next, first, _, err := l.covered(ctx)
	if err != nil || next == 0 {
		return bundles, err
	}
	done := map[uint64]bool{}
	for f, err := range l.Index.Rows(ctx, q, false) {
		if err != nil {
			return nil, fmt.Errorf("read the index: %w", err)
		}
		if f.Number < first || f.Number >= next || !within(q.From, f.First, f.Last, q.To) {
			continue
		}
		done[f.Number] = true
		if q.action(f.Action) {
			v, _ := f.column(by)
			counts[v] += f.Count
		}
	}
	return slices.DeleteFunc(bundles, func(n uint64) bool { return done[n] }), nil
}

func within(from, first, last, to time.Time) bool {
	return (from.IsZero() || !first.Before(from)) && (to.IsZero() || !last.After(to))
}
