package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/report"
)

func auditReport(e *env) *cobra.Command {
	return group("report", "make evidence out of the log", reportSOC2(e))
}

// reporting is one `audit report soc2`.
type reporting struct {
	place
	from, to, key, html string
	checkpoints         []string
}

func reportSOC2(e *env) *cobra.Command {
	var x reporting
	c := &cobra.Command{Use: "soc2 --from DATE --to DATE", Short: "access, refusals, policy changes, keys and the log's verification, mapped to the Trust Services Criteria",
		Long: "Report on the records from one day to another, both included, in UTC: access by principal and service, refusals by\n" +
			"reason, policy changes, keys, what operators did, what was erased and pruned, whether the log verifies, and what\n" +
			"none of this shows. --html FILE writes a page for people, --output json data for tools. Exit 1 if the log does not\n" +
			"verify; the report says so, too.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error { return e.report(cmd.Context(), &x) }}
	x.flags(c)
	c.Flags().StringVar(&x.from, "from", "", "first day, such as 2026-11-01, or a time such as 2026-11-01T08:00:00Z")
	c.Flags().StringVar(&x.to, "to", "", "last day, or a time")
	c.Flags().StringVar(&x.key, "key", "", "the log's verifier key, or a file that holds it, as handed out of band")
	c.Flags().StringArrayVar(&x.checkpoints, "checkpoint", nil, "a file of checkpoints that somebody kept; may be given again")
	c.Flags().StringVar(&x.html, "html", "", "write the page to this file; - for standard output")
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagRequired("to")
	return c
}

// day reads a day or a time; end is the end of the day.
func day(name, text string, end bool) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		if end {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, misuse(fmt.Errorf("--%s %q: want a day such as 2026-11-01, or a time such as 2026-11-01T08:00:00Z", name, text))
	}
	return t, nil
}

func (e *env) report(ctx context.Context, x *reporting) error {
	from, err1 := day("from", x.from, false)
	to, err2 := day("to", x.to, true)
	key, err3 := keyText(x.key)
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return misuse(err)
	case err3 != nil:
		return misuse(err3)
	case !from.Before(to):
		return misuse(fmt.Errorf("--to %s is before --from %s", x.to, x.from))
	}
	r, err := e.reader(&x.place)
	if err != nil {
		return err
	}
	v, err := e.verification(x, key)
	if err != nil {
		return err
	}
	s, err := report.Collect(ctx, r, from, to, time.Now().UTC(), *v)
	if err != nil {
		return failed(err)
	}
	if err := e.reportOut(x, s); err != nil {
		return err
	}
	if !v.OK {
		return no(fmt.Errorf("the log does not verify: %s", printable(v.Error)))
	}
	return nil
}

// verification checks the whole log, and takes what is wrong with it into the report.
func (e *env) verification(x *reporting, key string) (*report.Verification, error) {
	kept, err := e.readKept(x.checkpoints)
	if err != nil {
		return nil, err
	}
	dir, err := x.log()
	if err != nil {
		return nil, err
	}
	opener, err := e.opener(&x.place)
	if err != nil {
		return nil, err
	}
	rep, err := audit.Verify(dir, key, opener, kept...)
	if err != nil && !errors.As(err, new(*audit.Bad)) {
		return nil, failed(err)
	}
	v := &report.Verification{OK: err == nil, Key: rep.Key, KeyFromLog: rep.KeyFromLog, Entries: rep.Entries, Signed: rep.Signed, First: rep.First,
		Sealed: rep.Sealed, Erased: rep.Erased, Kept: rep.Kept, NotChecked: rep.NotChecked}
	if err != nil {
		v.Error = err.Error()
	}
	return v, nil
}

func (e *env) reportOut(x *reporting, s *report.SOC2) error {
	if x.html == "-" {
		return s.HTML(e.out)
	}
	if x.html != "" {
		f, err := os.OpenFile(x.html, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return failed(err)
		}
		if err := errors.Join(s.HTML(f), f.Close()); err != nil {
			return failed(err)
		}
	}
	if e.output == "json" {
		return e.json(s)
	}
	var allowed, denied uint64
	for _, a := range s.Access {
		allowed, denied = allowed+a.Allowed, denied+a.Denied
	}
	whole := "the log verifies"
	if !s.Verification.OK {
		whole = "THE LOG DOES NOT VERIFY"
	}
	_, err := fmt.Fprintf(e.out, "%s: %d records, %d allowed, %d denied, by %d pairs of principal and service; %d policy changes, %d events of keys, %d of operators; %s\n",
		printable(s.Origin), s.Records, allowed, denied, len(s.Access), len(s.Policies), len(s.Keys), len(s.Operators), whole)
	for _, n := range s.NotShown {
		_, _ = fmt.Fprintln(e.err, "not shown: "+printable(n))
	}
	return err
}
