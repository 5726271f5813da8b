package policy_test

import (
	"maps"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

func TestRecorded(t *testing.T) {
	t.Parallel()
	if got := policy.Recorded(nil); got != nil {
		t.Errorf("no variables: %v", got)
	}
	want := map[string]string{"request.method": "GET", "request.path": "/a", "request.host": "h"}
	if got := policy.Recorded(policy.HTTP{Method: "GET", Path: "/a", Host: "h"}); !maps.Equal(got, want) {
		t.Errorf("HTTP: %v, want %v", got, want)
	}
	if got := policy.Recorded(policy.Mint{Audience: "x"}); !maps.Equal(got, map[string]string{"mint.audience": "x"}) {
		t.Errorf("Mint: %v", got)
	}
}
