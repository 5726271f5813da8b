package verifier

import (
	"crypto/sha256"
	"encoding/binary"
)

// MaxRemembered is how many verdicts a Gate remembers at most.
const MaxRemembered = verdictShards * verdictsInShard

// Remembered returns how many verdicts g remembers.
func (g *Gate) Remembered() int {
	n := 0
	for i := range g.verdicts.shards {
		s := &g.verdicts.shards[i]
		s.mu.Lock()
		n += len(s.good)
		s.mu.Unlock()
	}
	return n
}

// Remember makes g remember t as the verdict on the nth of many tokens, none of
// which has to be signed.
func (g *Gate) Remember(n int, t *Verified) {
	g.verdicts.put(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n))), t)
}
