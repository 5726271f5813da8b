package guard

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// payload is what every record of an attempt holds: who is filled in when known.
func (g *Guard) payload(a *Attempt) audit.Payload {
	p := audit.Payload{Action: a.Action, Replica: g.c.Replica, TraceID: a.TraceID, Unverified: a.Unverified, Vars: policy.Recorded(a.Request)}
	if a.Resource.Kind != policy.ServiceResource && a.Resource.Name != "" {
		p.Resource = a.Resource.String()
	}
	if a.On != "" {
		p.Resource = a.On
	}
	if a.Peer.IsValid() {
		p.Peer = a.Peer.String()
	}
	return p
}

// name says who it was, and on what that rests.
func name(p *audit.Payload, proof *identity.Proof) {
	p.Principal, p.Provider, p.TokenID, p.Attested = proof.Principal.ID(), proof.Provider, proof.TokenID, proof.Attested
	if proof.Actor != "" {
		p.Actors = []string{proof.Actor}
	}
}

func (g *Guard) decisionRecord(v *view, kind audit.Kind, a *Attempt, proof *identity.Proof, d *policy.Decision) *audit.Record {
	p := g.payload(a)
	name(&p, proof)
	p.Reason, p.Shadow, p.Near = string(d.Reason), d.Shadow, d.Near
	if d.NearWhy != "" {
		p.Detail = d.NearWhy
	}
	for _, r := range d.Read {
		if p.Vars == nil {
			p.Vars = map[string]string{}
		}
		p.Vars[r.Name] = r.Value
	}
	rec := &audit.Record{Kind: kind, Decision: audit.Deny, Rule: d.Rule, Service: a.Service, Policy: v.Policy.Revision(), Payload: p}
	if d.Allow {
		rec.Decision = audit.Allow
	}
	return rec
}

// refuse records a refusal and returns f with the record's id in it. proof is who
// it was, if that is known.
func (g *Guard) refuse(a *Attempt, proof *identity.Proof, code, why string, f *fault.Error) *fault.Error {
	if proof == nil {
		if f, counted := g.crowded(a, code, why, f); counted {
			return f
		}
	}
	p := g.payload(a)
	if proof != nil {
		name(&p, proof)
	}
	p.Reason, p.Detail = code, why
	id, err := g.append(&audit.Record{Kind: audit.Refuse, Decision: audit.Deny, Service: a.Service,
		Policy: g.view.Load().Policy.Revision(), Payload: p}, audit.Written)
	if err != nil {
		return fault.Of(err)
	}
	f.Decision = id
	g.counts.decided(a.Service, code)
	return f
}

// retryLater is when to come back while nothing can be recorded.
const retryLater = 5 * time.Second

// errLast is why there is no record when the disk's last part is for operators.
var errLast = errors.New("the log's disk is nearly full: what is left is for operators and for the end of what was begun")

// ofOperators reports whether a record has a place in the last part of the disk: without
// it nobody could prune.
func ofOperators(rec *audit.Record) bool {
	return rec.Kind == audit.Note || rec.Kind == audit.Close || strings.HasPrefix(rec.Payload.Action, adminActions) && rec.Kind == audit.Admit
}

// append makes rec durable and returns its decision id, or the refusal that the
// caller gets when there is no record: no record, no pass.
func (g *Guard) append(rec *audit.Record, d audit.Durability) (string, error) {
	if g.c.Room() == audit.Last && !ofOperators(rec) {
		return "", &fault.Error{Code: fault.Busy, Public: "decisions cannot be recorded now", RetryAfter: retryLater, Cause: errLast}
	}
	seq, err := g.c.Log.Append(rec, d)
	if err != nil {
		g.c.Logger.Error("a decision cannot be recorded, so it is refused", "error", err.Error())
		return "", &fault.Error{Code: fault.Busy, Public: "decisions cannot be recorded now", RetryAfter: retryLater, Cause: err}
	}
	return g.c.Replica + "-" + strconv.FormatUint(seq, 10), nil
}
