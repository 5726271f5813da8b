// Package report makes evidence out of the audit log for people who audit: what the
// log says of a time, and, in the same document, what it does not show. It judges
// nothing, and whether the log is whole is audit.Verify's to say.
package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// SOC2 is what the log of one replica shows of a time, for a report on the Trust
// Services Criteria (AICPA TSP section 100, 2017, with the points of focus of 2022).
type SOC2 struct {
	Origin    string    `json:"origin"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Made      time.Time `json:"made"`
	FirstSeen time.Time `json:"first_record,omitzero"` // in the time that is reported on
	LastSeen  time.Time `json:"last_record,omitzero"`
	Records   uint64    `json:"records"`
	Unread    uint64    `json:"unread"`          // of them, payloads that are sealed or erased
	Damage    string    `json:"damage,omitzero"` // where the log cannot be read: what is behind it is not in the report

	Verification Verification `json:"verification"`
	Access       []Access     `json:"access"`
	Others       uint64       `json:"others,omitzero"` // decisions of principals and services beyond what is told apart
	Refusals     []Count      `json:"refusals"`
	Policy       string       `json:"policy_at_first"` // revision of the first record that has one
	Policies     []Change     `json:"policy_changes"`
	Keys         []Event      `json:"keys"`
	Operators    []Event      `json:"operators"`
	Server       []Event      `json:"server"`
	Kept         []Event      `json:"erased_and_pruned"`
	More         uint64       `json:"more_events,omitzero"` // beyond those that are listed
	Gaps         uint64       `json:"gaps"`
	Criteria     []Criterion  `json:"criteria"`
	NotShown     []string     `json:"not_shown"`
}

// Verification is what audit.Verify said of the whole log when the report was made.
type Verification struct {
	OK         bool     `json:"ok"`
	Error      string   `json:"error,omitzero"`
	Key        string   `json:"key"`
	KeyFromLog bool     `json:"key_from_log"`
	Entries    uint64   `json:"entries"`
	Signed     uint64   `json:"signed"`
	First      uint64   `json:"first"`
	Sealed     uint64   `json:"sealed"`
	Erased     uint64   `json:"erased"`
	Kept       []string `json:"kept_checkpoints,omitempty"`
	NotChecked []string `json:"not_checked,omitempty"`
}

// Access is what one principal asked of one service.
type Access struct {
	Principal string    `json:"principal"`
	Service   string    `json:"service"`
	Allowed   uint64    `json:"allowed"`
	Denied    uint64    `json:"denied"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// Count is how many refusals had one reason.
type Count struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Change is a policy revision that was seen for the first time after another.
type Change struct {
	Revision string    `json:"revision"`
	Before   string    `json:"before"`
	ID       string    `json:"id"` // decision id of the first record under it
	Time     time.Time `json:"time"`
	Who      string    `json:"who"`
}

// Event is one record of something that was done to the server.
type Event struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Action string    `json:"action"`
	Who    string    `json:"who"`
	Answer string    `json:"answer,omitzero"`
	Detail string    `json:"detail,omitzero"`
}

// A Criterion is one of the Trust Services Criteria that the report speaks to.
type Criterion struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Shows string `json:"shows"` // what in this report is evidence
	Not   string `json:"not"`   // what it does not show
}

const (
	maxAccess = 10_000 // pairs of principal and service
	maxEvents = 1_000  // of each kind
)

type pair struct{ principal, service string }

// collecting is a report in the making.
type collecting struct {
	*SOC2
	access   map[pair]*Access
	refusals map[string]uint64
	asked    map[string]string // who asked, by decision id, of what takes records out
	revision string
	running  bool // a start was seen, and no stop after it
}

