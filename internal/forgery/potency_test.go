package forgery_test

import (
	"database/sql"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/forgery"
	"github.com/sallyport-dev/sallyport/token"
)

// newReceiver returns one without flaws. Of our code only the key sets it reads
// are, as text.
func newReceiver(t *testing.T, c forgery.Config) *receiver {
	t.Helper()
	set := func(keys ...token.Key) (map[string]any, []json.RawMessage) {
		text, err := token.JWKS(keys)
		if err != nil {
			t.Fatal(err)
		}
		var raw struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(text, &raw); err != nil {
			t.Fatal(err)
		}
		out, err := readJWKS(text)
		if err != nil {
			t.Fatal(err)
		}
		return out, raw.Keys
	}
	r := &receiver{issuer: c.Issuer, audience: c.Audience, now: now}
	r.published, r.jwks = set(c.Keys.Public()...)
	r.retired, _ = set(c.Keys.Retired.Public())
	r.assertions, _ = set(c.Keys.Assertion.Public())
	lure, err := c.Keys.Lure(now)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(c.Lure)
	if err != nil {
		t.Fatal(err)
	}
	r.lureHost, r.lure = at.Host, func(path string) []byte { return lure[strings.TrimPrefix(path, at.Path)] }
	if r.keys, err = sql.Open("sqlite", ":memory:"); err != nil {
		t.Fatal(err)
	}
	r.keys.SetMaxOpenConns(1) // each has a memory of its own
	t.Cleanup(func() { _ = r.keys.Close() })
	if _, err := r.keys.Exec("CREATE TABLE keys (kid TEXT, secret TEXT); INSERT INTO keys VALUES ('a', 'nobody knows')"); err != nil {
		t.Fatal(err)
	}
	return r
}

// Each forgery is taken by a receiver that has its flaws and is right in all else,
// and by none that has one of them less; so what is wrong with it is that alone.
// The receiver without flaws refuses all of them and takes every good token.
func TestPotency(t *testing.T) {
	t.Parallel()
	for name, config := range configs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := newReceiver(t, config)
			for _, c := range cases(t, config) {
				t.Run(c.ID, func(t *testing.T) { potent(t, good, c) })
			}
		})
	}
}

func potent(t *testing.T, good *receiver, c forgery.Case) {
	err := good.take(c.Token)
	if c.Expect == forgery.Accept {
		if err != nil || len(c.Flaws) > 0 {
			t.Errorf("refused (%v), or said to have flaws: %v", err, c.Flaws)
		}
		return
	}
	if err == nil {
		t.Fatal("taken by a receiver without flaws")
	}
	if len(c.Flaws) == 0 {
		if c.Class != "limit" {
			t.Error("no flaw is named that would take it")
		}
		return
	}
	if err := good.with(c.Flaws...).take(c.Token); err != nil {
		t.Errorf("impotent: refused by a receiver with %v: %v", c.Flaws, err)
	}
	for i, flaw := range c.Flaws {
		if len(c.Flaws) > 1 && good.with(slices.Delete(slices.Clone(c.Flaws), i, i+1)...).take(c.Token) == nil {
			t.Errorf("taken without %s", flaw)
		}
	}
}

// A flaw makes no receiver refuse what is good: it is right in all else.
func TestFlawsRefuseNothingGood(t *testing.T) {
	t.Parallel()
	config := configs(t)["https"]
	good := newReceiver(t, config)
	all := cases(t, config)
	var flaws []string
	for _, c := range all {
		flaws = append(flaws, c.Flaws...)
	}
	slices.Sort(flaws)
	for _, flaw := range slices.Compact(flaws) {
		for _, c := range all {
			if c.Expect != forgery.Accept {
				continue
			}
			if err := good.with(flaw).take(c.Token); err != nil {
				t.Errorf("%s: %s is refused: %v", flaw, c.ID, err)
			}
		}
	}
}

// Each form of a public key is another secret: as many forgeries, as many forms.
func TestEveryFormOfAPublicKeyIsTried(t *testing.T) {
	t.Parallel()
	config := configs(t)["https"]
	good := newReceiver(t, config).with("hmac-by-public-key")
	used := map[string]string{}
	for _, c := range cases(t, config) {
		if !slices.Contains(c.Flaws, "hmac-by-public-key") {
			continue
		}
		n := strings.LastIndexByte(c.Token, '.')
		alg := strings.Split(c.ID, "-")[1] // hmac-384-… is another hash over the same secret
		for _, secret := range good.secrets() {
			if fits(secret, c.Token[:n], c.Token[n+1:]) {
				key := alg + string(secret)
				if other := used[key]; other != "" && other != c.ID {
					t.Errorf("%s and %s have the same secret", c.ID, other)
				}
				used[key] = c.ID
			}
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d secrets", len(used))
	}
}
