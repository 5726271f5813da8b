package keys_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/token"
)

// memory is a store that can be made to fail before or after it has saved.
type memory struct {
	mu            sync.Mutex
	rows          map[string]keys.Sealed
	before, after error
}

func (m *memory) ListKeys(ctx context.Context) ([]keys.Sealed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.rows)), nil
}

func (m *memory) SaveKeys(ctx context.Context, put []keys.Sealed, drop []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.before != nil {
		return m.before
	}
	if m.rows == nil {
		m.rows = map[string]keys.Sealed{}
	}
	for _, k := range put {
		m.rows[k.ID] = k
	}
	for _, id := range drop {
		delete(m.rows, id)
	}
	return m.after
}

// world is a Set with a clock and a store that tests hold.
type world struct {
	*keys.Set
	store  memory
	kek    *sealing.Key
	clock  atomic.Int64
	events []keys.Event
}

func (w *world) now() time.Time { return time.Unix(w.clock.Load(), 0).UTC() }

func (w *world) after(d time.Duration) { w.clock.Add(int64(d.Seconds())) }

func (w *world) record(e keys.Event) error {
	w.events = append(w.events, e)
	return nil
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	w.clock.Store(1_800_000_000)
	var err error
	if w.kek, err = sealing.NewRandom(); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	return w
}

// reopen is a restart.
func (w *world) reopen(t testing.TB, previous ...*sealing.Key) {
	t.Helper()
	s, err := keys.Open(context.Background(), keys.Options{Store: &w.store, KEK: w.kek, Previous: previous, Now: w.now, TrustDomain: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w.Set = s
}

func open(t testing.TB) *keys.Set { return newWorld(t).Set }

// Every purpose signs its own types and no other, and what one purpose signed
// verifies under no other's keys.
func TestOneKeyOnePurpose(t *testing.T) {
	t.Parallel()
	s := open(t)
	want := map[keys.Purpose][]string{
		keys.Tokens:     {token.TypeID, token.TypeAccess},
		keys.Assertions: {token.TypeAssertion},
		keys.SVIDs:      {token.TypeSVID},
	}
	types := []string{token.TypeID, token.TypeAccess, token.TypeAssertion, token.TypeSVID, "dpop+jwt", ""}
	for _, p := range keys.Purposes() {
		if _, _, err := s.Sign(p, token.PS256, token.TypeID, nil); !errors.Is(err, keys.ErrPurpose) {
			t.Errorf("%s signed with an algorithm that is not its own: %v", p, err)
		}
		for _, typ := range types {
			raw, kid, err := s.Sign(p, p.Algorithms()[0], typ, map[string]any{"sub": "x"})
			if may := strings.Contains(" "+strings.Join(want[p], " ")+" ", " "+typ+" ") && typ != ""; !may {
				if !errors.Is(err, keys.ErrPurpose) {
					t.Errorf("%s signed %q: %v", p, typ, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s does not sign %q: %v", p, typ, err)
			}
			tok, err := token.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if tok.Header.KeyID != kid || !s.Signs(p, p.Algorithms()[0], kid) {
				t.Errorf("kid %s, told %s", tok.Header.KeyID, kid)
			}
			for _, other := range keys.Purposes() {
				for _, k := range s.Public(other) {
					if got := tok.SignedBy(k); got != (k.ID == kid) {
						t.Errorf("%s token of %s under a key of %s: verified %v", typ, p, other, got)
					}
				}
			}
		}
	}
}

func TestNoteSigner(t *testing.T) {
	t.Parallel()
	s := open(t)
	signer, text, err := s.NoteSigner("acme.internal/a")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := note.Sign(&note.Note{Text: "hello\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(msg, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	if _, err := note.Open(bytes.Replace(msg, []byte("hello"), []byte("hallo"), 1), note.VerifierList(v)); err == nil {
		t.Error("a changed note verifies")
	}
}
