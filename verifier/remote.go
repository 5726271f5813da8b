package verifier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// Limits of fetching a key set.
const (
	fetchTimeout = 10 * time.Second
	maxDocument  = 512 << 10        // bytes; the largest provider's is about 20 KiB
	minRefresh   = time.Minute      // a max-age below this is taken as this
	maxRefresh   = 24 * time.Hour   // and above, as this
	defRefresh   = 10 * time.Minute // without a max-age
	retryAfter   = 30 * time.Second // between fetches that fail, or that an unknown kid asks for
	maxStale     = 24 * time.Hour   // how long the last good set is served when no fetch succeeds
)

// RemoteKeys is a KeySource that reads a JWK set from a URL. It caches by
// Cache-Control max-age, refreshes ahead of that in the background, fetches one
// at a time, asks again for an unknown kid at most every 30 s, and keeps the last
// good set for up to 24 h when fetching fails. Redirects are not followed: what
// the operator wrote may be anywhere, what it points to may not.
type RemoteKeys struct {
	url    string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu         sync.Mutex
	keys       []token.Key
	generation uint64        // of keys
	fetched    time.Time     // of keys; zero before the first success
	refresh    time.Time     // when to fetch ahead
	tried      time.Time     // start of the last fetch
	inFlight   chan struct{} // closed when the fetch ends; nil when none runs
	err        error         // of the last fetch
}

// NewRemoteKeys returns a RemoteKeys for url. Default client: no proxy, no
// redirects, 10 s. Default clock time.Now, default logger slog.Default().
func NewRemoteKeys(url string, client *http.Client, now func() time.Time, log *slog.Logger) *RemoteKeys {
	if client == nil {
		client = &http.Client{Transport: &http.Transport{TLSHandshakeTimeout: fetchTimeout, MaxIdleConns: 2, IdleConnTimeout: time.Minute}}
	}
	if now == nil {
		now = time.Now
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &RemoteKeys{url: url, client: &c, now: now, log: cmp.Or(log, slog.Default())}
}

// Generation implements KeySource.
func (r *RemoteKeys) Generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if !r.fetched.IsZero() && now.After(r.refresh) {
		r.start() // a verdict that is kept must learn of a withdrawn key too
	}
	if now.Sub(r.fetched) > maxStale {
		return math.MaxUint64 // no verdict has it: all are asked for again, and fail
	}
	return r.generation
}

// Find implements KeySource.
func (r *RemoteKeys) Find(ctx context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	r.mu.Lock()
	now := r.now()
	if r.fetched.IsZero() || now.Sub(r.fetched) > maxStale {
		if err := r.wait(ctx); err != nil {
			r.mu.Unlock()
			return token.Key{}, err
		}
	} else if now.After(r.refresh) {
		r.start()
	}
	k, err := token.FindKey(r.keys, kid, alg)
	if err != nil && kid != "" && now.Sub(r.tried) > retryAfter {
		if werr := r.wait(ctx); werr == nil {
			k, err = token.FindKey(r.keys, kid, alg)
		}
	}
	r.mu.Unlock()
	return k, err
}

// wait starts a fetch or joins the one that runs, and waits for its end. It is
// called with mu held and holds it again when it returns.
func (r *RemoteKeys) wait(ctx context.Context) error {
	if r.inFlight == nil && r.err != nil && r.now().Sub(r.tried) < retryAfter {
		return r.err // do not hammer an issuer that is down
	}
	done := r.start()
	r.mu.Unlock()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	return cmp.Or(err, r.err)
}

// start begins a fetch unless one runs or one failed just now; called with mu
// held. The fetch is not tied to any caller's context: others wait for it too.
func (r *RemoteKeys) start() chan struct{} {
	if r.inFlight != nil {
		return r.inFlight
	}
	if r.err != nil && r.now().Sub(r.tried) < retryAfter {
		done := make(chan struct{})
		close(done)
		return done
	}
	done := make(chan struct{})
	r.inFlight, r.tried = done, r.now()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		keys, age, err := r.fetch(ctx)
		cancel()
		r.mu.Lock()
		r.finish(keys, age, err)
		r.inFlight = nil
		r.mu.Unlock()
		close(done)
	}()
	return done
}

func (r *RemoteKeys) finish(keys []token.Key, age time.Duration, err error) {
	r.err = err
	if err != nil {
		r.log.Error("an issuer's keys cannot be fetched; the last good set stays in use", "url", r.url, "error", err.Error(),
			"stale_seconds", int(r.now().Sub(r.fetched).Seconds()), "have_keys", len(r.keys))
		return
	}
	r.keys, r.fetched = keys, r.now()
	r.refresh = r.fetched.Add(age * 4 / 5)
	r.generation++
}

// fetch reads the document once. A set without any usable key is an error, so
// that good keys are never replaced by nothing.
func (r *RemoteKeys) fetch(ctx context.Context) ([]token.Key, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("fetch keys: status %d, want 200 (redirects are not followed)", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	if len(body) > maxDocument {
		return nil, 0, fmt.Errorf("fetch keys: the document is larger than %d bytes", maxDocument)
	}
	keys, _, err := token.ParseJWKS(body)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	if len(keys) == 0 {
		return nil, 0, errors.New("fetch keys: no key in it that we verify with")
	}
	return keys, maxAge(resp.Header.Get("Cache-Control")), nil
}

// maxAge reads Cache-Control's max-age (RFC 9111 section 5.2.2.1), within limits.
func maxAge(cacheControl string) time.Duration {
	for d := range strings.SplitSeq(cacheControl, ",") {
		if s, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(d)), "max-age="); ok {
			if n, err := strconv.ParseUint(s, 10, 31); err == nil {
				return min(max(time.Duration(n)*time.Second, minRefresh), maxRefresh)
			}
		}
	}
	return defRefresh
}
