package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/witness"
)

// verification is what `audit verify` is told.
type verification struct {
	place
	key, export, proof     string
	checkpoints, witnesses []string
}

func auditVerify(e *env) *cobra.Command {
	var v verification
	c := &cobra.Command{Use: "verify", Short: "check a log, an export or a proof against its signed checkpoint; exit 1 if they disagree",
		Long: "Check a whole log (--data-dir DIR, or a copy of its log directory), a file that `audit export` or `audit disclose`\n" +
			"wrote (--export FILE), or one that `audit prove` wrote (--proof FILE). It needs neither server nor store, and of an\n" +
			"export or a proof nothing but the file and the key. It names the first thing that is wrong, and says what it could\n" +
			"not check and what the log does not prove.",
		Args: takes(), RunE: func(*cobra.Command, []string) error { return e.verify(&v) }}
	v.flags(c)
	c.Flags().StringVar(&v.key, "key", "", "the log's verifier key, or a file that holds it, as handed out of band")
	c.Flags().StringArrayVar(&v.checkpoints, "checkpoint", nil, "a file of checkpoints that somebody kept: the log still has to begin with them; may be given again")
	c.Flags().StringArrayVar(&v.witnesses, "witness", nil, "a witness's verifier key: a checkpoint of those given, or the log's own file cosigned, has to be signed by it; may be given again")
	c.Flags().StringVar(&v.export, "export", "", "an export to check; - for standard input")
	c.Flags().StringVar(&v.proof, "proof", "", "a proof to check; - for standard input")
	return c
}

func (e *env) verify(v *verification) error {
	key, err := keyText(v.key)
	switch {
	case err != nil:
		return misuse(err)
	case v.proof != "" && len(v.checkpoints)+len(v.witnesses) > 0:
		return misuse(errors.New("--checkpoint and --witness are for a log or an export: a proof holds to its own checkpoint, and says nothing of another"))
	}
	kept, err := e.readKept(v.checkpoints)
	if err != nil {
		return err
	}
	if len(v.witnesses) > 0 {
		if kept, err = e.witnessed(v, kept); err != nil {
			return err
		}
	}
	if v.export == "" && v.proof == "" {
		return e.verifyLog(v, key, kept)
	}
	file := v.export + v.proof
	switch {
	case v.export != "" && v.proof != "" || v.dataDir != "" || v.config != "":
		return misuse(errors.New("--data-dir, --config, --export and --proof each say what to check: give one"))
	case key == "":
		return misuse(errors.New("needs --key, the log's verifier key as handed out of band: whoever made the file could have made one, too"))
	}
	in, closeIn, err := e.open(file)
	if err != nil {
		return misuse(err)
	}
	defer closeIn()
	if v.proof != "" {
		return e.verifyProof(in, key)
	}
	report, err := audit.VerifyExport(in, key, kept...)
	return e.reported("the export", report, err)
}

func (e *env) verifyLog(v *verification, key string, kept []audit.Kept) error {
	dir, err := v.log()
	if err != nil {
		return err
	}
	opener, err := e.opener(&v.place)
	if err != nil {
		return err
	}
	report, err := audit.Verify(dir, key, opener, kept...)
	return e.reported("the log", report, err)
}

// maxProof bounds a proof, in bytes.
const maxProof = 1 << 20

func (e *env) verifyProof(in io.Reader, key string) error {
	text, err := io.ReadAll(io.LimitReader(in, maxProof))
	if err != nil {
		return failed(err)
	}
	line, err := audit.VerifyProof(text, key)
	if err != nil {
		return no(fmt.Errorf("the proof does not verify: %w", err))
	}
	if len(line.Payload) == 0 {
		_, _ = fmt.Fprintf(e.err, "not checked: what the record says: whoever made the proof calls its payload %s, and does not show it\n", line.State)
	}
	if e.output == "json" {
		return e.json(line)
	}
	_, err = fmt.Fprintf(e.out, "%s: ok: this record is in the log\n%s\n%s\n", printable(line.ID), printable(line.Leaf), printable(string(line.Payload)))
	return err
}

