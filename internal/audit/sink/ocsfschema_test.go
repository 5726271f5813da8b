package sink_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// What the schema of OCSF 1.9.0 says of the classes and objects that we write: the
// attributes that may stand there, which are required, their types and the numbers
// that are allowed. Retyped, and no more than the events need.
//
// From https://schema.ocsf.io/api/1.9.0 as elixir-ocsf/ocsf keeps it in
// test/fixtures/ocsf_schema/1.9 (fetched 2026-08-05): classes 3002, 3004, 6003 and the
// objects metadata, user, resource_details. From the compiled schema 1.9.0 in
// rmouritzen-splunk/ocsf-toolkit: object url, status_id, the profiles. From
// ocsf/ocsf-schema (Apache-2.0), events/ and objects/, at earlier versions of 1.x: class
// 6002, objects actor, api, authorization, http_request, managed_entity,
// network_endpoint, policy, product, service, session, trace.

type attribute struct {
	typ      string // a type of the schema, or the name of an object
	required bool
	list     bool
	profile  string         // which has to be named for it
	enum     map[int]string // number to caption; nil for any
	sibling  string         // attribute that holds the caption
}

type attributes map[string]attribute

type object struct {
	attributes attributes
	oneOf      []string // at_least_one
}

func must(a attribute) attribute         { a.required = true; return a }
func in(p string, a attribute) attribute { a.profile = p; return a }
func of(typ string) attribute            { return attribute{typ: typ} }
func listOf(typ string) attribute        { return attribute{typ: typ, list: true} }
func number(sibling string, captions map[int]string) attribute {
	return attribute{typ: "integer_t", enum: captions, sibling: sibling}
}

const control = "security_control"

