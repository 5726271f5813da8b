package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

var errInjected = errors.New("injected: no space left on device")

// faultFS is a disk on which operation number at goes wrong: it is not done, or
// done and reported failed, or (a write) done up to its byte short.
type faultFS struct {
	audit.FS

	mu    sync.Mutex
	at    int    // which operation; -1 none
	only  string // prefix of the operations that count; "" all
	done  bool   // do it, then report failure
	short int    // bytes of a write to do, if not done
	until int    // the last operation that fails; default at
	n     int
	hit   string // the last operation that failed
}

// do counts an operation and runs it, or fails.
func (f *faultFS) do(name string, op func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.HasPrefix(name, f.only) {
		return op()
	}
	n := f.n
	f.n++
	if f.at < 0 || n < f.at || n > max(f.at, f.until) {
		return op()
	}
	f.hit = name
	if f.done {
		if err := op(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, errInjected)
}

func (f *faultFS) MkdirAll(name string) error {
	return f.do("mkdir "+name, func() error { return f.FS.MkdirAll(name) })
}

func (f *faultFS) Remove(name string) error {
	return f.do("remove "+name, func() error { return f.FS.Remove(name) })
}

func (f *faultFS) OpenFile(name string, flag int) (file audit.File, err error) {
	var opened audit.File
	err = f.do("open "+name, func() (err error) {
		opened, err = f.FS.OpenFile(name, flag)
		return err
	})
	if err != nil {
		if opened != nil {
			_ = opened.Close()
		}
		return nil, err
	}
	return faultFile{opened, f, name}, nil
}

func (f *faultFS) Rename(a, b string) error {
	return f.do("rename "+b, func() error { return f.FS.Rename(a, b) })
}

func (f *faultFS) SyncDir(name string) error {
	return f.do("syncdir "+name, func() error { return f.FS.SyncDir(name) })
}

type faultFile struct {
	audit.File
	f    *faultFS
	name string
}

func (w faultFile) WriteAt(b []byte, off int64) (n int, err error) {
	short := false
	err = w.f.do("write "+w.name, func() (err error) {
		short = true
		n, err = w.File.WriteAt(b, off)
		return err
	})
	if err != nil && !short && w.f.short > 0 {
		n, _ = w.File.WriteAt(b[:min(w.f.short, len(b))], off)
	}
	return n, err
}

func (w faultFile) Sync() error {
	return w.f.do("sync "+w.name, func() error { return w.File.Sync() })
}

func (w faultFile) Truncate(n int64) error {
	return w.f.do("truncate "+w.name, func() error { return w.File.Truncate(n) })
}

// scenario opens a log, appends ten records with both durabilities over three
// segments and with a checkpoint between, and closes it. It returns the
// acknowledged records: sequence number to principal.
func scenario(t *testing.T, o audit.Options) map[uint64]string {
	t.Helper()
	acked := map[uint64]string{}
	l, err := audit.Open(o)
	if err != nil {
		return acked
	}
	for i := range 10 {
		d := audit.Written
		if i%3 == 2 {
			d = audit.Synced
		}
		r := record(i)
		seq, err := l.Append(r, d)
		switch {
		case err == nil:
			if before, ok := acked[seq]; ok {
				t.Errorf("sequence number %d was given to %s and %s", seq, before, r.Payload.Principal)
			}
			acked[seq] = r.Payload.Principal
		case !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, errInjected):
			t.Errorf("Append failed with %v", err)
		case l.Health() == nil:
			t.Error("Append failed and Health is well")
		}
		if i == 5 {
			if err := l.Checkpoint(); err != nil && l.Health() == nil {
				t.Errorf("Checkpoint: %v, Health: %v", err, l.Health())
			}
		}
	}
	_ = l.Close()
	return acked
}

