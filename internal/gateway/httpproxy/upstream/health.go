package upstream

import (
	"sync"
	"time"
)

const (
	failuresOut = 3                // in a row take a server out
	outFirst    = time.Second      // for how long at first; doubled by each further one
	outMost     = 30 * time.Second // at most
)

// health is what was seen of one server (passive: nobody asks for it).
type health struct {
	hmu      sync.Mutex
	failures int // in a row
	until    time.Time
}

// usable reports whether a request may go there. After its time out a server gets one
// request a second until one is answered.
func (h *health) usable(now time.Time) bool {
	h.hmu.Lock()
	defer h.hmu.Unlock()
	if h.failures < failuresOut {
		return true
	}
	if now.Before(h.until) {
		return false
	}
	h.until = now.Add(outFirst)
	return true
}

// failed counts a failure and reports for how long the server is out, 0 if it is not.
func (h *health) failed(now time.Time) time.Duration {
	h.hmu.Lock()
	defer h.hmu.Unlock()
	h.failures++
	if h.failures < failuresOut {
		return 0
	}
	out := outMost
	if n := h.failures - failuresOut; n < 5 {
		out = min(outMost, outFirst<<n)
	}
	h.until = now.Add(out)
	return out
}

func (h *health) answered() {
	h.hmu.Lock()
	h.failures = 0
	h.hmu.Unlock()
}
