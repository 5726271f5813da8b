package guard_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Nobody gets a pass who was decided about before, and recorded after, something took
// that back: it is said to be in force.
func TestAnAttemptIsOvertaken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, reason string
		code         fault.Code
		do           func(*testing.T, *live)
	}{
		{"by a revocation", "revoked", fault.Unproven, func(t *testing.T, l *live) {
			if _, _, err := l.Revoke(guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:orders"}); err != nil {
				t.Error(err)
			}
		}},
		{"by other rules", "policy_changed", fault.Denied, func(t *testing.T, l *live) { l.reload(t, policy.Config{}, nil) }},
		{"by the server's end", "shutting_down", fault.Busy, func(_ *testing.T, l *live) { l.Guard.Close() }},
		{"by nothing that concerns it", "", "", func(t *testing.T, l *live) {
			if _, _, err := l.Revoke(guard.Revocation{Kind: guard.RevokeMember, Value: "serviceAccount:reports"}); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLive(t, twoRules())
			before := l.Live()
			l.meanwhile = func() { l.meanwhile = nil; tt.do(t, l) }
			p, err := l.Admit(t.Context(), socket(l.bearer(t, map[string]any{"sub": "spiffe://test/sa/orders"})))
			if tt.reason == "" {
				if err != nil || p.Err() != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("it is let in")
			}
			f := fault.Of(err)
			if e := l.last(t); f.Code != tt.code || f.Decision == "" || e.Kind != audit.Close || e.Payload.Reason != tt.reason {
				t.Errorf("got %+v, the last record is %v %+v", f, e.Kind, e.Payload)
			}
			if n := l.Live(); n > before {
				t.Errorf("%d are live, before %d", n, before)
			}
		})
	}
}
