// Package guard is the one way in: it proves who asks, decides by policy, makes
// the decision durable in the audit log, and only then hands out a Pass. Nothing
// is minted, dialled or forwarded without one.
//
// It is the only writer of the audit log. Doors and gateways translate their
// protocol into an Attempt and an error back; they decide nothing and record
// nothing themselves. How a credential is proven is said by the provers it is
// given (internal/federation, internal/attest), what is allowed by
// internal/policy, what a record is by internal/audit.
//
// Not here yet: re-deciding live sessions when a policy or revocation changes.
package guard
