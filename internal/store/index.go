package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit/search"
)

// IndexFile is where the index of a data_dir's audit log lies. It is derived from the
// log and may be deleted while no server runs.
func IndexFile(dataDir string) string { return filepath.Join(dataDir, "index.db") }

// An Index is a search.Index in a file of its own.
type Index struct{ db *sql.DB }

// indexSchema is not migrated: an index of another version is made anew.
const indexSchema = 2

// indexTables keep each text once, and in how many columns of rows it is, so that it goes
// with the last of them: it may be a name. Times are nanoseconds since 1970.
func indexTables() []string {
	return []string{
		`CREATE TABLE version (version INTEGER NOT NULL)`,
		`CREATE TABLE state (origin TEXT NOT NULL, next BIGINT NOT NULL, head BLOB, size BIGINT NOT NULL)`,
		`CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, uses BIGINT NOT NULL)`,
		`CREATE TABLE bundles (number BIGINT PRIMARY KEY, first BIGINT NOT NULL, last BIGINT NOT NULL)`,
		`CREATE INDEX bundles_by_time ON bundles (last, first)`,
		`CREATE TABLE marks (number BIGINT PRIMARY KEY, bits BLOB NOT NULL)`,
		`CREATE TABLE bundle_rows (number BIGINT NOT NULL, principal INTEGER NOT NULL, service INTEGER NOT NULL,
			action INTEGER NOT NULL, decision INTEGER NOT NULL, rule INTEGER NOT NULL, count BIGINT NOT NULL, places BLOB NOT NULL)`,
		`CREATE INDEX bundle_rows_by_number ON bundle_rows (number)`,
		`CREATE INDEX bundle_rows_by_principal ON bundle_rows (principal, number)`,
	}
}

// OpenIndex opens the index of a data_dir for writing. One that is damaged or of another
// version is made anew: there is nothing in it that the log does not say. One that only
// cannot be reached now, such as for want of descriptors, is left alone: it is what tells
// a log that was set back.
func OpenIndex(ctx context.Context, dataDir string) (*Index, error) {
	path := IndexFile(dataDir)
	x, err := openIndex(ctx, path)
	if !IsUnusable(err) {
		return x, err
	}
	if err := RemoveIndex(dataDir); err != nil {
		return nil, err
	}
	return openIndex(ctx, path)
}

// RemoveIndex deletes the index of a data_dir, which no server may have open.
func RemoveIndex(dataDir string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(IndexFile(dataDir) + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the index: %w", err)
		}
	}
	return nil
}

// ReadIndex opens the index beside a running server; os.ErrNotExist if there is none.
func ReadIndex(ctx context.Context, dataDir string) (*Index, error) {
	if _, err := os.Stat(IndexFile(dataDir)); err != nil {
		return nil, err
	}
	db, err := openIndexFile(IndexFile(dataDir), "query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("open the index: %w", err)
	}
	if err := checkIndex(ctx, db); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open the index: %w", err)
	}
	return &Index{db}, nil
}

func openIndex(ctx context.Context, path string) (*Index, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the index: %w", err)
	}
	_ = f.Close()
	// what is deleted is overwritten: it may be a name that is to be forgotten
	db, err := openIndexFile(path, "secure_delete(1)")
	if err != nil {
		return nil, fmt.Errorf("open the index: %w", err)
	}
	if err = checkIndex(ctx, db); errors.Is(err, errNoTables) {
		err = makeIndex(ctx, db)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open the index: %w", err)
	}
	return &Index{db}, nil
}

var (
	errNoTables = errors.New("it is empty")
	errVersion  = errors.New("it is of version")
)

// IsUnusable reports whether err is of an index that no later try could use: it is
// damaged or of another version.
func IsUnusable(err error) bool { return errors.Is(err, errVersion) || isBroken(err) }

func checkIndex(ctx context.Context, db *sql.DB) error {
	var n int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_master`).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return errNoTables
	}
	if err := db.QueryRowContext(ctx, `SELECT version FROM version`).Scan(&n); err != nil {
		return err
	}
	if n != indexSchema {
		return fmt.Errorf("%w %d, this program knows %d", errVersion, n, indexSchema)
	}
	_, err := (&Index{db}).State(ctx)
	return err
}

func makeIndex(ctx context.Context, db *sql.DB) error {
	return inTransaction(ctx, db, func(tx *sql.Tx) error {
		for _, t := range indexTables() {
			if _, err := tx.ExecContext(ctx, t); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO version (version) VALUES (?)`, indexSchema)
		return err
	})
}