// Collect reads the log and reports on records from a time up to another. Of a log that is
// damaged it reports what comes before the damage.
func Collect(ctx context.Context, r *audit.Reader, from, to, now time.Time, v Verification) (*SOC2, error) {
	c := &collecting{&SOC2{Origin: r.Origin(), From: from, To: to, Made: now, Verification: v, Criteria: criteria()}, map[pair]*Access{}, map[string]uint64{}, map[string]string{}, "", false}
	for e, err := range r.Entries(ctx, 0) {
		if bad, ok := errors.AsType[*audit.Bad](err); ok {
			c.Damage = bad.Error()
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Time.Before(from) {
			c.revision = cmp.Or(e.Policy, c.revision)
			c.server(e)
			continue
		}
		if e.Time.Before(to) {
			c.entry(r.Line(e).ID, e)
		}
	}
	for _, a := range c.access {
		c.Access = append(c.Access, *a)
	}
	slices.SortFunc(c.Access, func(a, b Access) int {
		return cmp.Or(strings.Compare(a.Principal, b.Principal), strings.Compare(a.Service, b.Service))
	})
	for reason, n := range c.refusals {
		c.Refusals = append(c.Refusals, Count{reason, n})
	}
	slices.SortFunc(c.Refusals, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Reason, b.Reason))
	})
	c.NotShown = notShown(c.SOC2)
	return c.SOC2, nil
}

func (c *collecting) entry(id string, e *audit.Entry) {
	c.Records++
	if c.FirstSeen.IsZero() {
		c.FirstSeen = e.Time
	}
	c.LastSeen = e.Time
	if e.Kind == audit.Gap {
		c.Gaps++
		return
	}
	c.Policy = cmp.Or(c.Policy, c.revision, e.Policy)
	if e.Policy != "" && e.Policy != c.revision {
		if c.revision != "" && len(c.Policies) >= maxEvents {
			c.More++
		} else if c.revision != "" {
			c.Policies = append(c.Policies, Change{e.Policy, c.revision, id, e.Time,
				"whoever changed the file before the start or reload that this record follows; the log knows no name"})
		}
		c.revision = e.Policy
	}
	p := e.Payload
	if p == nil {
		c.Unread++
		p = &audit.Payload{Principal: "(" + e.State + ")"}
	}
	c.event(id, e, p)
	if e.Decision != "" {
		c.decided(e, p)
	}
}

func (c *collecting) decided(e *audit.Entry, p *audit.Payload) {
	n := max(1, uint64(p.Count))
	if e.Decision == audit.Deny {
		c.refusals[cmp.Or(p.Reason, "(not readable)")] += n
	}
	k := pair{cmp.Or(p.Principal, "(nobody who could be proven)"), cmp.Or(e.Service, "("+cmp.Or(p.Action, "sallyport")+")")}
	a := c.access[k]
	if a == nil {
		if len(c.access) >= maxAccess {
			c.Others += n
			return
		}
		a = &Access{Principal: k.principal, Service: k.service, First: e.Time}
		c.access[k] = a
	}
	a.Last = e.Time
	if e.Decision == audit.Allow {
		a.Allowed += n
	} else {
		a.Denied += n
	}
}

func (c *collecting) event(id string, e *audit.Entry, p *audit.Payload) {
	ev := Event{ID: id, Time: e.Time, Action: p.Action, Who: cmp.Or(p.Principal, "the server itself"), Answer: string(e.Decision), Detail: p.Detail}
	if len(p.Entries) > 0 {
		ev.Detail = strings.TrimPrefix(ev.Detail+"; entries "+strings.Join(p.Entries, ", "), "; ")
	}
	var to *[]Event
	switch {
	case p.Action == audit.ActionErase || p.Action == audit.ActionPrune:
		if by := audit.AskedIn(p.Detail); by != "" {
			ev.Who = cmp.Or(c.asked[by], "an operator, see "+by)
		}
		to = &c.Kept
	case strings.HasPrefix(p.Action, "keys."):
		to = &c.Keys
	case strings.HasPrefix(p.Action, "admin."):
		if strings.HasPrefix(p.Action, "admin.audit.") && len(c.asked) < maxEvents {
			c.asked[id] = p.Principal
		}
		ev.Detail = strings.TrimPrefix(ev.Detail+"; "+p.Resource, "; ")
		to = &c.Operators
	case e.Kind == audit.Note:
		if p.TornBytes > 0 {
			ev.Detail += fmt.Sprintf("; a crash had left %d bytes of a record that nobody was told of", p.TornBytes)
		}
		if !c.server(e) {
			ev.Detail += "; the stop before is not in the log: the process was killed, or the power went"
		}
		to = &c.Server
	default:
		return
	}
	ev.Detail = strings.TrimPrefix(ev.Detail, "; ")
	if len(*to) >= maxEvents {
		c.More++
		if *to = displace(*to, &ev); len(*to) >= maxEvents {
			return
		}
	}
	*to = append(*to, ev)
}