// reported prints what was found.
func (e *env) reported(what string, r *audit.Report, err error) error {
	if bad := new(audit.Bad); errors.As(err, &bad) {
		return no(fmt.Errorf("%s does not verify: %s", what, printable(err.Error())))
	}
	if err != nil {
		return failed(err)
	}
	say := func(text string) { _, _ = fmt.Fprintln(e.err, printable(text)) }
	if r.KeyFromLog {
		say("checked with the key that lies beside the log: this proves nothing against whoever holds both; give --key with the one you were handed")
	}
	for _, n := range r.NotChecked {
		say("not checked: " + n)
	}
	if len(r.Kept) == 0 {
		say("not proved: that this is the only log, or the whole: whoever holds the signing key can write another from the start, or set this one back; a checkpoint that somebody else kept (--checkpoint) shows it")
	}
	if e.output == "json" {
		return e.json(r)
	}
	_, err = fmt.Fprintf(e.out, "%s: ok: %d records, %d under the signed checkpoint, %d that only the next one protects; payloads: %d fit their commitment, %d sealed, %d withheld, %d erased\n",
		printable(r.Origin), r.Entries, r.Signed, r.Unsigned, r.Open, r.Sealed, r.Withheld, r.Erased)
	if r.First > 0 && err == nil {
		_, err = fmt.Fprintf(e.out, "entries before %d are not here; their hashes fit\n", r.First)
	}
	if r.Gaps > 0 && err == nil {
		_, err = fmt.Fprintf(e.out, "%d numbers are gaps: their records may have been lost with a killed process\n", r.Gaps)
	}
	for _, k := range r.Kept {
		if err == nil {
			_, err = fmt.Fprintf(e.out, "still begins with %s\n", printable(k))
		}
	}
	return err
}

// readKept reads files of checkpoints, each of which may hold many.
func (e *env) readKept(files []string) ([]audit.Kept, error) {
	var out []audit.Kept
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, misuse(fmt.Errorf("--checkpoint: %w", err))
		}
		notes, torn := audit.SplitNotes(data)
		if torn > 0 {
			_, _ = fmt.Fprintf(e.err, "%s: %d bytes are no whole checkpoint: a write was cut off there, or is under way\n", printable(name), torn)
		}
		if len(notes) == 0 {
			return nil, misuse(fmt.Errorf("--checkpoint %s: holds no checkpoint", name))
		}
		for i, n := range notes {
			title := name
			if len(notes) > 1 {
				title = fmt.Sprintf("%s, the %d. of %d", name, i+1, len(notes))
			}
			out = append(out, audit.Kept{Name: title, Note: n})
		}
	}
	return out, nil
}

// witnessed checks that every witness has signed one of the checkpoints, which are those
// given and, of a log, its own file of them.
func (e *env) witnessed(v *verification, kept []audit.Kept) ([]audit.Kept, error) {
	if v.export == "" && v.proof == "" {
		dir, err := v.log()
		if err != nil {
			return nil, err
		}
		name := filepath.Join(dir, witness.CosignedFile)
		text, err := os.ReadFile(name)
		switch {
		case err == nil:
			kept = append(kept, audit.Kept{Name: name, Note: text})
		case !errors.Is(err, os.ErrNotExist):
			return nil, failed(err)
		}
	}
	for _, key := range v.witnesses {
		text, err := keyText(key)
		if err != nil {
			return nil, misuse(err)
		}
		w, err := witness.NewVerifier(text)
		if err != nil {
			return nil, misuse(fmt.Errorf("--witness: %w", err))
		}
		signed := false
		for _, k := range kept {
			by, err := witness.Open(k.Note, []note.Verifier{w})
			if err != nil {
				continue // another may be signed
			}
			signed = true
			_, _ = fmt.Fprintf(e.err, "%s: signed by witness %s at %s\n", printable(k.Name), printable(by[0].Witness), by[0].Time.Format(time.RFC3339))
		}
		if !signed {
			return nil, no(fmt.Errorf("witness %s has signed none of the %d checkpoints that are here", w.Name(), len(kept)))
		}
	}
	return kept, nil
}

// open opens a file, or standard input for -.
func (e *env) open(name string) (io.Reader, func(), error) {
	if name == "-" {
		return e.in, func() {}, nil
	}
	f, err := os.Open(name)
	return f, func() { _ = f.Close() }, err
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
