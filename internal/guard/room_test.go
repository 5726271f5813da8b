package guard_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// With little room on the log's disk, what strangers are refused is counted; with next
// to none only operators and the server itself are recorded, and so served.
func TestRoomIsForWhoIsProven(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, policy.Config{Policies: []policy.Rule{allowOrders()}}, audit.Written, 1000)
	raw := w.bearer(t, nil)
	operator := guard.Attempt{Action: "admin.audit.prune", Credentials: []guard.Credential{guard.LocalUser(attest.Conn{})}}
	for _, tt := range []struct {
		room                        audit.Room
		stranger, call, note, admin bool // whether each has a record of its own
	}{
		{audit.Plenty, true, true, true, true},
		{audit.Scarce, false, true, true, true},
		{audit.Last, false, false, true, true},
	} {
		w.room.Store(int32(tt.room))
		recorded := func(do func()) bool {
			before := w.size(t)
			do()
			return w.size(t) == before+1
		}
		if got := recorded(func() {
			_, err := w.Admit(t.Context(), get("", "/v1/x"))
			if f := fault.Of(err); err == nil || (f.Decision != "") != tt.stranger {
				t.Errorf("room %d: a stranger hears %v of %q", tt.room, err, f.Decision)
			}
		}); got != tt.stranger {
			t.Errorf("room %d: a stranger's refusal is recorded: %v", tt.room, got)
		}
		if got := recorded(func() {
			pass, err := w.Admit(t.Context(), get(raw, "/v1/x"))
			if (err == nil) != tt.call || (pass != nil) != tt.call || err != nil && fault.Of(err).Code != fault.Busy {
				t.Errorf("room %d: a call: %v", tt.room, err)
			}
		}); got != tt.call {
			t.Errorf("room %d: a call is recorded: %v", tt.room, got)
		}
		if got := recorded(func() { _ = w.Note(t.Context(), guard.Event{Action: "keys.rotate"}) }); got != tt.note {
			t.Errorf("room %d: an event is recorded: %v", tt.room, got)
		}
		if got := recorded(func() { _, _ = w.Admit(t.Context(), operator) }); got != tt.admin {
			t.Errorf("room %d: an operator is recorded: %v", tt.room, got)
		}
	}
}

// Only what a role marks as a read, and was allowed, may wait in memory.
func TestBufferedIsForReads(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, policy.Config{
		Roles:    map[string]policy.Role{"editor": {Actions: []string{"http.get", "http.post"}, Reads: []string{"http.get"}}},
		Policies: []policy.Rule{{Name: "edit", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"}, Role: "editor", When: `under(request.path, "/v1")`}},
	}, audit.Buffered)
	raw := w.bearer(t, nil)
	for _, tt := range []struct {
		action, path string
		want         audit.Durability
	}{
		{"http.get", "/v1/x", audit.Buffered},
		{"http.post", "/v1/x", audit.Written},
		{"http.get", "/v2", audit.Written}, // refused
	} {
		a := get(raw, tt.path)
		a.Action = tt.action
		_, _ = w.Admit(t.Context(), a)
		if got := w.durability.Load(); got != tt.want {
			t.Errorf("%s %s is %v, want %v", tt.action, tt.path, got, tt.want)
		}
	}
}
