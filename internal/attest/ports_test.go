package attest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// A port is remembered while a connection from it is open, and as long as the kernel says
// that a socket is there: from before the listener was, too.
func TestPorts(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	used, failed := []uint16{50000}, error(nil)
	p := attest.NewPorts(func() time.Time { return now }, func() ([]uint16, error) { return used, failed })
	known := func(port uint16) bool {
		done, again := p.Open(port)
		done()
		done() // a second time ends nothing
		return again
	}
	if !known(50000) {
		t.Error("one from before the listener is not known")
	}
	kept, again := p.Open(40000)
	if again || known(40001) {
		t.Error("a new port is known, or its neighbour")
	}
	if !known(40000) || !known(40001) {
		t.Error("one that is open, or was a moment ago, is not known")
	}
	used = []uint16{40001}
	now = now.Add(10 * time.Minute)
	if known(50000) {
		t.Error("one whose socket is gone is known")
	}
	if !known(40000) || !known(40001) {
		t.Error("one that is open here, or has a socket there, is forgotten")
	}
	kept()
	used, failed = nil, errors.New("no answer")
	now = now.Add(time.Hour)
	if !known(40000) || !known(60000) {
		t.Error("when the kernel does not say, one is taken for new")
	}
	failed = nil
	now = now.Add(time.Hour)
	if known(40000) {
		t.Error("one that is gone is known for ever")
	}
}
