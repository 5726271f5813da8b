package policy

import (
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// A Query asks whether a principal may do an action.
type Query struct {
	// Principal is who asks. One with an empty ID matches no rule.
	Principal identity.Principal

	// Action is what is asked, such as "http.get".
	Action string

	// Resource is what it is asked of; an audience is exact here.
	Resource Resource

	// Vars are the request's own variables; nil for families without any.
	Vars Vars

	// Time is when it was asked: request.time.
	Time time.Time

	// Peer is the address of the connection's other end: peer.address.
	Peer string

	// Public is set of what the file states as public: the anonymous principal may,
	// unless a rule denies it.
	Public bool
}

// A Reason says how a decision came about.
type Reason string

const (
	// Allowed is the only reason of a decision that allows.
	Allowed Reason = "allowed"
	// DeniedByRule means that a deny rule matched.
	DeniedByRule Reason = "denied_by_rule"
	// DenyRuleError means that a deny rule's condition failed to evaluate.
	DenyRuleError Reason = "deny_rule_error"
	// NoMatch means that no rule allowed.
	NoMatch Reason = "no_match"
)

// A Decision is the answer to a Query.
type Decision struct {
	// Allow is the answer; everything else explains it.
	Allow bool

	// Rule is the rule that decided; "" when nothing matched.
	Rule string

	// Reason is why.
	Reason Reason

	// Reads is set when Rule allowed through a role that marks the action as a read.
	Reads bool

	// LiveToken is set when a rule demands that what is allowed ends with the token.
	LiveToken bool

	// Near is, when nothing matched, the allow rule that came nearest: the first
	// whose condition stood in the way, else the first over the same resource
	// and member that lacks the action. After DenyRuleError it is Rule.
	Near string

	// NearWhy is what Near lacked. It quotes the rule and the principal's own
	// values: for the owner, never for the caller.
	NearWhy string

	// Shadow lists the shadow rules that matched or failed, deny rules first, as
	// "allow:NAME", "deny:NAME" and "error:NAME".
	Shadow []string

	// Read holds the values of recordable variables that the conditions of
	// candidate rules read: those over this resource, member and action, whether
	// or not they were needed for the decision. Nil when there are none.
	Read []Reading
}

// Decide answers q. Its cost depends on the rules over q's resource and
// principal, not on how many others there are.
func (s *Snapshot) Decide(q *Query) Decision {
	if nobody(&q.Principal) {
		return Decision{Reason: NoMatch}
	}
	var room [32]int32
	found := s.candidates(room[:0], q)
	slices.Sort(found)
	w := walk{q: q}
	last := int32(-1)
	for _, i := range found {
		// A rule may name a principal, and an audience, in several ways.
		if i != last {
			w.visit(s.rules[i])
		}
		last = i
	}
	if !w.done {
		s.fallBack(&w)
	}
	w.d.Read = w.readings()
	return w.d
}

// candidates appends the indexes of rules over q's resource and principal.
func (s *Snapshot) candidates(dst []int32, q *Query) []int32 {
	if b := s.byResource[q.Resource]; b != nil {
		dst = b.candidates(dst, &q.Principal)
	}
	if q.Resource.Kind == AudienceResource {
		for _, g := range s.globs {
			if Glob(g.pattern, q.Resource.Name) {
				dst = g.candidates(dst, &q.Principal)
			}
		}
	}
	return dst
}

// candidates appends the rules that name p, as p.Members would name it; a rule
// may appear twice.
func (b *bucket) candidates(dst []int32, p *identity.Principal) []int32 {
	add := func(k memberKey) {
		if b.kinds&k.kind != 0 {
			dst = append(dst, b.byMember[k]...)
		}
	}
	switch p.Kind {
	case identity.AnonymousKind:
		add(memberKey{kind: anonymous})
		return dst
	case identity.ServiceAccount:
		add(memberKey{kind: account, name: p.Name})
	case identity.User:
		add(memberKey{kind: person, provider: p.Provider, name: p.Name})
	case identity.Federated:
		add(memberKey{kind: federated, provider: p.Provider, name: p.Name})
	}
	add(memberKey{kind: everyone})
	if p.Provider == "" || p.Provider == identity.Local {
		return dst
	}
	add(memberKey{kind: allOf, provider: p.Provider})
	if b.kinds&groupOf != 0 {
		for _, g := range p.Groups {
			add(memberKey{kind: groupOf, provider: p.Provider, name: g})
		}
	}
	if b.kinds&attribute != 0 {
		for k, v := range p.Attributes {
			add(memberKey{kind: attribute, provider: p.Provider, name: k, value: v})
		}
	}
	return dst
}

// Includes reports whether p is, or is one of, m.
func (s *Snapshot) Includes(m identity.Member, p *identity.Principal) bool {
	if m.Group == "" {
		return slices.Contains(p.Members(), m.Text)
	}
	b := &bucket{byMember: map[memberKey][]int32{}}
	for _, k := range s.groups[m.Group] {
		b.kinds |= k.kind
		b.byMember[k] = []int32{0}
	}
	return len(b.candidates(nil, p)) > 0
}

// walk is one decision in the making.
type walk struct {
	q    *Query
	d    Decision
	done bool // an enforced rule has decided

	act   *activation
	reads reads

	failed  bool  // d.Near is there because of its condition,
	nearErr error // which was false, or failed with this
}

// visit lets r have its say. Rules come in order of evaluation; once one has
// decided, only shadow rules are still evaluated.
func (w *walk) visit(r *rule) {
	if !r.covers(w.q.Action) {
		if w.d.Near == "" && !r.deny && !r.shadow && !r.require && !w.done {
			w.d.Near = r.name
		}
		return
	}
	matched, err := true, error(nil)
	if c := r.condition(w.q.Action); c != nil {
		w.reads.join(&c.reads)
		if w.done && !r.shadow && !r.liveToken {
			return
		}
		if w.act == nil {
			w.act = &activation{w.q}
		}
		matched, err = c.eval(w.act)
	}
	switch {
	case r.shadow:
		w.shadow(r, matched, err)
	case r.require:
		w.d.LiveToken = w.d.LiveToken || matched || err != nil
	case w.done:
		w.d.LiveToken = w.d.LiveToken || r.liveToken && matched && err == nil
	case r.deny && err != nil:
		w.decide(r.name, DenyRuleError)
		w.d.Near, w.d.NearWhy = r.name, whyFailed(err)
	case r.deny && matched:
		w.decide(r.name, DeniedByRule)
	case r.deny:
	case matched && err == nil:
		w.decide(r.name, Allowed)
		w.d.Reads = covers(r.reads, w.q.Action)
		w.d.LiveToken = w.d.LiveToken || r.liveToken
	case !w.failed:
		w.failed, w.nearErr = true, err
		w.d.Near = r.name
	}
}

func (w *walk) decide(rule string, why Reason) {
	w.done = true
	w.d.Allow, w.d.Rule, w.d.Reason, w.d.Near = why == Allowed, rule, why, ""
}

func (w *walk) shadow(r *rule, matched bool, err error) {
	switch {
	case err != nil:
		w.d.Shadow = append(w.d.Shadow, "error:"+r.name)
	case matched && r.deny:
		w.d.Shadow = append(w.d.Shadow, "deny:"+r.name)
	case matched && r.require:
		w.d.Shadow = append(w.d.Shadow, "require:"+r.name)
	case matched:
		w.d.Shadow = append(w.d.Shadow, "allow:"+r.name)
	}
}

func whyFailed(err error) string { return "its condition failed: " + oneLine(err.Error()) }
