package guard

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Limits are how much may be asked of a service: of one principal, and of all together.
type Limits struct {
	PerPrincipal Limit `yaml:"per_principal,omitempty"`
	All          Limit `yaml:"all,omitempty"`
}

// A Limit bounds how much may be asked; what is zero is no bound.
type Limit struct {
	// Rate is how many requests there may be a second, in the long run.
	Rate float64 `yaml:"rate,omitempty"`

	// Burst is how many of them may come at once. Default: Rate, and at least 1.
	Burst int `yaml:"burst,omitempty"`

	// Concurrent is how many requests and sessions may be under way at a time.
	Concurrent int `yaml:"concurrent,omitempty"`
}

func (l Limit) none() bool { return l.Rate <= 0 && l.Concurrent <= 0 }

// Complete reports every mistake below "services[i]".
func (l *Limits) Complete() error {
	var bad []error
	for _, x := range []struct {
		path string
		Limit
	}{{"limits.per_principal", l.PerPrincipal}, {"limits.all", l.All}} {
		if x.Rate < 0 || math.IsNaN(x.Rate) || math.IsInf(x.Rate, 0) {
			bad = append(bad, fmt.Errorf("%s.rate: %v: want requests a second, such as 50", x.path, x.Rate))
		}
		if x.Burst < 0 || x.Burst > 0 && x.Rate == 0 {
			bad = append(bad, fmt.Errorf("%s.burst: %d: want how many requests of rate may come at once", x.path, x.Burst))
		}
		if x.Concurrent < 0 {
			bad = append(bad, fmt.Errorf("%s.concurrent: %d is negative", x.path, x.Concurrent))
		}
	}
	return errors.Join(bad...)
}

// limits are what is under way of services that have a limit.
type limits struct {
	mu   sync.Mutex
	held map[limitKey]*usage
}

// limitKey is whose usage it is; of a service as a whole the principal is nobody.
type limitKey struct {
	service        string
	kind           identity.Kind
	provider, name string
}

type usage struct {
	allowance
	live int
}

// manyUsages is how many are kept before those are dropped that say nothing any more.
const manyUsages = 4096

// nothing is what leaves no limit.
func nothing() {}

// enter takes a place for an attempt; leave gives it back. When there is none, f says
// when to come back.
func (l *limits) enter(v *view, a *Attempt, proof *identity.Proof, now time.Time) (leave func(), f *fault.Error) {
	of := v.Services[a.Service].Limits
	if of.PerPrincipal.none() && of.All.none() {
		return nothing, nil
	}
	p := &proof.Principal
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[limitKey]*usage{}
	}
	if len(l.held) >= manyUsages {
		l.forget(now)
	}
	who := limitKey{a.Service, p.Kind, p.Provider, p.Name}
	if a.public() { // of those, each network is one
		who.name = a.network()
	}
	mine := l.usage(who, of.PerPrincipal, now)
	all := l.usage(limitKey{service: a.Service}, of.All, now)
	for _, u := range []struct {
		*usage
		Limit
	}{{mine, of.PerPrincipal}, {all, of.All}} {
		switch {
		case u.Concurrent > 0 && u.live >= u.Concurrent:
			return nil, tooMany(tooConcurrent, time.Second)
		case u.Rate > 0 && u.left < 1:
			return nil, tooMany(rateLimited, time.Duration(math.Ceil((1-u.left)/u.Rate*1e9)))
		}
	}
	mine.left--
	all.left--
	mine.live++
	all.live++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		mine.live--
		all.live--
	}, nil
}

// usage returns what is under way of k; called with mu held.
func (l *limits) usage(k limitKey, of Limit, now time.Time) *usage {
	u := l.held[k]
	burst := float64(of.Burst)
	if burst == 0 {
		burst = max(of.Rate, 1)
	}
	if u == nil {
		u = &usage{allowance: *newAllowance(of.Rate, burst, now)}
		l.held[k] = u
	}
	u.rate, u.burst = of.Rate, burst
	u.refill(now)
	return u
}

// forget drops usages that are as new ones would be; called with mu held.
func (l *limits) forget(now time.Time) {
	for k, u := range l.held {
		if u.refill(now); u.live == 0 && (u.rate <= 0 || u.left >= u.burst) {
			delete(l.held, k)
		}
	}
}

func tooMany(r Reason, wait time.Duration) *fault.Error {
	f := r.Fault()
	f.RetryAfter = max(wait, time.Second)
	f.Cause = refusal{r, "over a limit of the service"}
	return f
}

// limited counts an attempt over a limit: each second and class has one record, or a
// caller in a loop would fill the log.
func (g *Guard) limited(a *Attempt, f *fault.Error) *fault.Error {
	reason := f.Cause.(refusal).reason
	g.crowd.count(class{a.network(), a.Service, string(reason)}, a.Action, "", g.recordCrowd)
	g.counts.decided(a.Service, string(reason))
	return f
}