func inTransaction(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Close closes the index.
func (x *Index) Close() error { return x.db.Close() }

// State implements search.Index.
func (x *Index) State(ctx context.Context) (s search.State, err error) {
	err = x.db.QueryRowContext(ctx, `SELECT origin, next, head, size FROM state`).Scan(&s.Origin, &s.Next, &s.Head, &s.Size)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	return s, err
}

// Add implements search.Index.
func (x *Index) Add(ctx context.Context, s search.State, bundles []search.Summary) error {
	return inTransaction(ctx, x.db, func(tx *sql.Tx) error {
		t := texts{tx: tx, ids: map[string]int64{}, uses: map[int64]int64{}}
		for _, b := range bundles {
			if _, err := tx.ExecContext(ctx, `INSERT INTO bundles (number, first, last) VALUES (?, ?, ?)`, b.Number, nanoseconds(b.First), nanoseconds(b.Last)); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO marks (number, bits) VALUES (?, ?)`, b.Number, b.Marks); err != nil {
				return err
			}
			if err := t.addRows(ctx, &b); err != nil {
				return err
			}
		}
		if err := t.count(ctx); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM state`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO state (origin, next, head, size) VALUES (?, ?, ?, ?)`, s.Origin, s.Next, s.Head, s.Size)
		return err
	})
}

// texts finds and makes the ids of texts, and counts them, within one transaction.
type texts struct {
	tx   *sql.Tx
	ids  map[string]int64
	uses map[int64]int64 // by id, in how many more columns of rows it is
}

func (t *texts) addRows(ctx context.Context, b *search.Summary) error {
	insert, err := t.tx.PrepareContext(ctx, `INSERT INTO bundle_rows (number, principal, service, action, decision, rule, count, places) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer insert.Close()
	for _, r := range b.Rows {
		args := [8]any{b.Number, 6: r.Count, 7: r.At[:]}
		for i, text := range []string{r.Principal, r.Service, r.Action, r.Decision, r.Rule} {
			if args[1+i], err = t.id(ctx, text); err != nil {
				return err
			}
		}
		if _, err := insert.ExecContext(ctx, args[:]...); err != nil {
			return err
		}
	}
	return nil
}

// id returns the id of a text that is in one more column.
func (t *texts) id(ctx context.Context, text string) (int64, error) {
	id, ok := t.ids[text]
	if !ok {
		if _, err := t.tx.ExecContext(ctx, `INSERT INTO texts (text, uses) VALUES (?, 0) ON CONFLICT DO NOTHING`, text); err != nil {
			return 0, err
		}
		if err := t.tx.QueryRowContext(ctx, `SELECT id FROM texts WHERE text = ?`, text).Scan(&id); err != nil {
			return 0, err
		}
		t.ids[text] = id
	}
	t.uses[id]++
	return id, nil
}

// count writes down in how many columns each text is, and removes those that are in none.
func (t *texts) count(ctx context.Context) error {
	for id, n := range t.uses {
		if _, err := t.tx.ExecContext(ctx, `UPDATE texts SET uses = uses + ? WHERE id = ?`, n, id); err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		if _, err := t.tx.ExecContext(ctx, `DELETE FROM texts WHERE id = ? AND uses = 0`, id); err != nil {
			return err
		}
	}
	return nil
}

// fewer counts the texts in one column of rows that are to go.
func (t *texts) fewer(ctx context.Context, column string, before int64) error {
	rows, err := t.tx.QueryContext(ctx, `SELECT `+column+`, COUNT(*) FROM bundle_rows WHERE number < ? GROUP BY 1`, before)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, n int64
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		t.uses[id] -= n
	}
	return rows.Err()
}

// Forget implements search.Index.
func (x *Index) Forget(ctx context.Context, before uint64) error {
	end := int64(min(before, math.MaxInt64))
	var first sql.NullInt64
	if err := x.db.QueryRowContext(ctx, `SELECT MIN(number) FROM bundles`).Scan(&first); err != nil || !first.Valid || first.Int64 >= end {
		return err
	}
	err := inTransaction(ctx, x.db, func(tx *sql.Tx) error {
		t := texts{tx: tx, uses: map[int64]int64{}}
		for _, column := range []string{"principal", "service", "action", "decision", "rule"} {
			if err := t.fewer(ctx, column, end); err != nil {
				return err
			}
		}
		for _, table := range []string{"bundles", "marks", "bundle_rows"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE number < ?`, end); err != nil {
				return err
			}
		}
		return t.count(ctx)
	})
	if err != nil {
		return err
	}
	// the names would stay in the write-ahead log until it is written over
	_, err = x.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

// Bundles implements search.Index.
func (x *Index) Bundles(ctx context.Context, q *search.Query, marks bool) iter.Seq2[search.Found, error] {
	where, args := times(q, false)
	places, bits, from := "NULL", "NULL", "bundles b"
	if rows, more := rowConditions(q); len(more) > 0 {
		places, from, where, args = "r.places", from+" JOIN bundle_rows r ON r.number = b.number", where+" AND "+rows, append(args, more...)
	}
	if marks {
		bits, from = "m.bits", from+" JOIN marks m ON m.number = b.number"
	}
	text := `SELECT b.number, b.first, b.last, ` + places + `, ` + bits + ` FROM ` + from + ` WHERE ` + where + ` ORDER BY b.number`
	return func(yield func(search.Found, error) bool) {
		rows, err := x.db.QueryContext(ctx, text, args...)
		if err != nil {
			yield(search.Found{}, err)
			return
		}
		defer rows.Close()
		var last *search.Found // whose rows may go on
		for rows.Next() {
			f, err := scanFound(rows)
			if err != nil {
				yield(search.Found{}, err)
				return
			}
			if last != nil && last.Number == f.Number {
				last.At.Join(f.At)
				continue
			}
			if last != nil && !yield(*last, nil) {
				return
			}
			last = f
		}
		switch err := rows.Err(); {
		case err != nil:
			yield(search.Found{}, err)
		case last != nil:
			yield(*last, nil)
		}
	}
}

func scanFound(rows *sql.Rows) (*search.Found, error) {
	var f search.Found
	var first, last int64
	var places []byte
	if err := rows.Scan(&f.Number, &first, &last, &places, &f.Marks); err != nil {
		return nil, err
	}
	f.First, f.Last = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
	if places != nil {
		f.At = new(search.Places)
		if len(places) != len(f.At) {
			return nil, fmt.Errorf("the places of bundle %d are %d bytes", f.Number, len(places))
		}
		copy(f.At[:], places)
	}
	return &f, nil
}

// Sum implements search.Index.
func (x *Index) Sum(ctx context.Context, q *search.Query, by string, first, end uint64) (out []search.Count, err error) {
	column := "0" // one group of all
	if by != "" {
		column = "r." + by // one of the columns below: search knows no other
	}
	where, args := times(q, true)
	rowsWhere, rowsArgs := rowConditions(q)
	rows, err := x.db.QueryContext(ctx, `SELECT COALESCE((SELECT text FROM texts WHERE id = g), ''), n FROM (
		SELECT `+column+` AS g, SUM(r.count) AS n FROM bundle_rows r WHERE r.number >= ? AND r.number < ?
			AND r.number IN (SELECT b.number FROM bundles b WHERE `+where+`) AND `+rowsWhere+` GROUP BY g)`, append(append([]any{first, end}, args...), rowsArgs...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c search.Count
		if err := rows.Scan(&c.Value, &c.Count); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// times says in SQL which bundles overlap q's time, or, if whole, lie within it.
func times(q *search.Query, whole bool) (where string, args []any) {
	all := []string{"1 = 1"}
	and := func(cond string, more ...any) { all, args = append(all, cond), append(args, more...) }
	early, late := "b.last", "b.first"
	if whole {
		early, late = late, early
	}
	if !q.From.IsZero() {
		and(early+" >= ?", nanoseconds(q.From))
	}
	if !q.To.IsZero() {
		and(late+" <= ?", nanoseconds(q.To))
	}
	return strings.Join(all, " AND "), args
}

// nanoseconds writes a time; what is out of the range of 64 bits is as far as they go.
func nanoseconds(t time.Time) int64 {
	switch s := t.Unix(); {
	case s >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	case s <= math.MinInt64/int64(time.Second):
		return math.MinInt64
	}
	return t.UnixNano()
}

// rowConditions says in SQL which rows fit q's columns.
func rowConditions(q *search.Query) (where string, args []any) {
	all := []string{"1 = 1"}
	for _, c := range []struct{ column, value string }{
		{"principal", q.Principal}, {"service", q.Service}, {"action", q.Action}, {"decision", q.Decision}, {"rule", q.Rule},
	} {
		family, many := strings.CutSuffix(c.value, ".*")
		switch {
		case c.value == "":
		case many && c.column == "action": // "/" follows "." in every order of bytes
			all, args = append(all, "r.action IN (SELECT id FROM texts WHERE text >= ? AND text < ?)"), append(args, family+".", family+"/")
		default:
			all, args = append(all, "r."+c.column+" = (SELECT id FROM texts WHERE text = ?)"), append(args, c.value)
		}
	}
	return strings.Join(all, " AND "), args
}
