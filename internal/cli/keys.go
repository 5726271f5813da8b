package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/keys"
)

func keysCommand(e *env) *cobra.Command {
	return group("keys", "list, rotate and revoke the signing keys of a running server", keysList(e), keysRotate(e), keysRevoke(e))
}

func keysList(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "list", Short: "print every signing key and the state it is in", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.operate(cmd.Context(), &p, http.MethodGet, admin.KeysPath, nil)
		},
	}
	p.flags(c)
	return c
}

func keysRotate(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "rotate [PURPOSE...]", Short: "publish new keys now, and sign with them as soon as nobody can lack them",
		Long: "Publish a new key for each PURPOSE (default: all that rotate) now. It begins to sign when nobody can hold\n" +
			"a key document without it any more, 1 h 5 min later, so that no verifier refuses a good token. A key that\n" +
			"is published already is brought forward. Prints the keys as they are then.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.operate(cmd.Context(), &p, http.MethodPost, admin.RotatePath, admin.Rotate{Purposes: args})
		},
	}
	p.flags(c)
	return c
}

func keysRevoke(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "revoke KID", Short: "withdraw a key at once, and refuse what it signed",
		Long: "Withdraw a key at once: it is not published any more, and tokens it signed are refused here. If it is the\n" +
			"one that signs, the next one, or a new one, signs at once: verifiers elsewhere may refuse its tokens until\n" +
			"they have fetched the key document again, an hour at most. Prints the keys as they are then.",
		Args: takes("KID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.operate(cmd.Context(), &p, http.MethodPost, admin.RevokePath, admin.Revoke{KeyID: args[0]})
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; a KID that begins with - goes after --, at the end", err)
	})
	p.flags(c)
	return c
}

// operate asks the server's admin door, which answers with the keys.
func (e *env) operate(ctx context.Context, p *place, method, path string, body any) error {
	var list []admin.Key
	if err := administer(ctx, p, askTimeout, method, path, body, &list); err != nil {
		return err
	}
	return e.keyTable(list)
}

// administer asks the admin door of a running server for something, and reads the answer.
func administer(ctx context.Context, p *place, timeout time.Duration, method, path string, body, answer any) error {
	dir, err := p.dir()
	if err != nil {
		return err
	}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return failed(err)
		}
	}
	d := newDial(config.AdminSocket(dir))
	d.http.Timeout = timeout
	resp, out, err := d.ask(ctx, method, path, string(text), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return refusedBy(resp.StatusCode, out)
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return failed(fmt.Errorf("the server's answer cannot be read: %w", err))
	}
	return nil
}

// refusedBy turns an answer of the admin door into an error: a no, or a failure.
func refusedBy(status int, answer string) error {
	var p admin.Problem
	if err := json.Unmarshal([]byte(answer), &p); err != nil || p.Error == "" {
		return failed(fmt.Errorf("the server answered %d", status))
	}
	text := p.Error
	if p.Decision != "" {
		text += " (decision " + p.Decision + ")"
	}
	switch {
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return failed(errors.New(text))
	case status == http.StatusBadRequest:
		return misuse(errors.New(text))
	case status == http.StatusForbidden && p.Decision != "":
		return no(errors.New(text + ": the server's own user may, and those whom admin.uids of its file lists"))
	}
	return no(errors.New(text))
}

func (e *env) keyTable(list []admin.Key) error {
	if e.output == "json" {
		return each(e, list)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PURPOSE\tALGORITHM\tSTATE\tUNTIL\tSIGNS FROM\tKID")
	for _, k := range list {
		until := "-" // of one that comes it is when it signs, of a revoked one when it is forgotten
		if s := keys.State(k.State); !k.Until.IsZero() && (s == keys.Current || s == keys.Retired) {
			until = k.Until.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintln(w, strings.Join([]string{k.Purpose, string(k.Algorithm), k.State, until, k.Activates.Format(time.RFC3339), k.ID}, "\t"))
	}
	return w.Flush()
}
