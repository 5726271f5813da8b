package keys

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// An Event is a change of the set. What takes one records it before it takes effect;
// an error prevents it.
type Event struct {
	Action string // "keys.create", "keys.activate", "keys.revoke", "keys.remove", "keys.rewrap"
	Detail string // which key, and when; nothing secret
}

// Made returns what Open did, when there was no log yet to record it in.
func (s *Set) Made() []Event { return s.made }

func (k *key) describe() string {
	return fmt.Sprintf("key %s (%s, %s)", k.ID, k.row.Purpose, k.row.Algorithm)
}

// Info is what may be told of a key.
type Info struct {
	ID        string
	Purpose   Purpose
	Algorithm token.Algorithm
	State     State
	Created   time.Time
	Activates time.Time // when it begins to sign, or began to
	Until     time.Time // when the state ends; zero if that is not planned
}

// List returns every key, by purpose and age.
func (s *Set) List() []Info {
	now := s.o.Now()
	var out []Info
	for _, u := range uses() {
		r := s.ring(u.purpose, u.algorithm)
		for i, k := range r {
			state, until := r.state(i, now)
			if state == Current && until.IsZero() && u.purpose.rotates() {
				until = k.row.Activates.Add(s.o.Schedule.Rotate)
			}
			out = append(out, Info{k.ID, u.purpose, u.algorithm, state, k.row.Created, k.row.Activates, until})
		}
	}
	return out
}

// Turn does what is due by the schedule: it publishes a new key before the current
// one has signed for as long as it may, and removes what is over. It is to be
// called every minute or so; a Turn that comes late is only late.
func (s *Set) Turn(ctx context.Context, record func(Event) error) error {
	return s.change(ctx, func(c *change) error {
		for _, u := range uses() {
			r := c.rings[u]
			for i, k := range slices.Clone(r) {
				if state, until := r.state(i, c.now); (state == Retired || state == Revoked) && !until.After(c.now) {
					c.drop(k)
				}
			}
			current := r.current(c.now)
			if !u.purpose.rotates() || current == nil || r.next(c.now) != nil {
				continue
			}
			due := current.row.Activates.Add(s.o.Schedule.Rotate)
			if c.now.Before(due.Add(-s.o.Schedule.PublishBefore)) {
				continue
			}
			// however late this comes, nobody meets the key unprepared
			if err := c.add(u, latest(due, c.now.Add(settle))); err != nil {
				return err
			}
		}
		return nil
	}, record)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Rotate publishes a new key for each purpose now, and lets it sign as soon as
// nobody can hold a document without it. A key that is published already is
// brought forward.
func (s *Set) Rotate(ctx context.Context, purposes []Purpose, record func(Event) error) error {
	for _, p := range purposes {
		if !p.rotates() {
			return fmt.Errorf("%s: %w", p, ErrKept)
		}
	}
	return s.change(ctx, func(c *change) error {
		for _, u := range uses() {
			if !slices.Contains(purposes, u.purpose) {
				continue
			}
			next := c.rings[u].next(c.now)
			if next == nil {
				if err := c.add(u, c.now.Add(settle)); err != nil {
					return err
				}
				continue
			}
			if soon := latest(next.row.Created.Add(settle), c.now); soon.Before(next.row.Activates) {
				if err := c.alter(next, Event{"keys.activate", next.describe() + " signs from " + moment(soon)}, func(r *Sealed) { r.Activates = second(soon) }); err != nil {
					return err
				}
			}
		}
		return nil
	}, record)
}

// ErrKept means that a purpose's key cannot be rotated or revoked: whoever holds
// the audit log's public key holds it for good.
var ErrKept = errors.New("everybody who checks the audit log holds it")

// Revoke withdraws a key at once: it is not published any more, and what it signed
// is refused here. When it was the one that signs, another takes its place without
// having been published before, which verifiers elsewhere may refuse for as long as
// they keep an old document. token.ErrUnknownKey if there is no such key, or if it
// was revoked before.
func (s *Set) Revoke(ctx context.Context, kid string, record func(Event) error) error {
	return s.change(ctx, func(c *change) error {
		for u, r := range c.rings {
			for _, k := range r {
				if k.ID != kid || !k.row.Revoked.IsZero() {
					continue
				}
				if !u.purpose.rotates() {
					return fmt.Errorf("%s: %w", u.purpose, ErrKept)
				}
				return c.revoke(u, k)
			}
		}
		return token.ErrUnknownKey
	}, record)
}

func (c *change) revoke(u use, k *key) error {
	signed := c.rings[u].current(c.now) == k
	next := c.rings[u].next(c.now)
	if err := c.alter(k, Event{"keys.revoke", k.describe()}, func(r *Sealed) { r.Revoked = second(c.now) }); err != nil {
		return err
	}
	switch {
	case !signed:
		return nil
	case next != nil:
		return c.alter(next, Event{"keys.activate", next.describe() + " signs at once"}, func(r *Sealed) { r.Activates = second(c.now) })
	}
	return c.add(u, c.now)
}

// change is a change of the set that is being made: to a copy of the rings, to be
// recorded, stored and published in this order.
type change struct {
	set    *Set
	now    time.Time
	rings  map[use]ring
	put    map[string]*key
	gone   []string
	events []Event
}

func (c *change) add(u use, activates time.Time) error {
	k, err := create(c.set.o.KEK, u.purpose, u.algorithm, c.now, activates)
	if err != nil {
		return fmt.Errorf("create key for %s: %w", u.purpose, err)
	}
	c.rings[u] = append(slices.Clone(c.rings[u]), k).sorted()
	c.put[k.ID] = k
	c.events = append(c.events, Event{"keys.create", k.describe() + " signs from " + moment(activates)})
	return nil
}

func (c *change) alter(k *key, e Event, f func(*Sealed)) error {
	u := use{k.row.Purpose, k.row.Algorithm}
	changed, err := k.change(c.set.o.KEK, f)
	if err != nil {
		return err
	}
	r := slices.Clone(c.rings[u])
	r[slices.Index(r, k)] = changed
	c.rings[u] = r.sorted()
	c.put[k.ID] = changed
	c.events = append(c.events, e)
	return nil
}

func (c *change) drop(k *key) {
	u := use{k.row.Purpose, k.row.Algorithm}
	c.rings[u] = slices.DeleteFunc(slices.Clone(c.rings[u]), func(o *key) bool { return o == k })
	c.gone = append(c.gone, k.ID)
	c.events = append(c.events, Event{"keys.remove", k.describe()})
}

// saveTimeout bounds what the store takes for a change.
const saveTimeout = time.Minute

// change makes a change: no record, no change. When the store says that it failed,
// what it holds is read again, since it may have failed to say that it succeeded.
func (s *Set) change(ctx context.Context, f func(*change) error, record func(Event) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	c := &change{set: s, now: second(s.o.Now()), rings: maps.Clone(s.published.Load().rings), put: map[string]*key{}}
	if err := f(c); err != nil {
		return err
	}
	// what was recorded happens, whether somebody still waits for it or not
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	for _, e := range c.events {
		if err := record(e); err != nil {
			return fmt.Errorf("record the change: %w", err)
		}
	}
	if len(c.events) == 0 {
		return nil
	}
	if err := s.o.Store.SaveKeys(ctx, rows(slices.Collect(maps.Values(c.put))), c.gone); err != nil {
		err = fmt.Errorf("save keys: %w", err)
		rings, _, lerr := s.load(ctx)
		if lerr != nil {
			return errors.Join(err, lerr)
		}
		s.publish(rings)
		return err
	}
	s.publish(c.rings)
	return nil
}
