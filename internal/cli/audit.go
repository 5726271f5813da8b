package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

func auditCommand(e *env) *cobra.Command {
	return group("audit", "read and verify the audit log, beside a running server or without one",
		auditTail(e), auditSearch(e), auditShow(e), auditVerify(e))
}

// place is where a log is.
type place struct{ config, dataDir string }

func (p *place) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.config, "config", "", "take data_dir from this configuration file")
	c.Flags().StringVar(&p.dataDir, "data-dir", "", "the data_dir of the server")
}

func (p *place) dir() (string, error) {
	switch {
	case (p.config == "") == (p.dataDir == ""):
		return "", misuse(errors.New("needs --data-dir DIR or --config FILE, one of them"))
	case p.dataDir != "":
		return p.dataDir, nil
	}
	cfg, err := load(p.config)
	if err != nil {
		return "", err
	}
	return cfg.DataDir, nil
}

// opener returns what opens payloads, nil if the key-encryption key is not here:
// then only headers can be shown.
func (e *env) opener(p *place) (audit.Sealer, error) {
	var kek *sealing.Key
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	where := app.KEKFile(dir)
	if p.config != "" {
		var cfg *config.Config
		if cfg, err = load(p.config); err != nil {
			return nil, err
		}
		where = "what issuer.key_encryption names"
		kek, err = app.ReadKEK(cfg)
	} else {
		kek, err = sealing.Read(where)
	}
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = fmt.Fprintln(e.err, "the key-encryption key is not at "+where+": payloads stay sealed")
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	return kek, nil
}

func (e *env) reader(p *place) (*audit.Reader, error) {
	opener, err := e.opener(p)
	if err != nil {
		return nil, err
	}
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	r, err := audit.OpenReader(app.LogDir(dir), opener)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, misuse(fmt.Errorf("there is no audit log in %s", dir))
	}
	if err != nil {
		return nil, failed(err)
	}
	return r, nil
}

func auditTail(e *env) *cobra.Command {
	var p place
	var follow bool
	var last uint64
	c := &cobra.Command{Use: "tail", Short: "print the newest records; -f goes on as they come", Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
		r, err := e.reader(&p)
		if err != nil {
			return err
		}
		size, err := r.Size()
		if err != nil {
			return failed(err)
		}
		from := size - min(size, last)
		t := e.table(r)
		defer t.flush()
		each := r.Entries(cmd.Context(), from)
		if follow {
			each = r.Follow(cmd.Context(), from, 200*time.Millisecond)
		}
		for entry, err := range each {
			if err != nil {
				return failed(err)
			}
			if err := t.write(entry); err != nil {
				return failed(err)
			}
			if follow {
				t.flush()
			}
		}
		return nil
	}}
	p.flags(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().Uint64VarP(&last, "lines", "n", 20, "how many records to begin with")
	return c
}

// filter is what `audit search` looks for; an empty field matches everything.
type filter struct {
	principal, service, action, decision, rule, reason, tokenID string
	since, until                                                string
}

func (f *filter) flags(c *cobra.Command) {
	for _, x := range []struct {
		to         *string
		name, help string
	}{
		{&f.principal, "principal", "qualified name, such as serviceAccount:orders"},
		{&f.service, "service", "name of the service"},
		{&f.action, "action", "such as http.get; http.* for all of a protocol"},
		{&f.decision, "decision", "allow or deny"},
		{&f.rule, "rule", "name of the rule that decided"},
		{&f.reason, "reason", "reason code, such as token_expired"},
		{&f.tokenID, "token-id", "jti of the token shown or issued"},
		{&f.since, "since", "an age such as 1h30m, or a time such as 2026-11-23T10:00:00Z"},
		{&f.until, "until", "the same"},
	} {
		c.Flags().StringVar(x.to, x.name, "", x.help)
	}
}

// when reads an age or a time.
func when(text string, none time.Time) (time.Time, error) {
	if text == "" {
		return none, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, misuse(fmt.Errorf("%q is neither an age such as 1h30m nor a time such as 2026-11-23T10:00:00Z", text))
	}
	return t, nil
}

