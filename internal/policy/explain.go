package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Recall makes a query of what a record of a trust domain holds: the principal's qualified name, the
// action, the service or the resource as Resource.String has it, the values that
// conditions read, the time and the peer. unknown says in words what the record does not
// hold and a condition, or a member such as a group, may ask for. It fails if they name
// nobody, or nothing.
func Recall(trustDomain, principal, action, service, resource string, vars map[string]string, at time.Time, peer string) (q *Query, unknown []string, err error) {
	if _, err := identity.ParseMember(principal); err != nil {
		return nil, nil, fmt.Errorf("%q is no principal: %w", principal, err)
	}
	kind, rest, _ := strings.Cut(principal, ":")
	r := &Query{Action: action, Time: at, Principal: identity.Principal{Kind: identity.Kind(kind)}}
	switch r.Principal.Kind {
	case identity.ServiceAccount:
		r.Principal.Name = rest
	case identity.User, identity.Federated:
		r.Principal.Provider, r.Principal.Name, _ = strings.Cut(rest, "/")
	default:
		return nil, nil, fmt.Errorf("%q is no principal: it stands for many, or for nobody", principal)
	}
	if r.Principal.Kind == identity.ServiceAccount {
		r.Principal.Email = identity.Email(trustDomain, r.Principal.Name)
	} else if r.Principal.Provider != identity.Local {
		unknown = append(unknown, "the principal's groups and e-mail, and those of its attributes that no condition read")
	}
	for k, v := range vars {
		if name, ok := strings.CutPrefix(k, attributes+"."); ok {
			if r.Principal.Attributes == nil {
				r.Principal.Attributes = map[string]string{}
			}
			r.Principal.Attributes[name] = v
		}
	}
	switch {
	case service != "":
		r.Resource = Resource{ServiceResource, service}
	case resource != "":
		r.Resource = parseResource(resource)
	default:
		return nil, nil, errors.New("the record is about no resource that policy knows")
	}
	if a, err := netip.ParseAddrPort(peer); err == nil {
		r.Peer = a.Addr().Unmap().String()
	} else if r.Peer = vars["peer.address"]; r.Peer == "" {
		unknown = append(unknown, "the caller's address")
	}
	if at, err := time.Parse(time.RFC3339Nano, vars["request.time"]); err == nil {
		r.Time = at
	}
	switch f := familyOf(action); f {
	case "http":
		r.Vars = HTTP{Method: vars["request.method"], Path: vars["request.path"], Host: vars["request.host"]}
		if vars["request.path"] == "" {
			unknown = append(unknown, "the request's path, method and host")
		}
	case "token":
		r.Vars = Mint{Audience: vars["mint.audience"]}
	}
	return r, unknown, nil
}

// An Explanation says what a file's rules make of a query, and what would change it.
type Explanation struct {
	Revision string   // of these rules
	Decision Decision // what they decide now, as far as is known
	Nearest  []Lack   // allow rules that lack one thing, or a deny rule that stands in the way
	Change   string   // the smallest change that would allow it; "" if it is allowed
	Edit     string   // the change as YAML, ready to paste; "" if it is no addition
	Opens    string   // what else the change would allow
}

// A Lack is what a rule lacks to allow a query.
type Lack struct {
	Rule  string // its name
	Where string // policies[2]
	What  string // in words
}

// maxNear is how many rules are looked at for the nearest: beyond, a new one is proposed.
const maxNear = 500

// Explain decides q by the rules of a file and finds the smallest change that allows it.
// It is for people who wait, not for a request. The error is of a file that does not
// compile.
func Explain(cfg Config, w World, q *Query) (*Explanation, error) {
	s, err := Compile(cfg, w)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Revision: s.Revision(), Decision: s.Decide(q)}
	switch {
	case x.Decision.Allow:
		return x, nil
	case x.Decision.Reason == DeniedByRule || x.Decision.Reason == DenyRuleError:
		x.denied(cfg, q)
		return x, nil
	case familyOf(q.Action) == adminFamily:
		x.Change = "add the user's uid to admin.uids of the file: no written rule is about admin.*"
		x.Opens = "everything that an operator may do to this server"
		return x, nil
	}
	for i, r := range cfg.Policies {
		if i == maxNear || x.Change != "" {
			break
		}
		if len(r.Allow) > 0 && r.Mode != "shadow" && r.Mode != "off" {
			x.near(cfg, w, q, i)
		}
	}
	if x.Change == "" {
		x.newRule(cfg, w, q)
	}
	return x, nil
}

func (x *Explanation) denied(cfg Config, q *Query) {
	i := slices.IndexFunc(cfg.Policies, func(r Rule) bool { return r.Name == x.Decision.Rule })
	if i < 0 {
		return
	}
	r, where := cfg.Policies[i], fmt.Sprintf("policies[%d]", i)
	what := fmt.Sprintf("denies %s on %s to %s", q.Action, q.Resource, strings.Join(r.Deny, ", "))
	if x.Decision.Reason == DenyRuleError {
		what += ": " + x.Decision.NearWhy
	} else if r.When != "" {
		what += " when " + oneLine(r.When)
	}
	x.Nearest = append(x.Nearest, Lack{r.Name, where, what})
	x.Change = fmt.Sprintf("%s %q stands in the way, and no allow rule is stronger: narrow its deny, to, actions or when so that this call is not meant", where, r.Name)
	x.Opens = "whatever else the rule does not cover any more, as far as some allow rule names it"
}

