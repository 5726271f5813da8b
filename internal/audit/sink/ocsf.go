package sink

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// ocsfVersion is the schema that the events are of (https://schema.ocsf.io/1.3.0).
const ocsfVersion = "1.3.0"

// Classes and activities of the schema that records become.
const (
	authentication = 3002
	apiActivity    = 6003
	lifecycle      = 6002

	activityOther = 99
	ticket        = 4 // Authentication: Service Ticket Request, a token for one service
	logon         = 1
	create        = 1 // API Activity
	read          = 2
	update        = 3
	remove        = 4
	start         = 3 // Application Lifecycle
	stop          = 4
)

type event struct {
	ActivityID  int               `json:"activity_id"`
	CategoryUID int               `json:"category_uid"`
	ClassUID    int               `json:"class_uid"`
	TypeUID     int               `json:"type_uid"`
	Time        int64             `json:"time"` // ms
	SeverityID  int               `json:"severity_id"`
	StatusID    int               `json:"status_id"`
	StatusCode  string            `json:"status_code,omitzero"`
	Detail      string            `json:"status_detail,omitzero"`
	Message     string            `json:"message,omitzero"`
	Count       int64             `json:"count,omitzero"`
	Duration    int64             `json:"duration,omitzero"` // ms
	Metadata    metadata          `json:"metadata"`
	Actor       *actor            `json:"actor,omitzero"`
	User        *user             `json:"user,omitzero"`
	API         *api              `json:"api,omitzero"`
	App         *product          `json:"app,omitzero"`
	Service     *named            `json:"service,omitzero"`
	Source      *endpoint         `json:"src_endpoint,omitzero"`
	Resources   []named           `json:"resources,omitempty"`
	Unmapped    map[string]string `json:"unmapped,omitempty"`
}

type metadata struct {
	Version      string  `json:"version"`
	Product      product `json:"product"`
	UID          string  `json:"uid"` // decision id
	LogName      string  `json:"log_name"`
	OriginalTime string  `json:"original_time"`
	Correlation  string  `json:"correlation_uid,omitzero"` // W3C trace id
	Sequence     uint64  `json:"sequence"`
}

type product struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitzero"`
}

type actor struct {
	User    *user  `json:"user,omitzero"`
	Invoked string `json:"invoked_by,omitzero"`
}

type user struct {
	UID    string `json:"uid"`
	Name   string `json:"name"`
	TypeID int    `json:"type_id"` // 1 user, 3 system (a workload), 0 unknown
	Domain string `json:"domain,omitzero"`
}

type api struct {
	Operation string `json:"operation"`
	Service   *named `json:"service,omitzero"`
}

type named struct {
	Name string `json:"name"`
}

type endpoint struct {
	IP   string `json:"ip,omitzero"`
	Port int    `json:"port,omitzero"`
	Name string `json:"name,omitzero"`
}

// OCSF appends a record as one event on a line; version is this program's.
func OCSF(dst []byte, l *audit.Line, p *audit.Payload, origin, version string) []byte {
	if p == nil { // it is sealed or erased: what the header says remains
		p = &audit.Payload{}
	}
	product := product{"Sallyport", "Sallyport", version}
	e := event{
		Time: l.Time.UnixMilli(), SeverityID: 1, StatusID: 1, StatusCode: p.Reason, Detail: p.Detail, Count: p.Count, Duration: p.DurationMS,
		Metadata: metadata{Version: ocsfVersion, Product: product, UID: l.ID, LogName: origin,
			OriginalTime: l.Time.Format("2006-01-02T15:04:05.999999999Z07:00"), Correlation: p.TraceID, Sequence: l.Seq},
		Unmapped: unmapped(l, p),
	}
	if l.Decision == audit.Deny {
		e.SeverityID, e.StatusID = 2, 2
	}
	e.ClassUID, e.ActivityID = class(l, p)
	switch e.ClassUID {
	case lifecycle:
		e.App = &product
	case authentication:
		e.User, e.Service = principal(p), &named{orUnknown(l.Service, p.Resource)}
		e.Source = source(p)
	default:
		e.Actor = &actor{User: principal(p), Invoked: strings.Join(p.Actors, " for ")}
		e.API = &api{Operation: orUnknown(p.Action, string(l.Kind))}
		if l.Service != "" {
			e.API.Service = &named{l.Service}
		}
		if p.Resource != "" {
			e.Resources = []named{{p.Resource}}
		}
		e.Source = source(p)
	}
	e.CategoryUID, e.TypeUID = e.ClassUID/1000, e.ClassUID*100+e.ActivityID
	text, err := json.Marshal(e, json.Deterministic(true))
	if err != nil { // never: texts and numbers
		return dst
	}
	return append(append(dst, text...), '\n')
}

// class returns which event a record is, and which of its activities.
func class(l *audit.Line, p *audit.Payload) (class, activity int) {
	switch {
	case p.Action == "server.start":
		return lifecycle, start
	case p.Action == "server.stop":
		return lifecycle, stop
	case p.Action == "token.mint":
		return authentication, ticket
	case l.Kind == audit.Refuse && p.Principal == "":
		return authentication, logon // somebody who could not be proven
	}
	_, verb, _ := strings.Cut(p.Action, ".")
	switch verb {
	case "get", "head", "options", "select", "keys.list":
		return apiActivity, read
	case "post", "insert", "create", "keys.create":
		return apiActivity, create
	case "put", "patch", "update", "keys.rotate", "rotate", "promote":
		return apiActivity, update
	case "delete", "drop", "keys.revoke", "revoke", "audit.erase", "audit.prune", "erase", "prune":
		return apiActivity, remove
	}
	return apiActivity, activityOther
}

func principal(p *audit.Payload) *user {
	kind := 0
	switch {
	case strings.HasPrefix(p.Principal, "user:"):
		kind = 1
	case strings.HasPrefix(p.Principal, "serviceAccount:"):
		kind = 3
	}
	name := orUnknown(p.Principal, "")
	return &user{UID: name, Name: name[strings.LastIndexAny(name, ":/")+1:], TypeID: kind, Domain: p.Provider}
}

func source(p *audit.Payload) *endpoint {
	if a, err := netip.ParseAddrPort(p.Peer); err == nil {
		return &endpoint{IP: a.Addr().Unmap().String(), Port: int(a.Port())}
	}
	return &endpoint{Name: orUnknown(p.Peer, "local")}
}

func orUnknown(text, other string) string {
	switch {
	case text != "":
		return text
	case other != "":
		return other
	}
	return "unknown"
}

// unmapped are the members of a record that the schema has no place for.
func unmapped(l *audit.Line, p *audit.Payload) map[string]string {
	out := map[string]string{"leaf": l.Leaf, "payload_state": l.State, "kind": string(l.Kind)}
	for name, v := range map[string]string{"rule": l.Rule, "policy_revision": l.Policy, "token_id": p.TokenID, "issued_token_id": p.IssuedTokenID,
		"near": p.Near, "shadow": strings.Join(p.Shadow, " "), "entries": strings.Join(p.Entries, " "), "replica": p.Replica, "version": p.Version} {
		if v != "" {
			out[name] = v
		}
	}
	for prefix, m := range map[string]map[string]string{"attested.": p.Attested, "vars.": p.Vars, "unverified.": p.Unverified} {
		for k, v := range m {
			out[prefix+k] = v
		}
	}
	for name, n := range map[string]int64{"bytes_in": p.BytesIn, "bytes_out": p.BytesOut, "truncated_bytes": p.TornBytes} {
		if n != 0 {
			out[name] = strconv.FormatInt(n, 10)
		}
	}
	return out
}
