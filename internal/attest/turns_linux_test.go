package attest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// Work is done for few at a time, and shared out between uids: one that waits a thousand
// times delays one that waits once by one turn.
func TestTurnsAreSharedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := attest.NewTurns(2)
		for range 2 {
			if err := s.Begin(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		var order []string
		wait := func(ctx context.Context, name string, uid uint32) {
			go func() {
				err := s.Begin(ctx, uid)
				order = append(order, fmt.Sprint(name, err == nil))
				if err == nil {
					s.End()
				}
			}()
			synctest.Wait()
		}
		for i := range 1000 {
			wait(t.Context(), fmt.Sprint("loop", i, " "), 1)
		}
		wait(t.Context(), "one ", 2)
		gone, leave := context.WithCancel(t.Context())
		wait(gone, "gone ", 3)
		wait(t.Context(), "other ", 4)
		leave()
		synctest.Wait()
		if len(order) != 1 || order[0] != "gone false" {
			t.Fatalf("before a turn ended: %v", order)
		}
		s.End()
		synctest.Wait()
		want := []string{"gone false", "loop0 true", "one true", "other true", "loop1 true", "loop2 true"}
		if got := fmt.Sprint(order[:len(want)]); got != fmt.Sprint(want) || len(order) != 1003 {
			t.Errorf("got %d, first %s\nwant %v", len(order), got, want)
		}
		s.End()
		if err := s.Begin(t.Context(), 5); err != nil {
			t.Error(err)
		}
		if err := s.Begin(t.Context(), 5); err != nil {
			t.Error(err)
		}
		none, stop := context.WithCancel(t.Context())
		stop()
		if err := s.Begin(none, 5); err == nil {
			t.Error("three turns at a time")
		}
		if n := s.Waiting(); n != 0 {
			t.Errorf("%d uids are remembered", n)
		}
	})
}
