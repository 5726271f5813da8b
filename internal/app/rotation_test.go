package app_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// hourly keeps the published keys for as long as it may, and never looks again sooner:
// the least that a verifier can do, and what Google's Go library does.
type hourly struct {
	url string
	now func() time.Time

	mu      sync.Mutex
	keys    verifier.StaticKeys
	fetched time.Time
}

func (h *hourly) Find(ctx context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); h.fetched.IsZero() || now.Sub(h.fetched) >= discovery.MaxAge {
		resp, err := http.Get(h.url)
		if err != nil {
			return token.Key{}, err
		}
		defer resp.Body.Close()
		doc, err := io.ReadAll(resp.Body)
		if err != nil {
			return token.Key{}, err
		}
		published, _, err := token.ParseJWKS(doc)
		if err != nil {
			return token.Key{}, err
		}
		h.keys, h.fetched = published, now
	}
	return h.keys.Find(ctx, kid, alg)
}

func (h *hourly) Generation() uint64 { return 0 }

// Keys rotate while tokens are minted, shown to the gateway, and verified by a service
// that reads the published keys when it has to and no sooner: new ones, and those
// minted up to an hour ago. Not one is refused, and both old and new keys were used.
func TestRotationUnderLoadFailsNoVerification(t *testing.T) {
	t.Parallel()
	clock := &clock{}
	upstream := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	p := start(t, t.TempDir(), upstream, func(c *config.Config, o *app.Options) {
		o.Now = clock.now
		c.ServiceAccounts[0].Algorithm = token.ES256
	})
	url := "http://" + p.addresses.Issuer
	service, err := verifier.New(verifier.Config{
		Issuer: url, Rules: verifier.OwnRules(token.TypeID), Now: clock.now,
		Keys: &hourly{url: url + discovery.JWKSPath, now: clock.now},
	})
	if err != nil {
		t.Fatal(err)
	}
	var kids sync.Map
	var rounds [3]atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for i := range rounds {
		wg.Go(func() {
			type minted struct {
				raw string
				at  time.Time
			}
			var old []minted
			for {
				select {
				case <-stop:
					return
				default:
				}
				fresh := minted{p.token(t), clock.now()}
				if tok, err := token.Parse(fresh.raw); err == nil {
					kids.Store(tok.Header.KeyID, true)
				}
				if old = append(old, fresh); len(old) > 20 {
					old = old[1:]
				}
				for _, m := range old {
					if clock.now().Sub(m.at) > 30*time.Minute { // the clock may go on while it is looked at
						continue
					}
					if _, err := service.Verify(t.Context(), m.raw, config.DevAudience); err != nil {
						t.Errorf("a token of %v ago is refused: %v", clock.now().Sub(m.at), err)
						return
					}
				}
				if status, body := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + fresh.raw}}, ""); status != 200 {
					t.Errorf("the gateway: %d %s", status, body)
					return
				}
				rounds[i].Add(1)
			}
		})
	}
	// everybody comes round once between two steps of the clock
	step := func(d time.Duration) {
		var was [len(rounds)]int64
		for i := range rounds {
			was[i] = rounds[i].Load()
		}
		clock.after(d)
		for i := range rounds {
			for rounds[i].Load() < was[i]+2 && !t.Failed() {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for range 3 {
		if status, body := overSocket(t, config.AdminSocket(p.dir), "POST", admin.RotatePath, `{"purposes":["tokens"]}`, nil); status != 200 {
			t.Fatalf("rotate: %d %s", status, body)
		}
		for range 9 {
			step(8 * time.Minute)
		}
	}
	used := 0
	kids.Range(func(any, any) bool { used++; return true })
	if used != 4 {
		t.Errorf("%d keys have signed, want the first and three after it", used)
	}
}

// What each package takes the others' times to be.
func TestTimesOfPackagesAgree(t *testing.T) {
	t.Parallel()
	if discovery.MaxAge != keys.DocumentLife {
		t.Errorf("verifiers may keep key documents for %v, and keys reckons with %v", discovery.MaxAge, keys.DocumentLife)
	}
	for name, life := range map[string]time.Duration{"tokens": issuer.TokenLifetime, "SVIDs": issuer.SVIDLifetime} {
		if life+verifier.Leeway > keys.Kept {
			t.Errorf("%s live for %v, and their keys are published for %v after the last", name, life, keys.Kept)
		}
	}
}
