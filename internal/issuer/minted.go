package issuer

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
)

// freshFor is how long a token is handed out once more instead of a new one: it must
// have 58 minutes left then, since Google's Go libraries never read `exp` and keep
// one for 55 (contract google-clients, 0.1).
const freshFor = 2 * time.Minute

// maxMinted bounds how many tokens are held for one account, at about 1 KiB each: an
// account that asks for ever new audiences pushes out its own alone.
const maxMinted = 1024

// mintedKey is all that a token says besides its times and its id.
type mintedKey struct {
	account   string
	audience  string
	algorithm token.Algorithm
	format    string // "id", "access SCOPES", or "full FACTS"
}

type minted struct {
	raw     string
	id      string // `jti`
	kid     string // of the key that signed it
	expires time.Time
}

// mintedCache holds the tokens that were minted in the last minutes.
type mintedCache struct {
	mu   sync.RWMutex
	held map[string]map[mintedKey]minted // by account
}

func (i *Issuer) idKey(p *identity.Principal, attested map[string]string, audience string, full bool) mintedKey {
	format := "id"
	if full {
		format = fullFormat(attested)
	}
	return mintedKey{p.Name, audience, i.algorithm(p.Name), format}
}

// fullFormat names the lasting facts, in the order of their names.
func fullFormat(attested map[string]string) string {
	var names [8]string // as many as there are kinds of fact
	sorted := names[:0]
	for name := range attested {
		if name != attest.PID {
			sorted = append(sorted, name)
		}
	}
	slices.Sort(sorted)
	var room [256]byte
	out := append(room[:0], "full"...)
	for _, name := range sorted {
		out = append(append(append(append(out, 0), name...), 0), attested[name]...)
	}
	return string(out)
}

func (i *Issuer) accessKey(p *identity.Principal, scopes []string) mintedKey {
	return mintedKey{p.Name, i.c.Audience, i.algorithm(p.Name), "access " + strings.Join(scopes, " ")}
}

func (i *Issuer) algorithm(account string) token.Algorithm {
	return cmp.Or(i.algorithms[account], i.c.Signing.Algorithm)
}

// HeldIDToken returns the id of an ID token that IDToken would hand out once more,
// for guard.Attempt.Reuse; "" if there is none.
func (i *Issuer) HeldIDToken(p *identity.Proof, audience string, full bool) string {
	return i.held(i.idKey(&p.Principal, p.Attested, audience, full))
}

// HeldAccessToken is HeldIDToken for AccessToken.
func (i *Issuer) HeldAccessToken(p *identity.Proof, scopes []string) string {
	return i.held(i.accessKey(&p.Principal, scopes))
}

// held returns the id of the token under key if it is fresh, and the key that signed
// it still signs: one that was revoked took its tokens with it.
func (i *Issuer) held(key mintedKey) string {
	i.minted.mu.RLock()
	m, ok := i.minted.held[key.account][key]
	i.minted.mu.RUnlock()
	if !ok || m.expires.Sub(i.now()) < TokenLifetime-freshFor || !i.keys.Signs(keys.Tokens, key.algorithm, m.kid) {
		return ""
	}
	return m.id
}

func (c *mintedCache) get(key mintedKey, id string) (minted, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	m, ok := c.held[key.account][key]
	return m, ok && m.id == id
}

func (c *mintedCache) put(key mintedKey, m minted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[string]map[mintedKey]minted{}
	}
	of := c.held[key.account]
	if of == nil {
		of = map[mintedKey]minted{}
		c.held[key.account] = of
	}
	for old := range of {
		if len(of) < maxMinted {
			break
		}
		delete(of, old) // any: map iteration begins anywhere
	}
	of[key] = m
}
