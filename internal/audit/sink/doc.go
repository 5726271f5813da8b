// Package sink turns records of the audit log into what other systems read: events of
// the Open Cybersecurity Schema Framework, and OpenTelemetry logs. Both come behind the
// log and prove nothing; audit.Verify and `audit export` do.
package sink
