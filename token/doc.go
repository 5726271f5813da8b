// Package token reads and writes the tokens Sallyport deals in: JSON Web Tokens
// in compact serialization (RFC 7519, RFC 7515 section 7.1), and the two
// documents their public keys are published in, a JWK set (RFC 7517) and the
// {kid: PEM} map that Google's libraries read.
//
// It is pure: no clock, no network, no policy. A parsed [Token] is a claim, not
// a fact; package verifier decides whether it is good. Reading is strict: one
// size limit before anything is parsed, canonical base64url only, no duplicate
// or differently cased JSON members, no invalid UTF-8, no embedded keys and no
// critical extensions (docs/spec/rfc7515.md lists each section).
package token
