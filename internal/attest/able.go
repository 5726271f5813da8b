package attest

import (
	"errors"
	"fmt"
)

// Ability is what can be looked at here, with the privileges at hand: nil, or why
// not and what to do.
type Ability struct {
	Sockets   error // who owns a loopback connection; needs no privilege
	Unix      error // who else holds what connected to a Unix socket: Linux 6.5 and unix_diag
	Processes error // who holds a connection of any user, its cgroup and executable

	// Hidden is how many processes a security module keeps from us all the same. They
	// are never taken for a caller, and not seen as second holders either.
	Hidden int
}

// Check reports each entry of accounts that cannot be evaluated here, by its path
// in the file: closed by default, an entry that nobody could ever meet, or that
// would be met on fewer facts than it asks for, does not load.
func (a Ability) Check(accounts []Account) error {
	var bad []error
	for i := range accounts {
		for j := range accounts[i].Attest {
			r := &accounts[i].Attest[j]
			at := fmt.Sprintf("service_accounts[%d].attest[%d]", i, j)
			if a.Sockets != nil {
				bad = append(bad, fmt.Errorf("%s: %w", at, a.Sockets))
				continue
			}
			if a.Processes == nil || r.depth() == socketOnly {
				continue
			}
			for _, f := range []struct {
				name string
				is   bool
			}{{"cgroup", r.Cgroup != ""}, {"gid", r.GID != nil}, {"executable", r.Executable != ""}, {"sha256", r.SHA256 != ""}} {
				if f.is {
					bad = append(bad, fmt.Errorf("%s.%s: cannot be evaluated here: %w", at, f.name, a.Processes))
				}
			}
		}
	}
	return errors.Join(bad...)
}