// survives checks what a log must be after anything failed: it verifies, opens
// again on a good disk, takes records, and has kept what it acknowledged.
func survives(t *testing.T, o audit.Options, acked map[uint64]string, what string) {
	t.Helper()
	l, err := audit.Open(o)
	if err != nil {
		t.Fatalf("%s: reopening: %v", what, err)
	}
	if _, err := l.Append(record(99), audit.Synced); err != nil {
		t.Errorf("%s: Append after reopening: %v", what, err)
	}
	mustClose(t, l)
	rep := verified(t, o)
	all := readAll(t, o)
	if uint64(len(all)) != rep.Signed || rep.TornBytes != 0 {
		t.Errorf("%s: %d entries, report %+v", what, len(all), rep)
	}
	for seq, principal := range acked {
		if seq >= uint64(len(all)) || all[seq].State != "open" || all[seq].Payload.Principal != principal {
			t.Errorf("%s: acknowledged record %d of %s is not in the log", what, seq, principal)
		}
	}
}

// TestEveryOperationFails breaks each operation on the disk once, in turn.
func TestEveryOperationFails(t *testing.T) {
	t.Parallel()
	for _, mode := range []*faultFS{{}, {done: true}, {short: 7}, {until: 1 << 30}, {until: 1 << 30, done: true}} {
		t.Run(fmt.Sprintf("done %v, short %d, for good %v", mode.done, mode.short, mode.until > 0), func(t *testing.T) {
			t.Parallel()
			kinds := map[string]bool{}
			for at := 0; ; at++ {
				o := newOptions(t)
				good := o
				fs := &faultFS{FS: audit.Disk(), at: at, done: mode.done, short: mode.short, until: mode.until}
				o.SetFS(fs)
				acked := scenario(t, o)
				if fs.hit == "" {
					if len(acked) != 10 {
						t.Errorf("nothing failed and %d of 10 records were acknowledged", len(acked))
					}
					break
				}
				kind, _, _ := strings.Cut(fs.hit, " ")
				kinds[kind] = true
				survives(t, good, acked, fmt.Sprintf("operation %d, %s", at, fs.hit))
			}
			if len(kinds) < 5 {
				t.Errorf("only %v were broken", kinds)
			}
		})
	}
}

// eager is a disk that has synced everything before it is asked.
type eager struct{ audit.FS }

func (eager) SyncDir(string) error { return nil }

func (f eager) OpenFile(name string, flag int) (audit.File, error) {
	file, err := f.FS.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return eagerFile{file}, nil
}

type eagerFile struct{ audit.File }

func (eagerFile) Sync() error { return nil }

// TestShortWriteAtEveryByte cuts one frame's write short everywhere, once with and
// once without a truncate that works.
func TestShortWriteAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, until := range []int{0, 1} { // 1: the truncate after it fails, too
		whole := false
		for short := 1; !whole; short++ {
			o := newOptions(t)
			good := o
			good.SetFS(eager{audit.Disk()})
			// operations on segments of the first log: open, two writes, then ours
			fs := &faultFS{FS: eager{audit.Disk()}, at: 1 << 30, short: short}
			o.SetFS(fs)
			l := open(t, o)
			appendN(t, l, 0, 2)
			size := len(readFile(t, o.Dir, seg(0)))
			fs.mu.Lock()
			fs.at = fs.n
			fs.until = fs.n + until
			fs.mu.Unlock()
			if _, err := l.Append(record(2), audit.Written); !errors.Is(err, audit.ErrUnavailable) {
				t.Fatalf("short %d: %v", short, err)
			}
			if b := readFile(t, o.Dir, seg(0)); until == 0 && len(b) != size {
				t.Errorf("short %d: %d bytes were left behind the last record", short, len(b)-size)
			}
			whole = short > size/2+8 // frames are alike but for the sequence number
			acked := map[uint64]string{0: "serviceAccount:n0", 1: "serviceAccount:n1"}
			seq, err := l.Append(record(3), audit.Synced)
			switch {
			case until == 0 && (err != nil || l.Health() != nil):
				t.Fatalf("short %d: the log did not recover: %v, %v", short, err, l.Health())
			case until == 1 && !errors.Is(err, audit.ErrUnavailable):
				t.Fatalf("short %d: a record was written behind a torn one: %v", short, err)
			case err == nil:
				acked[seq] = "serviceAccount:n3"
			}
			_ = l.Close()
			survives(t, good, acked, fmt.Sprintf("short %d, truncate fails %v", short, until == 1))
		}
	}
}

