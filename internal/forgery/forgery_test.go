package forgery_test

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/forgery"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

var now = time.Unix(1_800_000_000, 0)

// keys are made once: RSA takes its time.
var keys = sync.OnceValues(forgery.NewKeys)

// configs are issuers as there are: one whose host has a name, and one with an
// address and a port, whose receiver's name needs escapes.
func configs(t testing.TB) map[string]forgery.Config {
	t.Helper()
	k, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	return map[string]forgery.Config{
		"https": {
			Issuer: "https://id.acme.internal", Audience: "https://invoices.acme.internal", Subject: "spiffe://acme.internal/sa/orders",
			Email: "orders@sa.acme.internal", Keys: k, Now: clock, Lure: "https://forger.invalid",
		},
		"loopback": {
			Issuer: "http://127.0.0.1:8400", Audience: `orders-"${aud}"<x>`, Subject: "spiffe://dev/sa/${now}", Keys: k, Now: clock, Lure: "http://127.0.0.1:8499/forger",
		},
	}
}

// corpora are those of configs, made once.
var corpora sync.Map

func cases(t testing.TB, c forgery.Config) []forgery.Case {
	t.Helper()
	if out, ok := corpora.Load(c.Issuer); ok {
		return out.([]forgery.Case)
	}
	var out []forgery.Case
	for one, err := range forgery.Corpus(c) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
	corpora.Store(c.Issuer, out)
	return out
}

// want returns the reason for which our verifier refuses a case: that of its class,
// unless the case is an exception.
func want(c forgery.Case) verifier.Reason {
	for reason, ids := range map[verifier.Reason]string{
		verifier.Malformed: `alg-array alg-empty alg-missing alg-null alg-number alg-object none-array none-empty none-first none-folded none-last
			none-missing none-null none-two-parts kid-array kid-null kid-number kid-object typ-array typ-null fold-alg
			exp-array exp-empty exp-false exp-infinity exp-nan exp-negative exp-null exp-object exp-string exp-string-date exp-string-hex exp-wraps
			iat-array iat-null iat-string nbf-null nbf-object nbf-string nbf-string-past nbf-wraps
			life-digits life-int64 life-milliseconds life-overflow life-year-10000
			aud-array-nested aud-array-null aud-array-number aud-null aud-object-name aud-object-value aud-true aud-zero
			iss-array iss-array-one iss-null iss-object iss-true sub-array sub-array-two sub-null sub-number sub-object sub-true`,
		verifier.AlgorithmNotAllowed: "kid-path kid-path-absolute kid-path-url kid-prototype kid-sql kid-sql-closed",
		verifier.KeyUnknown: `alg-es256-as-rs256 alg-es384-p256 alg-ps256 alg-rs256-as-eddsa alg-rs256-as-es256 alg-rs256-as-ps256
			key-kid-url key-other-purpose key-retired key-unknown fold-kid-kelvin`,
		verifier.SignatureInvalid: "alg-pss-as-rs256 alg-rs512-as-rs256 key-x5c",
		verifier.TypeNotAllowed:   "fold-typ fold-typ-over",
		verifier.NoExpiry:         "exp-missing fold-exp json-dotted json-nested json-prototype",
		verifier.NotYetValid:      "nbf-future nbf-far iat-future fold-nbf-over",
		verifier.Expired:          "fold-exp-over",
		verifier.SubjectMissing:   "fold-sub",
		verifier.ActorUnread:      "act-present act-chain act-null",
		verifier.AudienceWrong:    "fold-aud fold-aud-over",
		verifier.IssuerUnknown:    "fold-iss fold-iss-long-s fold-iss-over",
	} {
		if slices.Contains(strings.Fields(ids), c.ID) {
			return reason
		}
	}
	return map[string]verifier.Reason{
		"none": verifier.AlgorithmNotAllowed, "hmac": verifier.AlgorithmNotAllowed, "algorithm": verifier.AlgorithmNotAllowed,
		"key": verifier.Malformed, "kid": verifier.KeyUnknown, "crit": verifier.Malformed, "typ": verifier.TypeNotAllowed,
		"signature": verifier.SignatureInvalid, "time": verifier.Expired, "lifetime": verifier.LifetimeTooLong,
		"audience": verifier.AudienceWrong, "issuer": verifier.IssuerUnknown, "subject": verifier.SubjectMissing, "binding": verifier.SenderConstrained,
		"duplicate": verifier.Malformed, "unicode": verifier.Malformed, "json": verifier.Malformed, "encoding": verifier.Malformed,
		"text": verifier.Malformed, "serialization": verifier.Malformed, "limit": verifier.Malformed,
	}[c.Class]
}

