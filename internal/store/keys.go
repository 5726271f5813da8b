package store

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/keys"
)

// ListKeys implements keys.Store.
func (d *DB) ListKeys(ctx context.Context) ([]keys.Sealed, error) {
	rows, err := d.db.QueryContext(ctx, `SELECT id, purpose, algorithm, created, activates, revoked, kek, secret FROM signing_keys ORDER BY created, id`)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	defer rows.Close()
	var out []keys.Sealed
	for rows.Next() {
		var k keys.Sealed
		var created, activates, revoked int64
		if err := rows.Scan(&k.ID, &k.Purpose, &k.Algorithm, &created, &activates, &revoked, &k.KEK, &k.Secret); err != nil {
			return nil, fmt.Errorf("list signing keys: %w", err)
		}
		k.Created, k.Activates, k.Revoked = fromUnix(created), fromUnix(activates), fromUnix(revoked)
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	return out, nil
}

// fromUnix and toUnix write the zero time as 0.
func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// SaveKeys implements keys.Store.
func (d *DB) SaveKeys(ctx context.Context, put []keys.Sealed, drop []string) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("save signing keys: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	for _, k := range put {
		_, err := tx.ExecContext(ctx, `INSERT INTO signing_keys (id, purpose, algorithm, created, activates, revoked, kek, secret)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET activates = excluded.activates, revoked = excluded.revoked, kek = excluded.kek, secret = excluded.secret`,
			k.ID, string(k.Purpose), string(k.Algorithm), toUnix(k.Created), toUnix(k.Activates), toUnix(k.Revoked), k.KEK, k.Secret)
		if err != nil {
			return fmt.Errorf("save signing key %s: %w", k.ID, err)
		}
	}
	for _, id := range drop {
		if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys WHERE id = ?`, id); err != nil {
			return fmt.Errorf("remove signing key %s: %w", id, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("save signing keys: %w", err)
	}
	return nil
}
