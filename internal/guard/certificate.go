package guard

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync/atomic"
)

// proveCertificate finds the provider, of those that the service accepts, that a client
// certificate is of. It is remembered as tokens are, and asked again on every use.
func (g *Guard) proveCertificate(ctx context.Context, v *view, chain []*x509.Certificate, svc *Service) (entry, [32]byte, error) {
	h := sha256.New()
	for _, c := range chain {
		h.Write(c.Raw)
	}
	hash := [32]byte(h.Sum(nil))
	if e, ok := g.tokens.get(hash); ok && e.stands(v) && slices.Contains(svc.Accept, e.proof.Provider) {
		err := g.still(ctx, v, &e)
		if err != nil {
			g.tokens.drop(hash)
		}
		return e, hash, err
	}
	var why error = refusal{issuerNotAccepted, "the service accepts certificates of nobody"}
	for _, p := range v.Certificates {
		if !slices.Contains(svc.Accept, p.Name()) {
			continue
		}
		proof, err := p.ProveCertificate(ctx, chain)
		if err != nil {
			why = err
			continue
		}
		e := entry{proof: proof, issuer: p, checked: new(atomic.Uint64), hash: string(hash[:])}
		if err := g.still(ctx, v, &e); err != nil {
			return e, hash, err
		}
		g.tokens.put(hash, e, g.c.Now())
		return e, hash, nil
	}
	return entry{}, hash, why
}
