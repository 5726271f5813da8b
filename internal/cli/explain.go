package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// explanation is what `policy explain` says, as JSON output has it.
type explanation struct {
	ID         string            `json:"id"`
	Time       time.Time         `json:"time"`
	Decision   audit.Decision    `json:"decision,omitzero"`
	Rule       string            `json:"rule,omitzero"`
	Reason     string            `json:"reason,omitzero"`
	Because    string            `json:"because,omitzero"` // the reason in a sentence
	Detail     string            `json:"detail,omitzero"`
	Received   map[string]string `json:"received,omitempty"` // who, on what it rests, what conditions read
	Wanted     map[string]string `json:"wanted,omitempty"`   // the action, and on what
	Near       string            `json:"near,omitzero"`      // as it was recorded
	NearWhy    string            `json:"near_why,omitzero"`
	Policy     string            `json:"policy,omitzero"` // revision that decided
	Unknown    []string          `json:"unknown,omitempty"`
	Now        *nowExplained     `json:"now,omitzero"` // by the file that was given
	NotChecked string            `json:"not_checked,omitzero"`
}

// nowExplained is what a file's rules make of it today.
type nowExplained struct {
	Policy  string `json:"policy"` // revision
	Same    bool   `json:"same"`   // as the one that decided
	Allow   bool   `json:"allow"`  // what it decides
	Rule    string `json:"rule,omitzero"`
	Nearest string `json:"nearest,omitzero"`
	Change  string `json:"change,omitzero"` // the smallest that would allow it
	Edit    string `json:"edit,omitzero"`   // it, as YAML
	Opens   string `json:"opens,omitzero"`  // what else that would allow
}

func policyExplain(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "explain ID", Short: "say why a decision was made: what was received, wanted, the rule, and the smallest change",
		Long: "Look a decision id up in the audit log and say what was received, what was wanted, which rule decided or came\n" +
			"nearest, and, with --config, the smallest change of the file's policies that would allow it and what else that\n" +
			"would allow. Exit 1 if there is no such record.",
		Args: takes("ID"), RunE: func(_ *cobra.Command, args []string) error {
			r, entry, err := e.record(&p, args[0])
			if err != nil {
				return err
			}
			x := explained(r, entry)
			if p.config != "" && entry.Payload != nil {
				cfg, err := load(p.config)
				if err != nil {
					return err
				}
				if err := x.now(cfg, entry); err != nil {
					return failed(err)
				}
			}
			if e.output == "json" {
				return e.json(x)
			}
			return e.explain(x, p.config != "")
		}}
	p.flags(c)
	return c
}

// explained says what the record alone does.
func explained(r *audit.Reader, e *audit.Entry) *explanation {
	x := &explanation{ID: r.Line(e).ID, Time: e.Time, Decision: e.Decision, Rule: e.Rule, Policy: e.Policy, Wanted: map[string]string{}, Received: map[string]string{}}
	if e.Service != "" {
		x.Wanted["service"] = e.Service
	}
	p := e.Payload
	if p == nil {
		x.NotChecked = "who called, and what for: the payload is " + e.State
		return x
	}
	x.Reason, x.Near = p.Reason, p.Near
	x.Because = reasons()[p.Reason]
	if p.Near != "" {
		x.NearWhy = p.Detail
	} else {
		x.Detail = p.Detail
	}
	put := func(m map[string]string, name, v string) {
		if v != "" {
			m[name] = v
		}
	}
	put(x.Wanted, "action", p.Action)
	put(x.Wanted, "resource", p.Resource)
	put(x.Received, "principal", cmp.Or(p.Principal, "nobody who could be proven"))
	put(x.Received, "actors", strings.Join(p.Actors, ", "))
	put(x.Received, "vouched for by", p.Provider)
	put(x.Received, "token id", p.TokenID)
	put(x.Received, "peer", p.Peer)
	for prefix, m := range map[string]map[string]string{"attested ": p.Attested, "": p.Vars, "unverified ": p.Unverified} {
		for k, v := range m {
			put(x.Received, prefix+k, v)
		}
	}
	return x
}

// now says what the file's rules make of it.
func (x *explanation) now(cfg *config.Config, e *audit.Entry) error {
	p := e.Payload
	if e.Kind != audit.Admit && e.Kind != audit.Check || p.Principal == "" {
		x.NotChecked = "what policy would say: the attempt did not come so far"
		return nil
	}
	q, unknown, err := policy.Recall(cfg.TrustDomain, p.Principal, p.Action, e.Service, p.Resource, p.Vars, e.Time, p.Peer)
	if err != nil {
		x.NotChecked = "what policy says now: " + err.Error()
		return nil
	}
	x.Unknown = unknown
	now, err := policy.Explain(cfg.Config, cfg.World(), q)
	if err != nil {
		return err
	}
	x.Now = &nowExplained{Policy: now.Revision, Same: now.Revision == e.Policy, Allow: now.Decision.Allow, Rule: now.Decision.Rule,
		Change: now.Change, Edit: now.Edit, Opens: now.Opens}
	if x.Now.Same { // then what was decided, by all that was known, is what it says
		x.Now.Allow, x.Now.Rule = e.Decision == audit.Allow, e.Rule
	}
	if x.Now.Allow {
		x.Now.Change, x.Now.Edit, x.Now.Opens = "", "", ""
		return nil
	}
	if len(now.Nearest) > 0 {
		x.Now.Nearest = fmt.Sprintf("%s %q: %s", now.Nearest[0].Where, now.Nearest[0].Rule, now.Nearest[0].What)
	}
	return nil
}

func (e *env) explain(x *explanation, withFile bool) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", printable(name), printable(value))
		}
	}
	list := func(title string, m map[string]string) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			row(title+" "+k, m[k])
		}
	}
	row("decision", fmt.Sprintf("%s of %s", x.ID, x.Time.Format(time.RFC3339)))
	row("answer", cmp.Or(string(x.Decision), "none: it decided nothing"))
	list("received", x.Received)
	list("wanted", x.Wanted)
	row("rule", x.Rule)
	row("reason", strings.TrimSpace(x.Reason+"  "+x.Because))
	row("detail", x.Detail)
	if x.Near != "" {
		row("nearest rule", x.Near+": "+x.NearWhy)
	}
	row("policy revision", x.Policy)
	for _, u := range x.Unknown {
		row("not recorded", u)
	}
	row("cannot be said", x.NotChecked)
	if n := x.Now; n != nil {
		same := "the same revision as then"
		if !n.Same {
			same = "it has changed since: revision " + n.Policy
		}
		answer := "deny"
		if n.Allow {
			answer = "allow, by " + n.Rule
		}
		row("the file's policy", same)
		if !n.Same && len(x.Unknown) > 0 {
			answer += ", as far as the record tells"
		}
		row("it says now", answer)
		row("nearest now", n.Nearest)
		row("smallest change", n.Change)
		row("which would allow", n.Opens)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if x.Now != nil && x.Now.Edit != "" {
		for line := range strings.Lines(x.Now.Edit) { // which is ASCII
			_, _ = fmt.Fprint(e.out, "    "+strings.TrimSuffix(line, "\n")+"\n")
		}
	}
	if !withFile && x.Decision == audit.Deny && x.Reason == string(policy.NoMatch) {
		_, _ = fmt.Fprintln(e.err, "with --config FILE it also says the smallest change that would allow it")
	}
	return nil
}