// alone returns the file's deny rules and one rule that allows: what it does alone.
func alone(cfg Config, r Rule) Config {
	out := Config{Groups: cfg.Groups, Roles: cfg.Roles}
	for _, o := range cfg.Policies {
		if len(o.Deny) > 0 && o.Mode != "shadow" || o.Mode == "off" {
			out.Policies = append(out.Policies, o)
		}
	}
	out.Policies = append(out.Policies, r)
	return out
}

func allows(cfg Config, w World, q *Query) bool {
	s, err := Compile(cfg, w)
	return err == nil && s.Decide(q).Allow
}

// near tries what one addition to rule i would do.
func (x *Explanation) near(cfg Config, w World, q *Query, i int) {
	r, where := cfg.Policies[i], fmt.Sprintf("policies[%d]", i)
	lack := func(what string) { x.Nearest = append(x.Nearest, Lack{r.Name, where, what}) }
	found := func(list, text, opens string) {
		x.Change = fmt.Sprintf("%s %q: add %s to its %s", where, r.Name, text, list)
		x.Edit = fmt.Sprintf("# %s\n%s: [%s]", where, list, strings.Join(yamlTexts(append(slices.Clone(listOf(&r, list)), text)), ", "))
		x.Opens = opens
	}
	condition := ""
	if r.When != "" {
		condition = " when " + oneLine(r.When)
	}
	more := r
	more.Allow = append(slices.Clone(r.Allow), q.Principal.ID())
	if allows(alone(cfg, more), w, q) {
		lack("does not name " + q.Principal.ID())
		found("allow", q.Principal.ID(), fmt.Sprintf("%s everything that the rule allows: %s on %s%s", q.Principal.ID(), strings.Join(actionsOf(cfg, &r), ", "), strings.Join(r.To, ", "), condition))
		return
	}
	more = r
	more.To = append(slices.Clone(r.To), q.Resource.String())
	if allows(alone(cfg, more), w, q) {
		lack("is not about " + q.Resource.String())
		found("to", q.Resource.String(), fmt.Sprintf("%s on %s to all of %s%s", strings.Join(actionsOf(cfg, &r), ", "), q.Resource, strings.Join(r.Allow, ", "), condition))
		return
	}
	more = r
	more.Role, more.Actions = "", append(actionsOf(cfg, &r), q.Action)
	if allows(alone(cfg, more), w, q) {
		lack("action " + q.Action + " is not in it")
		r.Role, r.Actions = "", actionsOf(cfg, &r)
		found("actions", q.Action, fmt.Sprintf("%s on %s to all of %s%s", q.Action, strings.Join(r.To, ", "), strings.Join(r.Allow, ", "), condition))
		if role := cfg.Policies[i].Role; role != "" {
			x.Change += fmt.Sprintf(", in place of role %s (or to the role, for every rule that has it)", role)
		}
		return
	}
	more = r
	if more.When = ""; r.When != "" && allows(alone(cfg, more), w, q) {
		lack("its condition is false, or reads what is not known: " + oneLine(r.When))
	}
}

func listOf(r *Rule, name string) []string {
	switch name {
	case "allow":
		return r.Allow
	case "to":
		return r.To
	}
	return r.Actions
}

func actionsOf(cfg Config, r *Rule) []string {
	if r.Role != "" {
		return slices.Clone(cfg.Roles[r.Role].Actions)
	}
	return slices.Clone(r.Actions)
}

// newRule proposes a rule that allows q and nothing else that it can leave out.
func (x *Explanation) newRule(cfg Config, w World, q *Query) {
	r := Rule{Name: freeName(cfg, q), Allow: []string{q.Principal.ID()}, To: []string{q.Resource.String()}, Actions: []string{q.Action}}
	if !allows(alone(cfg, r), w, q) {
		x.Change = "no rule could allow it: it is for nothing that the file declares, or a deny rule is about it"
		return
	}
	x.Change = "add a rule"
	if len(x.Nearest) > 0 {
		x.Change = fmt.Sprintf("call as the condition of %s %q wants, change that condition, or add a rule", x.Nearest[0].Where, x.Nearest[0].Rule)
	}
	x.Edit = fmt.Sprintf("- name: %s\n  allow: [%s]\n  to: [%s]\n  actions: [%s]", r.Name, yamlTexts(r.Allow)[0], yamlTexts(r.To)[0], r.Actions[0])
	x.Opens = fmt.Sprintf("%s on all of %s to %s: add a when to narrow it", q.Action, q.Resource, q.Principal.ID())
}

func freeName(cfg Config, q *Query) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(q.Principal.Name+"-"+q.Action)), "-")
	if name == "" || len(name) > 50 {
		name = "new-rule"
	}
	for base, n := name, 2; slices.ContainsFunc(cfg.Policies, func(r Rule) bool { return r.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

// plainYAML is text that is the same text in a list of YAML, whatever comes after it.
var plainYAML = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*(:[a-zA-Z0-9._/-]*[a-zA-Z0-9])?$`)

// yamlTexts writes texts as YAML, in ASCII: all that is not plain, or a word that YAML
// takes for something else, in quotes, whose escapes are Go's.
func yamlTexts(texts []string) []string {
	var out []string
	for _, t := range texts {
		switch strings.ToLower(t) {
		case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
			t = strconv.QuoteToASCII(t)
		default:
			if !plainYAML.MatchString(t) {
				t = strconv.QuoteToASCII(t)
			}
		}
		out = append(out, t)
	}
	return out
}
