package keys_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
)

// states are those of a purpose's keys of one algorithm, the oldest first.
func (w *world) states(p keys.Purpose, alg token.Algorithm) string {
	var out []string
	for _, k := range w.List() {
		if k.Purpose == p && k.Algorithm == alg {
			out = append(out, string(k.State))
		}
	}
	return strings.Join(out, " ")
}

func (w *world) turn(t testing.TB) {
	t.Helper()
	if err := w.Turn(context.Background(), w.record); err != nil {
		t.Fatal(err)
	}
}

// One key's life by the default schedule: two hours published, 720 hours signing,
// and published until what it signed has expired.
func TestScheduledRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, log, unused := w.Public(keys.Assertions)[0].ID, w.kid(t, keys.Checkpoints, keys.Current), w.Public(keys.Tokens)[1].ID
	for _, step := range []struct {
		wait      time.Duration
		states    string
		published int
	}{
		{0, "current", 1},
		{717 * time.Hour, "current", 1},
		{time.Hour, "current next", 2},
		{time.Hour + 59*time.Minute, "current next", 2},
		{time.Minute, "retired current", 2},
		{time.Hour + 4*time.Minute, "retired current", 2},
		{time.Minute, "current", 1},
	} {
		w.after(step.wait)
		w.turn(t)
		if got := w.states(keys.Assertions, token.ES256); got != step.states || len(w.Public(keys.Assertions)) != step.published {
			t.Errorf("after %v more: %s, %d published, want %s, %d", step.wait, got, len(w.Public(keys.Assertions)), step.states, step.published)
		}
	}
	if w.Public(keys.Assertions)[0].ID == first {
		t.Error("the first key is still there")
	}
	if got := w.states(keys.Checkpoints, token.EdDSA); got != "current" || w.kid(t, keys.Checkpoints, keys.Current) != log {
		t.Errorf("the checkpoint key rotated: %s", got)
	}
	if got := w.states(keys.Tokens, token.ES256); got != "current" || w.Public(keys.Tokens)[1].ID == unused {
		t.Errorf("an algorithm that nobody uses does not rotate: %s", got)
	}
	for _, e := range w.events {
		if e.Action != "keys.create" && e.Action != "keys.remove" {
			t.Errorf("recorded %v", e)
		}
	}
}

// What is published changes by the clock too, and with it the number of the bundle.
func TestSequenceGrowsWhenAKeyIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.Sequence(keys.SVIDs)
	w.rotate(t)
	made := w.Sequence(keys.SVIDs)
	if made <= first { // in the same second
		t.Errorf("after a rotation %d, was %d", made, first)
	}
	w.after(65*time.Minute + 65*time.Minute - time.Second)
	if len(w.Public(keys.SVIDs)) != 2 || w.Sequence(keys.SVIDs) != made {
		t.Errorf("before: %d published, number %d, was %d", len(w.Public(keys.SVIDs)), w.Sequence(keys.SVIDs), made)
	}
	w.after(time.Second)
	if len(w.Public(keys.SVIDs)) != 1 || w.Sequence(keys.SVIDs) <= made {
		t.Errorf("after: %d published, number %d, was %d", len(w.Public(keys.SVIDs)), w.Sequence(keys.SVIDs), made)
	}
}

// A key that was revoked before it signed was nobody's successor: the one that signed
// meanwhile stays published for as long as what it signed is good.
func TestRevokedBeforeItSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.kid(t, keys.SVIDs, keys.Current)
	w.rotate(t)
	w.after(time.Minute)
	if err := w.Revoke(t.Context(), w.kid(t, keys.SVIDs, keys.Next), w.record); err != nil {
		t.Fatal(err)
	}
	w.after(718 * time.Hour)
	w.turn(t)
	w.after(2 * time.Hour)
	if got := w.states(keys.SVIDs, token.ES256); got != "retired revoked current" {
		t.Fatalf("got %s", got)
	}
	if _, err := w.Source(keys.SVIDs).Find(t.Context(), first, token.ES256); err != nil {
		t.Errorf("what the first signed a moment ago: %v", err)
	}
}

