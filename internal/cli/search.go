package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/search"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// filter is what records are searched by; an empty field matches everything.
type filter struct {
	search.Query
	since, until string
}

func (f *filter) flags(c *cobra.Command) {
	for _, x := range []struct {
		to         *string
		name, help string
	}{
		{&f.Principal, "principal", "qualified name, such as serviceAccount:orders"},
		{&f.Actor, "actor", "qualified name of one who acted for the principal"},
		{&f.Service, "service", "name of the service"},
		{&f.Action, "action", "such as http.get; http.* for all of a protocol"},
		{&f.Decision, "decision", "allow or deny"},
		{&f.Rule, "rule", "name of the rule that decided"},
		{&f.Reason, "reason", "reason code, such as token_expired"},
		{&f.TokenID, "token-id", "jti of the token shown or issued"},
		{&f.Peer, "peer", "address of the caller, or a network such as 10.0.0.0/8"},
		{&f.Kind, "kind", "admit, refuse, check, close, note or gap"},
		{&f.since, "since", "an age such as 1h30m, or a time such as 2026-11-23T10:00:00Z"},
		{&f.until, "until", "the same"},
	} {
		c.Flags().StringVar(x.to, x.name, "", x.help)
	}
}

// query returns what is searched by.
func (f *filter) query() (*search.Query, error) {
	var err1, err2 error
	f.From, err1 = when(f.since, time.Time{})
	f.To, err2 = when(f.until, time.Time{})
	if err := errors.Join(err1, err2); err != nil {
		return nil, misuse(err)
	}
	if err := f.Complete(); err != nil {
		return nil, misuse(err)
	}
	return &f.Query, nil
}

// compile returns what records have to be like, and whether that says anything.
func (f *filter) compile() (match func(*audit.Entry) bool, any bool, err error) {
	q, err := f.query()
	if err != nil {
		return nil, false, err
	}
	return q.Matches, q.Any(), nil
}

// when reads an age or a time.
func when(text string, none time.Time) (time.Time, error) {
	if text == "" {
		return none, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, misuse(fmt.Errorf("%q is neither an age such as 1h30m nor a time such as 2026-11-23T10:00:00Z", text))
	}
	return t, nil
}

// searching is one `audit search`.
type searching struct {
	place
	filter
	after, by     string
	limit         int
	newest, count bool
}

