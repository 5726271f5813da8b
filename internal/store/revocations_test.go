package store_test

import (
	"database/sql"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/sealing"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// Who writes the database can neither read what is revoked nor change it.
func TestRevocationsAreSealedAsAWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := kek(t, dir)
	db := open(t, dir)
	list, got, err := db.Revocations(t.Context(), old, nil)
	if err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	at := time.Unix(1_800_000_000, 0).UTC()
	want := []guard.Revocation{{ID: "x", Kind: guard.RevokeMember, Value: "user:okta/alice", Reason: "left", At: at, Until: at.Add(time.Hour), Issued: true}}
	for range 2 {
		if err := list.Keep(want); err != nil {
			t.Fatal(err)
		}
	}
	other, err := sealing.NewRandom()
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := db.Revocations(t.Context(), old, nil); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back: %+v, %v", got, err)
	}
	if _, got, err := db.Revocations(t.Context(), other, []*sealing.Key{old}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("sealed again: %+v, %v", got, err)
	}
	if _, got, err := db.Revocations(t.Context(), other, nil); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after it was sealed again: %+v, %v", got, err)
	}
	if _, _, err := db.Revocations(t.Context(), old, nil); err == nil || !strings.Contains(err.Error(), "key_encryption.previous") {
		t.Errorf("with a key that did not seal it: %v", err)
	}
	raw, err := sql.Open("sqlite", store.File(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var sealed []byte
	if err := raw.QueryRow(`SELECT sealed FROM revocations`).Scan(&sealed); err != nil || strings.Contains(string(sealed), "alice") {
		t.Errorf("names can be read: %v", err)
	}
	sealed[len(sealed)/2] ^= 1
	if _, err := raw.Exec(`UPDATE revocations SET sealed = ?`, sealed); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Revocations(t.Context(), other, nil); err == nil || !strings.Contains(err.Error(), "cannot be opened") {
		t.Errorf("a list that was changed: %v", err)
	}
}