// When the clock is set back to before the key that took a revoked one's place, the one
// before signs again, and is published as long as it does.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rotate(t)
	w.after(66 * time.Minute)
	if err := w.Revoke(t.Context(), w.kid(t, keys.SVIDs, keys.Current), w.record); err != nil {
		t.Fatal(err)
	}
	w.after(-30 * time.Second)
	_, kid, err := w.Sign(keys.SVIDs, token.ES256, token.TypeSVID, map[string]any{})
	if got := w.states(keys.SVIDs, token.ES256); err != nil || got != "current revoked next" || kid != w.kid(t, keys.SVIDs, keys.Current) {
		t.Errorf("%s, signed by %s, %v", got, kid, err)
	}
}

// A server that was off for long publishes first and signs later, all the same.
func TestLateTurnPublishesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.after(5000 * time.Hour)
	w.reopen(t)
	old := w.Public(keys.Assertions)[0].ID
	w.turn(t)
	if !w.Signs(keys.Assertions, token.ES256, old) || w.states(keys.Assertions, token.ES256) != "current next" {
		t.Errorf("right after a late turn: %s", w.states(keys.Assertions, token.ES256))
	}
	w.after(65 * time.Minute)
	if w.Signs(keys.Assertions, token.ES256, old) {
		t.Error("the next key does not sign after its time")
	}
}

func TestRotateByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rotate := func() {
		t.Helper()
		if err := w.Rotate(t.Context(), []keys.Purpose{keys.Tokens}, w.record); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	if got := w.states(keys.Tokens, token.RS256) + "; " + w.states(keys.Tokens, token.ES256) + "; " + w.states(keys.SVIDs, token.ES256); got != "current next; current next; current" {
		t.Errorf("rotated: %s", got)
	}
	w.after(keys.DocumentLife)
	if got := w.states(keys.Tokens, token.RS256); got != "current next" {
		t.Errorf("signs while somebody may hold an old document: %s", got)
	}
	n := len(w.events)
	rotate() // again: nothing can be sooner
	if len(w.events) != n {
		t.Errorf("rotated twice: %v", w.events[n:])
	}
	w.after(5 * time.Minute)
	if got := w.states(keys.Tokens, token.RS256); got != "retired current" {
		t.Errorf("after its time: %s", got)
	}
	if err := w.Rotate(t.Context(), []keys.Purpose{keys.Checkpoints}, w.record); !errors.Is(err, keys.ErrKept) {
		t.Errorf("the checkpoint key: %v", err)
	}
}

// A key that the schedule has published is brought forward, and no further than it
// has to be published.
func TestRotateBringsForward(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.after(718 * time.Hour)
	w.turn(t) // publishes two hours ahead
	w.after(10 * time.Minute)
	if err := w.Rotate(t.Context(), []keys.Purpose{keys.SVIDs}, w.record); err != nil {
		t.Fatal(err)
	}
	for _, k := range w.List() {
		if k.Purpose == keys.SVIDs && k.State == keys.Next {
			if got := k.Activates.Sub(k.Created); got != 65*time.Minute {
				t.Errorf("signs %v after it was published", got)
			}
		}
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		prepare func(*world, testing.TB)
		which   keys.State // of the key that is revoked
		want    string
	}{
		{"the only one: another takes its place at once", func(*world, testing.TB) {}, keys.Current, "revoked current"},
		{"the current one: the next signs at once", func(w *world, t testing.TB) { w.rotate(t) }, keys.Current, "revoked current"},
		{"the next one: the current goes on", func(w *world, t testing.TB) { w.rotate(t) }, keys.Next, "current revoked"},
		{"a retired one", func(w *world, t testing.TB) { w.rotate(t); w.after(66 * time.Minute) }, keys.Retired, "revoked current"},
		{"the current one while one is retired", func(w *world, t testing.TB) { w.rotate(t); w.after(66 * time.Minute) }, keys.Current, "retired revoked current"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tt.prepare(w, t)
			kid := w.kid(t, keys.SVIDs, tt.which)
			before := w.Source(keys.SVIDs).Generation()
			if err := w.Revoke(t.Context(), kid, w.record); err != nil {
				t.Fatal(err)
			}
			if before == w.Source(keys.SVIDs).Generation() {
				t.Error("verdicts that are kept do not learn of it")
			}
			for range 2 { // also after a restart
				if got := w.states(keys.SVIDs, token.ES256); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				if _, err := w.Source(keys.SVIDs).Find(t.Context(), kid, token.ES256); !errors.Is(err, token.ErrUnknownKey) {
					t.Errorf("it still verifies: %v", err)
				}
				if _, signer, err := w.Sign(keys.SVIDs, token.ES256, token.TypeSVID, map[string]any{}); err != nil || signer == kid {
					t.Errorf("signed by %s: %v", signer, err)
				}
				w.reopen(t)
			}
			if w.events[len(w.events)-1].Action == "" || !slices.ContainsFunc(w.events, func(e keys.Event) bool { return e.Action == "keys.revoke" && strings.Contains(e.Detail, kid) }) {
				t.Errorf("recorded %v", w.events)
			}
			if err := w.Revoke(t.Context(), kid, w.record); !errors.Is(err, token.ErrUnknownKey) {
				t.Errorf("revoked twice: %v", err)
			}
			w.after(31 * 24 * time.Hour)
			w.turn(t)
			if slices.ContainsFunc(w.List(), func(k keys.Info) bool { return k.ID == kid }) {
				t.Error("it is listed for ever")
			}
		})
	}
}

