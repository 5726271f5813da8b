package sink

import (
	"strings"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// class is an event class of OCSF: its numbers, the captions of its activities, and
// what only it has.
type class struct {
	uid, category int
	name          string
	captions      map[int]string
	fill          func(*ocsfEvent, *emitter, *audit.Line, *audit.Payload)
}

// activity is what happened, in the numbers of a class; other has a name of our own.
type activity struct {
	id   int
	name string
}

const other = 99

func (a activity) caption(c *class) string {
	if a.id == other {
		return "Other"
	}
	return c.captions[a.id]
}

var categories = map[int]string{3: "Identity & Access Management", 6: "Application Activity"}

var (
	authentication = &class{3002, 3, "Authentication", map[int]string{1: "Logon", 7: "Account Switch"}, fillAuthentication}
	entities       = &class{3004, 3, "Entity Management",
		map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete", 9: "Disable", 10: "Activate"}, fillEntity}
	lifecycle = &class{6002, 6, "Application Lifecycle", map[int]string{3: "Start", 4: "Stop"}, fillLifecycle}
	calls     = &class{6003, 6, "API Activity", map[int]string{0: unknown, 1: "Create", 2: "Read", 3: "Update", 4: "Delete"}, fillCall}
)

// actions are those that are not simply a call, or a call of a known sort. What a POST
// does only the service knows.
var actions = map[string]struct {
	class *class
	id    int
}{
	"token.mint": {authentication, other}, "workload.run": {authentication, 7},
	"metadata.get": {calls, 2}, "http.get": {calls, 2}, "http.head": {calls, 2}, "http.options": {calls, 2},
	"http.put": {calls, 3}, "http.patch": {calls, 3}, "http.delete": {calls, 4},
	"server.start": {lifecycle, 3}, "server.stop": {lifecycle, 4},
	"keys.create": {entities, 1}, "keys.activate": {entities, 10}, "keys.revoke": {entities, 9}, "keys.remove": {entities, 4}, "keys.rewrap": {entities, 3},
	"admin.keys.list": {entities, 2}, "admin.keys.rotate": {entities, 3}, "admin.keys.revoke": {entities, 9},
	"audit.erase": {entities, 4}, "audit.prune": {entities, 4}, "admin.audit.erase": {entities, 4}, "admin.audit.prune": {entities, 4},
}

// malformed are reasons that are about the request, not about who sent it: what is
// refused for another one had a credential that was missing or no good.
var malformed = map[string]bool{
	"host_unknown": true, "host_refused": true, "method_not_allowed": true, "path_not_canonical": true, "query_malformed": true,
	"header_malformed": true, "upgrade_not_served": true, "metadata_flavor_missing": true, "request_was_forwarded": true,
	"parameter_not_accepted": true, "scope_not_held": true, "path_unknown": true, "service_unknown": true, "account_unknown": true,
	"shutting_down": true, "no_match": true,
}

// classify says which class and activity a record is.
func classify(l *audit.Line, p *audit.Payload, shown bool) (*class, activity) {
	switch {
	case l.Kind == audit.Gap:
		return calls, activity{other, string(l.Kind)}
	case !shown:
		return calls, activity{0, unknown} // what was asked is in the payload
	case l.Kind == audit.Close:
		return calls, activity{other, "Close"}
	case l.Kind == audit.Refuse && !malformed[p.Reason] && !strings.HasPrefix(p.Action, "admin."):
		return authentication, activity{1, "Logon"}
	}
	name := p.Action
	if a, ok := actions[name]; ok {
		if a.id != other {
			name = a.class.captions[a.id]
		}
		return a.class, activity{a.id, name}
	}
	if name == "" {
		name = string(l.Kind)
	}
	switch family, _, _ := strings.Cut(name, "."); family {
	case "server":
		return lifecycle, activity{other, name}
	case "keys", "admin", "audit":
		return entities, activity{other, name}
	}
	return calls, activity{other, name}
}

func fillCall(ev *ocsfEvent, m *emitter, l *audit.Line, p *audit.Payload) {
	ev.Actor, ev.SrcEndpoint, ev.API = acting(m, l, p), source(p), &api{Operation: p.Action}
	if p.Action == "" {
		ev.API.Operation = string(l.Kind)
	}
	if l.Service != "" {
		ev.API.Service, ev.DstEndpoint = &named{l.Service}, &endpoint{SvcName: l.Service}
	}
	if p.Resource != "" {
		ev.Resources = []named{{p.Resource}}
	}
	if method, ok := strings.CutPrefix(p.Action, "http."); ok && method != "" {
		ev.HTTPRequest = &request{Method: strings.ToUpper(method)}
		if path := p.Vars["request.path"]; path != "" {
			ev.HTTPRequest.URL = &where{path}
		}
	}
	if p.TraceID != "" {
		ev.Trace, ev.Unmapped.TraceID = &unique{p.TraceID}, ""
		ev.Metadata.Profiles = append(ev.Metadata.Profiles, "trace")
	}
	if of, ok := strings.CutPrefix(p.Detail, "of "); ok && l.Kind == audit.Close {
		ev.Metadata.CorrelationUID = of
	}
}

func fillAuthentication(ev *ocsfEvent, m *emitter, l *audit.Line, p *audit.Payload) {
	ev.Actor, ev.SrcEndpoint = acting(m, l, p), source(p)
	ev.User = ev.Actor.User
	if p.Action == "workload.run" && p.Resource != "" {
		ev.User = person(p.Resource) // whom the caller becomes
	}
	ev.Service = &named{"sallyport"} // or dst_endpoint is required: who minted or refused
	if l.Service != "" {
		ev.Service.Name = l.Service
	}
	if p.IssuedTokenID != "" {
		ev.Session = &session{UID: p.IssuedTokenID, Issuer: m.origin}
	}
}

func fillEntity(ev *ocsfEvent, m *emitter, l *audit.Line, p *audit.Payload) {
	ev.Actor, ev.Entity = acting(m, l, p), &entity{Name: "signing keys", Type: "key"}
	switch family, _, _ := strings.Cut(strings.TrimPrefix(p.Action, "admin."), "."); {
	case family == "audit":
		ev.Entity = &entity{Name: m.origin, Type: "audit log"}
	case family != "keys":
		ev.Entity = &entity{Name: "sallyport", Type: "server"}
	case p.Resource != "":
		ev.Entity.Name = p.Resource
	case l.Kind == audit.Note && strings.HasPrefix(p.Detail, "key "):
		ev.Entity.Name, _, _ = strings.Cut(strings.TrimPrefix(p.Detail, "key "), " ")
	}
	if p.Peer != "" {
		ev.SrcEndpoint = source(p)
	}
}

func fillLifecycle(ev *ocsfEvent, m *emitter, _ *audit.Line, p *audit.Payload) {
	ev.App = &product{"Sallyport", "Sallyport", p.Version}
	if p.Version == "" {
		ev.App.Version = m.version
	}
}
