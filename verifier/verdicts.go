package verifier

import "sync"

// How many verdicts a Gate remembers: 16 times 256. A token that was not good is
// never remembered: anybody can make those.
const (
	verdictShards   = 16
	verdictsInShard = 256
)

// verdicts remembers good tokens by their SHA-256. Whoever takes one out asks it
// again whether it still holds.
type verdicts struct{ shards [verdictShards]verdictShard }

type verdictShard struct {
	mu   sync.RWMutex
	good map[[32]byte]*Verified
}

func (c *verdicts) shard(hash [32]byte) *verdictShard { return &c.shards[hash[0]%verdictShards] }

func (c *verdicts) get(hash [32]byte) *Verified {
	s := c.shard(hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.good[hash]
}

// put remembers t. A full shard first loses what has expired, then one at random:
// map iteration begins anywhere, so nobody can choose whom to push out.
func (c *verdicts) put(hash [32]byte, t *Verified) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good == nil {
		s.good = map[[32]byte]*Verified{}
	}
	if len(s.good) >= verdictsInShard {
		now := t.verifier.c.Now()
		for k, old := range s.good {
			if old.Claims.Expiry.Before(now) {
				delete(s.good, k)
			}
		}
	}
	for k := range s.good {
		if len(s.good) < verdictsInShard {
			break
		}
		delete(s.good, k)
	}
	s.good[hash] = t
}

func (c *verdicts) drop(hash [32]byte) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.good, hash)
}