// The verifier that the gateway uses says what each case wants, whatever its level,
// and refuses each for what is wrong with it.
func TestOurVerifierIsRight(t *testing.T) {
	t.Parallel()
	for name, config := range configs(t) {
		v, err := verifier.New(verifier.Config{
			Issuer: config.Issuer, Keys: verifier.StaticKeys(config.Keys.Public()), Rules: verifier.OwnRules(token.TypeID), Now: config.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases(t, config) {
			t.Run(name+"/"+c.ID, func(t *testing.T) {
				var got verifier.Reason
				_, err := v.Verify(t.Context(), c.Token, config.Audience)
				if e, ok := errors.AsType[*verifier.Error](err); ok {
					got = e.Reason
				} else if err != nil {
					t.Fatal(err)
				}
				if got != want(c) || (got == "") != (c.Expect == forgery.Accept) {
					t.Errorf("%s: got %q, want %s with %q", c.Why, got, c.Expect, want(c))
				}
			})
		}
	}
}

// Whoever keeps a list of cases that his receiver gets wrong names them by id, so
// an id is never given up or given to another case.
func TestIDsAreStable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/ids.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields(string(text))
	for name, config := range configs(t) {
		var ids []string
		for _, c := range cases(t, config) {
			ids = append(ids, c.ID)
		}
		if !slices.Equal(ids, known) {
			t.Errorf("%s: the ids, in order, are not those of testdata/ids.txt:\n%s", name, strings.Join(ids, "\n"))
		}
		slices.Sort(ids)
		if n := len(slices.Compact(ids)); n != len(known) || n < 150 {
			t.Errorf("%s: %d ids of %d cases", name, n, len(known))
		}
	}
}

// Lines are spelled as those of the shared corpora, whose judge reads them.
func TestLines(t *testing.T) {
	t.Parallel()
	for _, c := range cases(t, configs(t)["https"]) {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var line map[string]jsontext.Value
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"id", "class", "token", "expect", "reason", "level", "source", "kind"} {
			if v := line[name]; v.Kind() != '"' || string(v) == `""` && name != "token" {
				t.Errorf("%s: %s is %s", c.ID, name, v)
			}
		}
		level, expect := string(line["level"]), string(line["expect"])
		if level != `"must"` && level != `"should"` || expect != `"accept"` && expect != `"reject"` || string(line["kind"]) != `"jwt"` {
			t.Errorf("%s: level %s, expect %s, kind %s", c.ID, level, expect, line["kind"])
		}
		if strings.Contains(string(text), "\n") {
			t.Errorf("%s: more than a line", c.ID)
		}
	}
}

// A token that is not called raw arrives in a header as it was sent.
func TestTransport(t *testing.T) {
	t.Parallel()
	raw := 0
	for _, c := range cases(t, configs(t)["https"]) {
		if c.Transport == "raw" {
			raw++
			continue
		}
		var wire strings.Builder
		if err := (http.Header{"X-Token": {c.Token}}).Write(&wire); err != nil {
			t.Fatal(err)
		}
		if wire.String() != "X-Token: "+c.Token+"\r\n" {
			t.Errorf("%s: a header changes it", c.ID)
		}
	}
	if raw < 10 {
		t.Errorf("only %d tokens are raw: line breaks are among them", raw)
	}
}

// signer counts, and fails from a certain signature on.
type signer struct {
	crypto.Signer
	signed int
	fails  int
}

var errSigner = errors.New("the key is away")

func (s *signer) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.signed++; s.signed == s.fails {
		return nil, errSigner
	}
	return s.Signer.Sign(r, digest, opts)
}

// public is a signer that nobody asks to sign.
type public struct{ key *rsa.PublicKey }

func (p public) Public() crypto.PublicKey { return p.key }

func (public) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errSigner }

