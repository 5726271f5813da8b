// Package attest says who is on the other end of a local connection, and which
// service account that makes them.
//
// Its subject is the uid that owned the caller's socket when it connected, and for
// entries that ask for it the cgroup of whoever holds that socket: not the program.
// executable and sha256 only narrow an entry that uid or cgroup carries. They are
// read when the request has been read and again before the answer, and a change, a
// second holder or a disagreement refuses: detection, not proof. A process can send
// and then exec a trusted binary; LD_PRELOAD runs foreign code in one; a descriptor
// that is parked in a Unix socket's queue has no holder that shows; a relay
// (docker-proxy, ssh -L) is itself the peer. Two programs that share uid and cgroup
// cannot be told apart. A socket that is closed, orphaned or in another network
// namespace yields no identity, never root's.
//
// What an account may do is internal/policy's business, and that nothing happens
// without a record is internal/guard's. Only Linux can attest; elsewhere every
// look-up fails with ErrUnsupported.
package attest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// An Error is a caller that could not be attested.
type Error struct {
	code  string
	cause error
}

// Code returns the reason code that records hold.
func (e *Error) Code() string { return e.code }

// Class returns what the caller may be told: that it has no identity here, or several.
func (e *Error) Class() string {
	if e.code == ambiguous {
		return "this caller is several accounts here: name the one"
	}
	return "no identity for this caller"
}

// ambiguous is the code of a caller that is several accounts.
const ambiguous = "account_ambiguous"

// Error returns the detail, for the owner: the facts seen, and the entry that came
// nearest.
func (e *Error) Error() string { return e.code + ": " + e.cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// ErrUnsupported means that this system cannot say who owns a socket.
var ErrUnsupported = errors.New("this system cannot attest local callers: only Linux can")

// An Attestor knows the service accounts and asks the kernel. It is safe for
// concurrent use.
type Attestor struct {
	accounts map[string]Account
	who      map[string]identity.Principal // by account
	look     func(context.Context, Conn, wants) (Facts, error)
	alone    func(*Conn) error
}

// New returns an Attestor for accounts, whose addresses email makes. Whether their
// entries can be evaluated here is asked of Check.
func New(accounts []Account, email func(name string) string) *Attestor {
	a := &Attestor{accounts: map[string]Account{}, who: map[string]identity.Principal{}, look: newKernel().look, alone: (*Conn).alone}
	for _, acc := range accounts {
		a.accounts[acc.Name], a.who[acc.Name] = acc, identity.Account(acc.Name, email(acc.Name))
	}
	return a
}

// NewBelieving returns an Attestor that asks nobody: it takes every caller over
// loopback to be uid. It is for dev mode on systems that cannot attest, where each
// door has one account.
func NewBelieving(accounts []Account, email func(name string) string, uid uint32) *Attestor {
	a := New(accounts, email)
	a.alone = func(*Conn) error { return nil }
	a.look = func(_ context.Context, c Conn, _ wants) (Facts, error) {
		if !c.local() {
			return Facts{}, errors.New("the connection is not a local one")
		}
		return Facts{UID: uid, Inode: 1}, nil
	}
	return a
}

// Prove attests the caller at the other end of c as the one account of among that
// it matches. It fails with an *Error when the caller's socket has no owner, or
// when it matches no account or several.
func (a *Attestor) Prove(ctx context.Context, c Conn, among []string) (*identity.Proof, error) {
	facts, found, err := a.find(ctx, c, among)
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 1:
		return a.proof(c, a.who[found[0].name], facts, found[0].rule), nil
	case 0:
		return nil, &Error{"no_account", fmt.Errorf("the caller: %s; asked for one of %s; %s", facts, strings.Join(among, ", "), a.nearest(facts, among))}
	}
	var names []string
	for _, f := range found {
		names = append(names, f.name)
	}
	return nil, &Error{ambiguous, fmt.Errorf("the caller: %s, which makes it %s: name one of them in the request, or give each a metadata door of its own", facts, strings.Join(names, " and "))}
}

// Which returns the accounts of among that the caller at the other end of c is. It
// fails with an *Error when the caller's socket has no owner.
func (a *Attestor) Which(ctx context.Context, c Conn, among []string) ([]string, error) {
	_, found, err := a.find(ctx, c, among)
	var out []string
	for _, f := range found {
		out = append(out, f.name)
	}
	return out, err
}

