package guard

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Rules are what decisions rest on besides the credential. They are swapped whole
// (Reload).
type Rules struct {
	Policy   *policy.Snapshot
	Services map[string]Service
	Bearers  []BearerProver // a provider that did not change keeps its prover, and so its sessions

	Certificates []CertificateProver // the same of those
}

// Reloading is the section "policy" of the file: how other rules are put in the place of
// those in force.
type Reloading struct {
	// MaxSessionLoss is how many of a hundred live sessions other rules may end, such as
	// "10%" (the default); 20 they always may. A file that would end more is held until
	// an operator accepts it.
	MaxSessionLoss string `yaml:"max_session_loss,omitempty"`
}

// Percent returns MaxSessionLoss as a number.
func (r Reloading) Percent() (int, error) {
	if r.MaxSessionLoss == "" {
		return 10, nil
	}
	text, ok := strings.CutSuffix(r.MaxSessionLoss, "%")
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 0 || n > 100 || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("max_session_loss: %q: want a share of the live sessions, such as 10%%", r.MaxSessionLoss)
	}
	return n, nil
}

// view is Rules that are in force. One attempt is judged by one view from its beginning
// to its record.
type view struct {
	Rules
	issuers map[string]BearerProver // by `iss`
}

func newView(r Rules) *view {
	v := &view{Rules: r, issuers: map[string]BearerProver{}}
	for _, b := range r.Bearers {
		v.issuers[b.Issuer()] = b
	}
	return v
}

// maxLossFloor is how many sessions a change may always end.
const maxLossFloor = 20

// A Loss is how many live sessions a change of rules ends.
type Loss struct {
	Ends, Live int
}

// Reload puts other rules in force. First it runs them against the live sessions: if they
// would end more than percent of a hundred of them, and more than 20, nothing changes and
// ok is false, unless the loss is accepted. Sessions that may not go on end before it
// returns.
func (g *Guard) Reload(r Rules, percent int, accept bool) (loss Loss, ok bool) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	next, now := newView(r), g.c.Now()
	ctx, cancel := context.WithTimeout(context.Background(), stillTimeout)
	defer cancel()
	for r := range g.live.all() {
		loss.Live++
		if g.judge(ctx, r, next, now, true) != nil {
			loss.Ends++
		}
	}
	if !accept && loss.Ends > maxLossFloor && loss.Ends*100 > loss.Live*percent {
		return loss, false
	}
	g.view.Store(next)
	g.revoked.generation.Add(1) // who is in a group may have changed
	g.Sweep(now)
	return loss, true
}
