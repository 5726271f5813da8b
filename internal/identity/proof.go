package identity

import (
	"context"
	"time"
)

// A Proof is a principal together with what the belief in it rests on. Provers
// make them (internal/federation, internal/attest); only internal/guard acts on
// one.
type Proof struct {
	Principal Principal

	// Provider is who vouched: Self, a provider's name, or Local.
	Provider string

	// Actor is the qualified name of the local user who acts as Principal because
	// policy lets them (workload.run), or "".
	Actor string

	// TokenID is the `jti` of the token shown, or "".
	TokenID string

	// KeyID is the `kid` of the key that signed the token, or "".
	KeyID string

	// Issued is the token's `iat`; zero if it has none.
	Issued time.Time

	// Expires is when the proof ends by itself; zero if it does not.
	Expires time.Time

	// Attested holds the facts that the kernel vouched for, or nil.
	Attested map[string]string

	// Still fails when the proof holds no longer: expired, its key withdrawn, the
	// caller behind the connection no longer the same. Never nil.
	Still func(context.Context) error

	// For fails unless the credential was made for one of audiences. It is nil
	// for credentials that have no audience: attested connections.
	For func(audiences []string) error
}

// Self is the provider name of our own issuer in `services[].accept`.
const Self = "self"
