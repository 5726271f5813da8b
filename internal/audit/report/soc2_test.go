package report_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
	"github.com/sallyport-dev/sallyport/internal/audit/report"
)

func TestSOC2(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	l.Pass(time.Date(2026, 10, 31, 23, 0, 0, 0, time.UTC).Sub(l.Now()))
	add := func(r audit.Record) {
		t.Helper()
		if _, err := l.Append(&r, audit.Written); err != nil {
			t.Fatal(err)
		}
		l.Pass(time.Hour)
	}
	call := func(who string, d audit.Decision, reason, revision string) audit.Record {
		return audit.Record{Kind: audit.Admit, Decision: d, Service: "invoices", Policy: revision, Payload: audit.Payload{Principal: who, Action: "http.get", Reason: reason}}
	}
	add(call("serviceAccount:early", audit.Allow, "allowed", "r0")) // the day before
	add(call("serviceAccount:orders", audit.Allow, "allowed", "r1"))
	add(call("serviceAccount:orders", audit.Deny, "no_match", "r1"))
	add(call(`user:okta/<script>alert(1)</script>`, audit.Deny, "no_match", "r1"))
	add(audit.Record{Kind: audit.Refuse, Decision: audit.Deny, Service: "invoices", Policy: "r1", Payload: audit.Payload{Action: "http.get", Reason: "token_expired", Count: 40}})
	add(audit.Record{Kind: audit.Admit, Decision: audit.Allow, Policy: "r2", Payload: audit.Payload{Principal: "user:local/0", Action: "admin.keys.rotate", Resource: "keys for tokens"}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: "keys.rotate", Detail: "key x"}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: "server.start", TornBytes: 7}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: "server.start"}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: audit.ActionErase, Entries: []string{"3"}, Detail: "T-1"}})
	add(audit.Record{Kind: audit.Admit, Decision: audit.Allow, Policy: "r2", Payload: audit.Payload{Principal: "user:local/7", Action: "admin.audit.prune"}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: audit.ActionPrune, Entries: []string{"0-1"}, Detail: audit.AskedFor("a-10", "before x")}})
	add(audit.Record{Kind: audit.Note, Policy: "r2", Payload: audit.Payload{Action: audit.ActionErase, Entries: []string{"3"}, Detail: audit.AskedFor("a-99", "")}})
	l.Pass(30 * 24 * time.Hour)
	add(call("serviceAccount:late", audit.Allow, "allowed", "r9"))
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	s, err := report.Collect(t.Context(), l.Reader, from, from.AddDate(0, 1, 0), l.Now(), report.Verification{OK: true, KeyFromLog: true, First: 256})
	if err != nil {
		t.Fatal(err)
	}
	if s.Records != 12 || len(s.Access) != 5 || len(s.Keys) != 1 || len(s.Operators) != 2 || len(s.Server) != 2 || len(s.Kept) != 3 {
		t.Errorf("%+v", s)
	}
	if a := s.Access[1]; a.Principal != "serviceAccount:orders" || a.Service != "invoices" || a.Allowed != 1 || a.Denied != 1 || a.Last.Sub(a.First) != time.Hour {
		t.Errorf("access %+v", a)
	}
	if a := s.Access[0]; a.Principal != "(nobody who could be proven)" || a.Denied != 40 {
		t.Errorf("access %+v", a)
	}
	if fmt.Sprint(s.Refusals) != "[{token_expired 40} {no_match 2}]" {
		t.Errorf("refusals %v", s.Refusals)
	}
	if len(s.Policies) != 2 || s.Policies[0].Before != "r0" || s.Policies[0].Revision != "r1" || s.Policies[1].Revision != "r2" || s.Policies[1].ID != "a-5" {
		t.Errorf("policies %+v", s.Policies)
	}
	if s.Policy != "r0" || strings.Contains(s.Server[0].Detail, "killed") || !strings.Contains(s.Server[1].Detail, "the process was killed") {
		t.Errorf("policy %q, server %+v", s.Policy, s.Server)
	}
	if !strings.Contains(s.Server[0].Detail, "7 bytes") || !strings.Contains(s.Kept[0].Detail, "T-1; entries 3") || s.Operators[0].Who != "user:local/0" || !strings.Contains(s.Operators[0].Detail, "keys for tokens") {
		t.Errorf("events %+v %+v %+v", s.Server, s.Kept, s.Operators)
	}
	if not := fmt.Sprint(s.NotShown); !strings.Contains(not, "key that lies beside it") || !strings.Contains(not, "Entries before 256") || !strings.Contains(not, "All of the time that was asked for") {
		t.Errorf("not shown: %v", s.NotShown)
	}
	if k := s.Kept; k[0].Who != "the server itself" || k[1].Who != "user:local/7" || k[2].Who != "an operator, see a-99" {
		t.Errorf("erased and pruned by %+v", k)
	}
	var page bytes.Buffer
	if err := s.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"serviceAccount:orders", "CC6.1", "Yes, as far as it can be checked", "&lt;script&gt;", "token_expired"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.String(), "<script") || strings.Contains(page.String(), "early") {
		t.Error("the page has what a stranger wrote, or what is of another time")
	}
	s.Verification = report.Verification{Error: "entry 7: x"}
	page.Reset()
	if err := s.HTML(&page); err != nil || !strings.Contains(page.String(), "<strong>No.</strong> entry 7: x") {
		t.Errorf("a log that does not verify: %v", err)
	}
}

// Who is refused a thousand times does not crowd out of the report what was done then.
func TestRefusalsCrowdOutNothing(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	add := func(n int, who string, d audit.Decision) {
		t.Helper()
		for range n {
			if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: d, Payload: audit.Payload{Principal: who, Action: "admin.keys.revoke"}}, audit.Written); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(1100, "user:local/1000", audit.Deny)
	add(2, "user:local/0", audit.Allow)
	add(10, "user:local/1000", audit.Deny)
	s, err := report.Collect(t.Context(), l.Reader, l.Now(), l.Now().Add(time.Hour), l.Now(), report.Verification{OK: true})
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, e := range s.Operators {
		if e.Answer == "allow" {
			done++
		}
	}
	if done != 2 || len(s.Operators) != 1000 || s.More != 112 {
		t.Errorf("%d of 2 are listed, among %d, and %d more", done, len(s.Operators), s.More)
	}
}
