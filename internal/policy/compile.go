package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Compile checks cfg against w and returns the snapshot that decides by it, or
// every mistake at once, joined. Each mistake is one line that starts with its
// path, such as "policies[3].when: 1:9: ...", for the caller to find in the file.
func Compile(cfg Config, w World) (*Snapshot, error) {
	c := &compiler{
		world:  w,
		cfg:    cfg,
		groups: map[string][]memberKey{},
		envs:   map[*family]*cel.Env{},
		conds:  map[condKey]compiled{},
	}
	c.readGroups()
	c.readRoles()
	rules, off := c.readRules()
	if len(c.bad) > 0 {
		return nil, errors.Join(c.bad...)
	}
	return newSnapshot(rules, off, w, c.groups), nil
}

// compiler collects mistakes while it reads a Config.
type compiler struct {
	cfg    Config
	world  World
	bad    []error
	groups map[string][]memberKey
	envs   map[*family]*cel.Env
	conds  map[condKey]compiled // rules often share a condition
}

type condKey struct {
	family *family
	text   string
}

type compiled struct {
	cond condition
	bad  []error
}

func (c *compiler) mistake(path, format string, args ...any) {
	c.bad = append(c.bad, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (c *compiler) readGroups() {
	first := map[string]int{}
	for i, g := range c.cfg.Groups {
		path := fmt.Sprintf("groups[%d]", i)
		if c.name(path+".name", g.Name) {
			if j, ok := first[g.Name]; ok {
				c.mistake(path+".name", "%q is already the name of groups[%d]: choose another", g.Name, j)
			} else {
				first[g.Name] = i
				c.groups[g.Name] = nil
			}
		}
		for j, text := range g.Members {
			at := fmt.Sprintf("%s.members[%d]", path, j)
			switch m, ok := c.member(at, text); {
			case !ok:
			case m.Group != "":
				c.mistake(at, "%q is a local group: a group does not contain groups, name its members", text)
			case text == string(identity.AnonymousKind):
				c.mistake(at, "anonymous is not in any group: name it in a rule's deny")
			default:
				c.groups[g.Name] = append(c.groups[g.Name], keyOf(m))
			}
		}
	}
}

func (c *compiler) readRoles() {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Roles)) {
		// A name that is none would not be a path either.
		if !identity.ValidName(name) {
			c.mistake("roles", "%q is not a name: %s", name, nameForm)
			continue
		}
		path, actions := "roles."+name, c.cfg.Roles[name].Actions
		if len(actions) == 0 {
			c.mistake(path, "the role has no actions: write at least one of %s", knownActions())
		}
		c.actions(path, actions)
		quiet := &compiler{}
		whole := &rule{actions: quiet.actions("", actions).texts}
		for i, read := range c.cfg.Roles[name].Reads {
			if at := fmt.Sprintf("%s.reads[%d]", path, i); !c.isAction(at, read) {
				continue
			} else if !whole.covers(read) {
				c.mistake(at, "%q is not among the role's actions: add it there, or remove it here", read)
			}
		}
	}
}

// isAction reports whether text is an action, and tells if it is not.
func (c *compiler) isAction(path, text string) bool {
	_, err := parseAction(text)
	if err != nil {
		c.mistake(path, "%v", err)
	}
	return err == nil
}

// readRules returns the rules in file order, and which built-in rules are off.
func (c *compiler) readRules() (rules []*rule, off map[string]bool) {
	off = map[string]bool{}
	first := map[string]int{}
	for i, r := range c.cfg.Policies {
		path := fmt.Sprintf("policies[%d]", i)
		if j, ok := first[r.Name]; ok && r.Name != "" {
			c.mistake(path+".name", "%q is already the name of policies[%d]: choose another", r.Name, j)
		} else {
			first[r.Name] = i
		}
		if strings.HasPrefix(r.Name, reserved) {
			off[r.Name] = true
			c.builtIn(path, r)
			continue
		}
		c.name(path+".name", r.Name)
		rules = append(rules, c.rule(path, r))
	}
	return rules, off
}

// builtIn checks an entry whose name is reserved: all it may do is switch off.
func (c *compiler) builtIn(path string, r Rule) {
	switch {
	case r.Name != mintOwn && r.Name != adminUIDs:
		c.mistake(path+".name", "%q: names that begin with %q belong to built-in rules, and those are %s and %s", r.Name, reserved, mintOwn, adminUIDs)
	case r.Mode != "off":
		c.mistake(path+".mode", "%q: a built-in rule can only be switched off, by mode: \"off\"", r.Mode)
	case len(r.Allow)+len(r.Deny)+len(r.To)+len(r.Role)+len(r.Actions)+len(r.When)+len(r.Require) > 0:
		c.mistake(path, "a built-in rule is switched off by name and mode alone: remove the rest")
	}
}

