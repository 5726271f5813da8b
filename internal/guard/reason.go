package guard

import (
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// A Reason is why an attempt was refused, as records name it. Those of tokens are
// package verifier's, those of local callers package attest's.
type Reason string

// Reasons of doors and gateways, which turn away what has no credential to judge.
const (
	CredentialMissing   Reason = "credential_missing"
	CredentialMalformed Reason = "credential_malformed" // not one well-formed Bearer credential
	HostUnknown         Reason = "host_unknown"         // at a gateway: no service is there
	HostRefused         Reason = "host_refused"         // at a door: it has another name
	MethodNotAllowed    Reason = "method_not_allowed"
	PathRefused         Reason = "path_not_canonical"
	QueryRefused        Reason = "query_malformed"
	HeaderRefused       Reason = "header_malformed"
	BodyTooLarge        Reason = "body_too_large"
	FlavorMissing       Reason = "metadata_flavor_missing"
	Forwarded           Reason = "request_was_forwarded" // through a proxy or by a browser
	ParameterRefused    Reason = "parameter_not_accepted"
	ScopeRefused        Reason = "scope_not_held"
	PathUnknown         Reason = "path_unknown"
	NoDescendant        Reason = "no_descendant" // of the program that the door of run is for
)

// Reasons of the guard itself.
const (
	issuerNotAccepted Reason = "issuer_not_accepted" // the service does not take this provider's tokens
	serviceUnknown    Reason = "service_unknown"
	accountUnknown    Reason = "account_unknown" // nobody may run as what is not there
	guardClosed       Reason = "shutting_down"
	rateLimited       Reason = "rate_limited"
	tooConcurrent     Reason = "too_many_at_once"
	noRoom            Reason = "no_room" // on the log's disk, but for proven callers
)

// Why a session ended that had begun.
const (
	revoked         Reason = "revoked"          // its credential, or something that it hangs on
	sessionKilled   Reason = "session_killed"   // by an operator
	sessionOver     Reason = "max_session"      // its time is over
	policyChanged   Reason = "policy_changed"   // it would be refused now
	providerChanged Reason = "provider_changed" // its provider's entry in the file is another
	tokenExpired    Reason = "token_expired"    // and policy demands a live one
)

// Fault returns what the caller is told, without a record.
func (r Reason) Fault() *fault.Error {
	code, public := r.public()
	return fault.New(code, nil, public)
}

// public returns what the caller is told: whose fault it is, and a safe class.
func (r Reason) public() (fault.Code, string) {
	switch r {
	case CredentialMissing:
		return fault.Missing, "no credential"
	case CredentialMalformed:
		return fault.Invalid, "credential malformed"
	case HostUnknown:
		return fault.Absent, "no service of that name here"
	case PathUnknown, serviceUnknown:
		return fault.Absent, "not found"
	case MethodNotAllowed:
		return fault.Unsupported, "method not allowed"
	case BodyTooLarge:
		return fault.Invalid, "body is too large"
	case PathRefused:
		return fault.Invalid, "path is not canonical"
	case QueryRefused:
		return fault.Invalid, "query is malformed"
	case HeaderRefused:
		return fault.Invalid, "header is malformed"
	case ParameterRefused:
		return fault.Invalid, "parameter not accepted"
	case FlavorMissing, Forwarded, HostRefused, ScopeRefused:
		return fault.Denied, "not allowed"
	case accountUnknown:
		return fault.Denied, "not allowed" // whether it is there is not the caller's to know
	case NoDescendant:
		return fault.Unproven, "no identity for this caller"
	case guardClosed:
		return fault.Busy, "shutting down"
	case issuerNotAccepted, providerChanged:
		return fault.Unproven, "token not trusted"
	case revoked:
		return fault.Unproven, "credential revoked"
	case tokenExpired:
		return fault.Unproven, "token expired"
	case sessionKilled:
		return fault.Denied, "session ended by an operator"
	case sessionOver:
		return fault.Denied, "session is over its time"
	case policyChanged:
		return fault.Denied, "not allowed"
	case rateLimited, tooConcurrent:
		return fault.TooMany, "too many requests"
	}
	return fault.Unproven, "credential not accepted"
}

// coded is what provers' errors say of themselves.
type coded interface {
	error
	Code() string  // for the record
	Class() string // for the caller
}

// explain sorts a prover's error into a reason code for the record and the public
// half for the caller. An error of another kind is our fault, and its text stays
// with the owner.
func explain(err error) (code string, f *fault.Error) {
	var c coded
	if !errors.As(err, &c) {
		return "prover_failed", fault.Of(err)
	}
	f = fault.New(fault.Unproven, err, c.Class())
	if c.Code() == "keys_unavailable" { // the provider's fault, and not for ever
		f.Code, f.RetryAfter = fault.Busy, 5*time.Second
	}
	return c.Code(), f
}

// notAllowed is all that a caller learns of a decision against it.
func notAllowed(d *policy.Decision) *fault.Error {
	var cause error
	if d.Near != "" {
		cause = errors.New("the nearest rule is " + d.Near + ": " + d.NearWhy)
	}
	return fault.New(fault.Denied, cause, "not allowed")
}
