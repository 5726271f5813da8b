package issuer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
)

// ask gets an ID token as a door does.
func (w *world) ask(t *testing.T, account, aud string, full bool) string {
	t.Helper()
	pass := w.admitAs(t, account, guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience(aud),
		Reuse: func(p *identity.Proof) string { return w.HeldIDToken(p, aud, full) }})
	raw, err := w.IDToken(t.Context(), pass, aud, full)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.Parse(raw); err != nil || got.Claims.ID != w.last.Payload.IssuedTokenID {
		t.Errorf("the token is %s, the record says %s was issued (%v)", got.Claims.ID, w.last.Payload.IssuedTokenID, err)
	}
	return raw
}

// Go's libraries keep an ID token for 55 minutes whatever its `exp` (contract
// google-clients, 0.1): one that was minted before is handed out for two minutes.
func TestReuse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		again  func(w *world, t *testing.T) string
		reused bool
	}{
		{"at once", func(w *world, t *testing.T) string { return w.ask(t, "orders", audience, true) }, true},
		{"with 58 minutes left", func(w *world, t *testing.T) string { w.clock.Add(120); return w.ask(t, "orders", audience, true) }, true},
		{"with less", func(w *world, t *testing.T) string { w.clock.Add(121); return w.ask(t, "orders", audience, true) }, false},
		{"in the other format", func(w *world, t *testing.T) string { return w.ask(t, "orders", audience, false) }, false},
		{"by another account", func(w *world, t *testing.T) string { return w.ask(t, "swift", audience, true) }, false},
		{"when its key was revoked", func(w *world, t *testing.T) string {
			err := w.keys.Revoke(t.Context(), w.keys.Public(keys.Tokens)[0].ID, func(keys.Event) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			return w.ask(t, "orders", audience, true)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.ask(t, "orders", audience, true)
			if got := tt.again(w, t) == first; got != tt.reused {
				t.Errorf("reused %v, want %v", got, tt.reused)
			}
		})
	}
}

func TestAccessTokensAreReusedByScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(scopes ...string) (string, time.Time) {
		t.Helper()
		pass := w.admitAs(t, "orders", guard.Attempt{Action: guard.ActionMint, Resource: guard.ToItself(),
			Reuse: func(p *identity.Proof) string { return w.HeldAccessToken(p, scopes) }})
		raw, expires, err := w.AccessToken(t.Context(), pass, scopes)
		if err != nil {
			t.Fatal(err)
		}
		return raw, expires
	}
	one, ends := ask("a")
	w.clock.Add(60)
	two, endsToo := ask("a")
	other, _ := ask("a", "b")
	if one != two || !ends.Equal(endsToo) {
		t.Error("the same scopes a minute later got another token, or another end")
	}
	if other == one {
		t.Error("other scopes got the same token")
	}
}

// A caller that asks for ever new audiences pushes out what is held for itself, and
// for nobody else.
func TestManyAudiencesCrowdOutOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kept := w.ask(t, "orders", audience, false)
	for i := range 10_000 {
		aud := fmt.Sprintf("https://%d.test", i)
		p := &identity.Proof{Principal: identity.Account("swift", "")}
		if w.HeldIDToken(p, aud, false) != "" {
			t.Fatal("held before it was minted")
		}
		w.askAnywhere(t, "swift", aud)
	}
	if w.ask(t, "orders", audience, false) != kept {
		t.Error("another account's token was pushed out")
	}
	if n := w.MintedFor("swift"); n > 1024 {
		t.Errorf("%d tokens are held for one account", n)
	}
}

// askAnywhere mints for an audience that policy need not know.
func (w *world) askAnywhere(t *testing.T, account, aud string) {
	t.Helper()
	w.anywhere.Store(true)
	defer w.anywhere.Store(false)
	w.ask(t, account, aud, false)
}

// The account's algorithm is the file's; what is minted with it verifies with the
// published keys.
func TestAlgorithmOfAnAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for account, want := range map[string]string{"orders": "RS256", "swift": "ES256"} {
		raw := w.ask(t, account, audience, false)
		got, err := token.Parse(raw)
		if err != nil || got.Header.Algorithm != want {
			t.Errorf("%s: %v, %v", account, got.Header, err)
		}
		if c := w.verify(t, url, token.TypeID, keys.Tokens, raw, audience); !strings.HasSuffix(c["sub"].(string), account) {
			t.Errorf("%s: sub %v", account, c["sub"])
		}
	}
}
