package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/door/private"
	"github.com/sallyport-dev/sallyport/token"
)

// mint is one `token mint`.
type mint struct {
	endpoint
	audience, account, as string
	format, file, name    string
	full, renew           bool
	now                   func() time.Time
	after                 func(time.Duration) <-chan time.Time
}

func tokenMint(e *env) *cobra.Command {
	m := mint{now: time.Now, after: time.After}
	c := &cobra.Command{
		Use:   "mint --audience AUD",
		Short: "get an ID token for whoever runs this, as the kernel tells the server",
		Long: "Get an ID token from the server of this host, over its workload.sock: as the service account that the\n" +
			"caller is, or with --as as an account that policy lets its user run as (workload.run).\n\n" +
			"  --output text          the token alone (default)\n" +
			"  --output json          {\"token\":…,\"expires\":…}\n" +
			"  --output env           NAME=TOKEN, for a shell or an environment file; with --file into a file\n" +
			"  --output file          the token alone, into --file\n\n" +
			"Files are replaced whole, with mode 0600. With --renew the command goes on, and replaces the file before\n" +
			"its token ends, until it is interrupted.\n\n" +
			"--format executable is for the credential_source.executable of Google's external_account files: it prints\n" +
			"what their libraries read, and exits 0 when it could say why there is no token. The audience is then that\n" +
			"of --audience; $GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE names the provider it is shown to, and is its default.",
		Args:        takes(),
		Annotations: map[string]string{outputs: "text json env file"},
		RunE:        func(cmd *cobra.Command, _ []string) error { return e.mint(cmd.Context(), &m) },
	}
	m.flags(c)
	f := c.Flags()
	f.StringVar(&m.audience, "audience", "", "the one service that the token is for (required)")
	f.StringVar(&m.account, "account", "", "which one, where the caller is several service accounts")
	f.StringVar(&m.as, "as", "", "a service account to act as, if policy allows workload.run on it")
	f.BoolVar(&m.full, "full", false, "with the attested facts")
	f.StringVar(&m.format, "format", "", "executable: for external_account files")
	f.StringVar(&m.file, "file", "", "where --output env or file writes")
	f.StringVar(&m.name, "name", "SALLYPORT_TOKEN", "the variable that --output env sets")
	f.BoolVar(&m.renew, "renew", false, "keep --file fresh until interrupted")
	return c
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (m *mint) check(output string) error {
	if m.format == "executable" && m.audience == "" {
		m.audience = os.Getenv("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE")
	}
	switch {
	case m.audience == "":
		return errors.New("needs --audience: the one service that the token is for")
	case m.as != "" && m.account != "":
		return errors.New("--as acts as an account that the caller is not: leave --account away")
	case m.as != "" && checkAs(m.as) != nil:
		return checkAs(m.as)
	case m.format != "" && m.format != "executable":
		return fmt.Errorf("--format %q: the one there is is executable", m.format)
	case m.format != "" && (output != "text" || m.file != "" || m.renew):
		return errors.New("--format executable prints one document: leave --output, --file and --renew away")
	case output == "file" && m.file == "":
		return errors.New("--output file needs --file PATH")
	case m.file != "" && output != "file" && output != "env":
		return errors.New("--file goes with --output env or file")
	case m.renew && m.file == "":
		return errors.New("--renew keeps a file fresh: give it one with --output file --file PATH")
	case !variable.MatchString(m.name):
		return fmt.Errorf("--name %q: want the name of a variable", m.name)
	}
	return nil
}

func (e *env) mint(ctx context.Context, m *mint) error {
	if err := m.check(e.output); err != nil {
		return misuse(err)
	}
	socket, err := m.path()
	if err != nil {
		return err
	}
	d := newDial(socket)
	raw, expires, err := m.get(ctx, d)
	if m.format == "executable" {
		return e.executable(raw, expires, err)
	}
	if err != nil {
		return err
	}
	if err := m.deliver(e, raw, expires); err != nil {
		return err
	}
	if m.renew {
		return e.keepFresh(ctx, m, d, expires)
	}
	return nil
}

// get asks for one token.
func (m *mint) get(ctx context.Context, d *dial) (raw string, expires time.Time, err error) {
	path := metadata.Base + "instance/service-accounts/" + url.PathEscape(cmp.Or(m.account, "default")) + "/identity?audience=" + url.QueryEscape(m.audience)
	if m.full {
		path += "&format=full"
	}
	if m.as != "" {
		path = private.Prefix + url.PathEscape(m.as) + path
	}
	resp, raw, err := d.metadata(ctx, path)
	switch {
	case err != nil:
		return "", expires, err
	case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
		return "", expires, failed(errors.New("the server cannot give a token now: " + printable(strings.TrimSpace(raw))))
	case resp.StatusCode != http.StatusOK:
		hint := ""
		if strings.Contains(raw, "several accounts") {
			hint = ", with --account"
		}
		return "", expires, no(errors.New("no token: " + printable(strings.TrimSpace(raw)) + hint + owners(raw, d.socket)))
	}
	t, err := token.Parse(raw)
	if err != nil {
		return "", expires, failed(fmt.Errorf("the server's answer is no token: %w", err))
	}
	return raw, t.Claims.Expiry, nil
}

// owners says who can find out why, if an answer of the server behind socket names the
// decision.
func owners(answer, socket string) string {
	m := decisionID.FindStringSubmatch(answer)
	if m == nil {
		return ""
	}
	dir := "DIR"
	if d := filepath.Dir(socket); config.WorkloadSocket(d) == socket {
		dir = d
	}
	return "; whoever runs the server finds out why with: sallyport audit show --data-dir " + dir + " " + m[1]
}

var decisionID = regexp.MustCompile(`\(decision ([a-z0-9._-]+)\)`)

// deliver puts the token where it was asked for.
func (m *mint) deliver(e *env, raw string, expires time.Time) error {
	text := raw
	switch e.output {
	case "json":
		return e.json(struct {
			Token   string    `json:"token"`
			Expires time.Time `json:"expires"`
		}{raw, expires})
	case "env":
		text = m.name + "=" + raw + "\n"
	case "text":
		if e.terminal { // elsewhere a line break would be a part of no token
			text += "\n"
		}
	}
	if m.file == "" {
		_, err := fmt.Fprint(e.out, text)
		return err
	}
	if err := replace(m.file, text); err != nil {
		return failed(fmt.Errorf("write --file: %w", err))
	}
	return nil
}

// replace makes text the content of file in one step, for its owner alone. What lies
// there and is no file, such as /dev/stdout or a link, stays.
func replace(file, text string) error {
	if info, err := os.Lstat(file); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there, and no regular file: it stays", file)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", file, p.Err)
	}
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// How --renew goes about it: a token is replaced when a third of its hour is left,
// and asked for again after a pause when that fails.
const (
	renewBefore = 20 * time.Minute
	renewPause  = 15 * time.Second
)

