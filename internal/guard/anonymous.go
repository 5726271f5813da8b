package guard

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Anonymous is the credential of whoever asks for what the file states as public: none.
// It admits the principal anonymous by the rule sallyport:public, unless a rule denies
// that; the gateway answers for the route being public.
func Anonymous() Credential { return Credential{public: true} }

// anybody is what is proven of an anonymous caller.
var anybody = &identity.Proof{
	Principal: identity.Principal{Kind: identity.AnonymousKind},
	Still:     func(context.Context) error { return nil },
}

// public reports whether the attempt is anonymous.
func (a *Attempt) public() bool { return len(a.Credentials) == 1 && a.Credentials[0].public }

// crowdedPublic refuses anonymous callers while the log has room for proven ones only:
// what everybody may ask costs records that anybody can make.
func (g *Guard) crowdedPublic(a *Attempt) *fault.Error {
	if !a.public() || g.c.Room() == audit.Plenty {
		return nil
	}
	f := fault.New(fault.Busy, errLast, "decisions cannot be recorded now")
	f.RetryAfter = retryLater
	f, _ = g.crowded(a, string(noRoom), "", f)
	return f
}
