package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
	"github.com/sallyport-dev/sallyport/internal/audit/search"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// logged is a log that tests fill.
type logged struct{ *audittest.Log }

func newLogged(tb testing.TB) *logged { return &logged{audittest.Open(tb, "acme.internal/a")} }

func pick[T any](i int, from ...T) T { return from[i%len(from)] }

// fill appends n records that differ in everything there is to search by.
func (l *logged) fill(tb testing.TB, n int) {
	tb.Helper()
	for i := range n {
		r := &audit.Record{Kind: pick(i, audit.Admit, audit.Admit, audit.Refuse, audit.Note), Decision: pick(i/2, audit.Allow, audit.Deny, ""),
			Rule: pick(i/3, "read", "write", ""), Service: pick(i/5, "invoices", "ledger"),
			Payload: audit.Payload{Principal: fmt.Sprintf("serviceAccount:n%d", i/37%5), Action: pick(i, "http.get", "http.post", "token.mint"),
				Reason: pick(i, "", "allowed", "token_expired"), TokenID: fmt.Sprintf("t%d", i/4), Peer: fmt.Sprintf("10.0.%d.%d:4000", i/256%4, i%256)}}
		if i%7 == 0 {
			r.Payload.Actors = []string{"serviceAccount:agent"}
		}
		if i%19 == 0 { // as refusals are counted for
			r.Payload.Peer = pick(i, "10.0.2.0/24", "uid:1000", "others", "10.0.3.9", "")
		}
		if i%11 == 0 {
			r.Payload.IssuedTokenID = fmt.Sprintf("issued%d", i)
		}
		if _, err := l.Append(r, audit.Written); err != nil {
			tb.Fatal(err)
		}
		l.Pass(pick(i, time.Second, 3*time.Second, -time.Second))
	}
}

func openIndex(tb testing.TB, dir string) *store.Index {
	tb.Helper()
	x, err := store.OpenIndex(tb.Context(), dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = x.Close() })
	return x
}

func steps(tb testing.TB, l *logged, x search.Index, most int) *search.Indexer {
	tb.Helper()
	if err := l.Checkpoint(); err != nil {
		tb.Fatal(err)
	}
	ix := &search.Indexer{Reader: l.Reader, Index: x}
	for range most {
		done, err := ix.Step(context.Background())
		if err != nil {
			tb.Fatal(err)
		}
		if done {
			break
		}
	}
	return ix
}

type field struct {
	to     *string
	values []string
}

// asked are the fields of q with values that logged.fill makes, and some that it does not.
func asked(q *search.Query) []field {
	return []field{
		{&q.Principal, []string{"serviceAccount:n1", "serviceAccount:n4", "nobody"}},
		{&q.Actor, []string{"serviceAccount:agent", "x"}},
		{&q.Service, []string{"ledger"}},
		{&q.Action, []string{"http.*", "token.mint", "http.post", "h.*"}},
		{&q.Decision, []string{"deny", "allow"}},
		{&q.Rule, []string{"read"}},
		{&q.Reason, []string{"token_expired"}},
		{&q.TokenID, []string{"t17", "issued22", "t500", "none"}},
		{&q.Peer, []string{"10.0.1.7", "10.0.2.0/24", "10.0.0.0/8", "10.9.9.9", "10.0.2.77", "10.0.1.7:4000", "10.0.3.9", "10.0.3.9/32", "others"}},
		{&q.Kind, []string{"refuse"}},
	}
}