// keepFresh replaces the file until ctx ends. A refusal does not end it: what was
// refused may be allowed again, and the operator is told.
func (e *env) keepFresh(ctx context.Context, m *mint, d *dial, expires time.Time) error {
	pause := expires.Add(-renewBefore).Sub(m.now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.after(max(pause, renewPause)):
		}
		raw, until, err := m.get(ctx, d)
		if err == nil {
			err = m.deliver(e, raw, until)
		}
		if err != nil {
			if ctx.Err() == nil {
				_, _ = fmt.Fprintf(e.err, "sallyport: the token in %s ends at %s and was not replaced: %v\n", m.file, expires.Format(time.RFC3339), err)
			}
			pause = renewPause
			continue
		}
		expires = until
		pause = expires.Add(-renewBefore).Sub(m.now())
	}
}

// executable prints what the libraries of Google's external_account files read
// (contract google-clients, 2.3). They show its message only when the exit status is
// 0.
func (e *env) executable(raw string, expires time.Time, err error) error {
	if err != nil {
		return e.json(struct {
			Version int    `json:"version"`
			Success bool   `json:"success"`
			Code    string `json:"code"`
			Message string `json:"message"`
		}{1, false, "SALLYPORT", err.Error()})
	}
	return e.json(struct {
		Version    int    `json:"version"`
		Success    bool   `json:"success"`
		Type       string `json:"token_type"`
		Token      string `json:"id_token"`
		Expiration int64  `json:"expiration_time"`
	}{1, true, "urn:ietf:params:oauth:token-type:jwt", raw, expires.Unix()})
}
