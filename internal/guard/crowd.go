package guard

import (
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Refusals cost callers nothing that nobody proved, or of whom nothing is known but that
// somebody else knows them: recorded one by one without a bound, they would let anybody fill the disk, and
// then nobody gets anything. So each network has so many records of its own; of what is
// more, each second and class has one that counts.
const (
	// crowdRate is how many refusals a second of one network are recorded one by one.
	crowdRate = 100

	// crowdBurst is how many of them may come at once, after a quiet time.
	crowdBurst = 2048

	// crowdNetworks is how many networks are told apart; others are one.
	crowdNetworks = 4096

	// crowdAllRate and crowdAllBurst are the same of all networks together.
	crowdAllRate  = 1000
	crowdAllBurst = 20000

	// crowdClasses is how many records of counted refusals there are at a time; networks
	// beyond are one.
	crowdClasses = 256

	// crowdEvery is how often what was counted is recorded.
	crowdEvery = time.Second
)

// crowd counts refusals of unproven callers. Its zero value has seen none.
type crowd struct {
	mu       sync.Mutex
	all      *allowance
	networks map[string]*allowance
	counted  map[class]*counted
	timer    *time.Timer // runs while something is counted
}

// allowance is what may be recorded one by one: so many at once, so many a second.
type allowance struct {
	rate, burst, left float64
	at                time.Time
}

func newAllowance(rate, burst float64, now time.Time) *allowance {
	return &allowance{rate, burst, burst, now}
}

func (a *allowance) refill(now time.Time) {
	if d := now.Sub(a.at); d > 0 {
		a.left = min(a.left+d.Seconds()*a.rate, a.burst)
	}
	a.at = now
}

// class is what refusals have in common that one record counts: nothing of it is the
// caller's to choose, but its network.
type class struct{ network, service, reason string }

type counted struct {
	n            int64
	action, last string // of the last one; last is why, as the record has it
}

// network names who an attempt is counted with: a local caller's uid, or the peer's
// network of a size that one site has.
func (a *Attempt) network() string {
	c := a.Caller
	if c == nil && len(a.Credentials) == 1 {
		c = a.Credentials[0].conn
	}
	if c != nil {
		return c.Origin()
	}
	return attest.OriginOf(a.Peer.Addr())
}

// others is who networks are counted as that are too many to be told apart.
const others = "others"

// alone reports whether a refusal of network is to have a record of its own, and as whom
// it is counted if not.
func (c *crowd) alone(network string, now time.Time) (as string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.networks == nil {
		c.networks = map[string]*allowance{}
	}
	if c.networks[network] == nil && len(c.networks) >= crowdNetworks {
		if c.forget(now); len(c.networks) >= crowdNetworks {
			network = others
		}
	}
	a := c.networks[network]
	if a == nil {
		a = newAllowance(crowdRate, crowdBurst, now)
		c.networks[network] = a
	}
	if c.all == nil {
		c.all = newAllowance(crowdAllRate, crowdAllBurst, now)
	}
	a.refill(now)
	c.all.refill(now)
	if a.left < 1 || c.all.left < 1 {
		return network, false
	}
	a.left--
	c.all.left--
	return network, true
}

// forget drops the networks that have everything left; called with mu held.
func (c *crowd) forget(now time.Time) {
	for name, a := range c.networks {
		if a.refill(now); a.left >= crowdBurst {
			delete(c.networks, name)
		}
	}
}

// count counts a refusal that gets no record of its own, and sees to it that flush is
// called.
func (c *crowd) count(k class, action, why string, flush func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counted == nil {
		c.counted = map[class]*counted{}
	}
	if c.counted[k] == nil && len(c.counted) >= crowdClasses {
		k.network, k.service = others, ""
	}
	n := c.counted[k]
	if n == nil {
		n = &counted{}
		c.counted[k] = n
	}
	n.n, n.action = n.n+1, action
	if why != "" {
		n.last = "; the last: " + why
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(crowdEvery, flush)
	}
}

// take returns what was counted since the last time.
func (c *crowd) take() map[class]*counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.counted
	c.counted = nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	return out
}

// recordCrowd records what was counted: one record for each class.
func (g *Guard) recordCrowd() {
	for k, n := range g.crowd.take() {
		_, err := g.append(&audit.Record{Kind: audit.Refuse, Decision: audit.Deny, Service: k.service, Policy: g.view.Load().Policy.Revision(), Payload: audit.Payload{
			Action: n.action, Reason: k.reason, Peer: k.network, Count: n.n, Replica: g.c.Replica,
			Detail: fmt.Sprintf("%d of this kind in a second, beyond what is recorded one by one%s", n.n, n.last),
		}}, audit.Written)
		if err != nil {
			g.c.Logger.Error("refusals that were counted are not in the log", "refusals", n.n, "network", k.network, "reason", k.reason)
		}
	}
}

// crowdedUser is crowded for what policy denies others than our own accounts. Every process
// is a local user, and who has a token of a provider may be anybody.
func (g *Guard) crowdedUser(a *Attempt, proof *identity.Proof, d *policy.Decision) (*fault.Error, bool) {
	if d.Allow || proof.Principal.Kind == identity.ServiceAccount {
		return nil, false
	}
	return g.crowded(a, string(d.Reason), d.NearWhy, notAllowed(d))
}

// crowded counts the refusal of an unproven caller whose network has too many, or for
// whom the log's disk has no room, and returns what it is told: there is no record to name.
func (g *Guard) crowded(a *Attempt, code, why string, f *fault.Error) (*fault.Error, bool) {
	network, alone := g.crowd.alone(a.network(), g.c.Now())
	if alone && g.c.Room() == audit.Plenty {
		return nil, false
	}
	g.crowd.count(class{network, a.Service, code}, a.Action, why, g.recordCrowd)
	return f, true
}