// What is found does not depend on the index: it is what a look at every record finds.
func TestSearchIsTheNaiveSearch(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 1500)
	half := openIndex(t, l.Dir)
	steps(t, l, half, 1000)
	l.fill(t, 700) // which the index does not cover
	if err := l.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Erase(t.Context(), func(e *audit.Entry) bool { return e.Seq%97 == 0 }, func(entries []string) error {
		_, err := l.Append(&audit.Record{Kind: audit.Note, Payload: audit.Payload{Action: audit.ActionErase, Entries: entries}}, audit.Synced)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var all []*audit.Entry
	for e, err := range l.Reader.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	logs := []*search.Log{{Reader: l.Reader}, {Reader: l.Reader, Index: half}}
	start := all[0].Time
	rapid.Check(t, func(t *rapid.T) {
		q := &search.Query{}
		for range rapid.IntRange(0, 3).Draw(t, "fields") { // more at a time match nothing
			f := rapid.SampledFrom(asked(q)).Draw(t, "field")
			*f.to = rapid.SampledFrom(f.values).Draw(t, "value")
		}
		if rapid.Bool().Draw(t, "from") {
			q.From = start.Add(time.Duration(rapid.IntRange(-10, 3000).Draw(t, "seconds")) * time.Second)
		}
		if rapid.Bool().Draw(t, "to") {
			q.To = start.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "until")) * time.Second)
		}
		if rapid.IntRange(0, 9).Draw(t, "far") == 0 { // further than nanoseconds in 64 bits go
			q.From, q.To = time.Date(1, 2, 3, 4, 5, 6, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		}
		if q.Complete() != nil {
			t.Skip()
		}
		var want []uint64
		for _, e := range all {
			if q.Matches(e) {
				want = append(want, e.Seq)
			}
		}
		p := search.Page{Newest: rapid.Bool().Draw(t, "newest")}
		if rapid.Bool().Draw(t, "paged") {
			after := uint64(rapid.IntRange(0, len(all)).Draw(t, "after"))
			p.After = &after
			want = slices.DeleteFunc(want, func(n uint64) bool { return !p.Newest && n <= after || p.Newest && n >= after })
		}
		if p.Newest {
			slices.Reverse(want)
		}
		by := rapid.SampledFrom([]string{"", "principal", "service", "action", "decision", "rule", "kind", "hour", "day", "reason", "peer"}).Draw(t, "by")
		var counts [][]search.Count
		for i, log := range logs {
			var got []uint64
			for e, err := range log.Search(context.Background(), q, p) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.Seq)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("log %d, %+v, %+v: found %v, want %v", i, q, p, got, want)
			}
			c, err := log.Count(context.Background(), q, by)
			if err != nil {
				t.Fatal(err)
			}
			counts = append(counts, c)
		}
		// erased since it was indexed: rows still count those under their old names,
		// until the index is made anew
		if total(counts[0]) != total(counts[1]) && q.Principal == "" && q.Action == "" {
			t.Fatalf("%+v by %q: %v without the index, %v with it", q, by, counts[0], counts[1])
		}
	})
}

func total(counts []search.Count) (n uint64) {
	for _, c := range counts {
		n += c.Count
	}
	return n
}

