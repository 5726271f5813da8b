package cli

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/admin"
)

func sessionsCommand(e *env) *cobra.Command {
	return group("sessions", "list and end what goes through a running server now", sessionsList(e), sessionsKill(e))
}

func sessionsList(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "list", Short: "print every live request, stream and WebSocket, the oldest first", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []admin.Session
			if err := administer(cmd.Context(), &p, askTimeout, http.MethodGet, admin.SessionsPath, nil, &list); err != nil {
				return err
			}
			return e.sessionTable(list)
		},
	}
	p.flags(c)
	return c
}

func (e *env) sessionTable(list []admin.Session) error {
	if e.output == "json" {
		return each(e, list)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tSINCE\tPRINCIPAL\tSERVICE\tACTION\tRESOURCE\tPEER")
	for _, s := range list {
		_, _ = fmt.Fprintln(w, strings.Join([]string{s.ID, s.Started.UTC().Format(time.RFC3339), printable(s.Principal), s.Service, printable(s.Action),
			printable(cmp.Or(s.Resource, "-")), cmp.Or(s.Peer, "-")}, "\t"))
	}
	return w.Flush()
}

// each prints a list as one JSON object a line.
func each[T any](e *env, list []T) error {
	for _, x := range list {
		if err := e.json(x); err != nil {
			return err
		}
	}
	return nil
}

func sessionsKill(e *env) *cobra.Command {
	c := byID(e, admin.KillPath, "session %s was ended\n")
	c.Use, c.Short = "kill ID", "end one live session now"
	c.Long = "End one live session, by the decision id that `sessions list` shows, within a second. Its caller may begin\n" +
		"another: `sallyport revoke` also withdraws what it rests on."
	return c
}

// byID asks the server for something about what has an ID, and prints done when it is.
func byID(e *env, path, done string) *cobra.Command {
	var p place
	var reason string
	c := &cobra.Command{
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var answer admin.ID
			if err := administer(cmd.Context(), &p, askTimeout, http.MethodPost, path, admin.ID{ID: args[0], Reason: reason}, &answer); err != nil {
				return err
			}
			if e.output == "json" {
				return e.json(answer)
			}
			_, err := fmt.Fprintf(e.out, done, answer.ID)
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	p.flags(c)
	return c
}