func auditSearch(e *env) *cobra.Command {
	var s searching
	c := &cobra.Command{Use: "search", Short: "print or count the records that match; exit 1 if there is none",
		Long: "Print the records that match all of the flags, oldest first, or a page of them (--limit), or count them. The index in data_dir\n" +
			"says where to look; what it does not cover yet, or all of the log if there is none, is read.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error { return e.search(cmd.Context(), &s) }}
	s.place.flags(c)
	s.filter.flags(c)
	c.Flags().IntVar(&s.limit, "limit", 0, "records on one page; 0 for all")
	c.Flags().StringVar(&s.after, "after", "", "decision id that the page before ended with")
	c.Flags().BoolVar(&s.newest, "newest-first", false, "begin with the newest")
	c.Flags().BoolVar(&s.count, "count", false, "print how many there are")
	c.Flags().StringVar(&s.by, "count-by", "", "print how many there are of each action, day, decision, hour, kind, peer, principal, reason, rule or service")
	return c
}

func (e *env) search(ctx context.Context, s *searching) error {
	q, err := s.query()
	if err != nil {
		return err
	}
	if err := s.paging(); err != nil {
		return err
	}
	r, err := e.reader(&s.place)
	if err != nil {
		return err
	}
	l := &search.Log{Reader: r}
	x, err := e.index(ctx, &s.place)
	if err != nil {
		return err
	}
	if x != nil {
		defer x.Close()
		l.Index = x
	}
	err = e.searched(ctx, l, s, q)
	if errors.Is(err, search.ErrIndex) {
		e.withoutIndex(err)
		l.Index = nil
		err = e.searched(ctx, l, s, q)
	}
	return err
}

// paging refuses flags that would say nothing.
func (s *searching) paging() error {
	counts := s.count || s.by != ""
	switch {
	case s.limit < 0:
		return misuse(fmt.Errorf("--limit %d: want a number of records, 0 for all", s.limit))
	case s.count && s.by != "":
		return misuse(errors.New("--count or --count-by, one of them"))
	case counts && (s.limit > 0 || s.after != "" || s.newest):
		return misuse(errors.New("records are counted all together: --limit, --after and --newest-first are for printing them"))
	}
	return nil
}

func (e *env) searched(ctx context.Context, l *search.Log, s *searching, q *search.Query) error {
	behind, err := l.Behind(ctx)
	if err != nil {
		return failed(err)
	}
	if behind > tellBehind {
		_, _ = fmt.Fprintf(e.err, "the index is %d records behind: those are read from the log\n", behind)
	}
	if s.count || s.by != "" {
		return e.counted(l.Count(ctx, q, s.by))
	}
	p := search.Page{Newest: s.newest}
	if s.after != "" {
		seq, err := seqOf(l.Reader, s.after)
		if err != nil {
			return err
		}
		p.After = &seq
	}
	return e.page(ctx, l, q, p, s.limit)
}

// tellBehind is how many records may be read for want of an index without a word.
const tellBehind = 10_000

// page prints one page, and how to get the next.
func (e *env) page(ctx context.Context, l *search.Log, q *search.Query, p search.Page, limit int) error {
	t := e.table(l.Reader)
	defer t.flush()
	n, last := 0, uint64(0)
	for entry, err := range l.Search(ctx, q, p) {
		if err != nil {
			return failed(err)
		}
		if n++; limit > 0 && n > limit {
			t.flush()
			_, _ = fmt.Fprintf(e.err, "more: --after %s-%d\n", printable(l.Reader.Replica()), last)
			return nil
		}
		if err := t.write(entry); err != nil {
			return failed(err)
		}
		last = entry.Seq
	}
	if n == 0 {
		return no(errors.New("no record matches"))
	}
	return nil
}

func (e *env) counted(counts []search.Count, err error) error {
	switch {
	case errors.Is(err, search.ErrField):
		return misuse(fmt.Errorf("--count-by %w", err))
	case err != nil:
		return failed(err)
	case len(counts) == 0:
		return no(errors.New("no record matches"))
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	for _, c := range counts {
		if e.output == "json" {
			if err := e.json(c); err != nil {
				return err
			}
			continue
		}
		_, _ = fmt.Fprintln(w, strings.TrimSuffix(fmt.Sprintf("%d\t%s", c.Count, printable(c.Value)), "\t"))
	}
	return w.Flush()
}

// index returns the index of a data_dir, nil if there is none that can be used.
func (e *env) index(ctx context.Context, p *place) (*store.Index, error) {
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	x, err := store.ReadIndex(ctx, dir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			e.withoutIndex(err)
		}
		return nil, nil
	}
	return x, nil
}

func (e *env) withoutIndex(err error) {
	_, _ = fmt.Fprintf(e.err, "the index is of no use, and the log is read instead: %s\n", printable(err.Error()))
}

func auditReindex(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "reindex", Short: "make the index of the log anew while no server runs",
		Long: "Delete the index and make it anew from the log. A server makes it, too, and keeps it; this is for one that was told\n" +
			"that the index has seen another log, by somebody who means it.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := e.reader(&p)
			if err != nil {
				return err
			}
			dir, err := p.dir()
			if err != nil {
				return err
			}
			if err := app.Reindex(cmd.Context(), dir, r, func(left uint64) {
				if e.terminal {
					_, _ = fmt.Fprintf(e.err, "\r%d records left ", left)
				}
			}); err != nil {
				return failed(err)
			}
			size, err := r.Size()
			if err != nil {
				return failed(err)
			}
			_, err = fmt.Fprintf(e.out, "indexed: %d records\n", size)
			return err
		}}
	p.flags(c)
	return c
}
