// Package store keeps what must survive a restart and is not the audit log, in
// database/sql. There is one file for each consumer, which declares the
// interface; sqlite.go is the only file that knows a dialect (PostgreSQL comes
// with several replicas).
package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Config is decoded from the "store" section of the file.
type Config struct {
	// URL says where: "sqlite:" (default) is the file sallyport.db in data_dir,
	// "sqlite:PATH" another file, "sqlite::memory:" nothing on disk.
	URL string `yaml:"url,omitempty"`
}

// Complete fills defaults and reports every mistake.
func (c *Config) Complete() error {
	if c.URL == "" {
		c.URL = "sqlite:"
	}
	if !strings.HasPrefix(c.URL, "sqlite:") {
		return fmt.Errorf("url: %q: this version stores in SQLite: write \"sqlite:\" or \"sqlite:PATH\"", c.URL)
	}
	return nil
}

// File is where the default store of a data_dir lies.
func File(dataDir string) string { return filepath.Join(dataDir, "sallyport.db") }

// A DB is an open store with its tables at this version's schema.
type DB struct{ db *sql.DB }

// Open opens the store that c names and brings its tables up to date. The file is
// made readable by its owner only.
func Open(ctx context.Context, c Config, dataDir string) (*DB, error) {
	path := strings.TrimPrefix(c.URL, "sqlite:")
	if path == "" {
		path = File(dataDir)
	}
	if path != memory {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		_ = f.Close()
	}
	db, err := openSQLite(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if err := migrate(ctx, db); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return &DB{db}, nil
}

// Close closes the store.
func (d *DB) Close() error { return d.db.Close() }

// migrations are run in order, each once and whole; their number is the schema's
// version. One that has landed is never edited.
func migrations() []string {
	return []string{
		`CREATE TABLE signing_keys (
			id TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL,
			created BIGINT NOT NULL, kek TEXT NOT NULL, secret BLOB NOT NULL)`,
		`ALTER TABLE signing_keys ADD COLUMN activates BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE signing_keys ADD COLUMN revoked BIGINT NOT NULL DEFAULT 0`,
		`CREATE TABLE revocations (one INTEGER PRIMARY KEY CHECK (one = 1), kek TEXT NOT NULL, sealed BLOB NOT NULL)`,
	}
}

func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)`); err != nil {
		return err
	}
	have, steps := 0, migrations()
	if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_version`).Scan(&have); err != nil {
		return err
	}
	if have > len(steps) {
		return fmt.Errorf("its schema is version %d, made by a newer program; this one knows %d", have, len(steps))
	}
	for i, step := range steps[have:] {
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return fmt.Errorf("schema version %d: %w", have+i+1, err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version) VALUES (?)`, have+i+1); err != nil {
			return err
		}
	}
	return tx.Commit()
}
