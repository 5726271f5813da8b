package app_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// moved renames files of a data_dir in pairs.
func moved(t *testing.T, dir string, names ...string) {
	t.Helper()
	for pair := range slices.Chunk(names, 2) {
		if err := os.Rename(filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1])); err != nil {
			t.Fatal(err)
		}
	}
}

// refused fails the test unless a server does not start, again and again, and says why.
func refused(t *testing.T, p *program, why string) {
	t.Helper()
	for range 2 { // the first leaves the evidence where it is
		c := config.Dev(p.addresses, p.dir, uint32(os.Getuid()))
		c.Store.URL = "sqlite:"
		if err := c.Complete("/"); err != nil {
			t.Fatal(err)
		}
		if _, err := app.New(t.Context(), c, app.Options{}); err == nil || !strings.Contains(err.Error(), why) {
			t.Fatalf("error %v, want %q", err, why)
		}
	}
}

// A log of a few records that somebody set back, or replaced by another history, while
// nothing ran.
func TestALogThatWasSetBackIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, nil)
	p.end(t)
	if err := os.CopyFS(filepath.Join(dir, "old"), os.DirFS(app.LogDir(dir))); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir, nil)
	p.token(t)
	p.end(t)

	moved(t, dir, "log", "true", "old", "log")
	refused(t, p, "it was set back")

	// without what has seen it, nobody can tell, and the log grows past where it was
	moved(t, dir, "index.db", "seen")
	p = start(t, dir, nil)
	for range 5 {
		p.token(t)
	}
	p.end(t)
	moved(t, dir, "seen", "index.db")
	refused(t, p, "the log was rewritten")

	moved(t, dir, "log", "other", "true", "log")
	start(t, dir, nil).end(t)
}

// What cannot be forgotten in the index is not erased from the log: a server that is
// killed in between would leave names behind that nobody looks for.
func TestErasingBeginsWithTheIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, nil)
	p.token(t)
	admitted := "" // the newest record of somebody who asked for an erasure
	asked := ""    // the record that the newest erasure names
	names := func() (n int) {
		kek, err := sealing.Read(app.KEKFile(dir))
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.OpenReader(app.LogDir(dir), kek)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range r.Entries(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Payload != nil && e.Payload.Principal == "serviceAccount:orders" {
				n++
			}
			if e.Payload != nil && e.Payload.Action == audit.ActionErase {
				asked = audit.AskedIn(e.Payload.Detail)
			}
			if e.Payload != nil && e.Payload.Action == "admin.audit.erase" {
				admitted = r.Line(e).ID
			}
		}
		return n
	}
	if names() != 1 {
		t.Fatalf("%d records of the account", names())
	}
	erase := func() int {
		status, _ := overSocket(t, config.AdminSocket(dir), "POST", admin.ErasePath, `{"subject":"serviceAccount:orders","reason":"T-1"}`, http.Header{"Content-Type": {"application/json"}})
		return status
	}
	moved(t, dir, "index.db", "away")
	if err := os.MkdirAll(filepath.Join(store.IndexFile(dir), "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if status := erase(); status == 200 || names() != 1 {
		t.Errorf("status %d, %d records of the account left, want an error and 1", status, names())
	}
	if err := os.RemoveAll(store.IndexFile(dir)); err != nil {
		t.Fatal(err)
	}
	// it begins another by itself
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(store.IndexFile(dir)); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if status := erase(); status != 200 || names() != 0 {
		t.Errorf("status %d, %d records of the account left, want 200 and 0", status, names())
	}
	if asked == "" || asked != admitted {
		t.Errorf("the erasure was asked for in %q, its record says %q", admitted, asked)
	}
	p.end(t)
	if _, err := os.Stat(store.IndexFile(dir)); err != nil {
		t.Error(err)
	}
}

// Root makes the index anew for a server that runs as another user.
func TestReindexAsRoot(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root; CI must run it")
		}
		t.Skip("needs root to give a folder away")
	}
	dir := t.TempDir()
	start(t, dir, nil).end(t)
	const uid = 4717
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	r, err := audit.OpenReader(app.LogDir(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]bool{}
	look := func(uint64) { // while it is under way, too
		files, _ := filepath.Glob(store.IndexFile(dir) + "*")
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			owners[fmt.Sprint(filepath.Base(f), " ", info.Sys().(*syscall.Stat_t).Uid, " ", info.Mode())] = true
		}
	}
	if err := app.Reindex(t.Context(), dir, r, look); err != nil {
		t.Fatal(err)
	}
	if len(owners) != 3 {
		t.Errorf("files %v, want three", owners)
	}
	for o := range owners {
		if !strings.HasSuffix(o, " 4717 -rw-------") {
			t.Errorf("%s belongs to somebody else", o)
		}
	}
}