func (w *world) rotate(t testing.TB) {
	t.Helper()
	if err := w.Rotate(context.Background(), []keys.Purpose{keys.SVIDs}, w.record); err != nil {
		t.Fatal(err)
	}
}

func (w *world) kid(t testing.TB, p keys.Purpose, s keys.State) string {
	t.Helper()
	for _, k := range w.List() {
		if k.Purpose == p && k.State == s {
			return k.ID
		}
	}
	t.Fatalf("no key of %s is %s", p, s)
	return ""
}

func TestRevokeRefusesWhatItMust(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Revoke(t.Context(), "nobody", w.record); !errors.Is(err, token.ErrUnknownKey) {
		t.Errorf("no such key: %v", err)
	}
	if err := w.Revoke(t.Context(), w.kid(t, keys.Checkpoints, keys.Current), w.record); !errors.Is(err, keys.ErrKept) {
		t.Errorf("the checkpoint key: %v", err)
	}
	if len(w.events) != 0 {
		t.Errorf("recorded %v", w.events)
	}
}

// No record, no change; and when the store fails, what it holds is the truth: it may
// have failed to do a thing, or failed to say that it did it.
func TestChangesThatFail(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		record  error
		before  error
		after   error
		revoked bool
	}{
		{"the change cannot be recorded", boom, nil, nil, false},
		{"the store did not do it", nil, boom, nil, false},
		{"the store did it and said that it failed", nil, nil, boom, true},
		{"nothing fails", nil, nil, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			kid := w.kid(t, keys.SVIDs, keys.Current)
			w.store.before, w.store.after = tt.before, tt.after
			err := w.Revoke(t.Context(), kid, func(keys.Event) error { return tt.record })
			if failed := tt.record != nil || tt.before != nil || tt.after != nil; (err != nil) != failed {
				t.Errorf("got %v", err)
			}
			w.store.before, w.store.after = nil, nil
			for range 2 { // as it is, and after a restart
				if got := w.states(keys.SVIDs, token.ES256); (got == "revoked current") != tt.revoked || (got == "current") == tt.revoked {
					t.Errorf("states %s, want revoked %v", got, tt.revoked)
				}
				w.reopen(t)
			}
		})
	}
}

// Whoever asked for a change and does not wait for it any more has asked for it: what is
// recorded happens, in the store and in memory.
func TestChangeThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kid := w.kid(t, keys.SVIDs, keys.Current)
	ctx, cancel := context.WithCancel(t.Context())
	err := w.Revoke(ctx, kid, func(keys.Event) error { cancel(); return nil })
	if err != nil {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if got := w.states(keys.SVIDs, token.ES256); got != "revoked current" {
			t.Errorf("got %s", got)
		}
		w.reopen(t)
	}
}

