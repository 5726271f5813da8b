package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// A Snapshot is a compiled set of rules. It never changes and is safe for
// concurrent use; a reload makes another.
type Snapshot struct {
	revision string

	// rules has deny rules first, each sort in file order; an index into it is
	// the order of evaluation.
	rules []*rule

	byResource map[Resource]*bucket
	globs      []globBucket // audience patterns with a star

	groups map[string][]memberKey // local ones

	mintOwn      bool
	admins       map[string]struct{} // subjects of user:local/UID; nil when the built-in rule is off
	audiences    map[string]struct{}
	mintPatterns []string
}

// Revision returns a short, stable name of what was compiled: 16 hexadecimal
// digits that change whenever a decision could.
func (s *Snapshot) Revision() string { return s.revision }

// A rule is a Rule with its names resolved; groups are already expanded.
type rule struct {
	name         string
	deny, shadow bool
	require      bool // it neither allows nor denies
	liveToken    bool // its obligation
	members      []memberKey
	to           []Resource
	actions      []string // exact ones and FAMILY.*
	reads        []string // those of them that change nothing
	when         string
	conds        []condition // one per family; nil without a condition
}

func (r *rule) covers(action string) bool { return covers(r.actions, action) }

func covers(actions []string, action string) bool {
	for _, a := range actions {
		if a == action {
			return true
		}
		if prefix, ok := strings.CutSuffix(a, "*"); ok && strings.HasPrefix(action, prefix) {
			return true
		}
	}
	return false
}

// condition returns what to evaluate for action, nil if there is no condition.
func (r *rule) condition(action string) *condition {
	if len(r.conds) == 0 {
		return nil
	}
	family := familyOf(action)
	for i := range r.conds {
		if r.conds[i].family == family {
			return &r.conds[i]
		}
	}
	return nil // not reached: covers has found the family
}

// A memberKey is a member name taken apart, so that a principal can be looked
// up without building texts.
type memberKey struct {
	kind                  memberKind
	provider, name, value string
}

type memberKind uint8

const (
	everyone memberKind = 1 << iota // anyAuthenticated
	anonymous
	account
	person    // user:
	federated // principal:
	groupOf   // group:PROVIDER/NAME
	attribute // principalSet:PROVIDER/attribute.NAME/VALUE
	allOf     // principalSet:PROVIDER/*
)

// keyOf takes a checked member apart; local groups have no key.
func keyOf(m identity.Member) memberKey {
	switch m.Text {
	case identity.AnyAuthenticated:
		return memberKey{kind: everyone}
	case string(identity.AnonymousKind):
		return memberKey{kind: anonymous}
	}
	kind, rest, _ := strings.Cut(m.Text, ":")
	provider, name, _ := strings.Cut(rest, "/")
	switch kind {
	case "serviceAccount":
		return memberKey{kind: account, name: rest}
	case "user":
		return memberKey{kind: person, provider: provider, name: name}
	case "principal":
		return memberKey{kind: federated, provider: provider, name: name}
	case "group":
		return memberKey{kind: groupOf, provider: provider, name: name}
	}
	if name == "*" {
		return memberKey{kind: allOf, provider: provider}
	}
	key, value, _ := strings.Cut(strings.TrimPrefix(name, "attribute."), "/")
	return memberKey{kind: attribute, provider: provider, name: key, value: value}
}

// A bucket holds the rules over one resource, by member.
type bucket struct {
	byMember map[memberKey][]int32
	kinds    memberKind // which kinds of key there are
}

type globBucket struct {
	pattern string
	*bucket
}

func newSnapshot(rules []*rule, off map[string]bool, w World, groups map[string][]memberKey) *Snapshot {
	slices.SortStableFunc(rules, func(a, b *rule) int {
		switch {
		case a.deny == b.deny:
			return 0
		case a.deny:
			return -1
		}
		return 1
	})
	s := &Snapshot{
		rules:        rules,
		groups:       groups,
		byResource:   map[Resource]*bucket{},
		mintOwn:      !off[mintOwn],
		audiences:    map[string]struct{}{},
		mintPatterns: slices.Clone(w.MintPatterns),
	}
	for _, a := range w.Audiences {
		s.audiences[a] = struct{}{}
	}
	if !off[adminUIDs] {
		s.admins = map[string]struct{}{}
		for _, uid := range w.AdminUIDs {
			s.admins[strconv.FormatUint(uint64(uid), 10)] = struct{}{}
		}
	}
	for i, r := range rules {
		for _, res := range r.to {
			b := s.byResource[res]
			if b == nil {
				b = &bucket{byMember: map[memberKey][]int32{}}
				s.byResource[res] = b
				if res.Kind == AudienceResource && strings.Contains(res.Name, "*") {
					s.globs = append(s.globs, globBucket{res.Name, b})
				}
			}
			for _, m := range r.members {
				b.kinds |= m.kind
				b.byMember[m] = append(b.byMember[m], int32(i))
			}
		}
	}
	s.revision = s.hash(w)
	return s
}

// hash names everything that decisions depend on. Texts are written with their
// lengths, so that no two inputs run together.
func (s *Snapshot) hash(w World) string {
	h := sha256.New()
	write(h, "sallyport policy 1", flag(s.mintOwn))
	write(h, slices.Sorted(maps.Keys(s.admins))...)
	write(h, slices.Sorted(slices.Values(w.Audiences))...)
	write(h, slices.Sorted(slices.Values(w.MintPatterns))...)
	for _, r := range s.rules {
		write(h, r.name, flag(r.deny), flag(r.shadow), r.when)
		write(h, slices.Sorted(slices.Values(r.actions))...)
		if len(r.reads) > 0 { // or the revisions of all that there is would change
			write(h, "reads")
			write(h, slices.Sorted(slices.Values(r.reads))...)
		}
		if r.liveToken {
			write(h, "require", liveToken, flag(r.require))
		}
		var to, members []string
		for _, res := range r.to {
			to = append(to, res.String())
		}
		for _, m := range r.members {
			members = append(members, string(rune(m.kind))+"\x00"+m.provider+"\x00"+m.name+"\x00"+m.value)
		}
		slices.Sort(to)
		slices.Sort(members)
		write(h, to...)
		write(h, members...)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func write(h hash.Hash, texts ...string) {
	var n [8]byte
	put := func(v int) { binary.BigEndian.PutUint64(n[:], uint64(v)); h.Write(n[:]) }
	put(len(texts))
	for _, t := range texts {
		put(len(t))
		h.Write([]byte(t))
	}
}

func flag(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
