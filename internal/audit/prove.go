package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const proofHead = "c2sp.org/tlog-proof@v1"

// Proof returns one record with all that shows that it is in the log: a
// c2sp.org/tlog-proof, whose extra data is the record as a Line.
func (r *Reader) Proof(seq uint64) ([]byte, error) {
	e, err := r.Entry(seq)
	if err != nil {
		return nil, err
	}
	head, err := r.Head()
	if err != nil {
		return nil, err
	}
	if seq >= head.Size {
		return nil, fmt.Errorf("%w: no checkpoint covers entry %d yet: try again in a second", ErrNotFound, seq)
	}
	hashes, err := r.Inclusion(head, seq)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(r.Line(e), json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(nil, "%s\nextra %s\nindex %d\n", proofHead, base64.StdEncoding.EncodeToString(line), seq)
	for _, h := range hashTexts(hashes) {
		out = append(append(out, h...), '\n')
	}
	return append(append(out, '\n'), head.Note...), nil
}

// VerifyProof checks what Proof returns against the log's public key, and returns the
// record. The error says what is wrong.
func VerifyProof(text []byte, verifierKey string) (*Line, error) {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", verifierKey, err)
	}
	top, checkpoint, ok := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	if !ok || len(lines) < 3 || lines[0] != proofHead || !strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		return nil, errors.New("is not a proof as `audit prove` writes it: " + proofHead + ", extra, index, hashes, an empty line, the checkpoint")
	}
	extra, err := base64.StdEncoding.Strict().DecodeString(lines[1][len("extra "):])
	if err != nil {
		return nil, fmt.Errorf("the extra line is not base64: %w", err)
	}
	l, e, err := parseLine(extra, v.Name())
	if err != nil {
		return nil, err
	}
	if lines[2] != "index "+strconv.FormatUint(e.Seq, 10) {
		return nil, fmt.Errorf("%q is not of entry %d", lines[2], e.Seq)
	}
	hashes, err := parseHashes(lines[3:])
	if err != nil {
		return nil, err
	}
	h, err := openHead(checkpoint, v)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint %w", err)
	}
	if e.Seq >= h.size {
		return nil, fmt.Errorf("the checkpoint covers %d entries, and not entry %d", h.size, e.Seq)
	}
	if err := tlog.CheckRecord(hashes, int64(h.size), h.root, int64(e.Seq), tlog.RecordHash(e.Leaf)); err != nil {
		return nil, fmt.Errorf("entry %d is not under the signed root: %w", e.Seq, err)
	}
	return l, nil
}
