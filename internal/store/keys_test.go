package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/sealing"
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

func kek(t *testing.T, dir string) *sealing.Key {
	t.Helper()
	k, err := sealing.ReadOrMake(filepath.Join(dir, "kek"))
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
	one, err := openKeys(t, db, kek(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	two, err := openKeys(t, open(t, dir), kek(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range keys.Purposes() {
		if a, b := one.Public(p)[0], two.Public(p)[0]; a.ID != b.ID || a.ID == "" || a.Algorithm != p.Algorithms()[0] {
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

func openKeys(t *testing.T, db *store.DB, k *sealing.Key, previous ...*sealing.Key) (*keys.Set, error) {
	t.Helper()
	return keys.Open(t.Context(), keys.Options{Store: db, KEK: k, Previous: previous, Now: time.Now, TrustDomain: "test"})
}

func TestChangedRowsAndOtherKEKsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, statement, want string }{
		{"an assertion key made a token key", `UPDATE signing_keys SET purpose='tokens' WHERE purpose='assertions'`, "cannot be opened"},
		{"a key under another name", `UPDATE signing_keys SET id='x' WHERE purpose='assertions'`, "cannot be opened"},
		{"another algorithm", `UPDATE signing_keys SET algorithm='ES256' WHERE algorithm='RS256'`, "cannot be opened"},
		{"an algorithm that the purpose has not", `UPDATE signing_keys SET algorithm='PS256' WHERE algorithm='RS256'`, "does not know"},
		{"an older key than it is", `UPDATE signing_keys SET created=created-1 WHERE purpose='tokens'`, "cannot be opened"},
		{"a key that signs sooner", `UPDATE signing_keys SET activates=activates-1`, "cannot be opened"},
		{"a revocation undone", `UPDATE signing_keys SET revoked=0 WHERE revoked>0`, "cannot be opened"},
		{"a revocation that nobody asked for", `UPDATE signing_keys SET revoked=1 WHERE purpose='assertions'`, "cannot be opened"},
		{"a key made to look like one of the first schema", `UPDATE signing_keys SET activates=0`, "cannot be opened"},
		{"a purpose nobody knows", `UPDATE signing_keys SET purpose='svid' WHERE purpose='tokens'`, "does not know"},
		{"another key-encryption key's", `UPDATE signing_keys SET kek='0000' WHERE purpose='tokens'`, "sealed by key-encryption key 0000"},
		{"a newer program's schema", `INSERT INTO schema_version VALUES (99)`, "newer program"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := open(t, dir)
			k := kek(t, dir)
			set, err := openKeys(t, db, k)
			if err != nil {
				t.Fatal(err)
			}
			if err := set.Revoke(t.Context(), set.Public(keys.SVIDs)[0].ID, func(keys.Event) error { return nil }); err != nil {
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
				_, err = openKeys(t, db, k)
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
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	row := keys.Sealed{ID: "a", Purpose: keys.Tokens, Algorithm: token.RS256, Created: at(7), Activates: at(8), KEK: "k", Secret: []byte{0, 1}}
	gone := keys.Sealed{ID: "b", Purpose: keys.SVIDs, Algorithm: token.ES256, Created: at(9), Activates: at(9), Revoked: at(10), KEK: "k", Secret: []byte{2}}
	if err := db.SaveKeys(t.Context(), []keys.Sealed{row, gone}, nil); err != nil {
		t.Fatal(err)
	}
	got, err := db.ListKeys(t.Context())
	if err != nil || len(got) != 2 || !reflect.DeepEqual(got[0], row) || !reflect.DeepEqual(got[1], gone) {
		t.Errorf("got %+v, %v", got, err)
	}
	row.Activates, row.Revoked, row.KEK, row.Secret = at(11), at(12), "l", []byte{3}
	if err := db.SaveKeys(t.Context(), []keys.Sealed{row}, []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	if got, err = db.ListKeys(t.Context()); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], row) {
		t.Errorf("replaced: got %+v, %v", got, err)
	}
}

func TestConfigRefusesWhatIsNotServed(t *testing.T) {
	t.Parallel()
	c := store.Config{URL: "postgres://x/y"}
	if err := c.Complete(); err == nil || !strings.HasPrefix(err.Error(), "url: ") {
		t.Errorf("got %v", err)
	}
}

// What a data_dir of the first schema holds opens, and is sealed again in today's
// form.
func TestFirstSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := kek(t, dir)
	raw, err := sql.Open("sqlite", filepath.Join(dir, "sallyport.db"))
	if err != nil {
		t.Fatal(err)
	}
	row := firstRow(t, k)
	for _, s := range []string{
		`CREATE TABLE schema_version (version INTEGER NOT NULL)`,
		`INSERT INTO schema_version VALUES (1)`,
		`CREATE TABLE signing_keys (id TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL, created BIGINT NOT NULL, kek TEXT NOT NULL, secret BLOB NOT NULL)`,
	} {
		if _, err := raw.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raw.Exec(`INSERT INTO signing_keys VALUES (?, ?, ?, ?, ?, ?)`, row.ID, string(row.Purpose), string(row.Algorithm), row.Created.Unix(), row.KEK, row.Secret); err != nil {
		t.Fatal(err)
	}
	_ = raw.Close()
	db := open(t, dir)
	for range 2 {
		set, err := openKeys(t, db, k)
		if err != nil {
			t.Fatal(err)
		}
		if got := set.Public(keys.Assertions); len(got) != 1 || got[0].ID != row.ID {
			t.Errorf("keys %v, want %s", got, row.ID)
		}
	}
	rows, err := db.ListKeys(t.Context())
	if err != nil || len(rows) != 6 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, r := range rows {
		if r.Activates.IsZero() {
			t.Errorf("%s is still in the old form", r.ID)
		}
	}
}

// firstRow is a row as the first schema had it, sealed for its five columns.
func firstRow(t *testing.T, k *sealing.Key) keys.Sealed {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := token.Thumbprint(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	row := keys.Sealed{ID: id, Purpose: keys.Assertions, Algorithm: token.ES256, Created: time.Unix(1_700_000_000, 0).UTC(), KEK: k.ID()}
	bound := []byte("sallyport signing key v1")
	for _, f := range []string{row.ID, string(row.Purpose), string(row.Algorithm), "2023-11-14T22:13:20Z", row.KEK} {
		bound = append(binary.BigEndian.AppendUint32(bound, uint32(len(f))), f...)
	}
	if row.Secret, err = k.Seal(der, bound); err != nil {
		t.Fatal(err)
	}
	return row
}
