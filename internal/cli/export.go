package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
)

// span says which records an export is of.
type span struct{ first, last string }

func (s *span) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.first, "from", "", "decision id of the first record; default: the first that is here")
	c.Flags().StringVar(&s.last, "to", "", "decision id of the last record; default: the last")
}

// exporting opens a log for an export of these records.
func (e *env) exporting(p *place, s *span) (r *audit.Reader, x audit.Export, err error) {
	if r, err = e.reader(p); err != nil {
		return nil, x, err
	}
	if s.first != "" {
		if x.First, err = seqOf(r, s.first); err != nil {
			return nil, x, err
		}
	}
	if s.last != "" {
		if x.End, err = seqOf(r, s.last); err != nil {
			return nil, x, err
		}
		if x.End++; x.End <= x.First {
			return nil, x, misuse(fmt.Errorf("--to %s is before --from %s", s.last, s.first))
		}
	}
	return r, x, nil
}

func auditExport(e *env) *cobra.Command {
	var p place
	var s span
	var format string
	c := &cobra.Command{Use: "export", Short: "write records as JSON lines to standard output, for `audit verify --export` or for a SIEM",
		Long: "Write every record with its payload, as far as the key-encryption key is here, as one JSON object a line. A file of\n" +
			"them verifies with the log's public key alone (`audit verify --export FILE --key KEY`): the first line has the\n" +
			"hashes of what comes before it, the last the signed checkpoint.\n" +
			"--format ocsf writes the same records as events of the Open Cybersecurity Schema Framework, which prove nothing.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
			r, x, err := e.exporting(&p, &s)
			if err != nil {
				return err
			}
			switch format {
			case "jsonl":
				return e.exported(x.Write(cmd.Context(), e.out, r))
			case "ocsf":
				return e.exportOCSF(cmd.Context(), x, r)
			}
			return misuse(fmt.Errorf("--format %q: want jsonl or ocsf", format))
		}}
	p.flags(c)
	s.flags(c)
	c.Flags().StringVar(&format, "format", "jsonl", "jsonl, or ocsf")
	return c
}

func (e *env) exported(entries, shown uint64, err error) error {
	switch bad := new(audit.Bad); {
	case errors.As(err, &bad):
		return no(fmt.Errorf("the log cannot be exported: %w", err))
	case err != nil:
		return failed(err)
	case entries == 0:
		return no(errors.New("there is no such record"))
	}
	_, _ = fmt.Fprintf(e.err, "%d records, %d with their payload\n", entries, shown)
	return nil
}

func auditDisclose(e *env) *cobra.Command {
	var p place
	var s span
	var f filter
	var ids []string
	c := &cobra.Command{Use: "disclose", Short: "export chosen payloads, and of all other records only what the tree hashes",
		Long: "Write an export for an auditor who may see some records and not others: those with one of the ids, or that match\n" +
			"all of the other flags, have their payload; of the rest the auditor sees that they are there, when, of which\n" +
			"service and rule and how they were decided, and a commitment to what they say. `audit verify --export FILE\n" +
			"--key KEY` shows that none is left out and that each payload is the one that was recorded.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
			r, x, err := e.exporting(&p, &s)
			if err != nil {
				return err
			}
			var seqs []uint64
			for _, id := range ids {
				seq, err := seqOf(r, id)
				if err != nil {
					return err
				}
				seqs = append(seqs, seq)
			}
			match, any, err := f.compile()
			if err != nil {
				return err
			}
			if !any && len(seqs) == 0 {
				return misuse(errors.New("says nothing about which payloads to show: give --id, or what to search by; `audit export` shows all"))
			}
			x.Show = func(entry *audit.Entry) bool {
				return slices.Contains(seqs, entry.Seq) || any && match(entry)
			}
			return e.exported(x.Write(cmd.Context(), e.out, r))
		}}
	p.flags(c)
	s.flags(c)
	f.flags(c)
	c.Flags().StringArrayVar(&ids, "id", nil, "decision id of a record to show; may be given again")
	return c
}

func auditProve(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "prove ID", Short: "print one record with the proof that it is in the log (c2sp.org/tlog-proof)", Args: takes("ID"), RunE: func(_ *cobra.Command, args []string) error {
		r, entry, err := e.record(&p, args[0])
		if err != nil {
			return err
		}
		proof, err := r.Proof(entry.Seq)
		switch {
		case errors.Is(err, audit.ErrNotFound):
			return no(err)
		case err != nil:
			return failed(err)
		}
		_, err = e.out.Write(proof)
		return err
	}}
	p.flags(c)
	return c
}

func auditBackup(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "backup DIR", Short: "copy the log to a new directory beside a running server, and verify the copy",
		Long: "Copy the log to DIR, which is made, while the server writes. The copy is verified, and can be given to `audit verify\n" +
			"--data-dir DIR`. It holds neither the key-encryption key nor the store: see docs/keys.md for those.",
		Args: takes("DIR"), RunE: func(cmd *cobra.Command, args []string) error {
			from, err := p.log()
			if err != nil {
				return err
			}
			opener, err := e.opener(&p)
			if err != nil {
				return err
			}
			if err := audit.Backup(cmd.Context(), from, args[0]); err != nil {
				if errors.Is(err, os.ErrExist) {
					return misuse(err)
				}
				return failed(err)
			}
			report, err := audit.Verify(args[0], "", opener)
			if report != nil {
				report.KeyFromLog = false // the point is the copy, not who made the log
			}
			return e.reported("the copy", report, err)
		}}
	p.flags(c)
	return c
}

// exportOCSF writes what x is of as events.
func (e *env) exportOCSF(ctx context.Context, x audit.Export, r *audit.Reader) error {
	w := bufio.NewWriter(e.out)
	var n, shown uint64
	for entry, err := range r.Entries(ctx, x.First) {
		if err != nil {
			return e.exported(n, shown, err)
		}
		if x.End > 0 && entry.Seq >= x.End {
			break
		}
		line := r.Line(entry)
		if _, err := w.Write(sink.OCSF(nil, &line, entry.Payload, r.Origin(), version())); err != nil {
			return failed(err)
		}
		if n++; entry.Payload != nil {
			shown++
		}
	}
	if err := w.Flush(); err != nil {
		return failed(err)
	}
	return e.exported(n, shown, nil)
}
