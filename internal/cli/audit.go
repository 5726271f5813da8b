package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

func auditCommand(e *env) *cobra.Command {
	return group("audit", "read, prove and keep the audit log, beside a running server or without one",
		auditTail(e), auditSearch(e), auditShow(e), auditVerify(e), auditExport(e), auditDisclose(e), auditProve(e), auditBackup(e),
		auditErase(e), auditPrune(e), auditReindex(e), auditReport(e))
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

// log returns the log directory: that of the data_dir, or DIR itself if that is a copy
// of one.
func (p *place) log() (string, error) {
	dir, err := p.dir()
	if err != nil {
		return "", err
	}
	log := app.LogDir(dir)
	if _, err := os.Stat(log); err == nil {
		return log, nil
	}
	for _, name := range []string{"checkpoint.pub", "checkpoint"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir, nil
		}
	}
	return "", misuse(fmt.Errorf("there is no audit log in %s", dir))
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
	dir, err := p.log()
	if err != nil {
		return nil, err
	}
	r, err := audit.OpenReader(dir, opener)
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

func auditShow(e *env) *cobra.Command {
	var p place
	c := &cobra.Command{Use: "show ID", Short: "print one record by its decision id, REPLICA-SEQ", Args: takes("ID"), RunE: func(_ *cobra.Command, args []string) error {
		r, entry, err := e.record(&p, args[0])
		switch {
		case err != nil:
			return err
		case e.output == "json":
			return e.json(r.Line(entry))
		}
		return e.details(r, entry)
	}}
	p.flags(c)
	return c
}

// record returns the record that a decision id names; there has to be one.
func (e *env) record(p *place, id string) (*audit.Reader, *audit.Entry, error) {
	r, err := e.reader(p)
	if err != nil {
		return nil, nil, err
	}
	seq, err := seqOf(r, id)
	if err != nil {
		return nil, nil, err
	}
	entry, err := r.Entry(seq)
	switch {
	case errors.Is(err, audit.ErrNotFound):
		return nil, nil, no(err)
	case err != nil:
		return nil, nil, failed(err)
	}
	return r, entry, nil
}

// seqOf reads a decision id of r's log.
func seqOf(r *audit.Reader, id string) (uint64, error) {
	i := max(strings.LastIndexByte(id, '-'), 0)
	seq, err := strconv.ParseUint(strings.TrimPrefix(id[i:], "-"), 10, 63)
	if err != nil || i == 0 {
		return 0, misuse(fmt.Errorf("%q is not a decision id: it looks like %s-12", id, r.Replica()))
	}
	if name := id[:i]; name != r.Replica() {
		return 0, no(fmt.Errorf("this is the log of replica %s: ask the one of %s", r.Replica(), name))
	}
	return seq, nil
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
		return t.e.json(t.r.Line(entry))
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
	_, err := fmt.Fprintf(t.w, "%s\t%s-%d\t%s\t%s\t%s\t%s\t%s\n", entry.Time.Format("2006-01-02T15:04:05.000Z"), printable(t.r.Replica()), entry.Seq,
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
		if obeyed(r) {
			return '\ufffd'
		}
		return r
	}, q)
}

// obeyed reports whether a terminal might obey r, or show what follows it elsewhere.
func obeyed(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

func (e *env) details(r *audit.Reader, entry *audit.Entry) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, printable(value))
		}
	}
	row("id", fmt.Sprintf("%s-%d", r.Replica(), entry.Seq))
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