// A peer is an address with a port, or what refusals were counted for: each bundle here
// has another.
func TestPeers(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	peers := []string{"10.0.2.77:4000", "10.0.2.77:4001", "10.0.2.0/24", "10.0.3.0/24", "uid:1000", "[2001:db8::1]:443", "[::ffff:10.0.2.77]:1", "10.0.2.78", "[fe80::1%eth0]:80", "2001:db8::/48"}
	for _, peer := range peers {
		for range search.Bundle {
			if _, err := l.Append(&audit.Record{Kind: audit.Refuse, Payload: audit.Payload{Peer: peer}}, audit.Written); err != nil {
				t.Fatal(err)
			}
		}
	}
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	for _, tt := range []struct {
		peer string
		want []int // of peers
	}{
		{"10.0.2.77", []int{0, 1, 2, 6}},
		{"::ffff:10.0.2.77", []int{0, 1, 2, 6}},
		{"10.0.2.77:4000", []int{0}},
		{"10.0.2.0/24", []int{0, 1, 2, 6, 7}},
		{"10.0.0.0/8", []int{0, 1, 2, 3, 6, 7}},
		{"10.0.2.78/32", []int{2, 7}},
		{"10.0.2.78", []int{2, 7}},
		{"uid:1000", []int{4}},
		{"uid:1001", nil},
		{"2001:db8::1", []int{5, 9}},
		{"fe80::1", []int{8}},
		{"fe80::1%eth0", []int{8}},
		{"192.0.2.1", nil},
	} {
		q := &search.Query{Peer: tt.peer}
		if err := q.Complete(); err != nil {
			t.Errorf("%s: %v", tt.peer, err)
			continue
		}
		for name, log := range map[string]*search.Log{"without the index": {Reader: l.Reader}, "with it": {Reader: l.Reader, Index: x}} {
			var got []int
			for e, err := range log.Search(t.Context(), q, search.Page{}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Seq%search.Bundle == 0 {
					got = append(got, int(e.Seq/search.Bundle))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s, %s: found %v, want %v", tt.peer, name, got, tt.want)
			}
		}
	}
	counts, err := (&search.Log{Reader: l.Reader, Index: x}).Count(t.Context(), &search.Query{}, "peer")
	if err != nil || len(counts) != 8 || counts[0] != (search.Count{Value: "10.0.2.77", Count: 3 * search.Bundle}) {
		t.Errorf("%v, %v", counts, err)
	}
	for _, wrong := range []string{"10.0.0.0/99", "10.0.0.*", "10.0.0.256", "10.0.0"} {
		if err := (&search.Query{Peer: wrong}).Complete(); err == nil {
			t.Errorf("%s is taken for a peer", wrong)
		}
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 1000)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 1000)
	for _, by := range []string{"", "principal", "service", "action", "decision", "rule", "kind", "hour", "reason", "peer"} {
		// the first and the last bundle are not wholly within
		q := &search.Query{From: time.Date(2026, 8, 1, 12, 2, 0, 0, time.UTC), To: l.Now().Add(-time.Minute), Decision: "allow"}
		a, err := (&search.Log{Reader: l.Reader}).Count(t.Context(), q, by)
		if err != nil {
			t.Fatal(err)
		}
		b, err := (&search.Log{Reader: l.Reader, Index: x}).Count(t.Context(), q, by)
		if err != nil || !slices.Equal(a, b) || len(a) == 0 {
			t.Errorf("by %q: %v, %v, %v", by, a, b, err)
		}
	}
	if _, err := (&search.Log{Reader: l.Reader}).Count(t.Context(), &search.Query{}, "colour"); err == nil {
		t.Error("counted by colour")
	}
}

func TestIndexGoesOnAndIsMadeAnew(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 20000)
	x := openIndex(t, l.Dir)
	if ix := steps(t, l, x, 1); ix.Lag() == 0 {
		t.Error("one step does it all")
	}
	_ = x.Close()
	x = openIndex(t, l.Dir)
	s, err := x.State(t.Context())
	if err != nil || s.Next == 0 || s.Origin != "acme.internal/a" {
		t.Fatalf("state %+v, %v", s, err)
	}
	if ix := steps(t, l, x, 1000); ix.Lag() > 256 {
		t.Errorf("%d records behind", ix.Lag())
	}
	_ = x.Close()
	for name, garbage := range map[string]string{"no database": "garbage", "empty": ""} {
		if err := os.WriteFile(store.IndexFile(l.Dir), []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		x = openIndex(t, l.Dir)
		if s, err := x.State(t.Context()); err != nil || s.Next != 0 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		_ = x.Close()
	}
}

