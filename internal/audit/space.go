package audit

import (
	"math"
	"sync/atomic"
	"time"
)

// Room says for whom there is room on the log's disk.
type Room int32

const (
	// Plenty is room for everybody.
	Plenty Room = iota
	// Scarce is room for proven callers and operators: less than KeepFree is free.
	Scarce
	// Last is room for operators and the server itself: an eighth of KeepFree is left.
	Last
)

// lastPart is the part of KeepFree that operators have to themselves.
const lastPart = 8

const defaultKeepFree = 1 << 30 // bytes, or a twentieth of a smaller disk

// space is what is known of the disk.
type space struct {
	room atomic.Int32
	free atomic.Int64 // bytes
}

// Room returns for whom there is room. It costs nothing: the disk is asked each second.
func (l *Log) Room() Room { return Room(l.space.room.Load()) }

// survey asks each second how much is free, and each minute whether it is time to make
// the key of the next day: before midnight, when many would wait for it.
func (l *Log) survey() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		l.measure()
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if n%60 != 0 {
			continue
		}
		if now := l.opt.Now(); periodOf(now) != periodOf(now.Add(time.Hour)) {
			_, _ = l.keys.make(periodOf(now.Add(time.Hour))) // whoever needs it says what is wrong
		}
	}
}

func (l *Log) measure() {
	free, total, err := l.opt.space(l.opt.Dir)
	if err != nil { // then there is nothing to go by, and writing says what is wrong
		free, total = math.MaxInt64, math.MaxInt64
	}
	l.space.free.Store(free)
	keep := min(defaultKeepFree, total/20)
	if l.opt.KeepFree != nil {
		keep = int64(*l.opt.KeepFree)
	}
	room := Plenty
	switch {
	case free < keep/lastPart:
		room = Last
	case free < keep:
		room = Scarce
	}
	if was := Room(l.space.room.Swap(int32(room))); was == room {
		return
	}
	switch room {
	case Plenty:
		l.opt.Logger.Info("audit log: the disk has room again", "free", free)
	case Scarce:
		l.opt.Logger.Error("audit log: less than keep_free is left on its disk: refusals of callers who proved nothing are counted, not recorded one by one", "free", free, "keep_free", keep)
	case Last:
		l.opt.Logger.Error("audit log: an eighth of keep_free is left on its disk: only operators and the server itself are served; free some, or prune", "free", free, "keep_free", keep)
	}
}

// Stats are numbers for an operator's graphs.
type Stats struct {
	Entries  uint64 // in the log, those that were pruned included
	Signed   uint64 // of them, how many a checkpoint covers
	Failures uint64 // Appends that failed, since the start
	Waiting  int64  // bytes of Buffered records that are not written yet
	Free     int64  // bytes free on the disk
	Room     Room
}

// Stats returns them. It never waits for the disk.
func (l *Log) Stats() Stats {
	c := &l.counts
	return Stats{c.entries.Load(), c.signed.Load(), c.failures.Load(), c.waiting.Load(), l.space.free.Load(), l.Room()}
}

// counts are what Stats reads.
type counts struct {
	entries, signed, failures atomic.Uint64
	waiting                   atomic.Int64
}