// ProveUser attests the caller at the other end of c as user:local/UID, whatever
// accounts it may be besides. It fails with an *Error when the caller's socket has no
// owner.
func (a *Attestor) ProveUser(ctx context.Context, c Conn) (*identity.Proof, error) {
	facts, err := a.socket(ctx, c)
	if err == nil {
		err = a.alone(&c)
	}
	if err != nil {
		return nil, &Error{"caller_unattested", err}
	}
	if facts.UID == overflowUID {
		return nil, &Error{"caller_unattested", fmt.Errorf("uid %d stands for every user who has no uid here, of another user namespace: give it a uid of its own", overflowUID)}
	}
	who := identity.Principal{Kind: identity.User, Provider: identity.Local, Name: strconv.FormatUint(uint64(facts.UID), 10)}
	return a.proof(c, who, facts, &Rule{UID: &facts.UID}), nil
}

// Account returns the principal of the declared account called name.
func (a *Attestor) Account(name string) (identity.Principal, bool) {
	p, ok := a.who[name]
	return p, ok
}

// wants says how deeply a caller has to be looked at, by what is known of it so far.
type wants func(*Facts) depth

func shallow(*Facts) depth { return socketOnly }

type match struct {
	name string
	rule *Rule
}

// find looks at the caller as deeply as the entries of among ask, and returns the
// accounts it is, each with the first entry that it meets. Whoever meets no entry
// by uid alone costs no look at the processes.
func (a *Attestor) find(ctx context.Context, c Conn, among []string) (Facts, []match, error) {
	facts, err := a.socket(ctx, c)
	if err != nil {
		return facts, nil, &Error{"caller_unattested", err}
	}
	need := func(f *Facts) depth {
		out := socketOnly
		for _, name := range among {
			rules := a.accounts[name].Attest
			for i := range rules {
				out = max(out, rules[i].wants(f))
			}
		}
		return out
	}
	if need(&facts) > socketOnly {
		if facts, err = a.look(ctx, c, need); err != nil {
			return facts, nil, &Error{"caller_unattested", err}
		}
	}
	var found []match
	for _, name := range among {
		acc := a.accounts[name]
		for i := range acc.Attest {
			if len(acc.Attest[i].misses(&facts)) == 0 {
				found = append(found, match{name, &acc.Attest[i]})
				break
			}
		}
	}
	if len(found) > 0 {
		if err := a.alone(&c); err != nil {
			return facts, nil, &Error{"caller_unattested", err}
		}
	}
	return facts, found, nil
}

// socket returns who owned the caller's socket when it connected. That was looked up
// when the connection was accepted, and is again before any answer (Proof.Still).
func (a *Attestor) socket(ctx context.Context, c Conn) (Facts, error) {
	if c.first != nil {
		return c.first.facts, c.first.err
	}
	return a.look(ctx, c, shallow)
}

// nearest says which entry came nearest, and what it lacked: the one of which most
// holds, and of two such the one that asks for less. What was not looked at, since it
// could not help any more, does not hold.
func (a *Attestor) nearest(f Facts, among []string) string {
	best := "none of them has an attest entry"
	most, least := -1, 0
	for _, name := range among {
		acc := a.accounts[name]
		for i := range acc.Attest {
			r := &acc.Attest[i]
			m := r.misses(&f)
			held := max(r.facts(f.depth)-len(m), 0)
			if r.UID != nil && *r.UID != f.UID {
				held = 0
			}
			if asked := r.facts(hashes); held > most || held == most && asked < least {
				most, least = held, asked
				best = fmt.Sprintf("the nearest entry is attest[%d] of %s: %s", i, name, strings.Join(m, ", "))
			}
		}
	}
	return best
}

// proof is of a caller that meets rule; as long as it does, and stays the same
// caller, the proof holds.
func (a *Attestor) proof(c Conn, who identity.Principal, facts Facts, rule *Rule) *identity.Proof {
	var attested map[string]string
	if c.first != nil && facts.depth == socketOnly {
		attested = c.first.attested
	} else {
		attested = facts.attested()
	}
	return &identity.Proof{
		Principal: who,
		Provider:  identity.Local,
		Attested:  attested,
		Still: func(ctx context.Context) error {
			again, err := a.look(ctx, c, rule.wants)
			if err == nil {
				err = rule.same(&facts, &again)
			}
			if err != nil {
				return &Error{"caller_changed", err}
			}
			return nil
		},
	}
}
