// Package policy decides: rules allow or deny principals actions on resources
// under CEL conditions. No match is deny and deny wins. An allow rule whose
// condition fails to evaluate does not match, a deny rule whose condition fails
// denies, and a rule in mode "shadow" is only recorded.
//
// Compile turns the file's rules into an immutable Snapshot, which its user
// swaps whole; Snapshot.Decide answers one question and does no I/O. Conditions
// see the variables of variables.go, typed per action family (actions.go), and
// CEL's standard library with these differences:
//
//   - s.matches(p) is whole, ^(?:p)$, and p is a literal that is compiled at load;
//   - glob(s, p): "*" stops at "/", a pattern that is only "*" matches everything;
//   - under(path, prefix): path is prefix, or below it at a segment boundary;
//   - macros iterate over lists only, because a map has no order to repeat;
//   - lists and maps hold plain values only, without dyn, so that no short text
//     makes a value of exponential size;
//   - time zones by name are absent: timestamps are read in UTC (a zone is a
//     file that is read when the condition runs).
//
// Actor chains, tests and replay are not here yet. Who a
// principal is, is package identity's business; who is asked, and that decisions
// are recorded before they take effect, is internal/guard's.
package policy

import (
	"slices"
	"strings"
)

// Config is the part of the file that holds rules, decoded as it stands.
type Config struct {
	// Groups are local groups of principals, named group:NAME in rules.
	Groups []Group `yaml:"groups,omitempty"`

	// Roles are named lists of actions.
	Roles map[string]Role `yaml:"roles,omitempty"`

	// Policies are the rules. Their order decides only which of several equal
	// rules a decision names.
	Policies []Rule `yaml:"policies,omitempty"`
}

// A Group is a local group.
type Group struct {
	// Name is how rules refer to it: group:NAME.
	Name string `yaml:"name,omitempty"`

	// Members are member names; no local groups and not "anonymous".
	Members []string `yaml:"members,omitempty"`
}

// A Role is a named list of actions.
type Role struct {
	// Actions are actions such as http.get, or http.* for a whole family.
	Actions []string `yaml:"actions,omitempty"`

	// Reads are those of Actions that change nothing: the records of a service with
	// audit.durability "buffered" may wait in memory for these. Default: none.
	Reads []string `yaml:"reads,omitempty"`
}

// A Rule allows, denies, or adds an obligation to what others allow. At most one of
// Allow and Deny, and exactly one of Role and Actions is set; without Allow and Deny,
// Require is.
type Rule struct {
	// Name is unique and goes into every record. Names that begin with
	// "sallyport:" belong to built-in rules; an entry with such a name and Mode
	// "off", and nothing else, switches that rule off.
	Name string `yaml:"name,omitempty"`

	// Allow names the members that this rule allows.
	Allow []string `yaml:"allow,omitempty"`

	// Deny names the members that this rule denies; only here may "anonymous" stand.
	Deny []string `yaml:"deny,omitempty"`

	// To names the resources: services by their names, serviceAccount:NAME, and
	// audience:PATTERN with the pattern of Glob. Required.
	To []string `yaml:"to,omitempty"`

	// Role names an entry of Config.Roles.
	Role string `yaml:"role,omitempty"`

	// Actions are actions as in Role.Actions.
	Actions []string `yaml:"actions,omitempty"`

	// When is a CEL expression of type bool, at most 4096 characters. Default:
	// no condition.
	When string `yaml:"when,omitempty"`

	// Require are obligations: "live_token". Those of every allow rule that matches hold,
	// not only of the one that decides; those of a rule without Allow and Deny hold
	// whoever allowed. One whose condition fails to evaluate holds.
	Require []string `yaml:"require,omitempty"`

	// Mode is "enforce" (the default), "shadow" (recorded, not enforced), or for
	// a built-in rule "off".
	Mode string `yaml:"mode,omitempty"`
}

// liveToken is the obligation that a session ends with the token that it began with.
// Without it the end of a token is a new decision, and no end.
const liveToken = "live_token"

// World says which names exist outside the rules.
type World struct {
	// Services maps a service's name to its action family, such as "http".
	Services map[string]string

	// Accounts are the bare names of service accounts.
	Accounts []string

	// Providers are the names of providers; "local" is known without.
	Providers []string

	// Audiences are the exact audiences of declared services.
	Audiences []string

	// MintPatterns are globs of further audiences that any service account may
	// mint for itself; exactly "*" means any text.
	MintPatterns []string

	// AdminUIDs are the local users who may administer this server.
	AdminUIDs []uint32
}

// The built-in rules: by mintOwn a service account gets its own tokens, by
// adminUIDs local users administer the server.
const (
	mintOwn   = "sallyport:mint-own"
	adminUIDs = "sallyport:admin-uids"
)

// reserved begins the names of built-in rules.
const reserved = "sallyport:"

// BuiltIns describes, one line each, the built-in rules that c leaves on: the
// name, a colon, and what it allows. They cannot be written as a Rule, since
// "oneself" is not a member.
func (c Config) BuiltIns() []string {
	var out []string
	for _, b := range []string{
		mintOwn + ": a service account may token.mint and metadata.get on itself, " +
			"and token.mint for the audiences of declared services and of issuer.audiences",
		adminUIDs + ": the server's own uid and admin.uids may admin.*",
	} {
		name, _, _ := strings.Cut(b, ": ")
		if !slices.ContainsFunc(c.Policies, func(r Rule) bool { return r.Name == name }) {
			out = append(out, b)
		}
	}
	return out
}

// A ResourceKind tells the sorts of resource apart.
type ResourceKind string

const (
	// ServiceResource is a declared service, by its name.
	ServiceResource ResourceKind = "service"
	// AccountResource is a service account: mint as, impersonate, sign as.
	AccountResource ResourceKind = "serviceAccount"
	// AudienceResource is an audience to mint for.
	AudienceResource ResourceKind = "audience"
)

// A Resource is what an action is done to.
type Resource struct {
	// Kind is one of the three kinds above.
	Kind ResourceKind

	// Name is the service's name, the account's bare name, or the audience.
	Name string
}

// String returns the resource as `to` spells it: "invoices",
// "serviceAccount:orders", "audience:https://x".
func (r Resource) String() string {
	if r.Kind == ServiceResource {
		return r.Name
	}
	return string(r.Kind) + ":" + r.Name
}

// parseResource reads one entry of `to`; it does not check that the name exists.
func parseResource(s string) Resource {
	if name, ok := strings.CutPrefix(s, "serviceAccount:"); ok {
		return Resource{AccountResource, name}
	}
	if pattern, ok := strings.CutPrefix(s, "audience:"); ok {
		return Resource{AudienceResource, pattern}
	}
	return Resource{ServiceResource, s}
}
