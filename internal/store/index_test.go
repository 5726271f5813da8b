package store_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/search"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// logged is a log with a clock that a test sets.
type logged struct {
	*audit.Log
	reader *audit.Reader
	dir    string
	now    time.Time
}

func newLogged(tb testing.TB) *logged {
	tb.Helper()
	skey, vkey, err := note.GenerateKey(nil, "acme.internal/a")
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		tb.Fatal(err)
	}
	l := &logged{dir: tb.TempDir(), now: time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)}
	kek, err := sealing.ReadOrMake(l.dir + "/kek")
	if err != nil {
		tb.Fatal(err)
	}
	l.Log, err = audit.Open(audit.Options{Dir: l.dir + "/log", Origin: "acme.internal/a", Sealer: kek, Signer: signer, VerifierKey: vkey,
		Checkpoint: time.Minute, Now: func() time.Time { return l.now }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	if l.reader, err = audit.OpenReader(l.dir+"/log", kek); err != nil {
		tb.Fatal(err)
	}
	return l
}

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
		if i%11 == 0 {
			r.Payload.IssuedTokenID = fmt.Sprintf("issued%d", i)
		}
		if _, err := l.Append(r, audit.Written); err != nil {
			tb.Fatal(err)
		}
		l.now = l.now.Add(pick(i, time.Second, 3*time.Second, -time.Second))
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
	ix := &search.Indexer{Reader: l.reader, Index: x}
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

// What is found does not depend on the index: it is what a look at every record finds.
func TestSearchIsTheNaiveSearch(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 1500)
	half := openIndex(t, l.dir)
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
	for e, err := range l.reader.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	logs := []*search.Log{{Reader: l.reader}, {Reader: l.reader, Index: half}}
	start := all[0].Time
	rapid.Check(t, func(t *rapid.T) {
		maybe := func(label string, values ...string) string {
			return rapid.SampledFrom(append(values, "", "", "")).Draw(t, label)
		}
		q := &search.Query{
			Principal: maybe("principal", "serviceAccount:n1", "serviceAccount:n4", "nobody"), Actor: maybe("actor", "serviceAccount:agent", "x"),
			Service: maybe("service", "ledger"), Action: maybe("action", "http.*", "token.mint", "http.post"), Decision: maybe("decision", "deny", "allow"),
			Rule: maybe("rule", "read"), Reason: maybe("reason", "token_expired"), TokenID: maybe("token", "t17", "issued22", "t500", "none"),
			Peer: maybe("peer", "10.0.1.7", "10.0.2.0/24", "10.0.0.0/8", "10.9.9.9"), Kind: maybe("kind", "refuse"),
		}
		if rapid.Bool().Draw(t, "from") {
			q.From = start.Add(time.Duration(rapid.IntRange(-10, 3000).Draw(t, "seconds")) * time.Second)
		}
		if rapid.Bool().Draw(t, "to") {
			q.To = start.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "until")) * time.Second)
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

func TestCounts(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 1000)
	x := openIndex(t, l.dir)
	steps(t, l, x, 1000)
	for _, by := range []string{"", "principal", "service", "action", "decision", "rule", "kind", "hour", "reason"} {
		q := &search.Query{From: time.Date(2026, 8, 1, 12, 2, 0, 0, time.UTC), Decision: "allow"}
		a, err := (&search.Log{Reader: l.reader}).Count(t.Context(), q, by)
		if err != nil {
			t.Fatal(err)
		}
		b, err := (&search.Log{Reader: l.reader, Index: x}).Count(t.Context(), q, by)
		if err != nil || !slices.Equal(a, b) || len(a) == 0 {
			t.Errorf("by %q: %v, %v, %v", by, a, b, err)
		}
	}
	if _, err := (&search.Log{Reader: l.reader}).Count(t.Context(), &search.Query{}, "colour"); err == nil {
		t.Error("counted by colour")
	}
}

func TestIndexGoesOnAndIsMadeAnew(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 20000)
	x := openIndex(t, l.dir)
	if ix := steps(t, l, x, 1); ix.Lag() == 0 {
		t.Error("one step does it all")
	}
	_ = x.Close()
	x = openIndex(t, l.dir)
	s, err := x.State(t.Context())
	if err != nil || s.Next == 0 || s.Origin != "acme.internal/a" {
		t.Fatalf("state %+v, %v", s, err)
	}
	if ix := steps(t, l, x, 1000); ix.Lag() > 256 {
		t.Errorf("%d records behind", ix.Lag())
	}
	_ = x.Close()
	for name, garbage := range map[string]string{"no database": "garbage", "empty": ""} {
		if err := os.WriteFile(store.IndexFile(l.dir), []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		x = openIndex(t, l.dir)
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
	x := openIndex(t, l.dir)
	steps(t, l, x, 10)
	old := newLogged(t)
	old.fill(t, 300)
	if err := old.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&search.Indexer{Reader: old.reader, Index: x}).Step(t.Context()); err == nil {
		t.Error("it goes on")
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	l := newLogged(t)
	l.fill(t, 1000)
	x := openIndex(t, l.dir)
	steps(t, l, x, 10)
	if err := x.Forget(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	for f, err := range x.Bundles(t.Context(), &search.Query{}, true) {
		if err != nil || f.Number < 2 {
			t.Fatalf("%+v, %v", f, err)
		}
	}
}
