package keys_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/token"
)

type memory struct{ rows []keys.Sealed }

func (m *memory) ListKeys(context.Context) ([]keys.Sealed, error) { return m.rows, nil }
func (m *memory) AddKey(_ context.Context, k keys.Sealed) error {
	m.rows = append(m.rows, k)
	return nil
}

func open(t testing.TB) *keys.Set {
	t.Helper()
	kek, err := keys.NewRandomKEK()
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Open(context.Background(), &memory{}, kek, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every purpose signs its own types and no other, and what one purpose signed
// verifies under no other's keys.
func TestOneKeyOnePurpose(t *testing.T) {
	t.Parallel()
	s := open(t)
	want := map[keys.Purpose][]string{
		keys.Tokens:      {token.TypeID, token.TypeAccess},
		keys.Assertions:  {token.TypeAssertion},
		keys.Checkpoints: nil,
	}
	types := []string{token.TypeID, token.TypeAccess, token.TypeAssertion, "dpop+jwt", ""}
	for _, p := range keys.Purposes() {
		for _, typ := range types {
			raw, err := s.Sign(p, typ, map[string]any{"sub": "x"})
			if may := strings.Contains(" "+strings.Join(want[p], " ")+" ", " "+typ+" ") && typ != ""; !may {
				if !errors.Is(err, keys.ErrPurpose) {
					t.Errorf("%s signed %q: %v", p, typ, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s does not sign %q: %v", p, typ, err)
			}
			tok, err := token.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range keys.Purposes() {
				if got := tok.SignedBy(s.Public(other)[0]); got != (other == p) {
					t.Errorf("%s token of %s under the key of %s: verified %v", typ, p, other, got)
				}
			}
		}
	}
}

func TestNoteSigner(t *testing.T) {
	t.Parallel()
	s := open(t)
	signer, text, err := s.NoteSigner("acme.internal/a")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := note.Sign(&note.Note{Text: "hello\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(msg, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	if _, err := note.Open(bytes.Replace(msg, []byte("hello"), []byte("hallo"), 1), note.VerifierList(v)); err == nil {
		t.Error("a changed note verifies")
	}
}

func TestKEK(t *testing.T) {
	t.Parallel()
	a, _ := keys.NewRandomKEK()
	b, _ := keys.NewRandomKEK()
	sealed, err := a.Seal([]byte("secret"), []byte("context"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Open(sealed, []byte("context")); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := a.Open(sealed, []byte("other")); err == nil {
		t.Error("opened in another context")
	}
	if _, err := b.Open(sealed, []byte("context")); err == nil {
		t.Error("opened by another key")
	}
	if a.ID() == b.ID() || len(a.ID()) != 16 {
		t.Errorf("ids %s and %s", a.ID(), b.ID())
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("not sealed")
	}
}

func TestKEKFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "kek")
	if _, err := keys.ReadKEK(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	made, err := keys.OpenKEK(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.OpenKEK(file)
	if err != nil || again.ID() != made.ID() {
		t.Errorf("read again: %v %v", again, err)
	}
	for name, tt := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string
	}{
		"others can read it": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 0o644, "chmod 600"},
		"too short":          {"AAAA", 0o600, "32 bytes"},
		"not base64":         {"****", 0o600, "openssl rand"},
		"empty":              {"", 0o600, "32 bytes"},
	} {
		f := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(f, []byte(tt.content), tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenKEK(f); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, ".kek-*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}
