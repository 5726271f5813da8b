package identity

import (
	"fmt"
	"strings"
)

// AnyAuthenticated is the member that every proven principal answers to; the
// anonymous caller of a public route does not.
const AnyAuthenticated = "anyAuthenticated"

// A Member is a parsed member name of the file.
type Member struct {
	// Text is the member as Principal.Members spells it.
	Text string

	// Provider is the provider it names, or "".
	Provider string

	// Account is the service account it names, or "".
	Account string

	// Group is the local group it names, or "".
	Group string
}

const memberForms = "serviceAccount:NAME, user:PROVIDER/SUBJECT, group:NAME, group:PROVIDER/NAME, " +
	"principal:PROVIDER/SUBJECT, principalSet:PROVIDER/*, principalSet:PROVIDER/attribute.NAME/VALUE or anyAuthenticated"

// ParseMember reads one member name. The error says which forms exist.
func ParseMember(s string) (Member, error) {
	switch s {
	case AnyAuthenticated, string(AnonymousKind):
		return Member{Text: s}, nil
	}
	kind, rest, ok := strings.Cut(s, ":")
	if !ok || rest == "" {
		return Member{}, fmt.Errorf("%q is not a member: write %s", s, memberForms)
	}
	provider, name, qualified := strings.Cut(rest, "/")
	switch kind {
	case "serviceAccount":
		if !ValidName(rest) {
			return Member{}, fmt.Errorf("%q: a service account is named by its bare name, as in serviceAccount:orders", s)
		}
		return Member{Text: s, Account: rest}, nil
	case "group":
		if !qualified {
			if !ValidName(rest) {
				return Member{}, fmt.Errorf("%q: a local group's name is lower-case letters, digits, - and _", s)
			}
			return Member{Text: s, Group: rest}, nil
		}
	case "user", "principal", "principalSet":
	default:
		return Member{}, fmt.Errorf("%q is not a member: write %s", s, memberForms)
	}
	if !qualified || !ValidName(provider) || name == "" {
		return Member{}, fmt.Errorf("%q: %s is qualified by its provider, as in %s:PROVIDER/%s", s, kind, kind, example[kind])
	}
	if kind == "principalSet" && name != "*" && !validSet(name) {
		return Member{}, fmt.Errorf("%q: a principalSet is PROVIDER/* or PROVIDER/attribute.NAME/VALUE", s)
	}
	return Member{Text: s, Provider: provider}, nil
}

var example = map[string]string{"user": "SUBJECT", "group": "NAME", "principal": "SUBJECT", "principalSet": "*"}

func validSet(name string) bool {
	attr, ok := strings.CutPrefix(name, "attribute.")
	key, value, found := strings.Cut(attr, "/")
	return ok && found && key != "" && value != ""
}
