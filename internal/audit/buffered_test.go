package audit_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func appendAs(tb testing.TB, l *audit.Log, i int, d audit.Durability) {
	tb.Helper()
	if seq, err := l.Append(record(i), d); err != nil || seq != uint64(i) {
		tb.Fatalf("Append(%d) = %d, %v", i, seq, err)
	}
}

func TestBufferedRecordsWaitAndKeepTheirPlace(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	l := open(t, o)
	appendAs(t, l, 0, audit.Buffered)
	appendAs(t, l, 1, audit.Buffered)
	if l.Stats().Waiting == 0 && len(readAll(t, o)) < 2 { // unless 100 ms have passed
		t.Error("nothing waits, and nothing is written")
	}
	appendAs(t, l, 2, audit.Written) // takes them along
	if all := readAll(t, o); len(all) != 3 || l.Stats().Waiting != 0 {
		t.Errorf("%d entries are written, %d bytes wait", len(all), l.Stats().Waiting)
	}
	appendAs(t, l, 3, audit.Buffered)
	appendAs(t, l, 4, audit.Synced)
	appendAs(t, l, 5, audit.Buffered)
	mustSign(t, l)
	if rep := verified(t, o); rep.Signed != 6 {
		t.Errorf("report %+v", rep)
	}
	for i := 6; i < 300; i++ { // across the end of a segment
		appendAs(t, l, i, audit.Buffered)
	}
	for deadline := time.Now().Add(10 * time.Second); len(readAll(t, o)) < 300; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what waits is not written by itself")
		}
	}
	appendAs(t, l, 300, audit.Buffered)
	mustClose(t, l)
	if rep := verified(t, o); rep.Signed != 301 || rep.Gaps != 0 {
		t.Errorf("report %+v", rep)
	}
	l = open(t, o)
	if l.Lost() != 0 {
		t.Errorf("%d were lost over a clean stop", l.Lost())
	}
}

// A number that was given out is never given to another record: the log says that its
// record was lost.
func TestKilledWithBufferedRecords(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	o.SetSegment(256)
	fs := &faultFS{FS: audit.Disk(), at: -1, only: "write " + o.Dir + "/segments"}
	o.SetFS(fs)
	l := open(t, o)
	appendN(t, l, 0, 3)
	fs.mu.Lock() // nothing is written any more, as if the flush were yet to come
	fs.at, fs.until = fs.n, 1<<30
	fs.mu.Unlock()
	given := uint64(3)
	for ; given < 150; given++ {
		if _, err := l.Append(record(int(given)), audit.Buffered); err != nil {
			break
		}
	}
	copied := copyLog(t, o) // is what kill -9 leaves
	copied.SetFS(audit.Disk())
	l2 := open(t, copied)
	size := l2.Size()
	if size < given || l2.Lost() != size-3 || size-given > 16 {
		t.Fatalf("%d numbers were given out, the log goes on with %d, %d were lost", given, size, l2.Lost())
	}
	if seq, err := l2.Append(record(7), audit.Written); err != nil || seq != size {
		t.Errorf("the next is %d, %v", seq, err)
	}
	mustClose(t, l2)
	rep := verified(t, copied)
	if rep.Gaps != size-3 || len(rep.NotChecked) == 0 {
		t.Errorf("report %+v", rep)
	}
	for _, e := range readAll(t, copied)[3:size] {
		if e.Kind != audit.Gap || e.Payload.Action != "log.gap" || string(e.Leaf[:6]) != `{"v":2` {
			t.Fatalf("entry %d is %s of kind %s", e.Seq, e.Leaf, e.Kind)
		}
	}
	if _, err := open(t, newOptions(t)).Append(&audit.Record{Kind: audit.Gap}, audit.Written); err == nil {
		t.Error("anybody may record a gap")
	}
}

