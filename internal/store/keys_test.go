package store_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/token"
)

func open(t *testing.T, dir string) *store.DB {
	t.Helper()
	c := store.Config{}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), c, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func kek(t *testing.T, dir string) *keys.KEK {
	t.Helper()
	k, err := keys.OpenKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The real thing end to end: keys made in a real SQLite file are the same after
// a restart, and nothing readable lies on disk.
func TestKeysSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := open(t, dir)
	one, err := keys.Open(t.Context(), db, kek(t, dir), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	two, err := keys.Open(t.Context(), open(t, dir), kek(t, dir), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range keys.Purposes() {
		if a, b := one.Public(p)[0], two.Public(p)[0]; a.ID != b.ID || a.ID == "" || a.Algorithm != p.Algorithm() {
			t.Errorf("%s: %+v became %+v", p, a, b)
		}
	}
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", path, info.Mode())
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), "PRIVATE KEY") {
			t.Errorf("%s holds a private key in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestChangedRowsAndOtherKEKsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, statement, want string }{
		{"an assertion key made a token key", `UPDATE signing_keys SET purpose='tokens' WHERE purpose='assertions'`, "cannot be opened"},
		{"a key under another name", `UPDATE signing_keys SET id='x' WHERE purpose='tokens'`, "cannot be opened"},
		{"another algorithm", `UPDATE signing_keys SET algorithm='PS256' WHERE purpose='tokens'`, "cannot be opened"},
		{"an older key than it is", `UPDATE signing_keys SET created=created-1 WHERE purpose='tokens'`, "cannot be opened"},
		{"a purpose nobody knows", `UPDATE signing_keys SET purpose='svid' WHERE purpose='tokens'`, "does not know"},
		{"another key-encryption key's", `UPDATE signing_keys SET kek='0000' WHERE purpose='tokens'`, "sealed by key-encryption key 0000"},
		{"a newer program's schema", `INSERT INTO schema_version VALUES (99)`, "newer program"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := open(t, dir)
			k := kek(t, dir)
			if _, err := keys.Open(t.Context(), db, k, time.Now); err != nil {
				t.Fatal(err)
			}
			_ = db.Close()
			raw, err := sql.Open("sqlite", filepath.Join(dir, "sallyport.db"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := raw.Exec(tt.statement); err != nil {
				t.Fatal(err)
			}
			_ = raw.Close()
			db, err = store.Open(context.Background(), store.Config{URL: "sqlite:"}, dir)
			if err == nil {
				defer db.Close()
				_, err = keys.Open(t.Context(), db, k, time.Now)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), store.Config{URL: "sqlite::memory:"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	row := keys.Sealed{ID: "a", Purpose: keys.Tokens, Algorithm: token.RS256, Created: time.Unix(7, 0).UTC(), KEK: "k", Secret: []byte{0, 1}}
	if err := db.AddKey(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if err := db.AddKey(t.Context(), row); err == nil {
		t.Error("a second key of the same name was added")
	}
	got, err := db.ListKeys(t.Context())
	if err != nil || len(got) != 1 || got[0].ID != "a" || !got[0].Created.Equal(row.Created) || string(got[0].Secret) != "\x00\x01" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestConfigRefusesWhatIsNotServed(t *testing.T) {
	t.Parallel()
	c := store.Config{URL: "postgres://x/y"}
	if err := c.Complete(); err == nil || !strings.HasPrefix(err.Error(), "url: ") {
		t.Errorf("got %v", err)
	}
}
