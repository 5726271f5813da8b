package verifier

// A Reason says why a token was not accepted. Its text is what records hold.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	Malformed           Reason = "token_malformed"
	IssuerUnknown       Reason = "issuer_unknown"
	AlgorithmNotAllowed Reason = "algorithm_not_allowed"
	TypeNotAllowed      Reason = "type_not_allowed"
	KeyUnknown          Reason = "key_unknown"
	KeysUnavailable     Reason = "keys_unavailable" // the issuer's keys cannot be had: not the token's fault
	SignatureInvalid    Reason = "signature_invalid"
	NoExpiry            Reason = "expiry_missing"
	NotYetValid         Reason = "token_not_yet_valid"
	Expired             Reason = "token_expired"
	SubjectMissing      Reason = "subject_missing"
	ActorUnread         Reason = "actor_not_served"   // made for an actor (`act`), whom policy cannot judge yet
	SenderConstrained   Reason = "sender_constrained" // bound to a key (`cnf`), and shown as a bearer token
	LifetimeTooLong     Reason = "lifetime_too_long"
	AudienceWrong       Reason = "audience_wrong"
)

// Class returns the few words that a caller may be told. They never say which
// key, issuer or claim value was wanted.
func (r Reason) Class() string {
	switch r {
	case Malformed:
		return "token malformed"
	case Expired:
		return "token expired"
	case NotYetValid:
		return "token not yet valid"
	case AudienceWrong:
		return "wrong audience"
	case KeysUnavailable:
		return "the issuer's keys cannot be reached"
	}
	return "token not trusted"
}

// Error says why a token was not accepted.
type Error struct {
	Reason Reason

	// Cause is detail for the owner; it never holds the token. It may be nil.
	Cause error
}

func fail(r Reason, cause error) *Error { return &Error{Reason: r, Cause: cause} }

// Code returns the reason's code.
func (e *Error) Code() string { return string(e.Reason) }

// Class returns the few words that a caller may be told.
func (e *Error) Class() string { return e.Reason.Class() }

// Error returns the safe class and the reason's code.
func (e *Error) Error() string { return e.Reason.Class() + " (" + string(e.Reason) + ")" }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }
