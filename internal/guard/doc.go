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
// What it admitted to a service is a live session until its holder closes it, and is
// decided again whenever something that it rests on changes: a revocation (Revoke), the
// rules (Reload), its credential, the clock. Sweep is that one mechanism.
package guard
