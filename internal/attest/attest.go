// Package attest says who is on the other end of a local connection, and which
// service account that makes them.
//
// What it proves is the uid that owned the peer's socket when it was looked up,
// nothing about the program: two programs of one uid cannot be told apart, a
// relay (docker-proxy, ssh -L) is itself the peer, and a program may hand its
// socket to another. A socket that is closed, orphaned, in another network
// namespace or not there yields no identity, never root's.
//
// cgroup, executable and hash come later, and with them Unix sockets. Only Linux
// can attest; elsewhere every look-up fails with ErrUnsupported.
package attest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// An Account is a service account of the file, with the facts that make a local
// caller it.
type Account struct {
	// Name is the bare name, as in serviceAccount:NAME.
	Name string `yaml:"name"`

	// Attest holds alternatives: a caller that meets any entry is the account.
	// Empty: no local caller is.
	Attest []Rule `yaml:"attest,omitempty"`
}

// A Rule is one entry of attest; every fact in it must hold.
type Rule struct {
	// UID owns the caller's socket. Required.
	UID *uint32 `yaml:"uid"`
}

// overflowUID is what the kernel reports for a user of another user namespace
// that has no mapping in ours (/proc/sys/kernel/overflowuid): it can be anybody.
const overflowUID = 65534

// Complete reports every mistake, each below "service_accounts[i]".
func (a *Account) Complete() error {
	var bad []error
	if !identity.ValidName(a.Name) {
		bad = append(bad, fmt.Errorf("name: %q: use lower-case letters, digits, - and _, at most 63", a.Name))
	}
	for i, r := range a.Attest {
		switch {
		case r.UID == nil:
			bad = append(bad, fmt.Errorf("attest[%d]: needs uid: without an owner to check, any local caller would match", i))
		case *r.UID == overflowUID:
			bad = append(bad, fmt.Errorf("attest[%d].uid: %d is the kernel's overflow uid and stands for anyone it cannot map: use a uid of its own", i, overflowUID))
		}
	}
	return errors.Join(bad...)
}

func (a *Account) matches(f Facts) bool {
	return slices.ContainsFunc(a.Attest, func(r Rule) bool { return r.UID != nil && *r.UID == f.UID })
}

// A Conn names a TCP connection by its ends.
type Conn struct {
	Peer netip.AddrPort // the caller's end
	Here netip.AddrPort // our end
}

// Facts are what the kernel says of the caller's socket. Two look-ups of one
// caller are equal; anything else is a change.
type Facts struct {
	UID    uint32
	Inode  uint32 // of the socket; never 0
	Cookie uint64 // of the socket; unlike its address, never used again
}

// An Error is a caller that could not be attested.
type Error struct {
	code  string
	cause error
}

// Code returns the reason code that records hold.
func (e *Error) Code() string { return e.code }

// Class returns what the caller may be told: that it has no identity here.
func (e *Error) Class() string { return "no identity for this caller" }

// Error returns the detail, for the owner.
func (e *Error) Error() string { return e.code + ": " + e.cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// ErrUnsupported means that this system cannot say who owns a socket.
var ErrUnsupported = errors.New("this system cannot attest local callers: only Linux can")

// An Attestor knows the service accounts and asks the kernel. It is safe for
// concurrent use.
type Attestor struct {
	accounts map[string]Account
	email    func(name string) string
	lookup   func(context.Context, Conn) (Facts, error)
}

// New returns an Attestor for accounts, whose addresses email makes.
func New(accounts []Account, email func(name string) string) *Attestor {
	a := &Attestor{accounts: map[string]Account{}, email: email, lookup: newKernel().lookup}
	for _, acc := range accounts {
		a.accounts[acc.Name] = acc
	}
	return a
}

// Prove attests the caller at the other end of c as the one account of among that
// it matches. It fails with an *Error when the caller's socket has no owner, or
// when it matches no account or several.
func (a *Attestor) Prove(ctx context.Context, c Conn, among []string) (*identity.Proof, error) {
	facts, err := a.lookup(ctx, c)
	if err != nil {
		return nil, &Error{"caller_unattested", err}
	}
	var names []string
	for _, name := range among {
		if acc, ok := a.accounts[name]; ok && acc.matches(facts) {
			names = append(names, name)
		}
	}
	switch len(names) {
	case 1:
	case 0:
		return nil, &Error{"no_account", fmt.Errorf("the caller's uid is %d; this door serves %s, and no attest entry of theirs has it", facts.UID, strings.Join(among, ", "))}
	default:
		return nil, &Error{"account_ambiguous", fmt.Errorf("the caller's uid is %d, which makes it %s: give each a door of its own", facts.UID, strings.Join(names, " and "))}
	}
	return &identity.Proof{
		Principal: identity.Account(names[0], a.email(names[0])),
		Provider:  identity.Local,
		Attested:  map[string]string{"uid": strconv.FormatUint(uint64(facts.UID), 10)},
		Still: func(ctx context.Context) error {
			again, err := a.lookup(ctx, c)
			if err == nil && again != facts {
				err = fmt.Errorf("was uid %d, socket %d, is uid %d, socket %d", facts.UID, facts.Inode, again.UID, again.Inode)
			}
			if err != nil {
				return &Error{"caller_changed", err}
			}
			return nil
		},
	}, nil
}
