// Package fault holds the only error type a door may show to a caller.
//
// Every Error has a public half (Code, Public, Decision, RetryAfter) and a
// private half (Cause). Doors print the public half; the log gets both. An error
// of any other type reaches the caller as Internal with a fixed sentence, so a
// forgotten wrap hides too much rather than too little.
package fault

import (
	"errors"
	"time"
)

// Code says who has to act. Doors map it to their protocol's own numbers.
type Code string

const (
	Invalid     Code = "invalid"     // the request is malformed; sending it again cannot help
	Unsupported Code = "unsupported" // well-formed, but not something we do
	Missing     Code = "missing"     // no proof of identity was given at all
	Unproven    Code = "unproven"    // proof was given, and is not acceptable
	Denied      Code = "denied"      // identity is known; policy refused
	Absent      Code = "absent"      // no such thing, or not visible to this caller
	Busy        Code = "busy"        // our trouble, and it passes: try again after RetryAfter
	TooMany     Code = "too_many"    // this caller asks for too much at once: try again after RetryAfter
	Internal    Code = "internal"    // our fault
)

// Error is safe to show: its text never includes Cause.
type Error struct {
	Code       Code
	Public     string        // one lowercase clause, no secrets, no quoted input
	Decision   string        // id of the record of this refusal; empty if there is none
	RetryAfter time.Duration // zero unless Code is Busy or TooMany
	Cause      error         // for the log only; may be nil
}

// New returns an Error with a public clause and a private cause, which may be nil.
func New(code Code, cause error, public string) *Error {
	return &Error{Code: code, Public: public, Cause: cause}
}

// Error returns the public half.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Public }

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Cause }

// Of returns the Error in err's tree, or an Internal one that wraps err.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Public: "the server could not finish this request", Cause: err}
}