// An index that has seen more than there is tells of a directory that was set back.
func TestIndexAheadOfTheLog(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 600)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	old := newLogged(t)
	old.fill(t, 300)
	if err := old.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&search.Indexer{Reader: old.Reader, Index: x}).Step(t.Context()); err == nil {
		t.Error("it goes on")
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	append1 := func(principal string) {
		r := &audit.Record{Kind: audit.Admit, Decision: audit.Allow, Service: "invoices", Payload: audit.Payload{Principal: principal, Action: "http.get"}}
		if _, err := l.Append(r, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	append1("user:okta/gone")
	append1("user:okta/stays")
	l.fill(t, 510)
	append1("user:okta/stays")
	l.fill(t, 600)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	if err := x.Forget(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	n := 0
	for f, err := range x.Bundles(t.Context(), &search.Query{}, true) {
		if n++; err != nil || f.Number < 2 {
			t.Fatalf("%+v, %v", f, err)
		}
	}
	if n != 2 {
		t.Errorf("%d bundles are left, want 2", n)
	}
	counts, err := x.Sum(t.Context(), &search.Query{Principal: "user:okta/stays"}, "principal", 0, 100)
	if err != nil || len(counts) != 1 || counts[0] != (search.Count{Value: "user:okta/stays", Count: 1}) {
		t.Errorf("%v, %v", counts, err)
	}
	// no name is left anywhere, also not in what is no longer in use
	for name, want := range map[string]bool{"gone": false, "stays": true} {
		if got := inFiles(t, l.Dir, "user:okta/"+name); got != want {
			t.Errorf("%s: in the index's files %v, want %v", name, got, want)
		}
	}
}

func inFiles(tb testing.TB, dir, text string) (found bool) {
	tb.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(store.IndexFile(dir) + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Fatal(err)
		}
		found = found || bytes.Contains(b, []byte(text))
	}
	return found
}

// What tells a log that was set back is the newest checkpoint, also of a log that has
// not filled a bundle since.
func TestIndexKeepsTheNewestCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	x := openIndex(t, l.Dir)
	for _, n := range []int{3, 300, 1} {
		l.fill(t, n)
		steps(t, l, x, 10)
		head, err := l.Reader.Head()
		if err != nil {
			t.Fatal(err)
		}
		if s, err := x.State(t.Context()); err != nil || s.Size != head.Size || !bytes.Equal(s.Head, head.Note) || s.Size != l.Size() {
			t.Errorf("after %d records: %+v, %v; want %s", l.Size(), s, err, head.Note)
		}
	}
}

func TestIndexOfAnotherLogIsEmptied(t *testing.T) {
	t.Parallel()
	l, other := newLogged(t), &logged{audittest.Open(t, "acme.internal/b")}
	l.fill(t, 600)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	other.fill(t, 300)
	steps(t, other, x, 10)
	if s, err := x.State(t.Context()); err != nil || s.Origin != "acme.internal/b" || s.Next != 1 || s.Size != 300 {
		t.Errorf("%+v, %v", s, err)
	}
	c, err := (&search.Log{Reader: other.Reader, Index: x}).Count(t.Context(), &search.Query{}, "")
	if err != nil || total(c) != 300 {
		t.Errorf("%v, %v", c, err)
	}
}

// Only what no later try could use is deleted.
func TestIndexThatCannotBeReachedIsKept(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 600)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	_ = x.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.OpenIndex(ctx, l.Dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	x = openIndex(t, l.Dir)
	if s, err := x.State(t.Context()); err != nil || s.Next != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestReadIndexOnlyReads(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	if _, err := store.ReadIndex(t.Context(), l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	l.fill(t, 600)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 10)
	r, err := store.ReadIndex(t.Context(), l.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Forget(t.Context(), 1); err == nil {
		t.Error("it writes")
	}
	l.fill(t, 300)
	steps(t, l, x, 10) // beside the one that reads
	if s, err := r.State(t.Context()); err != nil || s.Next != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

// What is damaged where its rows are is found out when they are asked for.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 20000)
	x := openIndex(t, l.Dir)
	steps(t, l, x, 1000)
	_ = x.Close()
	b, err := os.ReadFile(store.IndexFile(l.Dir))
	if err != nil {
		t.Fatal(err)
	}
	for i := len(b) / 4; i < len(b); i++ { // schema and state are before
		b[i] = 0xff
	}
	if err := os.WriteFile(store.IndexFile(l.Dir), b, 0o600); err != nil {
		t.Fatal(err)
	}
	x = openIndex(t, l.Dir)
	if s, err := x.State(t.Context()); err != nil || s.Next != 78 {
		t.Fatalf("%+v, %v", s, err)
	}
	_, err = (&search.Log{Reader: l.Reader, Index: x}).Count(t.Context(), &search.Query{}, "principal")
	if !errors.Is(err, search.ErrIndex) || !store.IsUnusable(err) {
		t.Errorf("counted: error %v", err)
	}
	for e, err := range (&search.Log{Reader: l.Reader, Index: x}).Search(t.Context(), &search.Query{Principal: "serviceAccount:n1"}, search.Page{}) {
		if e != nil || !errors.Is(err, search.ErrIndex) || !store.IsUnusable(err) {
			t.Fatalf("found %+v, %v", e, err)
		}
	}
}
