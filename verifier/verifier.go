package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// Leeway is how far clocks may differ, for every time claim alike.
const Leeway = time.Minute

// Rules are what the tokens of one kind of issuer keep.
type Rules struct {
	// Types are the `typ` values accepted, without "application/" and compared
	// without case (RFC 7515 section 4.1.9); "" stands for a token without one.
	Types []string

	// MaxLifetime is the longest life accepted, inclusive, from `iat`; without
	// `iat`, from now.
	MaxLifetime time.Duration

	// SingleAudience refuses a token whose `aud` is an array.
	SingleAudience bool
}

// OwnRules are those of tokens that Sallyport itself issues with this `typ`:
// it must be there, `aud` is one string, and no life is longer than 65 minutes.
func OwnRules(typ string) Rules {
	return Rules{Types: []string{typ}, MaxLifetime: 65 * time.Minute, SingleAudience: true}
}

// ProviderRules are those of other issuers: `typ` may be absent, or say that the
// token is an ordinary JWT, a JWT-SVID or an access token (RFC 9068), and no
// life is longer than 24 hours. Logout tokens, security events and proofs are
// not identity tokens and say so in their `typ`.
func ProviderRules() Rules {
	return Rules{Types: []string{"", "JWT", "JOSE", "at+jwt"}, MaxLifetime: 24 * time.Hour}
}

// Config describes one issuer.
type Config struct {
	// Issuer is compared with `iss` exactly. Required.
	Issuer string

	// Keys finds the issuer's keys. Required.
	Keys KeySource

	// Algorithms that may be used. Default token.Algorithms().
	Algorithms []token.Algorithm

	// Rules the issuer's tokens keep. Required.
	Rules Rules

	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// A Verifier checks the tokens of one issuer. It is safe for concurrent use.
type Verifier struct{ c Config }

// New returns a Verifier, or an error that names what Config lacks.
func New(c Config) (*Verifier, error) {
	switch {
	case c.Issuer == "":
		return nil, errors.New("verifier: Issuer is empty")
	case c.Keys == nil:
		return nil, errors.New("verifier: Keys is nil")
	case len(c.Rules.Types) == 0 || c.Rules.MaxLifetime <= 0:
		return nil, errors.New("verifier: Rules is empty: use OwnRules or ProviderRules")
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = token.Algorithms()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Verifier{c}, nil
}

// Issuer returns the issuer that v stands for.
func (v *Verifier) Issuer() string { return v.c.Issuer }

// Verified is a token that was good when it was verified.
type Verified struct {
	*token.Token

	key        token.Key
	generation atomic.Uint64 // of verifier's keys when key was last found there
	verifier   *Verifier
}

// Verify checks raw from its first byte to its last claim; the token must be for
// one of audiences. A token that is not good fails with an *Error.
func (v *Verifier) Verify(ctx context.Context, raw string, audiences ...string) (*Verified, error) {
	t, err := token.Parse(raw)
	if err != nil {
		return nil, fail(Malformed, err)
	}
	got, err := v.VerifyParsed(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := got.For(audiences...); err != nil {
		return nil, err
	}
	return got, nil
}

// VerifyParsed checks everything but the audience, of a token that was parsed to
// learn its issuer. It is for callers that keep verdicts and serve several
// audiences: each use must ask Verified.For.
func (v *Verifier) VerifyParsed(ctx context.Context, t *token.Token) (*Verified, error) {
	if err := v.checkHeader(t); err != nil {
		return nil, err
	}
	generation := v.c.Keys.Generation()
	key, err := v.c.Keys.Find(ctx, t.Header.KeyID, token.Algorithm(t.Header.Algorithm))
	if errors.Is(err, token.ErrUnknownKey) {
		return nil, fail(KeyUnknown, err)
	}
	if err != nil {
		return nil, fail(KeysUnavailable, err)
	}
	if !t.SignedBy(key) {
		return nil, fail(SignatureInvalid, nil)
	}
	if err := v.checkClaims(&t.Claims, v.c.Now()); err != nil {
		return nil, err
	}
	got := &Verified{Token: t, key: key, verifier: v}
	got.generation.Store(generation)
	return got, nil
}

// checkHeader is what can be refused before a key is looked for, so that a
// stranger's token costs no fetch.
func (v *Verifier) checkHeader(t *token.Token) error {
	if t.Claims.Issuer != v.c.Issuer {
		return fail(IssuerUnknown, nil)
	}
	if !slices.Contains(v.c.Algorithms, token.Algorithm(t.Header.Algorithm)) {
		return fail(AlgorithmNotAllowed, nil)
	}
	typ := strings.TrimPrefix(strings.ToLower(t.Header.Type), "application/")
	if !slices.ContainsFunc(v.c.Rules.Types, func(want string) bool { return strings.EqualFold(want, typ) }) {
		return fail(TypeNotAllowed, nil)
	}
	return nil
}

func (v *Verifier) checkClaims(c *token.Claims, now time.Time) error {
	switch {
	case c.Expiry.IsZero():
		return fail(NoExpiry, nil)
	case c.NotBefore.After(now.Add(Leeway)):
		return fail(NotYetValid, nil)
	case c.IssuedAt.After(now.Add(Leeway)):
		return fail(NotYetValid, errors.New("iat is in the future"))
	case !now.Before(c.Expiry.Add(Leeway)):
		return fail(Expired, nil)
	case c.Subject == "":
		return fail(SubjectMissing, nil)
	case c.Actor:
		// policy cannot name actors yet, and the subject's rights are not theirs
		return fail(ActorUnread, nil)
	case c.Confirmation:
		// no proof of possession is read yet, and without one the token is
		// anybody's (RFC 9449 section 7.2)
		return fail(SenderConstrained, nil)
	}
	from := c.IssuedAt
	if from.IsZero() {
		from = now
	}
	if life := c.Expiry.Sub(from); life > v.c.Rules.MaxLifetime {
		return fail(LifetimeTooLong, fmt.Errorf("%v is more than %v", life, v.c.Rules.MaxLifetime))
	}
	return nil
}

// For fails unless the token is for one of audiences, each compared exactly. No
// audience at all is a mistake of the caller and fails too.
func (t *Verified) For(audiences ...string) error {
	if t.verifier.c.Rules.SingleAudience && !t.Claims.SingleAudience {
		return fail(AudienceWrong, errors.New("aud is an array; ours is one string"))
	}
	if !slices.ContainsFunc(audiences, t.Claims.HasAudience) {
		return fail(AudienceWrong, nil)
	}
	return nil
}

// Still fails with an *Error when the token is good no longer: its time is over,
// or its key was withdrawn.
func (t *Verified) Still(ctx context.Context) error {
	v := t.verifier
	if !v.c.Now().Before(t.Claims.Expiry.Add(Leeway)) {
		return fail(Expired, nil)
	}
	generation := v.c.Keys.Generation()
	if generation == t.generation.Load() {
		return nil
	}
	key, err := v.c.Keys.Find(ctx, t.Header.KeyID, t.key.Algorithm)
	if err != nil || !sameKey(key, t.key) {
		return fail(KeyUnknown, errors.New("the key it was signed with is no longer published"))
	}
	t.generation.Store(generation)
	return nil
}
