package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// cosignatureV1 is the type of a timestamped Ed25519 cosignature (c2sp.org/signed-note,
// c2sp.org/tlog-cosignature).
const cosignatureV1 = 0x04

// verifier checks cosignatures of one witness; it is a note.Verifier.
type verifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// NewVerifier reads a witness's verifier key. The error says what would be right.
func NewVerifier(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("%q is not a verifier key: it looks like witness.example+0123abcd+BASE64", vkey)
	}
	name := parts[0]
	hash, err1 := strconv.ParseUint(parts[1], 16, 32)
	key, err2 := base64.StdEncoding.Strict().DecodeString(parts[2])
	switch {
	case name == "" || strings.ContainsAny(name, " +\n") || len(parts[1]) != 8 || errors.Join(err1, err2) != nil || len(key) == 0:
		return nil, fmt.Errorf("%q is not a verifier key: it looks like witness.example+0123abcd+BASE64", vkey)
	case key[0] != cosignatureV1 || len(key) != 1+ed25519.PublicKeySize:
		return nil, fmt.Errorf("%q is a key of type %#x: witnesses have keys of type 0x04, for timestamped Ed25519 cosignatures", vkey, key[0])
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	if binary.BigEndian.Uint32(sum[:]) != uint32(hash) {
		return nil, fmt.Errorf("%q: the hash in the middle is not the key's: a character was lost", vkey)
	}
	return &verifier{name, uint32(hash), key[1:]}, nil
}

func (v *verifier) Name() string    { return v.name }
func (v *verifier) KeyHash() uint32 { return v.hash }

// Verify implements note.Verifier for a signature that begins with its time.
func (v *verifier) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	if at == 0 || at > 1<<62 {
		return false // a witness always says when
	}
	return ed25519.Verify(v.key, append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), msg...), sig[8:])
}

// A Cosignature is one that was checked.
type Cosignature struct {
	Witness string
	Time    time.Time
}

// Open checks who of witnesses has signed a checkpoint. It does not ask whether the log
// has: audit.Verify does. Two of one witness count once.
func Open(checkpoint []byte, witnesses []note.Verifier) ([]Cosignature, error) {
	n, err := note.Open(checkpoint, note.VerifierList(witnesses...))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		return nil, errors.New("none of the witnesses has signed it")
	}
	if err != nil {
		return nil, fmt.Errorf("its signatures are not in order: %w", err)
	}
	var out []Cosignature
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
		if err != nil || len(raw) != 4+8+ed25519.SignatureSize {
			return nil, fmt.Errorf("the signature of %s is not strict base64", s.Name)
		}
		out = append(out, Cosignature{s.Name, time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC()})
	}
	return out, nil
}

// signedBy reports whether a signature, in base64, says that it is of v's key.
func signedBy(sig string, v note.Verifier) bool {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(sig, "\n"))
	return err != nil || len(raw) < 4 || binary.BigEndian.Uint32(raw) == v.KeyHash() // what is none is said to be none
}

// merge adds the signature lines of a witness's answer to a checkpoint, those that
// verifies checks; there has to be one.
func merge(checkpoint []byte, answer string, v note.Verifier) ([]byte, error) {
	out := checkpoint
	for line := range strings.Lines(answer) {
		if keyed, ok := strings.CutPrefix(line, "— "+v.Name()+" "); !ok || !strings.HasSuffix(line, "\n") || !signedBy(keyed, v) {
			continue // of another key of the witness's
		}
		whole := append(append([]byte(nil), out...), line...)
		if _, err := Open(whole, []note.Verifier{v}); err != nil {
			return nil, fmt.Errorf("the witness's signature does not verify with its key: %w", err)
		}
		return whole, nil
	}
	return nil, fmt.Errorf("the witness signed with another key than %s", v.Name())
}
