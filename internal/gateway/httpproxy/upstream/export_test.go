package upstream

import "time"

// Health is health.
type Health struct{ h health }

// Failed is failed.
func (h *Health) Failed(now time.Time) time.Duration { return h.h.failed(now) }

// Usable is usable.
func (h *Health) Usable(now time.Time) bool { return h.h.usable(now) }

// Answered is answered.
func (h *Health) Answered() { h.h.answered() }
