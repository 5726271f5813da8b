package sink

import "time"

func RetryAfter(text string, now time.Time) time.Duration { return retryAfter(text, now) }

func WriteCursor(path string, next uint64) error { return writeCursor(path, next) }
