package forgery

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// A Verdict is what a receiver should say.
type Verdict string

// The verdicts.
const (
	Accept Verdict = "accept"
	Reject Verdict = "reject"
)

// A Level says how much a difference matters.
type Level string

const (
	// Must: a receiver that takes such a forgery can be fooled, one that refuses
	// such a good token refuses what the issuer writes every day.
	Must Level = "must"
	// Should: hardening, a rule of this issuer's tokens that a library for all
	// issuers cannot know, or what a standard allows and the issuer never writes.
	Should Level = "should"
)

// A Case is one token and what to say to it. Its JSON is a line of the corpus.
type Case struct {
	ID     string  `json:"id"` // stable, unique
	Class  string  `json:"class"`
	Expect Verdict `json:"expect"`
	Level  Level   `json:"level"`
	Why    string  `json:"reason"` // one clause: what is special about the token
	Source string  `json:"source"` // the standard's section, or an advisory

	// Flaws are what a receiver has that takes the forgery, in a word each: all of
	// them are needed. None where no receiver would take it, only fall over it.
	Flaws []string `json:"flaws,omitempty"`

	Kind string `json:"kind"` // always "jwt": the shared corpora have others

	// Transport is "raw" if no HTTP header can carry the token as it is.
	Transport string `json:"transport,omitzero"`

	Token string `json:"token"`
}

// Config says whose tokens are forged.
type Config struct {
	Issuer   string // `iss` that receivers trust: a URL without a trailing slash. Required.
	Audience string // what the receiver is called: the good tokens' `aud`. Required.
	Subject  string // `sub` of the good tokens. Required.
	Email    string // `email` of the good tokens. Default none.
	Keys     Keys   // Required.

	// Lure is the URL of a folder in which a receiver that believes a token would
	// look for keys. No receiver may ever fetch from it: Keys.Lure returns what to
	// publish there, to find out who does. Default https://forger.invalid.
	Lure string

	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// complete fills defaults.
func (c *Config) complete() {
	c.Lure = cmp.Or(c.Lure, "https://forger.invalid")
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Check reports every mistake; with one, Corpus makes no case.
func (c Config) Check() error {
	c.complete()
	var bad []error
	for _, f := range []struct{ name, value string }{{"issuer", c.Issuer}, {"lure", c.Lure}} {
		u, err := url.Parse(f.value)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.ContainsAny(f.value, "?#") ||
			strings.HasSuffix(f.value, "/") || strings.ContainsFunc(f.value, func(r rune) bool { return r > '~' }) {
			bad = append(bad, fmt.Errorf("%s: %q: want a URL in ASCII such as https://id.acme.internal, without a trailing slash", f.name, f.value))
		}
	}
	// there are cases that only change the audience's case, or leave its end away
	if len(c.Audience) < 4 || swapCase(c.Audience) == c.Audience || !utf8.ValidString(c.Audience) || c.Audience == c.Issuer ||
		c.Audience != strings.Trim(c.Audience, "/") || strings.ContainsAny(c.Audience, " \t\r\n\x00,*") {
		bad = append(bad, fmt.Errorf("audience: %q: want at least four bytes with a letter, without white space, comma, * or a slash at either end, "+
			"and not the issuer", c.Audience))
	}
	if c.Subject == "" || !utf8.ValidString(c.Subject+c.Email) {
		bad = append(bad, fmt.Errorf("subject: %q, email: %q: want text, the first not empty", c.Subject, c.Email))
	}
	return errors.Join(append(bad, c.Keys.check())...)
}

// row is a case before its token is made: how it differs from a good token.
type row struct {
	id      string
	level   Level
	flaws   string // with spaces between
	why     string
	source  string
	changes []change
}

// class is the cases of one kind.
type class struct {
	name   string
	expect Verdict
	rows   func() []row
}

// classes are all cases in their order; adding a class is a line here.
func classes() []class {
	return []class{
		{"wellformed", Accept, wellformed},
		{"none", Reject, algNone},
		{"hmac", Reject, hmacConfusion},
		{"algorithm", Reject, algorithmSwaps},
		{"key", Reject, foreignKeys},
		{"kid", Reject, keyNames},
		{"crit", Reject, extensions},
		{"typ", Reject, purposes},
		{"signature", Reject, signatures},
		{"time", Reject, times},
		{"lifetime", Reject, lifetimes},
		{"audience", Reject, audiences},
		{"audience", Reject, audienceShapes},
		{"issuer", Reject, issuers},
		{"subject", Reject, subjects},
		{"binding", Reject, bindings},
		{"duplicate", Reject, duplicates},
		{"fold", Reject, folds},
		{"unicode", Reject, unicodes},
		{"json", Reject, looseJSON},
		{"encoding", Reject, encodings},
		{"text", Reject, surroundings},
		{"serialization", Reject, serializations},
		{"limit", Reject, limits},
	}
}

// Corpus makes the cases, each when it is asked for, always in the same order. It
// ends early with the error of a Config that lacks something or of a key that does
// not sign. A token is good, or bad for its one reason, for 45 minutes, and those
// that are nearly too old for 50 seconds.
func Corpus(c Config) iter.Seq2[Case, error] {
	return func(yield func(Case, error) bool) {
		c.complete()
		if err := c.Check(); err != nil {
			yield(Case{}, fmt.Errorf("forgery: %w", err))
			return
		}
		for _, class := range classes() {
			for _, r := range class.rows() {
				raw, err := c.forge(r.id, r.changes...)
				if err != nil {
					yield(Case{}, fmt.Errorf("forgery: %s: %w", r.id, err))
					return
				}
				if !yield(Case{
					ID: r.id, Class: class.name, Expect: class.expect, Level: r.level, Why: r.why, Source: r.source,
					Flaws: strings.Fields(r.flaws), Kind: "jwt", Transport: transport(raw), Token: raw,
				}, nil) {
					return
				}
			}
		}
	}
}

// transport says whether a header carries raw unchanged (RFC 9110 section 5.5).
func transport(raw string) string {
	if strings.Trim(raw, " ") != raw || strings.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "raw"
	}
	return ""
}
