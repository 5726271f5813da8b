package store

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/keys"
)

// ListKeys implements keys.Store.
func (d *DB) ListKeys(ctx context.Context) ([]keys.Sealed, error) {
	rows, err := d.db.QueryContext(ctx, `SELECT id, purpose, algorithm, created, kek, secret FROM signing_keys ORDER BY created, id`)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	defer rows.Close()
	var out []keys.Sealed
	for rows.Next() {
		var k keys.Sealed
		var created int64
		if err := rows.Scan(&k.ID, &k.Purpose, &k.Algorithm, &created, &k.KEK, &k.Secret); err != nil {
			return nil, fmt.Errorf("list signing keys: %w", err)
		}
		k.Created = time.Unix(created, 0).UTC()
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	return out, nil
}

// AddKey implements keys.Store.
func (d *DB) AddKey(ctx context.Context, k keys.Sealed) error {
	_, err := d.db.ExecContext(ctx, `INSERT INTO signing_keys (id, purpose, algorithm, created, kek, secret) VALUES (?, ?, ?, ?, ?, ?)`,
		k.ID, string(k.Purpose), string(k.Algorithm), k.Created.Unix(), k.KEK, k.Secret)
	if err != nil {
		return fmt.Errorf("add signing key: %w", err)
	}
	return nil
}
