package sink

import (
	"net/netip"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// ocsfVersion is the schema that the events name and are tested against.
const ocsfVersion = "1.9.0"

// OCSF appends a record as one event of OCSF 1.9.0 on a line; p is nil if its payload
// cannot be shown, which is an event too, of what the header says. origin names the log,
// version is this program's.
func OCSF(dst []byte, l *audit.Line, p *audit.Payload, origin, version string) []byte {
	b, _ := json.Marshal(event(&emitter{origin, version}, l, p), json.Deterministic(true), jsontext.AllowInvalidUTF8(true)) // numbers and text: it cannot fail
	return append(append(dst, b...), '\n')
}

// emitter is what is the same for all records of a log.
type emitter struct {
	origin, version string
}

// ocsfEvent has the attributes of all classes that we use; a class leaves out what it
// does not have. TestOCSF holds each to its class.
type ocsfEvent struct {
	ActivityID   int       `json:"activity_id"`
	ActivityName string    `json:"activity_name"`
	CategoryUID  int       `json:"category_uid"`
	CategoryName string    `json:"category_name"`
	ClassUID     int       `json:"class_uid"`
	ClassName    string    `json:"class_name"`
	TypeUID      int       `json:"type_uid"`
	TypeName     string    `json:"type_name"`
	Time         int64     `json:"time"` // milliseconds since the epoch
	SeverityID   int       `json:"severity_id"`
	Severity     string    `json:"severity"`
	StatusID     int       `json:"status_id"`
	Status       string    `json:"status"`
	StatusCode   string    `json:"status_code,omitzero"`
	StatusDetail string    `json:"status_detail,omitzero"`
	Message      string    `json:"message"`
	Metadata     metadata  `json:"metadata"`
	Actor        *actor    `json:"actor,omitzero"`
	API          *api      `json:"api,omitzero"`
	App          *product  `json:"app,omitzero"`
	Entity       *entity   `json:"entity,omitzero"`
	User         *user     `json:"user,omitzero"`
	Service      *named    `json:"service,omitzero"`
	Session      *session  `json:"session,omitzero"`
	SrcEndpoint  *endpoint `json:"src_endpoint,omitzero"`
	DstEndpoint  *endpoint `json:"dst_endpoint,omitzero"`
	HTTPRequest  *request  `json:"http_request,omitzero"`
	Resources    []named   `json:"resources,omitempty"`
	Trace        *unique   `json:"trace,omitzero"`

	// of the profile security_control
	ActionID       int             `json:"action_id,omitzero"`
	Action         string          `json:"action,omitzero"`
	DispositionID  int             `json:"disposition_id,omitzero"`
	Disposition    string          `json:"disposition,omitzero"`
	Policy         *rulePolicy     `json:"policy,omitzero"`
	Authorizations []authorization `json:"authorizations,omitempty"`

	Unmapped unmapped `json:"unmapped"`
}

type metadata struct {
	Version          string   `json:"version"`
	Product          product  `json:"product"`
	UID              string   `json:"uid"`
	OriginalEventUID string   `json:"original_event_uid"`
	CorrelationUID   string   `json:"correlation_uid,omitzero"`
	EventCode        string   `json:"event_code"`
	LogName          string   `json:"log_name"`
	OriginalTime     string   `json:"original_time"`
	Profiles         []string `json:"profiles,omitempty"`
	IsTruncated      bool     `json:"is_truncated,omitzero"`
}

type product struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitzero"`
}

type actor struct {
	User   *user  `json:"user,omitzero"`
	AppUID string `json:"app_uid,omitzero"` // who acts for the user
}

