package guard

import (
	"context"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Which returns the accounts of among that a local caller is, for doors that give a
// caller all of them. It decides nothing and records nothing: each is to be admitted
// by itself, and so is a caller that is none.
func (g *Guard) Which(ctx context.Context, c attest.Conn, among []string) []string {
	names, err := g.c.Local.Which(ctx, c, among)
	if err != nil {
		return nil // the attempt that follows says why, and is recorded
	}
	return names
}

// proveLocal attests the other end of a connection as what the credential asks for.
func (g *Guard) proveLocal(ctx context.Context, v *view, a *Attempt, c *Credential) (*identity.Proof, error) {
	switch {
	case c.runAs != "":
		return g.actAs(ctx, v, a, c)
	case c.user:
		return g.c.Local.ProveUser(ctx, *c.conn)
	}
	return g.c.Local.Prove(ctx, *c.conn, c.among)
}

// actAs lets a local user act as an account if policy allows them workload.run on
// it. That is a decision of its own, with a record of its own; a refusal comes back
// as the *fault.Error that the caller gets.
func (g *Guard) actAs(ctx context.Context, v *view, a *Attempt, c *Credential) (*identity.Proof, error) {
	user, err := g.c.Local.ProveUser(ctx, *c.conn)
	if err != nil {
		return nil, err
	}
	account, ok := g.c.Local.Account(c.runAs)
	if !ok {
		return user, refusal{accountUnknown, "no service account is called " + strconv.Quote(c.runAs)}
	}
	run := Attempt{Action: ActionRun, Resource: ToAccount(c.runAs), Peer: a.Peer, Caller: c.conn, TraceID: a.TraceID}
	d := v.decide(user, ActionRun, nil, &run, g.c.Now())
	if f, counted := g.crowdedUser(&run, user, &d); counted {
		return nil, f
	}
	id, err := g.append(g.decisionRecord(v, audit.Admit, &run, user, &d), audit.Written)
	if err != nil {
		return nil, err
	}
	if !d.Allow {
		f := notAllowed(&d)
		f.Decision = id
		return nil, f
	}
	return &identity.Proof{Principal: account, Provider: identity.Local, Actor: user.Principal.ID(), Attested: user.Attested, Still: user.Still}, nil
}

// proveServer proves that this server is one of its own accounts, which the file says.
func (g *Guard) proveServer(v *view, account string) (entry, [32]byte, error) {
	who, ok := g.c.Local.Account(account)
	if !ok {
		return entry{}, [32]byte{}, refusal{accountUnknown, "no service account is called " + strconv.Quote(account)}
	}
	e := entry{proof: &identity.Proof{Principal: who, Provider: identity.Local, Attested: map[string]string{"server": g.c.Replica}, Still: anybody.Still}}
	return e, [32]byte{}, g.unrevoked(v, &e)
}
