package policy

import (
	"fmt"
	"strings"
)

// A family is a protocol's set of actions, FAMILY.VERB.
type family struct {
	name  string
	forms string            // for the reader of an error
	verb  func(string) bool // whether FAMILY.verb is an action
	on    []ResourceKind    // what its actions are done to
	vars  []variable        // what its conditions may read, besides commonVars
}

// families is every action family there is: to add one, add a line here and its
// Vars in variables.go.
var families = []*family{
	{"http", "http.METHOD in lower case, http.websocket", httpVerb, []ResourceKind{ServiceResource}, httpVars},
	{"grpc", "grpc.call", only("call"), []ResourceKind{ServiceResource}, httpVars},
	{"token", "token.mint", only("mint"), []ResourceKind{AccountResource, AudienceResource}, mintVars},
	{"metadata", "metadata.get", only("get"), []ResourceKind{AccountResource}, nil},
	{"workload", "workload.run", only("run"), []ResourceKind{AccountResource}, nil},
}

// speaks reports whether f's actions can be asked of a service of a family: gRPC is asked
// of HTTP services.
func (f *family) speaks(service string) bool {
	return f.name == service || f.name == "grpc" && service == "http"
}

func only(verb string) func(string) bool { return func(s string) bool { return s == verb } }

// httpVerb takes any method, known or not (RFC 9110 section 16.1.1 keeps a
// registry), as long as it is a name; "websocket" is among them.
func httpVerb(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func familyNamed(name string) *family {
	for _, f := range families {
		if f.name == name {
			return f
		}
	}
	return nil
}

// familyOf returns the family part of an action.
func familyOf(action string) string {
	name, _, _ := strings.Cut(action, ".")
	return name
}

// parseAction returns the family of an action or of a FAMILY.* wildcard.
func parseAction(s string) (*family, error) {
	name, verb, _ := strings.Cut(s, ".")
	if f := familyNamed(name); f != nil && (verb == "*" || f.verb(verb)) {
		return f, nil
	}
	return nil, fmt.Errorf("%q is not an action: known are %s", s, knownActions())
}

func knownActions() string {
	var out []string
	for _, f := range families {
		out = append(out, f.forms, f.name+".*")
	}
	return strings.Join(out, ", ")
}
