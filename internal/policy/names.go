package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

const nameForm = "a name is lower-case letters, digits and inner - or _, at most 63"

func (c *compiler) name(path, name string) bool {
	switch {
	case name == "":
		c.mistake(path, "it is missing: %s", nameForm)
	case !identity.ValidName(name):
		c.mistake(path, "%q is not a name: %s", name, nameForm)
	default:
		return true
	}
	return false
}

// members reads a rule's members; local groups stand for what they contain.
func (c *compiler) members(path string, texts []string, deny bool) []memberKey {
	var out []memberKey
	for i, text := range texts {
		at := fmt.Sprintf("%s[%d]", path, i)
		m, ok := c.member(at, text)
		if !ok {
			continue
		}
		if text == string(identity.AnonymousKind) && !deny {
			c.mistake(at, "anonymous can only be denied: what everyone may reach is a route with public: true")
			continue
		}
		if m.Group == "" {
			out = append(out, keyOf(m))
			continue
		}
		keys, ok := c.groups[m.Group]
		if !ok {
			c.mistake(at, "%q is not a declared group%s", m.Group, hint(m.Group, slices.Collect(maps.Keys(c.groups))))
		}
		out = append(out, keys...)
	}
	return out
}

// member parses one member name and checks that what it names exists, except
// for local groups.
func (c *compiler) member(path, text string) (identity.Member, bool) {
	m, err := identity.ParseMember(text)
	switch {
	case err != nil:
		c.mistake(path, "%v", err)
	case m.Account != "" && !slices.Contains(c.world.Accounts, m.Account):
		c.mistake(path, "%q is not a declared service account%s", m.Account, hint(m.Account, c.world.Accounts))
	case m.Provider == identity.Local && !strings.HasPrefix(text, "user:"):
		c.mistake(path, "%q: local names attested callers, as in user:local/1000", text)
	case m.Provider != "" && m.Provider != identity.Local && !slices.Contains(c.world.Providers, m.Provider):
		c.mistake(path, "%q is not a declared provider%s", m.Provider, hint(m.Provider, c.world.Providers))
	default:
		return m, true
	}
	return m, false
}

// to reads a rule's resources into r. A resource that none of the rule's actions
// can be done to is a mistake: the author believes that it is covered.
func (c *compiler) to(path string, texts []string, fams []*family, r *rule) {
	if len(texts) == 0 {
		c.mistake(path, "it is missing: name services, serviceAccount:NAME or audience:PATTERN")
	}
	for i, text := range texts {
		at := fmt.Sprintf("%s[%d]", path, i)
		res := parseResource(text)
		if !c.exists(at, res) {
			continue
		}
		r.to = append(r.to, res)
		applies := func(f *family) bool {
			return slices.Contains(f.on, res.Kind) &&
				(res.Kind != ServiceResource || f.speaks(c.world.Services[res.Name]))
		}
		if len(fams) > 0 && !slices.ContainsFunc(fams, applies) {
			c.mistake(at, "none of the rule's actions can be done to %q: write %s", text, c.forms(res))
		}
	}
}

func (c *compiler) exists(path string, res Resource) bool {
	switch res.Kind {
	case ServiceResource:
		if _, ok := c.world.Services[res.Name]; !ok {
			c.mistake(path, "%q is not a service%s", res.Name, hint(res.Name, slices.Collect(maps.Keys(c.world.Services))))
			return false
		}
	case AccountResource:
		if !slices.Contains(c.world.Accounts, res.Name) {
			c.mistake(path, "%q is not a declared service account%s", res.Name, hint(res.Name, c.world.Accounts))
			return false
		}
	case AudienceResource:
		if !ValidPattern(res.Name) {
			c.mistake(path, "%q is not a pattern: it is empty, too long, or has spaces or \"**\"", res.Name)
			return false
		}
	}
	return true
}

// forms names the actions that can be done to res.
func (c *compiler) forms(res Resource) string {
	var out []string
	for _, f := range families {
		if slices.Contains(f.on, res.Kind) && (res.Kind != ServiceResource || f.speaks(c.world.Services[res.Name])) {
			out = append(out, f.forms)
		}
	}
	if len(out) == 0 {
		return "actions of a kind that rules know; its own, " + c.world.Services[res.Name] + ", is not"
	}
	return strings.Join(out, " or ")
}

// hint ends an error about an unknown name: the nearest known one, or all.
func hint(name string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	switch {
	case len(known) == 0:
		return ": none is declared"
	case len(known) > 1000: // comparing is quadratic over many mistakes
		return ""
	}
	best, least := "", 3
	for _, k := range known {
		if d := distance(name, k); d < least && d < len(name) {
			best, least = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf(": did you mean %q?", best)
	case len(known) > 10:
		return ""
	}
	return ": known are " + strings.Join(known, ", ")
}

// distance is the Levenshtein distance in bytes of two short names.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			swap := diagonal
			if a[i] != b[j] {
				swap++
			}
			diagonal = row[j+1]
			row[j+1] = min(swap, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
