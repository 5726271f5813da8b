package policy

import (
	"cel.dev/cel-go/cel"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Vars is what one request of a protocol shows to conditions: HTTP or Mint. The
// set is closed, so that each variable is type-checked at load.
type Vars interface {
	// value returns the protocol's own variable called name.
	value(name string) (string, bool)
}

// HTTP fills request.method, request.path and request.host.
type HTTP struct {
	// Method is the method as the client wrote it, "GET".
	Method string

	// Path is the canonical, decoded path without the query.
	Path string

	// Host is the host name, lower case, without the port.
	Host string
}

func (h HTTP) value(name string) (string, bool) {
	switch name {
	case "request.path":
		return h.Path, true
	case "request.method":
		return h.Method, true
	case "request.host":
		return h.Host, true
	}
	return "", false
}

// Mint fills mint.audience.
type Mint struct {
	// Audience is the audience that the token is to have.
	Audience string
}

func (m Mint) value(name string) (string, bool) {
	return m.Audience, name == "mint.audience"
}

// A variable is one name that conditions may read.
type variable struct {
	name string
	typ  *cel.Type

	// record names the variable whose value Decision.Read gets when a condition
	// reads this one; "" when it may not be recorded.
	record string
}

const attributes = "principal.attributes"

// commonVars is what conditions of every family may read. Kind, name and provider
// are parts of the id, so that is what is recorded for them.
var commonVars = []variable{
	{"principal.id", cel.StringType, "principal.id"},
	{"principal.kind", cel.StringType, "principal.id"},
	{"principal.name", cel.StringType, "principal.id"},
	{"principal.provider", cel.StringType, "principal.id"},
	{"principal.email", cel.StringType, ""},
	{"principal.groups", cel.ListType(cel.StringType), ""},
	{attributes, cel.MapType(cel.StringType, cel.StringType), attributes},
	{"request.time", cel.TimestampType, "request.time"},
	{"peer.address", cel.StringType, "peer.address"},
}

var httpVars = []variable{
	{"request.method", cel.StringType, "request.method"},
	{"request.path", cel.StringType, "request.path"},
	{"request.host", cel.StringType, "request.host"},
}

var mintVars = []variable{
	{"mint.audience", cel.StringType, "mint.audience"},
}

// variables returns everything that f's conditions may read.
func (f *family) variables() []variable {
	return append(append([]variable(nil), commonVars...), f.vars...)
}

// activation answers CEL's questions from a Query without building a map.
type activation struct{ q *Query }

func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	p := &a.q.Principal
	switch name {
	case attributes:
		return p.Attributes, true
	case "principal.id":
		return p.ID(), true
	case "principal.kind":
		return string(p.Kind), true
	case "principal.name":
		return p.Name, true
	case "principal.provider":
		return p.Provider, true
	case "principal.email":
		return p.Email, true
	case "principal.groups":
		return p.Groups, true
	case "request.time":
		return a.q.Time, true
	case "peer.address":
		return a.q.Peer, true
	}
	if a.q.Vars == nil {
		return nil, false
	}
	v, ok := a.q.Vars.value(name)
	return v, ok
}

// nobody reports whether p is no one whom a rule could mean. Besides the zero
// Principal that is one with an empty name or provider, which no member names
// but anyAuthenticated would let in.
func nobody(p *identity.Principal) bool {
	switch p.Kind {
	case identity.AnonymousKind:
		return false
	case identity.ServiceAccount:
		return p.Name == ""
	case identity.User, identity.Federated:
		return p.Name == "" || p.Provider == ""
	}
	return true
}
