package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

const (
	flushEvery  = 100 * time.Millisecond // how long a Buffered record may wait
	maxWaiting  = 1 << 20                // bytes of them
	reserveStep = 16                     // numbers
	reserveSize = 8 + 4                  // bytes of the file: the number and its checksum
)

// reservation is the file that says which numbers may have been given to Buffered
// records, so that a number whose record is lost is never given to another.
type reservation struct {
	file file
	end  uint64 // numbers below it may have been given out
}

// cover makes sure that seq is below the end before it is given out.
func (r *reservation) cover(seq uint64) error {
	if seq < r.end {
		return nil
	}
	return r.set(seq + reserveStep)
}

func (r *reservation) set(end uint64) error {
	var b [reserveSize]byte
	binary.BigEndian.PutUint64(b[:], end)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	if _, err := r.file.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("reserve numbers: %w", err)
	}
	r.end = end
	return nil
}

// readReservation returns the end that dir's file says, 0 if there is none.
func readReservation(dir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, reservedFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(b) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != reserveSize || crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return 0, &Bad{File: reservedFile, What: "is not what the log writes: if no service is buffered, delete it"}
	}
	return binary.BigEndian.Uint64(b), nil
}

// openReservation opens the file for writing and makes an entry of kind Gap for each
// number that was given out and whose record is lost. Called before the log is used.
func (l *Log) openReservation() error {
	end, err := readReservation(l.opt.Dir)
	if err != nil {
		return err
	}
	f, err := l.opt.fs.OpenFile(filepath.Join(l.opt.Dir, reservedFile), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	l.reserve = reservation{file: f, end: end}
	if end <= l.tree.size {
		return nil
	}
	if end-l.tree.size > maxWaiting {
		return &Bad{File: reservedFile, Seq: l.tree.size, What: fmt.Sprintf("says that numbers below %d were given out, the log ends before %d: it was rolled back or cut; %s", end, l.tree.size, advice)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.tree.size < end {
		b := &buffer{done: make(chan outcome, 1)}
		if err := b.encode(&Record{Kind: Gap, Payload: Payload{Action: "log.gap",
			Detail: "a process was killed: this number may have been given to a record that was waiting in memory"}}, Written); err != nil {
			return err
		}
		l.writeAll([]*buffer{b})
		if o := <-b.done; o.err != nil {
			return fmt.Errorf("record what a killed process lost: %w", o.err)
		}
		l.lost++
	}
	l.opt.Logger.Warn("audit log: a killed process may have lost buffered records", "numbers", l.lost, "before", end)
	return nil
}

// flush writes what Buffered records wait for, every 100 ms.
func (l *Log) flush() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.flushOnce()
		}
	}
}

func (l *Log) flushOnce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.broken != nil || len(l.waiting) == 0 && l.reserve.end <= l.tree.size {
		return
	}
	defer l.stall.begin(&l.stall.writing)()
	err := l.writeOut()
	if err == nil {
		err = l.settleReservation()
	}
	if err != nil {
		_ = l.failed(err) // the alarm is all there is to do; the next tick tries again
	}
}

// settleReservation takes back what was reserved and is not needed: all that was
// given out is written. Called with mu held.
func (l *Log) settleReservation() error {
	if l.reserve.end <= l.tree.size {
		return nil
	}
	return l.reserve.set(l.tree.size)
}