// A buffered record that cannot be written goes on waiting: its caller has an answer.
func TestBufferedRecordsOutliveAFullDisk(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	fs := &faultFS{FS: audit.Disk(), at: -1, only: "write " + o.Dir + "/segments"}
	o.SetFS(fs)
	l := open(t, o)
	appendAs(t, l, 0, audit.Buffered)
	fs.mu.Lock()
	fs.at, fs.until = fs.n, 1<<30
	fs.mu.Unlock()
	for range 3 {
		if _, err := l.Append(record(9), audit.Written); !errors.Is(err, audit.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	fs.mu.Lock()
	fs.at = -1
	fs.mu.Unlock()
	appendAs(t, l, 1, audit.Written)
	mustClose(t, l)
	if all := readAll(t, o); len(all) != 2 || all[0].Payload.Principal != "serviceAccount:n0" {
		t.Errorf("%d entries", len(all))
	}
	verified(t, o)
}

func TestGarbageInReserved(t *testing.T) {
	t.Parallel()
	o := filled(t, 3)
	for _, bad := range [][]byte{{1}, []byte("garbage that is long"), make([]byte, 12)} {
		c := copyLog(t, o)
		writeFile(t, bad, c.Dir, "reserved")
		_, err := audit.Open(c)
		wantBad(t, err, "reserved: is not what the log writes")
	}
}

// stuckFS is a disk that answers nothing of one kind until it is let go.
type stuckFS struct {
	audit.FS
	op    string // "write" or "sync"
	stuck atomic.Pointer[chan struct{}]
}

func (f *stuckFS) hold() chan struct{} {
	c := make(chan struct{})
	f.stuck.Store(&c)
	return c
}

func (f *stuckFS) wait(op string) {
	if c := f.stuck.Load(); c != nil && op == f.op {
		<-*c
	}
}

func (f *stuckFS) OpenFile(name string, flag int) (audit.File, error) {
	file, err := f.FS.OpenFile(name, flag)
	return stuckFile{file, f}, err
}

type stuckFile struct {
	audit.File
	fs *stuckFS
}

func (f stuckFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.wait("write")
	return f.File.WriteAt(p, off)
}

func (f stuckFile) Sync() error {
	f.fs.wait("sync")
	return f.File.Sync()
}

// A disk that does not answer costs nobody more than the log's patience, and when it
// answers again so does the log.
func TestDiskThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"write", "sync"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			o := newOptions(t)
			o.SetSegment(16384)
			fs := &stuckFS{FS: audit.Disk(), op: op}
			o.SetFS(fs)
			o.SetPatience(time.Second) // a busy machine takes a tenth of it
			l := open(t, o)
			d := map[string]audit.Durability{"write": audit.Written, "sync": audit.Synced}[op]
			appendAs(t, l, 0, d)
			release := fs.hold()
			var callers sync.WaitGroup
			var refused atomic.Int64
			for range 20 {
				callers.Go(func() {
					for range 3 { // who comes later is refused at once
						if _, err := l.Append(record(1), d); errors.Is(err, audit.ErrUnavailable) {
							refused.Add(1)
						}
					}
				})
			}
			callers.Wait() // the test's own time limit is what a hang would hit
			if refused.Load() != 60 {
				t.Errorf("%d of 60 were refused", refused.Load())
			}
			if err := l.Health(); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("Health: %v", err)
			}
			_ = l.Stats()
			close(release)
			fs.stuck.Store(nil)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				if _, err := l.Append(record(2), d); err == nil {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("it does not recover: %v, %v", err, l.Health())
				}
			}
			if err := l.Health(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			mustClose(t, l)
			// who was refused may have a record all the same, but few: the others left
			// before the disk had them
			if n := len(readAll(t, o)); n < 2 || n > 2+60 {
				t.Errorf("%d entries", n)
			}
			verified(t, o)
		})
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	var free atomic.Int64
	free.Store(2 << 30)
	o.SetSpace(100<<30, free.Load)
	l := open(t, o)
	small := newOptions(t)
	small.SetSpace(20<<20, free.Load) // keeps a twentieth, 1 MiB
	s := open(t, small)
	none := newOptions(t)
	none.KeepFree = new(audit.Bytes)
	none.SetSpace(100<<30, free.Load)
	n := open(t, none)
	for _, tt := range []struct {
		free               int64
		room, small, never audit.Room
	}{
		{2 << 30, audit.Plenty, audit.Plenty, audit.Plenty},
		{1<<30 - 1, audit.Scarce, audit.Plenty, audit.Plenty},
		{128 << 20, audit.Scarce, audit.Plenty, audit.Plenty},
		{128<<20 - 1, audit.Last, audit.Plenty, audit.Plenty},
		{1<<20 - 1, audit.Last, audit.Scarce, audit.Plenty},
		{0, audit.Last, audit.Last, audit.Plenty},
		{1 << 30, audit.Plenty, audit.Plenty, audit.Plenty},
	} {
		free.Store(tt.free)
		for l, want := range map[*audit.Log]audit.Room{l: tt.room, s: tt.small, n: tt.never} {
			l.Measure()
			if got := l.Room(); got != want || l.Stats().Free != tt.free {
				t.Errorf("with %d free: %d, want %d; %+v", tt.free, got, want, l.Stats())
			}
		}
	}
}

