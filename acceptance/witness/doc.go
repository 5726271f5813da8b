// Package witness holds the audit log to software that others wrote: litewitness, a
// witness of c2sp.org/tlog-witness, and the log client of its authors, both unmodified.
package witness
