package guard

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// counts are the numbers of what was decided. Services are those of the file, and reasons
// are ours: nobody outside can make another.
type counts struct {
	mu sync.RWMutex
	of map[countKey]*count
}

type countKey struct {
	service, reason string
	ended           bool
}

type count struct {
	n    atomic.Uint64
	took atomic.Int64 // nanoseconds
}

// A Count is how often something happened.
type Count struct {
	Service string // "" at our own doors
	Reason  string // as records have it; "allowed" for what was
	Ended   bool   // it is of live sessions that were ended
	N       uint64
	Took    time.Duration // of all together, from the reason to the end
}

func (c *counts) get(k countKey) *count {
	c.mu.RLock()
	n := c.of[k]
	c.mu.RUnlock()
	if n != nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[countKey]*count{}
	}
	if c.of[k] == nil {
		c.of[k] = &count{}
	}
	return c.of[k]
}

func (c *counts) decided(service, reason string) { c.get(countKey{service, reason, false}).n.Add(1) }

func (c *counts) ended(service string, r Reason, took time.Duration) {
	n := c.get(countKey{service, string(r), true})
	n.n.Add(1)
	n.took.Add(int64(took))
}

// Counts returns how often what was decided since the start, sorted.
func (g *Guard) Counts() []Count {
	g.counts.mu.RLock()
	defer g.counts.mu.RUnlock()
	out := make([]Count, 0, len(g.counts.of))
	for k, n := range g.counts.of {
		out = append(out, Count{k.service, k.reason, k.ended, n.n.Load(), time.Duration(n.took.Load())})
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Reason, b.Reason))
	})
	return out
}

// Live returns how many sessions are live.
func (g *Guard) Live() int { return g.live.count() }