// Whatever is minted at whatever time verifies at every verifier for its whole hour,
// though each keeps the key document for an hour, through months of scheduled
// rotations, rotations by hand, and a server that is off now and then.
func TestNoVerifierMeetsAKeyUnprepared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	type holder struct {
		document []token.Key
		fetched  time.Time
	}
	type held struct {
		kid    string
		minted time.Time
	}
	holders := make([]holder, 8)
	var tokens []held
	seen := map[string]bool{}
	for w.now().Before(time.Unix(1_800_000_000, 0).Add(90 * 24 * time.Hour)) {
		step := time.Duration(random.IntN(15*60)) * time.Second
		if random.IntN(200) == 0 {
			step = time.Duration(random.IntN(5*24*3600)) * time.Second // it is off
		}
		w.after(step)
		w.turn(t)
		if random.IntN(50) == 0 {
			if err := w.Rotate(t.Context(), []keys.Purpose{keys.Assertions}, w.record); err != nil {
				t.Fatal(err)
			}
		}
		_, kid, err := w.Sign(keys.Assertions, token.ES256, token.TypeAssertion, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		seen[kid] = true
		tokens = append(tokens, held{kid, w.now()})
		for len(tokens) > 0 && w.now().Sub(tokens[0].minted) > time.Hour {
			tokens = tokens[1:]
		}
		for i := range holders {
			h := &holders[i]
			if age := w.now().Sub(h.fetched); age >= keys.DocumentLife || random.IntN(20) == 0 {
				h.document, h.fetched = w.Public(keys.Assertions), w.now()
			}
			for _, tok := range tokens {
				if _, err := token.FindKey(h.document, tok.kid, token.ES256); err != nil {
					t.Fatalf("at %v: a token minted at %v is refused by a document of %v", w.now(), tok.minted, h.fetched)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d keys signed: this shows nothing", len(seen))
	}
}

// Signing, verifying and changing at once: under the race detector, and with no
// signature that does not verify.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var rounds [4]atomic.Int64
	for i := range rounds {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				raw, kid, err := w.Sign(keys.SVIDs, token.ES256, token.TypeSVID, map[string]any{"n": n})
				if err != nil {
					t.Error(err)
					return
				}
				k, err := w.Source(keys.SVIDs).Find(t.Context(), kid, token.ES256)
				if err != nil {
					t.Errorf("a key that signed just now is not published: %v", err)
					return
				}
				if tok, err := token.Parse(raw); err != nil || !tok.SignedBy(k) {
					t.Errorf("does not verify: %v", err)
				}
				rounds[i].Add(1)
			}
		})
	}
	for range 4 {
		w.rotate(t)
		for range 14 {
			w.after(5 * time.Minute)
			w.turn(t)
			for i := range rounds { // everybody comes round before the clock goes on
				for was := rounds[i].Load(); rounds[i].Load() == was && !t.Failed(); {
					time.Sleep(20 * time.Microsecond)
				}
			}
		}
	}
	close(stop)
	wg.Wait()
}

// document is every public key there is.
func (w *world) document(t testing.TB) string {
	t.Helper()
	var all []token.Key
	for _, p := range keys.Purposes() {
		all = append(all, w.Public(p)...)
	}
	doc, err := token.JWKS(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// A new key-encryption key: everything is sealed again under it, and the old one is
// not needed any more.
func TestRewrap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.kek
	before := w.document(t)
	var err error
	if w.kek, err = sealing.NewRandom(); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(t.Context(), keys.Options{Store: &w.store, KEK: w.kek, Now: w.now}); err == nil || !strings.Contains(err.Error(), "key_encryption.previous") {
		t.Errorf("without the old one: %v", err)
	}
	w.reopen(t, old)
	if len(w.Made()) != 6 || w.Made()[0].Action != "keys.rewrap" {
		t.Errorf("made %v", w.Made())
	}
	w.reopen(t)
	if len(w.Made()) != 0 || w.document(t) != before {
		t.Errorf("the keys are others, or were sealed once more: %v", w.Made())
	}
	if _, err := keys.Open(t.Context(), keys.Options{Store: &w.store, KEK: old, Now: w.now}); err == nil {
		t.Error("the old key still opens them")
	}
}

// The certificate of the authority is the same each time it is made, or bundles that
// were fetched before a restart would hold another root.
func TestRootsAreStable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, err := w.Roots()
	if err != nil {
		t.Fatal(err)
	}
	w.after(time.Hour)
	w.reopen(t)
	two, err := w.Roots()
	if err != nil || len(one) != 1 || len(two) != 1 || !one[0].Equal(two[0]) {
		t.Errorf("%d roots and %d: %v", len(one), len(two), err)
	}
	if err := one[0].CheckSignatureFrom(one[0]); err != nil || !one[0].IsCA || !one[0].MaxPathLenZero || one[0].URIs[0].String() != "spiffe://test" {
		t.Errorf("the root: %v, CA %v, %v", err, one[0].IsCA, one[0].URIs)
	}
}
