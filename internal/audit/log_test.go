package audit_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		c    audit.Config
		want string // every line of the error
	}{
		{"the zero value is today's behaviour", audit.Config{}, ""},
		{"both durabilities are served", audit.Config{Durability: audit.Synced, Checkpoint: time.Minute}, ""},
		{"buffered is for single services", audit.Config{Durability: "buffered"}, `durability: "buffered" is for reads of single services: write services[].audit.durability`},
		{"all mistakes are reported", audit.Config{Durability: "fast", Checkpoint: 5 * time.Millisecond, Retain: 5, MaxSize: 7},
			"durability: \"fast\" is not a durability: write \"buffered\", \"written\" or \"synced\"\ncheckpoint: 5ms is not between 100ms and 1m\n" +
				"retain: 5ns is less than a day: write 1d or more, or leave it out to keep everything\n" +
				"max_size: 7 bytes are less than 64MiB: the log needs room for what no checkpoint covers yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Complete()
			if got := errorText(err); got != tt.want {
				t.Errorf("Complete() = %q, want %q", got, tt.want)
			}
			if err == nil && tt.c.Checkpoint == 0 {
				t.Error("checkpoint has no default")
			}
			var d audit.Durability
			if bad := d.UnmarshalText([]byte(tt.c.Durability)); (bad == nil) != (tt.c.Durability == audit.Synced || tt.c.Durability == audit.Buffered) {
				t.Errorf("UnmarshalText(%q) = %v", tt.c.Durability, bad)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRoundTripAcrossReopening(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	for round := range 5 { // 15 entries: four segments, a last one that is not full
		l := open(t, o)
		appendN(t, l, 3*round, 3)
		if l.Size() != uint64(3*round+3) || l.Recovered() != 0 || l.Health() != nil {
			t.Fatalf("size %d, recovered %d, health %v", l.Size(), l.Recovered(), l.Health())
		}
		mustClose(t, l)
	}
	for i, e := range readAll(t, o) {
		want := record(i)
		if e.Seq != uint64(i) || e.Kind != want.Kind || e.Decision != want.Decision || e.Rule != want.Rule ||
			e.Service != want.Service || e.Policy != want.Policy || !e.Time.Equal(o.Now()) {
			t.Errorf("entry %d has header %+v", i, e.Header)
		}
		if e.State != "open" || !reflect.DeepEqual(*e.Payload, want.Payload) {
			t.Errorf("entry %d is %s with %+v", i, e.State, e.Payload)
		}
	}
	if rep := verified(t, o); rep.Entries != 15 || rep.Signed != 15 || rep.Open != 15 || rep.KeyFromLog || rep.Origin != origin {
		t.Errorf("report %+v", rep)
	}
	rep, err := audit.Verify(o.Dir, "", nil)
	if err != nil || !rep.KeyFromLog || rep.Sealed != 15 || rep.Key != o.VerifierKey {
		t.Errorf("without keys: %+v, %v", rep, err)
	}
}

func TestEveryPayloadFieldSurvives(t *testing.T) {
	t.Parallel()
	var p audit.Payload
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i); f.Interface().(type) {
		case string:
			f.SetString("text \"of\" " + name)
		case int64:
			f.SetInt(int64(1000 + i))
		case []string:
			f.Set(reflect.ValueOf([]string{name, ""}))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{name: "v", "k": name}))
		case bool:
			f.SetBool(true)
		default:
			t.Fatalf("%s has a type that this test does not know", name)
		}
	}
	o := newOptions(t)
	l := open(t, o)
	if _, err := l.Append(&audit.Record{Kind: audit.Note, Payload: p}, audit.Synced); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, o)[0]; !reflect.DeepEqual(*got.Payload, p) {
		t.Errorf("got  %+v\nwant %+v", *got.Payload, p)
	}
}

func TestConcurrentAppendsAreDense(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(64)
	l := open(t, o)
	const workers, each = 8, 50
	got := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				d := audit.Written
				if i%10 == 0 {
					d = audit.Synced
				}
				seq, err := l.Append(record(i), d)
				if err != nil {
					t.Error(err)
				}
				got[w] = append(got[w], seq)
				if i%20 == 0 {
					if err := l.Checkpoint(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(got...)))
	for i, seq := range all {
		if seq != uint64(i) {
			t.Fatalf("sequence number %d is at place %d", seq, i)
		}
	}
	mustClose(t, l)
	if rep := verified(t, o); rep.Signed != workers*each {
		t.Errorf("report %+v", rep)
	}
}

