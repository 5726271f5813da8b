package attest_test

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// A port is remembered while a connection from it is open, and for ten minutes after.
func TestPorts(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	p := attest.NewPorts(func() time.Time { return now })
	first, again := p.Open(40000)
	if again {
		t.Error("a new port is known")
	}
	if _, again := p.Open(40001); again {
		t.Error("its neighbour is known")
	}
	second, again := p.Open(40000)
	if !again {
		t.Error("an open one is not known")
	}
	first()
	first() // a second time ends nothing
	now = now.Add(time.Hour)
	if done, again := p.Open(40000); !again {
		t.Error("one that is still open is forgotten")
	} else {
		done()
	}
	now = now.Add(time.Hour)
	second()
	now = now.Add(19 * time.Minute)
	if done, again := p.Open(40000); !again {
		t.Error("one that was open of late is forgotten")
	} else {
		done()
	}
	now = now.Add(20 * time.Minute)
	if _, again := p.Open(40000); again {
		t.Error("one that was closed long ago is known")
	}
}