func TestCasesAreMadeWhenAskedFor(t *testing.T) {
	t.Parallel()
	c := configs(t)["https"]
	s := &signer{Signer: c.Keys.RS256.Signer}
	c.Keys.RS256.Signer = s
	for _, err := range forgery.Corpus(c) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if s.signed != 1 {
		t.Errorf("one case took %d signatures", s.signed)
	}
}

func TestAKeyThatDoesNotSignEndsTheCorpus(t *testing.T) {
	t.Parallel()
	total := len(cases(t, configs(t)["https"]))
	for _, fails := range []int{1, 2, 50, 100, 150} {
		c := configs(t)["https"]
		c.Keys.RS256.Signer = &signer{Signer: c.Keys.RS256.Signer, fails: fails}
		n, ended := 0, false
		for one, err := range forgery.Corpus(c) {
			if ended {
				t.Fatalf("a case after the error: %s", one.ID)
			}
			if ended = err != nil; ended {
				if !errors.Is(err, errSigner) || one.Token != "" {
					t.Errorf("got %v, with a token: %t", err, one.Token != "")
				}
				continue
			}
			n++
		}
		if !ended || n >= total {
			t.Errorf("signature %d fails: %d cases and no error", fails, n)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*forgery.Config)
		want   string
	}{
		{"no issuer", func(c *forgery.Config) { c.Issuer = "" }, "issuer: "},
		{"an issuer that is no URL", func(c *forgery.Config) { c.Issuer = "id.acme.internal" }, "issuer: "},
		{"an issuer with a slash behind it", func(c *forgery.Config) { c.Issuer += "/" }, "issuer: "},
		{"an issuer with a user", func(c *forgery.Config) { c.Issuer = "https://u@id" }, "issuer: "},
		{"an issuer with a query", func(c *forgery.Config) { c.Issuer += "?" }, "issuer: "},
		{"an issuer beyond ASCII", func(c *forgery.Config) { c.Issuer = "https://idé" }, "issuer: "},
		{"a lure that is no URL", func(c *forgery.Config) { c.Lure = "forger" }, "lure: "},
		{"no audience", func(c *forgery.Config) { c.Audience = "" }, "audience: "},
		{"an audience without a letter, whose case cannot change", func(c *forgery.Config) { c.Audience = "12345" }, "audience: "},
		{"an audience with a space, which is two in a list", func(c *forgery.Config) { c.Audience = "a b c" }, "audience: "},
		{"an audience that is the issuer", func(c *forgery.Config) { c.Audience = c.Issuer }, "audience: "},
		{"an audience that is no UTF-8", func(c *forgery.Config) { c.Audience = "abc\xff" }, "audience: "},
		{"no subject", func(c *forgery.Config) { c.Subject = "" }, "subject: "},
		{"a key is missing", func(c *forgery.Config) { c.Keys.Retired = forgery.Key{} }, "keys.Retired: is missing"},
		{"a key of another kind", func(c *forgery.Config) { c.Keys.ES256.Signer = c.Keys.RS256.Signer }, "keys.ES256: want an ES256 key"},
		{"a key for another algorithm", func(c *forgery.Config) { c.Keys.RS256.Algorithm = token.PS256 }, "keys.RS256: want an RS256 key"},
		{"an RSA key whose signatures end with a whole group of base64", func(c *forgery.Config) {
			n := new(big.Int).SetBit(big.NewInt(1), 3071, 1)
			c.Keys.RS256.Signer = &signer{Signer: public{&rsa.PublicKey{N: n, E: 65537}}}
		}, "keys.RS256: 3072 bits"},
		{"two keys of one name", func(c *forgery.Config) { c.Keys.Stranger.ID = c.Keys.RS256.ID }, "keys.Stranger"},
		{"a key whose name is no UTF-8", func(c *forgery.Config) { c.Keys.RS256.ID = "k\xff" }, "keys.RS256"},
		{"a key whose name has no letter", func(c *forgery.Config) { c.Keys.RS256.ID = "1" }, "keys.RS256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := configs(t)["https"]
			tt.change(&c)
			n := 0
			for one, err := range forgery.Corpus(c) {
				if n++; err == nil || !strings.Contains(err.Error(), tt.want) || one.Token != "" {
					t.Errorf("got %q and %v, want %q", one.Token, err, tt.want)
				}
			}
			if n != 1 {
				t.Errorf("%d steps, want one with the error", n)
			}
		})
	}
}
