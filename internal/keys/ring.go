package keys

import (
	"cmp"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// A State is where a key is in its life.
type State string

const (
	// Next is published and does not sign yet.
	Next State = "next"
	// Current signs.
	Current State = "current"
	// Retired does not sign any more, and is published until the last token it
	// signed has expired.
	Retired State = "retired"
	// Revoked was withdrawn: it is not published, and nothing verifies under it.
	Revoked State = "revoked"
)

// Times in the life of every key.
const (
	// DocumentLife is how long verifiers may keep the documents that publish keys:
	// the max-age that internal/door/discovery gives them.
	DocumentLife = time.Hour

	// settle is how long a key has to be published before it may sign: until nobody
	// holds a document without it, and a little for clocks and slow fetches.
	settle = DocumentLife + 5*time.Minute

	// Kept is how long a key stays published after its successor began to sign: the
	// longest life of what it signed, an hour, and leeway.
	Kept = time.Hour + 5*time.Minute

	// forget is how long a revoked key is listed.
	forget = 30 * 24 * time.Hour
)

// use is what one ring of keys is for.
type use struct {
	purpose   Purpose
	algorithm token.Algorithm
}

// ring holds the keys of one use, by the time at which each begins to sign. Which
// state a key is in follows from the clock alone: a promotion is no event that
// could be missed.
type ring []*key

func (r ring) sorted() ring {
	slices.SortFunc(r, func(a, b *key) int {
		// of two that begin in one second the revoked one was first: the other replaced it
		return cmp.Or(a.row.Activates.Compare(b.row.Activates), a.row.Created.Compare(b.row.Created), b.row.Revoked.Compare(a.row.Revoked), cmp.Compare(a.ID, b.ID))
	})
	return r
}

// current returns the key that signs at now: the last to have begun that was not
// revoked. It is nil only when all were.
func (r ring) current(now time.Time) *key {
	for i := len(r) - 1; i >= 0; i-- {
		if r[i].row.Revoked.IsZero() && !r[i].row.Activates.After(now) {
			return r[i]
		}
	}
	return nil
}

// next returns the key that will sign, or nil.
func (r ring) next(now time.Time) *key {
	for _, k := range r {
		if k.row.Revoked.IsZero() && k.row.Activates.After(now) {
			return k
		}
	}
	return nil
}

// state returns the state of r[i], and when the next one begins; zero if that is
// not planned.
func (r ring) state(i int, now time.Time) (State, time.Time) {
	k := r[i]
	switch {
	case !k.row.Revoked.IsZero():
		return Revoked, k.row.Revoked.Add(forget)
	case k.row.Activates.After(now):
		return Next, k.row.Activates
	}
	for _, later := range r[i+1:] {
		// a successor that was revoked since had begun to sign none the less
		began := later.row.Revoked.IsZero() || later.row.Revoked.After(later.row.Activates)
		if !began {
			continue
		}
		if !later.row.Activates.After(now) {
			if r.current(now) == k { // its successors were all revoked
				break
			}
			return Retired, later.row.Activates.Add(Kept)
		}
		return Current, later.row.Activates
	}
	return Current, time.Time{}
}

// public returns the keys that are to be published at now.
func (r ring) public(now time.Time) []token.Key {
	var out []token.Key
	for i, k := range r {
		if s, until := r.state(i, now); s == Next || s == Current || s == Retired && now.Before(until) {
			out = append(out, k.Key)
		}
	}
	return out
}
