// Package search finds records of the audit log, by way of an index that is derived,
// disposable and late.
//
// What is found is always read from the log itself: the index only says which bundles
// of 256 records to read, and what it does not cover yet is read without it. Where the
// index lies is said in internal/store; that nobody altered the log, by audit.Verify.
package search

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// A Query is what records have to be like. An empty field asks nothing.
type Query struct {
	From, To time.Time // a record at either is found

	Principal string // qualified name
	Actor     string // one of the actors
	Service   string
	Action    string // http.get, or http.* for all of a protocol
	Decision  string // allow or deny
	Rule      string
	Reason    string
	TokenID   string // shown or issued
	Peer      string // an address, a network such as 10.0.0.0/8, or the name of a local origin
	Kind      string // admit, refuse, check, close, note or gap

	network netip.Prefix // of Peer, if it is one
}

// Complete reports every value that no record can have.
func (q *Query) Complete() error {
	var bad []error
	if kinds := []audit.Kind{audit.Admit, audit.Refuse, audit.Check, audit.Close, audit.Note, audit.Gap}; q.Kind != "" && !slices.Contains(kinds, audit.Kind(q.Kind)) {
		bad = append(bad, fmt.Errorf("kind %q: want one of %v", q.Kind, kinds))
	}
	if d := audit.Decision(q.Decision); q.Decision != "" && d != audit.Allow && d != audit.Deny {
		bad = append(bad, fmt.Errorf("decision %q: want allow or deny", q.Decision))
	}
	if strings.Contains(strings.TrimSuffix(q.Action, ".*"), "*") {
		bad = append(bad, fmt.Errorf("action %q: a star stands for all of a protocol, as in http.*", q.Action))
	}
	if strings.Contains(q.Peer, "/") {
		n, err := netip.ParsePrefix(q.Peer)
		if err != nil {
			bad = append(bad, fmt.Errorf("peer %q: is not a network such as 10.0.0.0/8", q.Peer))
		}
		q.network = n.Masked()
	} else if _, err := netip.ParseAddr(q.Peer); err == nil { // with a port, it is compared as it stands
		a, _ := address(q.Peer)
		q.network = netip.PrefixFrom(a, a.BitLen())
	}
	if _, ok := address(q.Peer); !ok && q.Peer != "" && strings.Trim(q.Peer, "0123456789.:*[]") == "" {
		bad = append(bad, fmt.Errorf("peer %q: is not an address; for many write a network such as 10.0.0.0/8", q.Peer))
	}
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		bad = append(bad, fmt.Errorf("the time ends at %s, before it begins at %s", q.To.Format(time.RFC3339), q.From.Format(time.RFC3339)))
	}
	return errors.Join(bad...)
}

// Any reports whether q asks anything.
func (q *Query) Any() bool { return *q != Query{} }

// Matches reports whether e is like q. Of what is not in its header a record whose
// payload is not here is like nothing.
func (q *Query) Matches(e *audit.Entry) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	if !is(q.Service, e.Service) || !is(q.Decision, string(e.Decision)) || !is(q.Rule, e.Rule) || !is(q.Kind, string(e.Kind)) ||
		!q.From.IsZero() && e.Time.Before(q.From) || !q.To.IsZero() && e.Time.After(q.To) {
		return false
	}
	p := e.Payload
	if p == nil {
		p = new(audit.Payload)
	}
	return is(q.Principal, p.Principal) && q.action(p.Action) && is(q.Reason, p.Reason) && q.peer(p.Peer) &&
		(q.TokenID == "" || q.TokenID == p.TokenID || q.TokenID == p.IssuedTokenID) &&
		(q.Actor == "" || slices.Contains(p.Actors, q.Actor))
}

func (q *Query) action(got string) bool {
	if family, all := strings.CutSuffix(q.Action, ".*"); all {
		return strings.HasPrefix(got, family+".")
	}
	return q.Action == "" || q.Action == got
}

// peer compares with a record's peer: an address with or without its port, a network
// that refusals were counted for, or the name of a local origin.
func (q *Query) peer(got string) bool {
	if q.Peer == "" || q.Peer == got {
		return true
	}
	if !q.network.IsValid() {
		return false
	}
	if a, ok := address(got); ok {
		return q.network.Contains(a)
	}
	if n, err := netip.ParsePrefix(got); err == nil {
		return q.network.Overlaps(n)
	}
	return false
}

// inRows reports whether the columns of an index alone say which records are like q.
func (q *Query) inRows() bool {
	return q.Actor == "" && q.Reason == "" && q.TokenID == "" && q.Peer == "" && q.Kind == ""
}

// marks returns what the marks of a bundle with a matching record certainly have: one
// of each list.
func (q *Query) marks() (out [][]string) {
	for kind, v := range map[string]string{markActor: q.Actor, markReason: q.Reason, markToken: q.TokenID} {
		if v != "" {
			out = append(out, []string{kind + v})
		}
	}
	switch n := q.network; {
	case q.Peer == "":
	case !n.IsValid():
		out = append(out, []string{peerMark(q.Peer)})
	case n.IsSingleIP():
		out = append(out, []string{markPeer + n.Addr().String(), markNetwork})
	}
	return out
}
