package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// head is what a checkpoint says.
type head struct {
	origin string
	size   uint64
	root   tlog.Hash
	note   []byte // as it was signed; nil if it was not
}

// sign returns h as a signed note.
func (h head) sign(signer note.Signer) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", h.origin, h.size, base64.StdEncoding.EncodeToString(h.root[:]))
	return note.Sign(&note.Note{Text: text}, signer)
}

// parseHead reads the text of a checkpoint without asking who signed it.
func parseHead(text string) (head, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" || lines[3] != "" {
		return head{}, errors.New("is not three lines: origin, size, root")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return head{}, fmt.Errorf("has size %q, not a plain number", lines[1])
	}
	h := head{origin: lines[0], size: size}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(h.root) {
		return head{}, fmt.Errorf("has root %q, not 32 bytes in base64", lines[2])
	}
	copy(h.root[:], root)
	return h, nil
}

// openHead reads a checkpoint and checks its signature and origin against v.
func openHead(msg []byte, v note.Verifier) (head, error) {
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return head{}, fmt.Errorf("is not signed by key %s+%08x: %w", v.Name(), v.KeyHash(), err)
	}
	for _, sig := range n.Sigs {
		// package note decodes leniently: without this the last character of a
		// signature could be changed unseen
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return head{}, fmt.Errorf("has a signature that is not strict base64: %w", err)
		}
	}
	if strings.Count(n.Text, "\n") != 3 {
		return head{}, errors.New("is not three lines: origin, size, root")
	}
	h, err := parseHead(n.Text)
	if err != nil {
		return head{}, err
	}
	if h.origin != v.Name() {
		return head{}, fmt.Errorf("is of log %q, the key of log %q", h.origin, v.Name())
	}
	return h, nil
}

// readHead reads dir's checkpoint and checks it against v. A log without one has
// a zero head and no error.
func readHead(dir string, v note.Verifier) (head, error) {
	msg, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if errors.Is(err, os.ErrNotExist) {
		return head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	h, err := openHead(msg, v)
	if err != nil {
		return head{}, &Bad{File: checkpointFile, What: err.Error()}
	}
	h.note = msg
	return h, nil
}

// readPublic returns the verifier key that the log itself holds, "" if none.
func readPublic(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, publicFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

// SplitNotes takes apart a file of checkpoints, one after the other, and returns how
// many of its bytes are no whole one: a write was cut off there, or is under way.
func SplitNotes(data []byte) (notes [][]byte, torn int) {
	for len(data) > 0 {
		if n := noteLength(data); n > 0 {
			notes, data = append(notes, data[:n]), data[n:]
			continue
		}
		line := bytes.IndexByte(data, '\n') + 1
		if line == 0 {
			line = len(data)
		}
		if line > 1 { // an empty line is nothing
			torn += line
		}
		data = data[line:]
	}
	return notes, torn
}

// noteLength returns the length of the checkpoint that data begins with, 0 if it begins
// with none: three lines, an empty one, and signatures that are whole.
func noteLength(data []byte) int {
	n := 0
	for line := 0; ; line++ {
		text, _, ok := bytes.Cut(data[n:], []byte("\n"))
		signature, signed := bytes.CutPrefix(text, []byte("— "))
		switch {
		case ok && line < 3 && len(text) > 0 && !signed, ok && line == 3 && len(text) == 0, ok && line > 3 && signed && wholeSignature(signature):
			n += len(text) + 1
		case line > 4:
			return n
		default:
			return 0
		}
	}
}

// wholeSignature reports whether a signature line was not cut: a name, and at least a
// key hash and an Ed25519 signature.
func wholeSignature(text []byte) bool {
	_, sig, _ := bytes.Cut(text, []byte(" "))
	raw, err := base64.StdEncoding.DecodeString(string(sig))
	return err == nil && len(raw) >= 4+ed25519.SignatureSize
}