func auditSearch(e *env) *cobra.Command {
	var p place
	var f filter
	var limit int
	c := &cobra.Command{Use: "search", Short: "print the records that match; exit 1 if there is none", Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
		since, err1 := when(f.since, time.Time{})
		until, err2 := when(f.until, time.Unix(1<<40, 0))
		if err := errors.Join(err1, err2); err != nil {
			return misuse(err)
		}
		if f.decision != "" && f.decision != string(audit.Allow) && f.decision != string(audit.Deny) {
			return misuse(fmt.Errorf("--decision %q: want allow or deny", f.decision))
		}
		r, err := e.reader(&p)
		if err != nil {
			return err
		}
		t := e.table(r)
		defer t.flush()
		n := 0
		for entry, err := range r.Entries(cmd.Context(), 0) {
			if err != nil {
				return failed(err)
			}
			if entry.Time.Before(since) || entry.Time.After(until) || !f.matches(entry) {
				continue
			}
			if n++; limit > 0 && n > limit {
				break
			}
			if err := t.write(entry); err != nil {
				return failed(err)
			}
		}
		if n == 0 {
			return no(errors.New("no record matches"))
		}
		return nil
	}}
	p.flags(c)
	f.flags(c)
	c.Flags().IntVar(&limit, "limit", 0, "stop after this many; 0 for all")
	return c
}

func (f *filter) matches(e *audit.Entry) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	if !is(f.service, e.Service) || !is(f.decision, string(e.Decision)) || !is(f.rule, e.Rule) {
		return false
	}
	p := e.Payload
	if p == nil {
		return f.principal == "" && f.action == "" && f.reason == "" && f.tokenID == ""
	}
	family, all := strings.CutSuffix(f.action, ".*")
	action := is(f.action, p.Action) || all && strings.HasPrefix(p.Action, family+".")
	return is(f.principal, p.Principal) && action && is(f.reason, p.Reason) &&
		(f.tokenID == "" || f.tokenID == p.TokenID || f.tokenID == p.IssuedTokenID)
}

func auditShow(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "show ID", Short: "print one record by its decision id, REPLICA-SEQ", Args: takes("ID"), RunE: func(_ *cobra.Command, args []string) error {
		r, err := e.reader(&p)
		if err != nil {
			return err
		}
		name, number, ok := cutLast(args[0], "-")
		seq, perr := strconv.ParseUint(number, 10, 64)
		if !ok || perr != nil {
			return misuse(fmt.Errorf("%q is not a decision id: it looks like %s-12", args[0], replicaOf(r)))
		}
		if name != replicaOf(r) {
			return no(fmt.Errorf("this is the log of replica %s: ask the one of %s", replicaOf(r), name))
		}
		entry, err := r.Entry(seq)
		switch {
		case errors.Is(err, audit.ErrNotFound):
			return no(err)
		case err != nil:
			return failed(err)
		case e.output == "json":
			return e.json(shown(r, entry))
		}
		return e.details(r, entry)
	}}
	p.flags(c)
	return c
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// replicaOf returns the last part of the log's origin, TRUST-DOMAIN/REPLICA.
func replicaOf(r *audit.Reader) string {
	_, name, _ := cutLast(r.Origin(), "/")
	return name
}

func auditVerify(e *env) *cobra.Command {
	var p place
	var key string
	c := &cobra.Command{Use: "verify", Short: "check the whole log against its signed checkpoint; exit 1 if they disagree", Args: takes(), RunE: func(*cobra.Command, []string) error {
		dir, err := p.dir()
		if err != nil {
			return err
		}
		opener, err := e.opener(&p)
		if err != nil {
			return err
		}
		if _, err := os.Stat(app.LogDir(dir)); err != nil {
			return misuse(fmt.Errorf("there is no audit log in %s", dir))
		}
		verifierKey, err := keyText(key)
		if err != nil {
			return misuse(err)
		}
		report, err := audit.Verify(app.LogDir(dir), verifierKey, opener)
		if err != nil {
			return no(fmt.Errorf("the log does not verify: %w", err))
		}
		if report.KeyFromLog {
			_, _ = fmt.Fprintln(e.err, "checked with the key that lies beside the log: this proves nothing against whoever holds both; give --key with the one you were handed")
		}
		_, _ = fmt.Fprintln(e.err, "no witness outside has signed this checkpoint: compare it with one that you kept")
		if e.output == "json" {
			return e.json(report)
		}
		_, err = fmt.Fprintf(e.out, "%s: ok: %d records, %d under the signed checkpoint, %d that only the next one protects; payloads: %d fit their commitment, %d sealed, %d erased\n",
			report.Origin, report.Entries, report.Signed, report.Unsigned, report.Open, report.Sealed, report.Erased)
		return err
	}}
	p.flags(c)
	c.Flags().StringVar(&key, "key", "", "the log's verifier key, or a file that holds it, as handed out of band")
	return c
}