// displace makes room in a full list for an event that was not refused, if it can be that of
// one that was: anybody can be refused as often as he likes, and is not to crowd out what was done.
func displace(full []Event, by *Event) []Event {
	if by.Answer == string(audit.Deny) {
		return full
	}
	for i := len(full) - 1; i >= 0; i-- {
		if full[i].Answer == string(audit.Deny) {
			return slices.Delete(full, i, i+1)
		}
	}
	return full
}

// server follows starts and stops, and reports whether e is one where it should be.
func (c *collecting) server(e *audit.Entry) bool {
	if e.Kind != audit.Note || e.Payload == nil {
		return true
	}
	was := c.running
	switch e.Payload.Action {
	case "server.start":
		c.running = true
		return !was
	case "server.stop":
		c.running = false
	}
	return true
}

func criteria() []Criterion {
	return []Criterion{
		{"CC6.1", "Logical access is restricted by software and infrastructure", "Every decision on a protected service, with principal, service, rule and reason; what no rule allows is denied.",
			"Whether the rules are the right ones, and access that goes past Sallyport."},
		{"CC6.2", "Credentials are issued to authorized users, and removed", "Tokens that were issued (token.mint), to whom, and by which rule; each lives an hour at most.",
			"How people and machines were authorized before an account was written into the file."},
		{"CC6.3", "Access is authorized, modified and removed by role and responsibility", "Changes of the policy revision and when; accesses under each.",
			"Who approved a change: the file's own history has that."},
		{"CC6.6", "Measures against threats from outside", "Refusals by reason, with counts where there were too many to record one by one.", "Attacks that never reached Sallyport."},
		{"CC7.2", "Anomalies are monitored", "That records exist for the whole time, and where the log has gaps.", "That anybody looked at them."},
		{"CC7.3", "Security events are evaluated", "Material for it: refusals, keys revoked, operators' actions.", "The evaluation."},
		{"CC8.1", "Changes are authorized and tested", "When a policy revision came into use, and that earlier ones are named in the records.", "Authorization and tests of the change."},
		{"C1.2", "Confidential information is disposed of", "Erasures and prunings, each with a record of who asked and which entries.", "Copies outside the log: backups, exports, other systems."},
	}
}

func notShown(s *SOC2) []string {
	out := []string{
		"Anything that did not pass a Sallyport gateway or door, and other replicas: each has a log of its own.",
		"That the configuration, the accounts and the rules were appropriate.",
		"That nobody held this machine: its holder has the signing key and could have written another log from the start. Only a checkpoint, and the key, that somebody else kept shows that.",
		"Who changed the policy file: the log names revisions and times.",
	}
	if s.Damage != "" {
		out = append(out, "What the log says from its damage on: "+s.Damage+".")
	}
	if s.Verification.KeyFromLog {
		out = append(out, "Whether the log is the right one: it was checked with the key that lies beside it.")
	}
	if s.Unread > 0 {
		out = append(out, fmt.Sprintf("What %d of the records say: their payloads are sealed or erased.", s.Unread))
	}
	if s.Gaps > 0 {
		out = append(out, fmt.Sprintf("%d buffered records that a killed process may have lost.", s.Gaps))
	}
	if s.Others > 0 {
		out = append(out, fmt.Sprintf("Who made %d of the decisions: more than %d pairs of principal and service are not told apart.", s.Others, maxAccess))
	}
	if s.More > 0 {
		out = append(out, fmt.Sprintf("%d events beyond the %d that are listed of each kind: see `audit search`.", s.More, maxEvents))
	}
	if s.Records == 0 || s.FirstSeen.Sub(s.From) > 24*time.Hour || s.To.Sub(s.LastSeen) > 24*time.Hour {
		out = append(out, "All of the time that was asked for: see the first and the last record.")
	}
	if s.Verification.First > 0 {
		out = append(out, fmt.Sprintf("Entries before %d: they were pruned.", s.Verification.First))
	}
	return out
}
