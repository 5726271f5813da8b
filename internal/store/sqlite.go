package store

import (
	"database/sql"
	"errors"
	"net/url"

	"modernc.org/sqlite" // the driver "sqlite", in Go, without cgo
	sqlite3 "modernc.org/sqlite/lib"
)

// memory is SQLite's own name for a database that is not on disk.
const memory = ":memory:"

// openSQLite opens path with a write-ahead log that is synced at each commit: a
// key that was handed out must survive power loss.
func openSQLite(path string) (*sql.DB, error) {
	q := url.Values{"_pragma": {"busy_timeout(5000)", "foreign_keys(1)", "synchronous(2)"}}
	if path != memory {
		q.Add("_pragma", "journal_mode(wal)")
	}
	return openWith(path, q)
}

// openIndexFile opens a file that can be made anew: after power loss the last commits
// may be gone, and what is there is whole.
func openIndexFile(path, pragma string) (*sql.DB, error) {
	return openWith(path, url.Values{"_pragma": {"busy_timeout(5000)", "synchronous(1)", "journal_mode(wal)", pragma}})
}

// isBroken reports whether err says that a file is damaged, no database, or one with
// other tables; not that it cannot be read or written now.
func isBroken(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	switch e.Code() & 0xff { // extended codes have more above
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR:
		return true
	}
	return false
}

func openWith(path string, q url.Values) (*sql.DB, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one writer; and each connection to :memory: would be a store of its own
	return db, nil
}
