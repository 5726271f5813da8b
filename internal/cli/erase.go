package cli

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/admin"
)

// longAsk bounds what an operator asks of the log, which may have to read all of it.
const longAsk = time.Hour

func auditErase(e *env) *cobra.Command {
	var p place
	var in admin.Erase
	c := &cobra.Command{Use: "erase --subject NAME", Short: "overwrite what the log says of one subject; that it was is a record, and every proof stays whole",
		Long: "Overwrite the payloads of all records whose principal, or one of whose actors, is NAME, a qualified name such as\n" +
			"user:okta/alice. What stays of them is the header and the commitment, so that every proof is whole. It is\n" +
			"recorded who asked for it, why, and which records; not of whom they were. Copies elsewhere (backups, exports,\n" +
			"a SIEM) are not reached.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Subject == "" {
				return misuse(errors.New("needs --subject, such as user:okta/alice"))
			}
			var out admin.Erased
			if err := administer(cmd.Context(), &p, longAsk, http.MethodPost, admin.ErasePath, in, &out); err != nil {
				return err
			}
			if e.output == "json" {
				return e.json(out)
			}
			_, err := fmt.Fprintf(e.out, "%d payloads erased\n", out.Records)
			return err
		}}
	p.flags(c)
	c.Flags().StringVar(&in.Subject, "subject", "", "qualified name of whom to forget")
	c.Flags().StringVar(&in.Reason, "reason", "", "why, for the record: a ticket, not a name")
	return c
}

func auditPrune(e *env) *cobra.Command {
	var p place
	var before string
	c := &cobra.Command{Use: "prune", Short: "delete old records in whole bundles and keep their hashes; that it was is a record",
		Long: "Delete records before a time, or, without --before, those that audit.retain and audit.max_size of the running\n" +
			"server's file say. Only whole bundles of 256 records go that a checkpoint covers, and only in days that have\n" +
			"ended. Their hashes stay, so that every proof of what is left, and every checkpoint, stays good.",
		Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
			var in admin.Prune
			var err error
			if before != "" {
				if in.Before, err = when(before, time.Time{}); err != nil {
					return err
				}
			}
			var out admin.Pruned
			if err := administer(cmd.Context(), &p, longAsk, http.MethodPost, admin.PrunePath, in, &out); err != nil {
				return err
			}
			if e.output == "json" {
				return e.json(out)
			}
			_, err = fmt.Fprintf(e.out, "the log begins with entry %d\n", out.First)
			return err
		}}
	p.flags(c)
	c.Flags().StringVar(&before, "before", "", "an age such as 720h, or a time such as 2026-11-23T10:00:00Z")
	return c
}
