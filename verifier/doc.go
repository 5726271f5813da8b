// Package verifier answers one question: is this token good, for this audience,
// now? The gateway, the command line, the tests and programs that import the
// package ask it of the same code.
//
// A [Verifier] stands for one issuer: where its keys come from ([KeySource]:
// [StaticKeys] or [RemoteKeys]) and which [Rules] its tokens keep. It trusts
// nothing a token says about its own verification: the algorithm is the key's,
// the key is the issuer's, and the issuer is the one configured.
//
// A Verifier keeps no verdicts: a caller that wants to reuse one holds on to
// [Verified] and asks [Verified.Still] on every use. A [Gate] does that for a
// service: it says what the service requires of its callers, is net/http
// middleware by [Gate.Protect] (gRPC is package grpcverifier), and tells an
// [Observer] of each outcome. What an Observer hears is reported, not proved:
// only the gateway records before a decision takes effect.
//
// It makes no access decision beyond that: whether this caller may do this is for
// policy at the gateway, or for the service, to say.
//
// Sources: RFC 7515, RFC 7519, RFC 8725, RFC 6750; docs/spec has each section.
package verifier
