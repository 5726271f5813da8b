package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/sealing"
)

// Revocations are those in force, sealed as a whole under the key-encryption key: who
// writes the database can put back an older list, and can neither add to it nor take
// one out.
type Revocations struct {
	db  *DB
	kek *sealing.Key
}

// revocationsContext binds what is sealed to what it is.
const revocationsContext = "sallyport revocations"

// Revocations returns the list of this store. What one of previous sealed is sealed
// again.
func (d *DB) Revocations(ctx context.Context, kek *sealing.Key, previous []*sealing.Key) (*Revocations, []guard.Revocation, error) {
	r := &Revocations{d, kek}
	var id string
	var sealed []byte
	err := d.db.QueryRowContext(ctx, `SELECT kek, sealed FROM revocations`).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return r, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the revocations: %w", err)
	}
	all := append([]*sealing.Key{kek}, previous...)
	i := slices.IndexFunc(all, func(k *sealing.Key) bool { return k.ID() == id })
	if i < 0 {
		return nil, nil, fmt.Errorf("the revocations were sealed by key-encryption key %s: name it in key_encryption.previous", id)
	}
	text, err := all[i].Open(sealed, []byte(revocationsContext))
	if err != nil {
		return nil, nil, fmt.Errorf("the revocations in the store: %w", err)
	}
	var out []guard.Revocation
	if err := json.Unmarshal(text, &out, json.RejectUnknownMembers(true)); err != nil {
		return nil, nil, fmt.Errorf("the revocations in the store: %w", err)
	}
	if i > 0 {
		err = r.Keep(out)
	}
	return r, out, err
}

// keepTimeout bounds how long it may take to keep the list.
const keepTimeout = 10 * time.Second

// Keep puts all in the place of the list.
func (r *Revocations) Keep(all []guard.Revocation) error {
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	sealed, err := r.kek.Seal(text, []byte(revocationsContext))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
	defer cancel()
	_, err = r.db.db.ExecContext(ctx, `INSERT INTO revocations (one, kek, sealed) VALUES (1, ?, ?)
		ON CONFLICT (one) DO UPDATE SET kek = excluded.kek, sealed = excluded.sealed`, r.kek.ID(), sealed)
	return err
}
