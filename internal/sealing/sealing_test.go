package sealing_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/sealing"
)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	a, _ := sealing.NewRandom()
	b, _ := sealing.NewRandom()
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

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "kek")
	if _, err := sealing.Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	made, err := sealing.ReadOrMake(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealing.ReadOrMake(file)
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
		if _, err := sealing.ReadOrMake(f); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, ".kek-*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

// Where a key can be, and what is told when it is not there.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kek")
	made, err := sealing.ReadOrMake(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SALLYPORT_TEST_KEK", string(text))
	t.Setenv("SALLYPORT_TEST_BAD", "no key")
	for _, tt := range []struct {
		name string
		c    sealing.Config
		bad  string // what Complete says
		read string // what Read says
	}{
		{"a file below the configuration's folder", sealing.Config{Secret: sealing.Secret{File: "kek"}}, "", ""},
		{"a file anywhere", sealing.Config{Secret: sealing.Secret{File: file}}, "", ""},
		{"a variable", sealing.Config{Secret: sealing.Secret{Env: "SALLYPORT_TEST_KEK"}}, "", ""},
		{"a variable that is not set", sealing.Config{Secret: sealing.Secret{Env: "SALLYPORT_TEST_NONE"}}, "", "is not set"},
		{"a variable that holds something else", sealing.Config{Secret: sealing.Secret{Env: "SALLYPORT_TEST_BAD"}}, "", "SALLYPORT_TEST_BAD: not base64"},
		{"both", sealing.Config{Secret: sealing.Secret{File: "a", Env: "b"}}, "file and env are both set", ""},
		{"a previous one that is nowhere", sealing.Config{Previous: []sealing.Secret{{}}}, "previous[0]: needs file or env", ""},
		{"a previous one that is in two places", sealing.Config{Previous: []sealing.Secret{{File: "a"}, {File: "a", Env: "b"}}}, "previous[1]: file and env are both set", ""},
	} {
		err := tt.c.Complete(dir)
		if (err == nil) != (tt.bad == "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.bad)
		}
		if tt.bad != "" {
			continue
		}
		k, err := tt.c.Read()
		if (err == nil) != (tt.read == "") || err != nil && !strings.Contains(err.Error(), tt.read) || err == nil && k.ID() != made.ID() {
			t.Errorf("%s: got %v, %v, want %q", tt.name, k, err, tt.read)
		}
		if err != nil && strings.Contains(err.Error(), "no key") {
			t.Errorf("%s: the error shows the secret: %v", tt.name, err)
		}
	}
}
