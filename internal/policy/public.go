package policy

import "github.com/sallyport-dev/sallyport/internal/identity"

// publicRoute is the built-in rule that lets anybody ask what a route of the file states
// as public. A rule that denies anonymous is stronger.
const publicRoute = "sallyport:public"

// admitPublic decides a query about a public route that no deny rule was about.
func (w *walk) admitPublic() bool {
	if !w.q.Public || w.q.Principal.Kind != identity.AnonymousKind {
		return false
	}
	w.decide(publicRoute, Allowed)
	return true
}