func TestReaderBesideAWriter(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	r := reader(t, o)
	if r.Origin() != origin {
		t.Errorf("Origin() = %q", r.Origin())
	}
	const n = 200
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		next := uint64(5)
		for e, err := range r.Follow(ctx, next, time.Millisecond) {
			if err != nil || e.Seq != next || e.State != "open" {
				t.Errorf("followed to %+v, %v; want entry %d", e, err, next)
				return
			}
			if next++; next == n {
				return
			}
		}
		t.Error("following ended before the log did")
	})
	wg.Go(func() {
		for range 20 {
			if rep, err := audit.Verify(o.Dir, o.VerifierKey, o.Sealer); err != nil {
				t.Errorf("Verify beside a writer: %v, %+v", err, rep)
			}
		}
	})
	appendN(t, l, 0, n)
	wg.Wait()
	if size, err := r.Size(); size != n || err != nil {
		t.Errorf("Size() = %d, %v", size, err)
	}
	if e, err := r.Entry(17); err != nil || e.Payload.Principal != "serviceAccount:n17" {
		t.Errorf("Entry(17) = %+v, %v", e, err)
	}
	for _, beyond := range []uint64{n, n + 1, 1 << 40} {
		if _, err := r.Entry(beyond); !errors.Is(err, audit.ErrNotFound) {
			t.Errorf("Entry(%d): %v", beyond, err)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	many := make([]string, 2000)
	for i := range many {
		many[i] = strings.Repeat("x", 100)
	}
	for _, tt := range []struct {
		name string
		r    audit.Record
		d    audit.Durability
		want string
	}{
		{"a kind that readers do not know", audit.Record{Kind: "maybe"}, audit.Written, "unknown kind"},
		{"a decision that readers do not know", audit.Record{Kind: audit.Admit, Decision: "perhaps"}, audit.Written, "unknown decision"},
		{"no durability", audit.Record{Kind: audit.Note}, "", "not a durability"},
		{"a payload of 2000 shadow decisions", audit.Record{Kind: audit.Note, Payload: audit.Payload{Shadow: many}}, audit.Written, "over 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOptions(t)
			l := open(t, o)
			if _, err := l.Append(&tt.r, tt.d); err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if b := readFile(t, o.Dir, seg(0)); len(b) != 0 || l.Health() != nil {
				t.Errorf("%d bytes were written, health %v", len(b), l.Health())
			}
			mustClose(t, l)
			if _, err := l.Append(record(0), audit.Written); !errors.Is(err, audit.ErrClosed) {
				t.Errorf("Append after Close: %v", err)
			}
			if !errors.Is(l.Close(), audit.ErrClosed) || !errors.Is(l.Checkpoint(), audit.ErrClosed) || !errors.Is(l.Health(), audit.ErrClosed) {
				t.Error("a closed log does not say so")
			}
		})
	}
}

func TestOddTextIsOneRecord(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	odd := []string{"a\nb", "\x1b[2J\x1b]0;x\a", "line\u2028separator", "\xff\xfe\xc0", strings.Repeat("\xff", 5000), strings.Repeat("é", 1<<19),
		strings.Repeat("\x01", 1<<20), `{"v":1,"seq":0}`, "\x00", "x" + strings.Repeat("\U0001f512", 2000)}
	for i, s := range odd {
		r := &audit.Record{Kind: audit.Refuse, Decision: audit.Deny, Rule: s, Service: s, Policy: s, Payload: audit.Payload{
			Principal: s, Actors: []string{s, s}, Action: s, Resource: s, Detail: s, Vars: map[string]string{s: s, "\xff": "1", "\xfe": "2"},
			Unverified: map[string]string{"kid": s, s: "x"}}}
		if seq, err := l.Append(r, audit.Written); err != nil || seq != uint64(i) {
			t.Fatalf("Append(%.20q) = %d, %v", s, seq, err)
		}
	}
	mustClose(t, l)
	all := readAll(t, o)
	if rep := verified(t, o); len(all) != len(odd) || rep.Open != uint64(len(odd)) {
		t.Fatalf("%d entries, report %+v", len(all), rep)
	}
	for i, e := range all {
		whole := strings.ToValidUTF8(odd[i], "\uFFFD")
		if !strings.HasPrefix(whole, e.Payload.Resource) || len(e.Payload.Resource) > 4096 || len(e.Payload.Resource) < min(len(whole), 60) {
			t.Errorf("%.20q became %.20q (%d bytes)", odd[i], e.Payload.Resource, len(e.Payload.Resource))
		}
		if kid := e.Payload.Unverified["kid"]; len(kid) > 256 || !strings.HasPrefix(whole, kid) {
			t.Errorf("%.20q became kid %.20q (%d bytes)", odd[i], kid, len(kid))
		}
		if len(e.Rule) > 1024 || len(e.PayloadText) > audit.MaxPayload || !e.Payload.Cut {
			t.Errorf("entry %d: rule of %d, payload of %d bytes, cut %v", i, len(e.Rule), len(e.PayloadText), e.Payload.Cut)
		}
		if slices.Contains(e.Leaf, '\n') || slices.Contains(e.Leaf, 0x1b) || slices.Contains(e.PayloadText, '\n') {
			t.Errorf("entry %d has a raw control character", i)
		}
	}
}

