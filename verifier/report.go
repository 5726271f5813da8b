package verifier

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// An Observer hears of every outcome of a Gate.
type Observer interface {
	// Observe is called once for each outcome, on the goroutine of the call: before
	// the handler runs, or before the refusal is answered. One that blocks holds the
	// call up, and one that panics ends it as any handler's panic does; neither lets
	// a call through. It must not change the report's map.
	Observe(context.Context, Report)
}

// A Report is an outcome in the words of Sallyport's records, each field under the
// name it has there. It is reported, not proved: nothing made it durable before it
// took effect, no log holds it, and whoever runs the service could write another.
// A token is never in it. An empty field is left out.
type Report struct {
	Time       time.Time         `json:"time"`                 // UTC
	Kind       string            `json:"kind"`                 // "admit" or "refuse"
	Decision   string            `json:"decision"`             // "allow" or "deny"
	Service    string            `json:"service"`              // Requirement.Service
	Principal  string            `json:"principal,omitzero"`   // who, by qualified name, once it is verified
	Provider   string            `json:"provider,omitzero"`    // who vouched: the issuer
	TokenID    string            `json:"token_id,omitzero"`    // `jti`
	Action     string            `json:"action,omitzero"`      // what was asked
	Resource   string            `json:"resource,omitzero"`    // of what: a path without query, a full method
	Reason     string            `json:"reason,omitzero"`      // why it was refused
	Peer       string            `json:"peer,omitzero"`        // the other end of the connection
	TraceID    string            `json:"trace_id,omitzero"`    // W3C trace id
	Unverified map[string]string `json:"unverified,omitempty"` // kid and iss of a token that was not taken: nobody vouched for them
	Cut        bool              `json:"cut,omitzero"`         // some text is not whole, or was no UTF-8
	Reported   bool              `json:"reported"`             // always true: this is no record
}

// Lengths of text in a report, in bytes, as in a record.
const (
	maxText       = 4 << 10
	maxUnverified = 256
)

// observe reports an outcome. t is who it was, if that is known.
func (g *Gate) observe(ctx context.Context, a *Attempt, t *Verified, unverified map[string]string, err error) {
	if g.r.Observer == nil {
		return
	}
	r := Report{Time: g.r.Now().UTC(), Kind: "admit", Decision: "allow", Service: g.r.Service, Action: a.Action, Resource: a.Resource,
		Peer: a.Peer, TraceID: traceID(a.Traceparent), Unverified: unverified, Reported: true}
	if err != nil {
		r.Kind, r.Decision, r.Reason = "refuse", "deny", reasonOf(err)
	}
	if t != nil {
		r.Principal, r.Provider, r.TokenID = t.Principal(), t.Claims.Issuer, t.Claims.ID
	}
	for _, s := range []*string{&r.Principal, &r.Provider, &r.TokenID, &r.Action, &r.Resource, &r.Peer} {
		*s = r.clean(*s, maxText)
	}
	for k, v := range r.Unverified {
		r.Unverified[k] = r.clean(v, maxUnverified)
	}
	g.r.Observer.Observe(ctx, r)
}

func reasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code()
	}
	if errors.Is(err, ErrNoCredential) {
		return "credential_missing"
	}
	return "credential_malformed"
}

// clean returns s as valid UTF-8 of at most limit bytes, without half a character
// at its end.
func (r *Report) clean(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	r.Cut = true
	s = strings.ToValidUTF8(s[:min(len(s), limit)], "\uFFFD")
	for len(s) > limit { // U+FFFD is longer than the byte it stands for
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// LogValue implements slog.LogValuer: a group with the names of the record schema.
func (r Report) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.Time("time", r.Time)}, r.attrs()...)...)
}

// attrs are all fields but the time, which a log has a place of its own for.
func (r *Report) attrs() []slog.Attr {
	out := make([]slog.Attr, 0, 14)
	for _, f := range []struct{ name, value string }{
		{"kind", r.Kind}, {"decision", r.Decision}, {"service", r.Service}, {"principal", r.Principal}, {"provider", r.Provider},
		{"token_id", r.TokenID}, {"action", r.Action}, {"resource", r.Resource}, {"reason", r.Reason}, {"peer", r.Peer}, {"trace_id", r.TraceID},
	} {
		if f.value != "" {
			out = append(out, slog.String(f.name, f.value))
		}
	}
	if len(r.Unverified) > 0 {
		var claims []slog.Attr
		for _, k := range slices.Sorted(maps.Keys(r.Unverified)) {
			claims = append(claims, slog.String(k, r.Unverified[k]))
		}
		out = append(out, slog.Attr{Key: "unverified", Value: slog.GroupValue(claims...)})
	}
	if r.Cut {
		out = append(out, slog.Bool("cut", true))
	}
	return append(out, slog.Bool("reported", r.Reported))
}

// Summary is the report in two words, for the place that logs have for a text.
func (r Report) Summary() string {
	if r.Decision == "allow" {
		return "call admitted"
	}
	return "call refused"
}

// LogObserver returns an Observer that writes each report as one record of log,
// with the names of the record schema as attributes and the report's time as its
// own: what was let through at Info, what was refused at Warn.
func LogObserver(log *slog.Logger) Observer { return logObserver{log.Handler()} }

type logObserver struct{ h slog.Handler }

// Observe implements Observer.
func (o logObserver) Observe(ctx context.Context, r Report) {
	level := slog.LevelInfo
	if r.Decision != "allow" {
		level = slog.LevelWarn
	}
	if !o.h.Enabled(ctx, level) {
		return
	}
	rec := slog.NewRecord(r.Time, level, r.Summary(), 0)
	rec.AddAttrs(r.attrs()...)
	_ = o.h.Handle(ctx, rec) // as slog.Logger does: a log that fails has nowhere to say so
}

// traceID returns the trace id of a valid traceparent, "" if there is not exactly
// one (W3C Trace Context section 3.2.2). Versions that are not known yet are read
// as section 3.2.4 says: by the length of what is known, with more behind a dash.
func traceID(traceparent []string) string {
	if len(traceparent) != 1 {
		return ""
	}
	s := traceparent[0]
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return ""
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	for _, part := range []string{version, trace, parent, flags} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return ""
		}
	}
	if version == "ff" || strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return ""
	}
	return trace
}
