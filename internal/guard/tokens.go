package guard

import (
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// How many verified tokens are remembered. A refused token is never remembered:
// anybody can make those.
const (
	tokenShards   = 64
	tokensInShard = 512
)

// tokenCache remembers proofs by the SHA-256 of the token that gave them. Whoever
// takes one out asks it again whether it still holds.
type tokenCache struct{ shards [tokenShards]tokenShard }

type tokenShard struct {
	mu     sync.RWMutex
	proofs map[[32]byte]*identity.Proof
}

func (c *tokenCache) shard(hash [32]byte) *tokenShard { return &c.shards[hash[0]%tokenShards] }

func (c *tokenCache) get(hash [32]byte) (*identity.Proof, bool) {
	s := c.shard(hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.proofs[hash]
	return p, ok
}

// put remembers p. A full shard first loses what has expired, then one at
// random: map iteration begins anywhere, so nobody can choose whom to push out.
func (c *tokenCache) put(hash [32]byte, p *identity.Proof, now time.Time) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proofs == nil {
		s.proofs = map[[32]byte]*identity.Proof{}
	}
	if len(s.proofs) >= tokensInShard {
		for k, old := range s.proofs {
			if old.Expires.Before(now) {
				delete(s.proofs, k)
			}
		}
	}
	for k := range s.proofs {
		if len(s.proofs) < tokensInShard {
			break
		}
		delete(s.proofs, k)
	}
	s.proofs[hash] = p
}

func (c *tokenCache) drop(hash [32]byte) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.proofs, hash)
}