func TestMidnightMakesAKey(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	// each Append reads the clock twice, before its place in the log and at it:
	// the second record crosses midnight in between
	times := []string{"2026-08-01T23:59:59.9Z", "2026-08-01T23:59:59.9Z", "2026-08-01T23:59:59.99Z", "2026-08-02T00:00:00Z", "2026-08-02T02:00:00+02:00", "2026-08-02T02:00:01+02:00"}
	calls := 0
	o.Now = func() time.Time {
		now, err := time.Parse(time.RFC3339Nano, times[calls%len(times)])
		if err != nil {
			t.Error(err)
		}
		calls++
		return now
	}
	l := open(t, o)
	appendN(t, l, 0, 3)
	mustClose(t, l)
	keys, err := os.ReadDir(filepath.Join(o.Dir, "periods"))
	if err != nil || len(keys) != 2 || keys[0].Name() != "20666" || keys[1].Name() != "20667" {
		t.Fatalf("periods: %v, %v", keys, err)
	}
	if rep := verified(t, o); rep.Open != 3 {
		t.Errorf("report %+v", rep)
	}
	// deleting a key takes its payloads away and nothing else
	if err := os.Remove(filepath.Join(o.Dir, "periods", "20667")); err != nil {
		t.Fatal(err)
	}
	if rep := verified(t, o); rep.Open != 1 || rep.Sealed != 2 || rep.Signed != 3 {
		t.Errorf("report after a key is deleted: %+v", rep)
	}
	if all := readAll(t, o); all[0].State != "open" || all[1].State != "sealed" || all[1].Payload != nil {
		t.Errorf("states %s, %s", all[0].State, all[1].State)
	}
	// a key that is there and cannot be used is damage
	writeFile(t, []byte("garbage"), o.Dir, "periods", "20667")
	_, err = audit.Verify(o.Dir, o.VerifierKey, o.Sealer)
	wantBad(t, err, "open period key 20667")
}

func TestCommitmentIsRecomputable(t *testing.T) {
	t.Parallel()
	o := filled(t, 2)
	all := readAll(t, o)
	for _, e := range all {
		if sha256.Sum256(e.PayloadText) != e.Commitment || !strings.HasPrefix(string(e.PayloadText), `{"salt":"`) {
			t.Errorf("entry %d: %s", e.Seq, e.PayloadText)
		}
	}
	if string(all[0].PayloadText[9:52]) == string(all[1].PayloadText[9:52]) {
		t.Error("two records have one salt")
	}
}

// Nobody calls Checkpoint: time does it, or a full bundle.
func TestCheckpointsComeByThemselves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		interval time.Duration
		n        int
	}{
		{"an interval after the first record", 10 * time.Millisecond, 1},
		{"when a bundle waits, long before the interval", time.Hour, 256},
		{"again for the next bundle", time.Hour, 512},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newOptions(t)
			o.Checkpoint = tt.interval
			o.SetSegment(1024)
			l := open(t, o)
			appendN(t, l, 0, tt.n)
			deadline := time.After(30 * time.Second)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for verified(t, o).Signed < uint64(tt.n) {
				select {
				case <-tick.C:
				case <-deadline:
					t.Fatalf("after 30s: %+v", verified(t, o))
				}
			}
		})
	}
}

func TestAmountsAndAges(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]audit.Bytes{"0": 0, "1GiB": 1 << 30, "200GiB": 200 << 30, "1500": 1500, "64MiB": 64 << 20, "3KiB": 3 << 10, "2TiB": 2 << 40} {
		var b audit.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v", text, b, err)
		}
		if back, err := b.MarshalText(); err != nil || string(back) != text {
			t.Errorf("%q comes back as %q, %v", text, back, err)
		}
	}
	for _, text := range []string{"", "-1", "1GB", "1.5GiB", "1gib", "GiB", "9999999999TiB", " 1GiB"} {
		if err := new(audit.Bytes).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "such as 1GiB") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]time.Duration{"400d": 400 * 24 * time.Hour, "36h0m0s": 36 * time.Hour, "0d": 0} {
		var a audit.Age
		if err := a.UnmarshalText([]byte(text)); err != nil || time.Duration(a) != want {
			t.Errorf("%q is %v, %v", text, a, err)
		}
		if back, err := a.MarshalText(); err != nil || string(back) != text {
			t.Errorf("%q comes back as %q, %v", text, back, err)
		}
	}
	for _, text := range []string{"", "-1d", "-1h", "1w", "99999d", "1.5d", "d"} {
		if err := new(audit.Age).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "such as 400d") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
