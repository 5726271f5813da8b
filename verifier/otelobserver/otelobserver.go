// Package otelobserver tells an OpenTelemetry logger of a verifier.Gate's outcomes:
// one log record for each, whose attributes have the names of Sallyport's records
// and one more, `reported`, which is always true. It proves nothing, as
// verifier.Report says.
//
// How records are batched, exported and dropped is for the logger's provider to
// say; an exporter that cannot keep up must not block (the SDK's BatchProcessor
// does not), or calls wait for it.
package otelobserver

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"

	"github.com/sallyport-dev/sallyport/verifier"
)

// New returns an Observer that emits each report to logger: its time as the
// timestamp, what was let through with severity INFO, what was refused with WARN.
func New(logger log.Logger) verifier.Observer { return observer{logger} }

type observer struct{ logger log.Logger }

// Observe implements verifier.Observer.
func (o observer) Observe(ctx context.Context, r verifier.Report) {
	severity := log.SeverityInfo
	if r.Decision != "allow" {
		severity = log.SeverityWarn
	}
	if !o.logger.Enabled(ctx, log.EnabledParameters{Severity: severity}) {
		return
	}
	var rec log.Record
	rec.SetTimestamp(r.Time)
	rec.SetSeverity(severity)
	rec.SetSeverityText(severity.String())
	rec.SetBody(attribute.StringValue(r.Summary()))
	for _, a := range r.LogValue().Group() {
		if a.Key != "time" { // the timestamp says it
			rec.AddAttributes(convert(a))
		}
	}
	o.logger.Emit(ctx, rec)
}

// convert takes the kinds of value that a report has.
func convert(a slog.Attr) attribute.KeyValue {
	switch a.Value.Kind() {
	case slog.KindBool:
		return attribute.Bool(a.Key, a.Value.Bool())
	case slog.KindGroup:
		var members []attribute.KeyValue
		for _, m := range a.Value.Group() {
			members = append(members, convert(m))
		}
		return attribute.Map(a.Key, members...)
	}
	return attribute.String(a.Key, a.Value.String())
}