type user struct {
	Name   string `json:"name,omitzero"`
	UID    string `json:"uid,omitzero"`
	Domain string `json:"domain,omitzero"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type api struct {
	Operation string `json:"operation"`
	Service   *named `json:"service,omitzero"`
}

type named struct {
	Name string `json:"name"`
}

type unique struct {
	UID string `json:"uid"`
}

type entity struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type session struct {
	UID    string `json:"uid"`
	Issuer string `json:"issuer"`
}

type endpoint struct {
	IP      string `json:"ip,omitzero"`
	Port    uint16 `json:"port,omitzero"`
	Name    string `json:"name,omitzero"`
	SvcName string `json:"svc_name,omitzero"`
}

type request struct {
	Method string `json:"http_method"`
	URL    *where `json:"url,omitzero"`
}

type where struct {
	Path string `json:"path"`
}

type rulePolicy struct {
	Name    string `json:"name,omitzero"` // of the rule that decided
	UID     string `json:"uid"`           // revision of all policies
	Version string `json:"version"`
}

type authorization struct {
	Decision string      `json:"decision"`
	Policy   *rulePolicy `json:"policy,omitzero"`
}

// unmapped is what OCSF has no place for, under the names of the record schema.
type unmapped struct {
	Seq        uint64            `json:"seq"`
	Kind       audit.Kind        `json:"kind"`
	State      string            `json:"state"` // of the payload
	Leaf       string            `json:"leaf"`  // with the commitment to the payload
	Actors     []string          `json:"actors,omitempty"`
	Attested   map[string]string `json:"attested,omitempty"`
	TokenID    string            `json:"token_id,omitzero"`
	Resource   string            `json:"resource,omitzero"`
	Replica    string            `json:"replica,omitzero"`
	TraceID    string            `json:"trace_id,omitzero"`
	Vars       map[string]string `json:"vars,omitempty"`
	Shadow     []string          `json:"shadow,omitempty"`
	Near       string            `json:"near,omitzero"`
	Entries    []string          `json:"entries,omitempty"`
	Count      int64             `json:"count,omitzero"`
	Unverified map[string]string `json:"unverified,omitempty"`
	BytesIn    int64             `json:"bytes_in,omitzero"`
	BytesOut   int64             `json:"bytes_out,omitzero"`
	DurationMS int64             `json:"duration_ms,omitzero"`
	EndingMS   int64             `json:"ending_ms,omitzero"`
	TornBytes  int64             `json:"truncated_bytes,omitzero"`
	Version    string            `json:"version,omitzero"`
}

const unknown = "Unknown"

func event(m *emitter, l *audit.Line, p *audit.Payload) *ocsfEvent {
	shown := p != nil
	if !shown {
		p = &audit.Payload{}
	}
	c, activity := classify(l, p, shown)
	ev := &ocsfEvent{
		ActivityID: activity.id, ActivityName: activity.name, CategoryUID: c.category, CategoryName: categories[c.category],
		ClassUID: c.uid, ClassName: c.name, TypeUID: c.uid*100 + activity.id, TypeName: c.name + ": " + activity.caption(c),
		Time: l.Time.UnixMilli(), StatusCode: p.Reason, StatusDetail: p.Detail, Message: message(l, p, shown),
		Metadata: metadata{
			Version: ocsfVersion, Product: product{"Sallyport", "Sallyport", m.version}, UID: l.ID, OriginalEventUID: l.ID, EventCode: string(l.Kind),
			LogName: m.origin, OriginalTime: l.Time.Format(time.RFC3339Nano), IsTruncated: p.Cut,
		},
		Unmapped: unmapped{
			Seq: l.Seq, Kind: l.Kind, State: l.State, Leaf: l.Leaf, Actors: p.Actors, Attested: p.Attested, TokenID: p.TokenID, Resource: p.Resource,
			Replica: p.Replica, TraceID: p.TraceID, Vars: p.Vars, Shadow: p.Shadow, Near: p.Near, Entries: p.Entries, Count: p.Count, Unverified: p.Unverified,
			BytesIn: p.BytesIn, BytesOut: p.BytesOut, DurationMS: p.DurationMS, EndingMS: p.EndingMS, TornBytes: p.TornBytes, Version: p.Version,
		},
	}
	ev.outcome(l)
	ev.control(l)
	c.fill(ev, m, l, p)
	return ev
}

// outcome sets how it ended, and how much of somebody's attention that deserves.
func (ev *ocsfEvent) outcome(l *audit.Line) {
	ev.StatusID, ev.Status, ev.SeverityID, ev.Severity = 1, "Success", 1, "Informational"
	switch {
	case l.Decision == audit.Deny:
		ev.StatusID, ev.Status, ev.SeverityID, ev.Severity = 2, "Failure", 2, "Low"
	case l.Decision == "" && (l.Kind == audit.Admit || l.Kind == audit.Check || l.Kind == audit.Refuse):
		ev.StatusID, ev.Status = 0, unknown
	}
	if ev.Unmapped.TornBytes > 0 || l.Kind == audit.Gap {
		ev.SeverityID, ev.Severity = 3, "Medium"
	}
	if l.State == "damaged" {
		ev.SeverityID, ev.Severity = 4, "High"
	}
}

// control says what policy did, in the attributes of the profile security_control.
func (ev *ocsfEvent) control(l *audit.Line) {
	if l.Policy != "" {
		ev.Policy = &rulePolicy{Name: l.Rule, UID: l.Policy, Version: l.Policy}
	}
	switch {
	case l.Decision == audit.Allow:
		ev.ActionID, ev.Action, ev.DispositionID, ev.Disposition = 1, "Allowed", 1, "Allowed"
	case l.Decision == audit.Deny && l.Kind == audit.Refuse:
		ev.ActionID, ev.Action, ev.DispositionID, ev.Disposition = 2, "Denied", 2, "Blocked"
	case l.Decision == audit.Deny:
		ev.ActionID, ev.Action, ev.DispositionID, ev.Disposition = 2, "Denied", 26, "Unauthorized"
	case ev.Policy == nil:
		return
	}
	if l.Decision != "" {
		ev.Authorizations = []authorization{{string(l.Decision), ev.Policy}}
	}
	ev.Metadata.Profiles = append(ev.Metadata.Profiles, "security_control")
}

// person is a principal as OCSF's user.
func person(id string) *user {
	kind, name, qualified := strings.Cut(id, ":")
	switch {
	case id == "":
		return &user{Name: unknown, Type: unknown}
	case qualified && kind == "serviceAccount":
		return &user{Name: name, UID: id, TypeID: 4, Type: "Service"}
	case qualified && kind == "user":
		return &user{Name: name, UID: id, TypeID: 1, Type: "User"}
	}
	return &user{Name: id, UID: id, TypeID: 99, Type: "principal"}
}

// acting is who did it: of a note, the server.
func acting(m *emitter, l *audit.Line, p *audit.Payload) *actor {
	if l.Kind == audit.Note || l.Kind == audit.Gap {
		return &actor{User: &user{Name: "sallyport", UID: m.origin, TypeID: 3, Type: "System"}}
	}
	a := &actor{User: person(p.Principal)}
	a.User.Domain = p.Provider
	if len(p.Actors) > 0 {
		a.AppUID = p.Actors[0]
	}
	return a
}

// source is where a call came from: an address and port, or a network, or the name of
// a local caller.
func source(p *audit.Payload) *endpoint {
	if a, err := netip.ParseAddrPort(p.Peer); err == nil {
		return &endpoint{IP: a.Addr().Unmap().WithZone("").String(), Port: a.Port()}
	}
	if a, err := netip.ParseAddr(p.Peer); err == nil {
		return &endpoint{IP: a.Unmap().WithZone("").String()}
	}
	if p.Peer == "" {
		return &endpoint{Name: unknown}
	}
	return &endpoint{Name: p.Peer}
}

// message is the event in one line for a person.
func message(l *audit.Line, p *audit.Payload, shown bool) string {
	out := p.Action
	if out == "" {
		out = string(l.Kind)
	}
	switch {
	case !shown:
		out += " (payload " + l.State + ")"
	case p.Principal != "":
		out += " by " + p.Principal
	}
	if l.Service != "" {
		out += " on " + l.Service
	}
	switch l.Decision {
	case audit.Allow:
		out += ": allowed"
	case audit.Deny:
		out += ": denied"
		if p.Reason != "" {
			out += ", " + p.Reason
		}
	}
	return out
}