// classOf returns the attributes of every event of a class, and more.
func classOf(uid, category int, name, categoryName string, activities map[int]string, more attributes) object {
	text := of("string_t")
	activities[0], activities[99] = "Unknown", "Other"
	all := attributes{
		"activity_id": must(number("activity_name", activities)), "activity_name": text,
		"category_uid": must(number("category_name", map[int]string{category: categoryName})), "category_name": text,
		"class_uid": must(number("class_name", map[int]string{uid: name})), "class_name": text, "type_uid": must(of("long_t")), "type_name": text,
		"time": must(of("timestamp_t")), "message": text, "metadata": must(of("metadata")), "unmapped": of("free"), "severity": text, "status": text,
		"severity_id": must(number("severity", map[int]string{0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal", 99: "Other"})),
		"status_id":   number("status", map[int]string{0: "Unknown", 1: "Success", 2: "Failure", 99: "Other"}), "status_code": text, "status_detail": text,
		"action_id": in(control, number("action", map[int]string{0: "Unknown", 1: "Allowed", 2: "Denied", 3: "Observed", 4: "Modified", 99: "Other"})),
		"action":    in(control, text), "disposition": in(control, text), "policy": in(control, of("policy")), "authorizations": in(control, listOf("authorization")),
		"disposition_id": in(control, number("disposition", map[int]string{0: "Unknown", 1: "Allowed", 2: "Blocked", 17: "Logged", 25: "Rejected", 26: "Unauthorized", 27: "Error", 99: "Other"})),
	}
	for name, a := range more {
		all[name] = a
	}
	return object{attributes: all}
}

func classes() map[int]object {
	iam, application := "Identity & Access Management", "Application Activity"
	authentication := classOf(3002, 3, "Authentication", iam,
		map[int]string{1: "Logon", 2: "Logoff", 3: "Authentication Ticket", 4: "Service Ticket Request", 5: "Service Ticket Renew", 6: "Preauth", 7: "Account Switch"},
		attributes{"actor": of("actor"), "user": must(of("user")), "service": of("service"), "session": of("session"), "src_endpoint": of("network_endpoint"), "dst_endpoint": of("network_endpoint")})
	authentication.oneOf = []string{"service", "dst_endpoint"}
	return map[int]object{
		3002: authentication,
		3004: classOf(3004, 3, "Entity Management", iam, map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete", 5: "Move", 8: "Enable", 9: "Disable", 10: "Activate", 11: "Deactivate"},
			attributes{"actor": of("actor"), "entity": must(of("managed_entity")), "src_endpoint": of("network_endpoint")}),
		6002: classOf(6002, 6, "Application Lifecycle", application, map[int]string{1: "Install", 2: "Remove", 3: "Start", 4: "Stop", 5: "Restart", 6: "Enable", 7: "Disable", 8: "Update"},
			attributes{"app": must(of("product"))}),
		6003: classOf(6003, 6, "API Activity", application, map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
			attributes{"actor": must(of("actor")), "api": must(of("api")), "src_endpoint": must(of("network_endpoint")), "dst_endpoint": of("network_endpoint"),
				"http_request": of("http_request"), "resources": listOf("resource_details"), "trace": in("trace", of("trace"))}),
	}
}

func objects() map[string]object {
	text, entity := of("string_t"), []string{"name", "uid"}
	return map[string]object{
		"metadata": {attributes{"version": must(text), "product": must(of("product")), "uid": text, "original_event_uid": text, "correlation_uid": text, "event_code": text,
			"log_name": text, "original_time": text, "profiles": listOf("string_t"), "is_truncated": of("boolean_t")}, nil},
		"product": {attributes{"name": must(text), "vendor_name": must(text), "version": text}, nil},
		"actor":   {attributes{"user": of("user"), "app_uid": text}, []string{"process", "user", "invoked_by", "session", "app_name", "app_uid"}},
		"user": {attributes{"name": text, "uid": text, "domain": text, "type": text, "type_id": number("type", map[int]string{0: "Unknown", 1: "User", 2: "Admin", 3: "System", 4: "Service", 99: "Other"})},
			[]string{"account", "name", "uid"}},
		"network_endpoint": {attributes{"ip": text, "port": of("port_t"), "name": text, "svc_name": text}, []string{"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"}},
		"api":              {attributes{"operation": must(text), "service": of("service")}, nil},
		"service":          {attributes{"name": text, "uid": text}, entity},
		"session":          {attributes{"uid": text, "issuer": text}, nil},
		"managed_entity":   {attributes{"name": text, "uid": text, "type": text}, entity},
		"http_request":     {attributes{"http_method": text, "url": of("url")}, nil},
		"url":              {attributes{"path": text, "url_string": text}, []string{"url_string", "path"}},
		"resource_details": {attributes{"name": text, "uid": text, "type": text}, entity},
		"trace":            {attributes{"uid": must(text)}, nil},
		"policy":           {attributes{"name": text, "uid": text, "version": text}, entity},
		"authorization":    {attributes{"decision": text, "policy": of("policy")}, nil},
	}
}

// holds says how an event breaks the schema.
func holds(ev map[string]any) []string {
	uid, _ := ev["class_uid"].(float64)
	c, ok := classes()[int(uid)]
	if !ok {
		return []string{fmt.Sprintf("class_uid %v is not known", ev["class_uid"])}
	}
	var wrong []string
	if activity, _ := ev["activity_id"].(float64); ev["type_uid"] != uid*100+activity {
		wrong = append(wrong, fmt.Sprintf("type_uid %v of class %v and activity %v", ev["type_uid"], uid, activity))
	}
	profiles := map[string]bool{}
	if m, ok := ev["metadata"].(map[string]any); ok {
		list, _ := m["profiles"].([]any)
		for _, p := range list {
			profiles[fmt.Sprint(p)] = true
		}
	}
	return append(wrong, c.holds("", ev, profiles)...)
}

func (o object) holds(path string, v map[string]any, profiles map[string]bool) []string {
	var wrong []string
	say := func(name, format string, args ...any) {
		wrong = append(wrong, strings.TrimPrefix(path+"."+name, ".")+fmt.Sprintf(format, args...))
	}
	for name, value := range v {
		a, ok := o.attributes[name]
		if !ok {
			say(name, " is not in the schema")
			continue
		}
		if a.profile != "" && !profiles[a.profile] {
			say(name, " is of profile %s, which the event does not name", a.profile)
		}
		list := []any{value}
		if a.list {
			if list, ok = value.([]any); !ok {
				say(name, " is no list")
			}
		}
		for _, x := range list {
			wrong = append(wrong, a.holds(strings.TrimPrefix(path+"."+name, "."), x, profiles)...)
		}
		if n, ok := value.(float64); ok && a.sibling != "" {
			switch caption, there := v[a.sibling]; {
			case n == 99 && !there:
				say(a.sibling, " is required by 99")
			case n != 99 && there && caption != a.enum[int(n)]:
				say(a.sibling, ": %q is not the caption of %v", caption, n)
			}
		}
	}
	for name, a := range o.attributes {
		if _, there := v[name]; a.required && !there {
			say(name, " is required")
		}
	}
	if len(o.oneOf) > 0 && !slices.ContainsFunc(o.oneOf, func(n string) bool { return v[n] != nil }) {
		wrong = append(wrong, fmt.Sprintf("%s: needs one of %v", path, o.oneOf))
	}
	return wrong
}

func (a attribute) holds(path string, v any, profiles map[string]bool) []string {
	n, isNumber := v.(float64)
	s, isText := v.(string)
	m, isObject := v.(map[string]any)
	_, ok := v.(bool)
	whole := isNumber && n == math.Trunc(n)
	switch a.typ {
	case "boolean_t":
	case "integer_t":
		_, in := a.enum[int(n)]
		ok = whole && math.Abs(n) <= math.MaxInt32 && (in || a.enum == nil)
	case "long_t", "timestamp_t":
		ok = whole
	case "port_t":
		ok = whole && n >= 0 && n <= 65535
	case "free":
		ok = isObject
	case "string_t":
		ok = isText && s != ""
	default:
		if ok = isObject; ok {
			return objects()[a.typ].holds(path, m, profiles)
		}
	}
	if !ok {
		return []string{fmt.Sprintf("%s: %v is no %s, or not in its enum", path, v, a.typ)}
	}
	return nil
}
