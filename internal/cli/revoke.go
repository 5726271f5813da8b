package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// revoked are the flags that say what is revoked.
type revoked struct {
	kind              guard.RevocationKind
	flag, value, help string
	prefix            string // of the value, as the server takes it
}

func revocable() []*revoked {
	return []*revoked{
		{kind: guard.RevokeToken, flag: "token", help: "a token, by its jti ('token show' prints it, records name it)"},
		{kind: guard.RevokeMember, flag: "subject", help: "whoever a member of a rule means, such as user:okta/alice or group:okta/staff"},
		{kind: guard.RevokeMember, flag: "service-account", help: "a service account, by its name", prefix: "serviceAccount:"},
		{kind: guard.RevokeProvider, flag: "provider", help: "everybody whom a provider vouches for; self is this issuer"},
		{kind: guard.RevokeKey, flag: "key", help: "what a provider's key signed, by its kid (our own: 'keys revoke')"},
		{kind: guard.RevokeSession, flag: "session", help: "a live session and the token that it rests on, by its decision id"},
	}
}

func revokeCommand(e *env) *cobra.Command {
	var p place
	var reason string
	var last time.Duration
	var issued bool
	kinds := revocable()
	c := &cobra.Command{
		Use: "revoke", Short: "withdraw trust at once: new calls are refused, live sessions end",
		Long: "Withdraw trust in a token, a principal, a provider, a key or a session, at once: what rests on it is refused\n" +
			"from now on, and live requests, streams and WebSockets that do end within a second. It survives a restart, and\n" +
			"is forgotten when nothing that was issued before can live, 25 h later, or after --for. Until then a subject is\n" +
			"refused with new tokens, too; with --issued only what was issued until now is.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := guard.Revocation{Reason: reason, Issued: issued}
			for _, k := range kinds {
				switch {
				case k.value == "":
				case r.Kind != "":
					return misuse(errors.New("one thing at a time: name one of --token, --subject, --service-account, --provider, --key and --session"))
				default:
					r.Kind, r.Value = k.kind, k.prefix+k.value
				}
			}
			if r.Kind == "" {
				return misuse(errors.New("needs --token, --subject, --service-account, --provider, --key or --session"))
			}
			if last != 0 {
				r.Until = time.Now().Add(last)
			}
			var done admin.Revoked
			if err := administer(cmd.Context(), &p, askTimeout, http.MethodPost, admin.RevocationsPath, r, &done); err != nil {
				return err
			}
			if e.output == "json" {
				return e.json(done)
			}
			_, err := fmt.Fprintf(e.out, "%s %s is revoked until %s: %d live sessions end; `sallyport revoke lift %s` takes it back\n", done.Revocation.Kind,
				printable(done.Revocation.Value), done.Revocation.Until.UTC().Format(time.RFC3339), done.Ended, done.Revocation.ID)
			return err
		},
	}
	for _, k := range kinds {
		c.Flags().StringVar(&k.value, k.flag, "", k.help)
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	c.Flags().DurationVar(&last, "for", 0, "how long (default 25h, the longest that anything issued before can live)")
	c.Flags().BoolVar(&issued, "issued", false, "of --subject, --service-account and --provider only what was issued until now")
	p.flags(c)
	c.AddCommand(revokeList(e), revokeLift(e))
	return c
}

func revokeList(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "list", Short: "print what is revoked now", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []guard.Revocation
			if err := administer(cmd.Context(), &p, askTimeout, http.MethodGet, admin.RevocationsPath, nil, &list); err != nil {
				return err
			}
			if e.output == "json" {
				return each(e, list)
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "ID\tKIND\tVALUE\tSINCE\tUNTIL\tREACHES\tREASON")
			for _, r := range list {
				reaches := "everything"
				if r.Issued {
					reaches = "issued before"
				}
				_, _ = fmt.Fprintln(w, strings.Join([]string{r.ID, string(r.Kind), printable(r.Value), r.At.UTC().Format(time.RFC3339), r.Until.UTC().Format(time.RFC3339),
					reaches, printable(cmp.Or(r.Reason, "-"))}, "\t"))
			}
			return w.Flush()
		},
	}
	p.flags(c)
	return c
}

func revokeLift(e *env) *cobra.Command {
	c := byID(e, admin.LiftPath, "revocation %s was lifted\n")
	c.Use, c.Short = "lift ID", "take a revocation back, by the id that `revoke list` shows"
	return c
}
