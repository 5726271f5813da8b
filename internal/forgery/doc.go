// Package forgery makes tokens that a correct receiver of one issuer's ID tokens
// must refuse, and the few that it must take: a corpus to hold any receiver
// against, in any language.
//
// A forgery is potent: it is wrong in one thing, and a receiver that does not look
// at that thing takes it. Its signature is good wherever the signature is not what
// is wrong. [Case.Flaws] names what such a receiver lacks, and the tests have one
// with each flaw.
//
// The package judges nothing and talks to nobody; `sallyport token corpus` prints
// what it makes, and docs/corpus.md runs receivers over it. The cases are our own
// and stand beside the corpora that package corpora runs, which are about every
// issuer's tokens. Sources: RFC 7515, RFC 7518, RFC 7519, RFC 8725, and the
// advisories that each case names.
package forgery