func (c *compiler) rule(path string, r Rule) *rule {
	out := &rule{name: r.Name, when: r.When, deny: len(r.Deny) > 0, shadow: r.Mode == "shadow"}
	switch r.Mode {
	case "", "enforce", "shadow":
	case "off":
		c.mistake(path+".mode", "only built-in rules are switched off: remove the rule, or write mode: shadow")
	default:
		c.mistake(path+".mode", "%q is not a mode: write enforce (the default) or shadow", r.Mode)
	}
	switch {
	case len(r.Allow) > 0 && len(r.Deny) > 0:
		c.mistake(path, "both allow and deny are set: write one rule for each")
	case len(r.Allow)+len(r.Deny)+len(r.Require) == 0:
		c.mistake(path, "neither allow nor deny is set: write one of them with at least one member")
	case len(r.Deny) > 0 && len(r.Require) > 0:
		c.mistake(path+".require", "what is denied has no obligations: remove require, or deny")
	}
	for i, o := range r.Require {
		if o != liveToken {
			c.mistake(fmt.Sprintf("%s.require[%d]", path, i), "%q is not an obligation: known is %s", o, liveToken)
		}
		out.liveToken = true
	}
	if out.require = len(r.Allow)+len(r.Deny) == 0; out.require {
		out.members = []memberKey{{kind: everyone}}
	}
	out.members = append(out.members, append(c.members(path+".allow", r.Allow, false), c.members(path+".deny", r.Deny, true)...)...)
	acts := c.ruleActions(path, r)
	out.actions = acts.texts
	if r.Role != "" {
		out.reads = c.cfg.Roles[r.Role].Reads
	}
	c.to(path+".to", r.To, acts.families, out)
	if r.When != "" {
		out.conds = c.when(path+".when", r.When, acts.families)
	}
	return out
}

// ruleActions reads a rule's actions or those of its role.
func (c *compiler) ruleActions(path string, r Rule) actionSet {
	switch {
	case r.Role != "" && len(r.Actions) > 0:
		c.mistake(path, "both role and actions are set: keep one")
	case r.Role != "":
		role, ok := c.cfg.Roles[r.Role]
		if !ok {
			c.mistake(path+".role", "%q is not a role%s", r.Role, hint(r.Role, slices.Collect(maps.Keys(c.cfg.Roles))))
			return actionSet{}
		}
		quiet := &compiler{} // the role's own mistakes have been told
		return quiet.actions("", role.Actions)
	case len(r.Actions) == 0:
		c.mistake(path, "neither role nor actions is set: write one of them")
	}
	return c.actions(path, r.Actions)
}

type actionSet struct {
	texts    []string
	families []*family // in the order of the table families
}

func (c *compiler) actions(path string, texts []string) actionSet {
	var out actionSet
	for i, s := range texts {
		f, err := parseAction(s)
		if err != nil {
			c.mistake(fmt.Sprintf("%s.actions[%d]", path, i), "%v", err)
			continue
		}
		out.texts = append(out.texts, s)
		if !slices.Contains(out.families, f) {
			out.families = append(out.families, f)
		}
	}
	slices.SortFunc(out.families, func(a, b *family) int {
		return slices.Index(families, a) - slices.Index(families, b)
	})
	return out
}

// when compiles a condition once for each family, since each has variables of
// its own. A mistake that all families share is told once.
func (c *compiler) when(path, text string, fams []*family) []condition {
	var out []condition
	told := map[string]bool{}
	for _, f := range fams {
		got := c.condition(f, text)
		for _, err := range got.bad {
			what := err.Error()
			if len(fams) > 1 && strings.Contains(what, "undeclared reference") {
				what += fmt.Sprintf(" (for %s.*, which the rule names)", f.name)
			}
			if !told[what] {
				told[what] = true
				c.mistake(path, "%s", what)
			}
		}
		out = append(out, got.cond)
	}
	return out
}

func (c *compiler) condition(f *family, text string) compiled {
	key := condKey{f, text}
	if got, ok := c.conds[key]; ok {
		return got
	}
	env, err := c.envs[f], error(nil)
	if env == nil {
		env, err = f.environment()
		c.envs[f] = env
	}
	got := compiled{bad: []error{err}}
	if err == nil {
		got.cond, got.bad = f.compile(env, text)
	}
	c.conds[key] = got
	return got
}
