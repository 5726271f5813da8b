package audit_test

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func benchLog(b *testing.B) *audit.Log {
	b.Helper()
	o := newOptions(b)
	o.SetSegment(64 * 256)
	o.Checkpoint, o.Now = time.Second, time.Now
	b.ReportAllocs()
	return open(b, o)
}

func benchAppend(b *testing.B, d audit.Durability) {
	l, r := benchLog(b), record(1)
	for b.Loop() {
		if _, err := l.Append(r, d); err != nil {
			b.Fatal(err)
		}
	}
}

func benchAppendParallel(b *testing.B, d audit.Durability) {
	l, r := benchLog(b), record(1)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Append(r, d); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkAppendWritten(b *testing.B)         { benchAppend(b, audit.Written) }
func BenchmarkAppendSynced(b *testing.B)          { benchAppend(b, audit.Synced) }
func BenchmarkAppendWrittenParallel(b *testing.B) { benchAppendParallel(b, audit.Written) }
func BenchmarkAppendSyncedParallel(b *testing.B)  { benchAppendParallel(b, audit.Synced) }
