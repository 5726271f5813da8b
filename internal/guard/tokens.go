package guard

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// How many verified tokens are remembered. A refused token is never remembered:
// anybody can make those.
const (
	tokenShards   = 64
	tokensInShard = 512
)

// stands reports whether the provider that vouched is as it was.
func (e *entry) stands(v *view) bool {
	switch {
	case e.prover != nil:
		return v.issuers[e.prover.Issuer()] == e.prover
	case e.issuer != nil:
		return slices.Contains(v.Certificates, e.issuer)
	}
	return true
}

// tokenCache remembers proofs by the SHA-256 of the token that gave them. Whoever
// takes one out asks it again whether it still holds.
type tokenCache struct{ shards [tokenShards]tokenShard }

type tokenShard struct {
	mu     sync.RWMutex
	proofs map[[32]byte]entry
}

// entry is a proof, who made it, and the revocations that it was last held against.
// Sessions hang off it.
type entry struct {
	proof   *identity.Proof
	prover  BearerProver      // of a token
	issuer  CertificateProver // of a certificate
	checked *atomic.Uint64    // generation of the revocations; nil for attested callers
	hash    string            // SHA-256 of the token; "" for attested callers
}

func (c *tokenCache) shard(hash [32]byte) *tokenShard { return &c.shards[hash[0]%tokenShards] }

func (c *tokenCache) get(hash [32]byte) (entry, bool) {
	s := c.shard(hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.proofs[hash]
	return p, ok
}

// put remembers p. A full shard first loses what has expired, then one at
// random: map iteration begins anywhere, so nobody can choose whom to push out.
func (c *tokenCache) put(hash [32]byte, p entry, now time.Time) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proofs == nil {
		s.proofs = map[[32]byte]entry{}
	}
	if len(s.proofs) >= tokensInShard {
		for k, old := range s.proofs {
			if old.proof.Expires.Before(now) {
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
