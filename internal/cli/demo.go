package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

// step is one exchange of the walk-through and what must come of it.
type step struct {
	what     string
	door     string // that gives the token, "" for none
	audience string
	status   int
	contains string // in the answer
}

// demo runs the walk-through with real exchanges against a running program. It
// says no when any answer, or any record, is not the expected one.
func (e *env) demo(ctx context.Context, d *dev) error {
	var log bytes.Buffer // shown only when something is wrong
	quiet := &env{in: e.in, out: e.out, err: &log, output: e.output}
	a, service, err := d.start(ctx, quiet)
	if err != nil {
		return failed(err)
	}
	defer service.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- a.Run(running) }()
	wrong := e.walk(ctx, d)
	stop()
	if err := <-done; err != nil {
		return failed(fmt.Errorf("%w\n%s", err, log.String()))
	}
	if err := e.records(ctx, d); err != nil {
		return err
	}
	if wrong > 0 {
		return no(fmt.Errorf("%d of the answers above are not the expected ones", wrong))
	}
	_, err = fmt.Fprintln(e.out, "\nall answers are the expected ones, and the log verifies")
	return err
}

func (e *env) walk(ctx context.Context, d *dev) (wrong int) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	a := d.addresses
	for _, s := range []step{
		{"no token", "", "", http.StatusUnauthorized, "no credential"},
		{"the right token", a.Orders, config.DevAudience, http.StatusOK, "serviceAccount:orders"},
		{"a token for another audience", a.Orders, "https://other.example", http.StatusUnauthorized, "wrong audience"},
		{"a caller without permission", a.Reports, config.DevAudience, http.StatusForbidden, "not allowed"},
	} {
		status, body, err := s.run(ctx, client, a.Gateway)
		verdict := "as expected"
		if err != nil || status != s.status || !strings.Contains(body, s.contains) {
			verdict = fmt.Sprintf("WRONG: expected %d with %q", s.status, s.contains)
			wrong++
		}
		if err != nil {
			body = err.Error()
		}
		_, _ = fmt.Fprintf(e.out, "%-30s %d  %s\n  %s\n", s.what, status, verdict, printable(strings.TrimSpace(body)))
	}
	return wrong
}

func (s *step) run(ctx context.Context, client *http.Client, gateway string) (int, string, error) {
	header := http.Header{}
	if s.door != "" {
		status, raw, err := get(ctx, client, "http://"+s.door+"/computeMetadata/v1/instance/service-accounts/default/identity?audience="+url.QueryEscape(s.audience),
			http.Header{"Metadata-Flavor": {"Google"}})
		if err != nil || status != http.StatusOK {
			return status, raw, errors.Join(err, fmt.Errorf("the metadata door answered %d: %s", status, raw))
		}
		header.Set("Authorization", "Bearer "+raw)
	}
	return get(ctx, client, "http://"+gateway+"/v1/hello", header)
}

func get(ctx context.Context, client *http.Client, address string, header http.Header) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, string(body), err
}

// records prints what the walk-through left in the log, and verifies it.
func (e *env) records(ctx context.Context, d *dev) error {
	kek, err := sealing.Read(app.KEKFile(d.dataDir))
	if err != nil {
		return failed(err)
	}
	r, err := audit.OpenReader(app.LogDir(d.dataDir), kek)
	if err != nil {
		return failed(err)
	}
	_, _ = fmt.Fprintln(e.out, "\nthe records it made:")
	t := e.table(r)
	for entry, err := range r.Entries(ctx, 0) {
		if err != nil {
			return failed(err)
		}
		if err := t.write(entry); err != nil {
			return failed(err)
		}
	}
	t.flush()
	if _, err := audit.Verify(app.LogDir(d.dataDir), "", kek); err != nil {
		return no(fmt.Errorf("the log does not verify: %w", err))
	}
	return nil
}