// powerFS is a disk that forgets, when the power goes, what was not synced.
type powerFS struct {
	audit.FS
	mu     sync.Mutex
	synced map[string][]byte // contents that are safe
	off    bool
}

func (f *powerFS) OpenFile(name string, flag int) (audit.File, error) {
	file, err := f.FS.OpenFile(name, flag)
	return powerFile{file, f, name}, err
}

type powerFile struct {
	audit.File
	fs   *powerFS
	name string
}

func (f powerFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.off {
		return errInjected
	}
	b, err := os.ReadFile(f.name)
	if err == nil {
		f.fs.synced[f.name] = b
	}
	return err
}

func (f *powerFS) Rename(oldname, newname string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.synced[oldname]; ok {
		f.synced[newname] = b
		delete(f.synced, oldname)
	} else {
		delete(f.synced, newname)
	}
	return f.FS.Rename(oldname, newname)
}

func (f *powerFS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.synced, name)
	return f.FS.Remove(name)
}

// cut makes the directory what it is after the power went.
func (f *powerFS) cut(t *testing.T, dir string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	for _, name := range filesIn(t, dir) {
		path := dir + "/" + name
		if b, ok := f.synced[path]; ok {
			writeFile(t, b, path)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// SyncDir does nothing: names are taken for safe once their content is.
func (f *powerFS) SyncDir(string) error { return nil }

// The power goes at any time: what Synced said yes to is there.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for round := range 60 {
		o := newOptions(t)
		o.SetSegment(8)
		good := o
		fs := &powerFS{FS: audit.Disk(), synced: map[string][]byte{}}
		o.SetFS(fs)
		l := open(t, o)
		var mu sync.Mutex
		acked := map[uint64]string{}
		var writers sync.WaitGroup
		for w := range 3 {
			writers.Go(func() {
				for i := range round {
					r := record(100*w + i)
					d := []audit.Durability{audit.Synced, audit.Written, audit.Buffered}[(w+i)%3]
					seq, err := l.Append(r, d)
					mu.Lock()
					if err == nil && d == audit.Synced {
						acked[seq] = r.Payload.Principal
					}
					mu.Unlock()
				}
			})
		}
		writers.Wait()
		if round%2 == 0 {
			mustSign(t, l)
		}
		fs.cut(t, o.Dir)
		after := copyLog(t, good)
		_ = l.Close()
		survives(t, after, acked, fmt.Sprintf("round %d", round))
	}
}

// What Erase said was erased is, after a power cut.
func TestPowerCutAfterErasing(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	good := o
	fs := &powerFS{FS: audit.Disk(), synced: map[string][]byte{}}
	o.SetFS(fs)
	l := open(t, o)
	appendN(t, l, 0, 6)
	if n, err := l.Erase(t.Context(), of(2, 5), noted(l, audit.ActionErase)); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	fs.cut(t, o.Dir)
	after := copyLog(t, good)
	_ = l.Close()
	mustClose(t, open(t, after))
	if rep := verified(t, after); rep.Erased != 2 {
		t.Errorf("report %+v", rep)
	}
}