func TestFullDiskRecovers(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	var out bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&out, nil))
	fs := &faultFS{FS: audit.Disk(), at: -1, only: "write " + o.Dir + "/segments"}
	o.SetFS(fs)
	l := open(t, o)
	appendN(t, l, 0, 2)
	fs.mu.Lock()
	fs.at, fs.until = fs.n, fs.n+4
	fs.mu.Unlock()
	for range 5 {
		if _, err := l.Append(record(9), audit.Written); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, errInjected) {
			t.Fatalf("got %v", err)
		}
		if !errors.Is(l.Health(), audit.ErrUnavailable) {
			t.Errorf("Health() = %v", l.Health())
		}
	}
	appendN(t, l, 2, 4)
	if l.Health() != nil {
		t.Errorf("Health() = %v", l.Health())
	}
	mustClose(t, l)
	if rep := verified(t, o); rep.Signed != 6 {
		t.Errorf("report %+v", rep)
	}
	if strings.Count(out.String(), "level=ERROR") != 1 || strings.Count(out.String(), "written again") != 1 {
		t.Errorf("five failures were logged as\n%s", out.String())
	}
}

// After a failed fdatasync nothing may be acknowledged, although the disk says
// that it is well again.
func TestFailedSyncBreaksTheLog(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		o := newOptions(t)
		good := o
		fs := &faultFS{FS: audit.Disk(), only: "sync " + o.Dir + "/segments", done: done}
		o.SetFS(fs)
		l := open(t, o)
		appendN(t, l, 0, 1)
		for i := range 3 {
			if _, err := l.Append(record(1), audit.Synced); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("Append %d: %v", i, err)
			}
		}
		if l.Size() != 2 || !errors.Is(l.Checkpoint(), audit.ErrUnavailable) {
			t.Errorf("size %d, checkpoint %v", l.Size(), l.Checkpoint())
		}
		if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Close() = %v", err)
		}
		survives(t, good, map[uint64]string{0: "serviceAccount:n0"}, "failed sync")
	}
}

func TestFailedCheckpointIsRetried(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"rename ", "write ", "sync "} {
		for _, done := range []bool{false, true} {
			o := newOptions(t)
			name := o.Dir + "/checkpoint.tmp"
			if op == "rename " {
				name = o.Dir + "/checkpoint"
			}
			fs := &faultFS{FS: audit.Disk(), at: -1, only: op + name, done: done}
			o.SetFS(fs)
			l := open(t, o)
			appendN(t, l, 0, 3)
			fs.mu.Lock()
			fs.at = fs.n
			fs.mu.Unlock()
			if err := l.Checkpoint(); !errors.Is(err, errInjected) || !errors.Is(l.Health(), errInjected) {
				t.Fatalf("%s: Checkpoint: %v, Health: %v", op, err, l.Health())
			}
			if err := l.Checkpoint(); err != nil || l.Health() != nil {
				t.Errorf("%s: second Checkpoint: %v, Health: %v", op, err, l.Health())
			}
			if rep := verified(t, o); rep.Signed != 3 {
				t.Errorf("%s: report after the second Checkpoint: %+v", op, rep)
			}
			appendN(t, l, 3, 1)
			mustClose(t, l)
			if rep := verified(t, o); rep.Signed != 4 {
				t.Errorf("report %+v", rep)
			}
		}
	}
}

// A period key whose name may not survive a power cut is used for nothing.
func TestPeriodKeyIsDurableFirst(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	fs := &faultFS{FS: audit.Disk(), until: 2, done: true, only: "syncdir " + o.Dir + "/periods"}
	o.SetFS(fs)
	l := open(t, o)
	for i := range 2 { // the first finds no key, the second one that is not durable
		fs.mu.Lock()
		fs.n = 0
		fs.mu.Unlock()
		if _, err := l.Append(record(0), audit.Written); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Append %d: %v", i, err)
		}
	}
	fs.mu.Lock()
	fs.at = -1
	fs.mu.Unlock()
	appendN(t, l, 0, 1)
	mustClose(t, l)
	if rep := verified(t, o); rep.Open != 1 {
		t.Errorf("report %+v", rep)
	}
}