// keyText takes a note verifier key, NAME+HASH+KEY, or reads it from a file.
func keyText(key string) (string, error) {
	if key == "" || strings.Count(key, "+") >= 2 {
		return key, nil
	}
	text, err := os.ReadFile(key)
	if err != nil {
		return "", fmt.Errorf("--key: neither a verifier key NAME+HASH+KEY nor a file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// shownEntry is a record as JSON output has it.
type shownEntry struct {
	ID       string         `json:"id"`
	Seq      uint64         `json:"seq"`
	Time     time.Time      `json:"time"`
	Kind     audit.Kind     `json:"kind"`
	Decision audit.Decision `json:"decision,omitzero"`
	Rule     string         `json:"rule,omitzero"`
	Service  string         `json:"service,omitzero"`
	Policy   string         `json:"policy,omitzero"`
	State    string         `json:"state"`             // of the payload
	Payload  jsontext.Value `json:"payload,omitempty"` // the text that the leaf commits to
	Leaf     string         `json:"leaf"`              // what the tree hashes
}

func shown(r *audit.Reader, e *audit.Entry) shownEntry {
	return shownEntry{fmt.Sprintf("%s-%d", replicaOf(r), e.Seq), e.Seq, e.Time, e.Kind, e.Decision, e.Rule, e.Service, e.Policy, e.State,
		jsontext.Value(e.PayloadText), string(e.Leaf)}
}

// table prints records as columns, or as JSON lines.
type table struct {
	e      *env
	r      *audit.Reader
	w      *tabwriter.Writer
	header bool
}

func (e *env) table(r *audit.Reader) *table {
	return &table{e: e, r: r, w: tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)}
}

func (t *table) flush() { _ = t.w.Flush() }

func (t *table) write(entry *audit.Entry) error {
	if t.e.output == "json" {
		return t.e.json(shown(t.r, entry))
	}
	if !t.header {
		t.header = true
		_, _ = fmt.Fprintln(t.w, "TIME\tID\tDECISION\tWHO\tACTION\tON\tWHY")
	}
	p := entry.Payload
	if p == nil {
		p = &audit.Payload{Principal: "(" + entry.State + ")"}
	}
	decision := string(entry.Decision)
	if decision == "" {
		decision = string(entry.Kind)
	}
	why := entry.Rule
	if why == "" {
		why = p.Reason
	}
	if p.Count > 0 {
		why += fmt.Sprintf(" (%d times, of %s)", p.Count, p.Peer)
	}
	if len(p.Shadow) > 0 {
		why += " (shadow " + strings.Join(p.Shadow, ", ") + ")"
	}
	_, err := fmt.Fprintf(t.w, "%s\t%s-%d\t%s\t%s\t%s\t%s\t%s\n", entry.Time.Format("2006-01-02T15:04:05.000Z"), replicaOf(t.r), entry.Seq,
		decision, cell(p.Principal), cell(p.Action), cell(on(entry, p)), cell(why))
	return err
}

// on says what an action was done to, with the path for HTTP.
func on(entry *audit.Entry, p *audit.Payload) string {
	out := entry.Service
	if out == "" {
		out = p.Resource
	}
	return out + p.Vars["request.path"]
}

// cell makes text fit for a terminal: records hold what strangers sent.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// printable escapes everything that a terminal might obey or a reader not see.
func printable(s string) string {
	q := strconv.QuoteToGraphic(s)
	q = strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
	return strings.Map(func(r rune) rune {
		if r >= 0x80 && r <= 0x9f || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '\ufffd'
		}
		return r
	}, q)
}

func (e *env) details(r *audit.Reader, entry *audit.Entry) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, printable(value))
		}
	}
	row("id", fmt.Sprintf("%s-%d", replicaOf(r), entry.Seq))
	row("time", entry.Time.Format(time.RFC3339Nano))
	row("kind", string(entry.Kind))
	row("decision", string(entry.Decision))
	row("rule", entry.Rule)
	row("service", entry.Service)
	row("policy revision", entry.Policy)
	row("payload", entry.State)
	if p := entry.Payload; p != nil {
		var fields map[string]jsontext.Value
		if err := unmarshal(entry.PayloadText, &fields); err != nil {
			return failed(err)
		}
		delete(fields, "salt")
		for _, name := range sortedKeys(fields) {
			row(strings.ReplaceAll(name, "_", " "), plain(fields[name]))
		}
	}
	return w.Flush()
}
