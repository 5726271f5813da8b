package issuer

import (
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
)

// AssertionIssuer returns the `iss` of assertions of the issuer at url: not the
// issuer's own, so that no verifier of tokens takes one.
func AssertionIssuer(url string) string { return url + "/assertion" }

// AssertionAudience returns the `aud` of assertions for a service.
func AssertionAudience(trustDomain, service string) string {
	return "//" + trustDomain + "/services/" + service
}

type assertion struct {
	Issuer     string            `json:"iss"`
	Subject    string            `json:"sub"` // the qualified member name
	Audience   string            `json:"aud"`
	IssuedAt   int64             `json:"iat"`
	Expiry     int64             `json:"exp"`
	Name       string            `json:"name"` // as CEL's principal.name
	Kind       string            `json:"kind"`
	Provider   string            `json:"provider"`
	Email      string            `json:"email,omitzero"`
	Groups     []string          `json:"groups,omitzero"`
	Attributes map[string]string `json:"attributes,omitzero"`
}

// Assertion returns the statement about the caller that goes upstream with each
// request of pass: at most 5 minutes and never longer than the caller's own
// credential. There is nothing of one request in it, so one is signed per
// credential and service, and used again while half its life is left.
func (i *Issuer) Assertion(pass *guard.Pass) (string, error) {
	a, err := pass.Admission()
	if err != nil {
		return "", err
	}
	if a.Service == "" {
		return "", fmt.Errorf("assertion: %w", ErrNotAdmitted)
	}
	key := assertionKey{a.CredentialID(), a.Service}
	now := i.now()
	if raw, ok := i.assertions.get(key, now); ok {
		return raw, nil
	}
	end := now.Add(AssertionLifetime)
	if !a.Expires.IsZero() && a.Expires.Before(end) {
		end = a.Expires
	}
	p := a.Principal
	raw, _, err := i.keys.Sign(keys.Assertions, token.ES256, token.TypeAssertion, assertion{
		Issuer: AssertionIssuer(i.c.URL), Subject: p.ID(), Audience: AssertionAudience(i.trustDomain, a.Service),
		IssuedAt: now.Unix(), Expiry: end.Unix(),
		Name: p.Name, Kind: string(p.Kind), Provider: a.Provider, Email: p.Email, Groups: p.Groups, Attributes: p.Attributes,
	})
	if err != nil {
		return "", fmt.Errorf("assertion: %w", err)
	}
	i.assertions.put(key, raw, now.Add(end.Sub(now)/2))
	return raw, nil
}

// maxAssertions bounds the cache; at about 1 KiB each.
const maxAssertions = 16384

type assertionKey struct {
	credential [32]byte
	service    string
}

type assertionCache struct {
	mu   sync.RWMutex
	held map[assertionKey]heldAssertion
}

type heldAssertion struct {
	raw   string
	until time.Time
}

func (c *assertionCache) get(k assertionKey, now time.Time) (string, bool) {
	if k.credential == ([32]byte{}) { // attested callers have no credential to hang it on
		return "", false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	h, ok := c.held[k]
	return h.raw, ok && now.Before(h.until)
}

func (c *assertionCache) put(k assertionKey, raw string, until time.Time) {
	if k.credential == ([32]byte{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[assertionKey]heldAssertion{}
	}
	for old := range c.held {
		if len(c.held) < maxAssertions {
			break
		}
		delete(c.held, old) // any: map iteration begins anywhere
	}
	c.held[k] = heldAssertion{raw, until}
}
