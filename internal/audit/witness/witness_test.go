package witness_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/witness"
)

// fakeLog is a log whose checkpoints a test makes.
type fakeLog struct {
	mu     sync.Mutex
	signer note.Signer
	vkey   string
	size   uint64
	note   []byte
}

func newFakeLog(t *testing.T) *fakeLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "acme.internal/a")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLog{signer: signer, vkey: vkey}
}

func (l *fakeLog) grow(t *testing.T, size uint64) {
	t.Helper()
	root := sha256.Sum256(fmt.Append(nil, size))
	text, err := note.Sign(&note.Note{Text: fmt.Sprintf("acme.internal/a\n%d\n%s\n", size, base64.StdEncoding.EncodeToString(root[:]))}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size, l.note = size, text
}

func (l *fakeLog) SignedHead() ([]byte, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.note, l.size
}

func (l *fakeLog) ConsistencyProof(old, size uint64) ([]tlog.Hash, error) {
	if old == 0 || old == size {
		return nil, nil
	}
	return []tlog.Hash{{byte(old)}, {byte(size)}}, nil
}

// cosigner signs as c2sp.org/tlog-cosignature says.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	time uint64
}

func newCosigner(t *testing.T, name string) *cosigner {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &cosigner{name, key, 1795850000}
}

func (c *cosigner) public() []byte { return append([]byte{4}, c.key.Public().(ed25519.PublicKey)...) }

func (c *cosigner) hash() uint32 {
	sum := sha256.Sum256(append([]byte(c.name+"\n"), c.public()...))
	return binary.BigEndian.Uint32(sum[:])
}

func (c *cosigner) vkey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.hash(), base64.StdEncoding.EncodeToString(c.public()))
}

func (c *cosigner) sign(checkpoint []byte) string {
	text, _, _ := bytes.Cut(checkpoint, []byte("\n\n"))
	msg := append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", c.time), append(text, '\n')...)
	sig := binary.BigEndian.AppendUint32(nil, c.hash())
	sig = binary.BigEndian.AppendUint64(sig, c.time)
	sig = append(sig, ed25519.Sign(c.key, msg)...)
	return fmt.Sprintf("— %s %s\n", c.name, base64.StdEncoding.EncodeToString(sig))
}

// asking is a witness that answers as a test says, and keeps what it was asked.
type asking struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	answer func(n int, body string) (status int, text string)
}

func newAsking(t *testing.T, answer func(n int, body string) (int, string)) *asking {
	t.Helper()
	a := &asking{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		n := len(a.bodies)
		a.bodies = append(a.bodies, r.Method+" "+r.URL.Path+"\n"+string(body))
		a.mu.Unlock()
		status, text := a.answer(n, string(body))
		if status == http.StatusFound {
			w.Header().Set("Location", text)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(a.Close)
	return a
}

func checkpointOf(body string) []byte {
	_, checkpoint, _ := strings.Cut(body, "\n\n")
	return []byte(checkpoint)
}

func publisher(t *testing.T, l *fakeLog, c witness.Config) (p *witness.Publisher, dir string, out *bytes.Buffer) {
	t.Helper()
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	dir, out = t.TempDir(), &bytes.Buffer{}
	p, err := witness.New(c, l, dir, slog.New(slog.NewTextHandler(out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return p, dir, out
}

func TestWitnessAnswers(t *testing.T) {
	t.Parallel()
	c := newCosigner(t, "witness.example")
	other := newCosigner(t, "witness.example")
	late := newCosigner(t, "witness.example")
	late.key, late.time = c.key, 0
	ok := func(_ int, body string) (int, string) { return 200, c.sign(checkpointOf(body)) }
	for _, tt := range []struct {
		name   string
		answer func(n int, body string) (int, string)
		want   string // of the alarm; "" for a cosignature
	}{
		{"signs", ok, ""},
		{"signs with two keys", func(_ int, body string) (int, string) {
			return 200, newCosigner(t, "next.example").sign(checkpointOf(body)) + c.sign(checkpointOf(body))
		}, ""},
		{"signs with two keys of one name", func(_ int, body string) (int, string) {
			return 200, other.sign(checkpointOf(body)) + c.sign(checkpointOf(body))
		}, ""},
		{"knows some of it", func(n int, body string) (int, string) {
			if n == 0 {
				return 409, "3\n"
			}
			if n == 1 && !strings.HasPrefix(body, "old 3\nAw") {
				return 400, body
			}
			return 200, c.sign(checkpointOf(body))
		}, ""},
		{"has seen more", func(int, string) (int, string) { return 409, "11\n" }, "THE LOG WAS SET BACK"},
		{"says 409 for ever", func(int, string) (int, string) { return 409, "3\n" }, "although it was told"},
		{"says 409 and no size", func(int, string) (int, string) { return 409, "many" }, "no size"},
		{"does not believe the proof", func(int, string) (int, string) { return 422, "" }, "THE LOG WAS REWRITTEN"},
		{"does not know the log", func(int, string) (int, string) { return 404, "" }, "give its operator the line of log/checkpoint.pub"},
		{"knows another key", func(int, string) (int, string) { return 403, "" }, "by another key"},
		{"is broken", func(int, string) (int, string) { return 500, "" }, "it answers 500"},
		{"sends elsewhere", func(int, string) (int, string) { return 302, "http://127.0.0.1:1/" }, "it answers 302"},
		{"signs with another key", func(_ int, body string) (int, string) { return 200, other.sign(checkpointOf(body)) }, "another key than witness.example"},
		{"signs without a time", func(_ int, body string) (int, string) { return 200, late.sign(checkpointOf(body)) }, "does not verify"},
		{"signs something else", func(int, string) (int, string) { return 200, c.sign([]byte("x\n1\ny\n\n")) }, "does not verify"},
		{"signs as somebody else", func(_ int, body string) (int, string) {
			return 200, newCosigner(t, "other.example").sign(checkpointOf(body))
		}, "another key than witness.example"},
		{"says nothing", func(int, string) (int, string) { return 200, "" }, "another key than"},
		{"says too much", func(int, string) (int, string) { return 200, strings.Repeat("x", 100<<10) }, "is over"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newFakeLog(t)
			l.grow(t, 10)
			a := newAsking(t, tt.answer)
			p, dir, out := publisher(t, l, witness.Config{Witnesses: []witness.Witness{{URL: a.URL + "/w/", Key: c.vkey()}}})
			p.Last()
			text, err := os.ReadFile(filepath.Join(dir, witness.CosignedFile))
			if tt.want != "" {
				if err == nil || p.Cosigned() != 0 || p.Health() == nil || !strings.Contains(out.String(), tt.want) {
					t.Errorf("cosigned %q, health %v, said %s", text, p.Health(), out)
				}
				return
			}
			if err != nil || p.Health() != nil || p.Cosigned() != 10 {
				t.Fatalf("%v, health %v, %s", err, p.Health(), out)
			}
			v, err := witness.NewVerifier(c.vkey())
			if err != nil {
				t.Fatal(err)
			}
			if by, err := witness.Open(text, []note.Verifier{v}); err != nil || len(by) != 1 || by[0].Witness != "witness.example" || by[0].Time.Unix() != 1795850000 {
				t.Errorf("signed by %v, %v", by, err)
			}
			if !strings.HasPrefix(a.bodies[0], "POST /w/add-checkpoint\nold 0\n\nacme.internal/a\n10\n") {
				t.Errorf("asked %q", a.bodies[0])
			}
			// the next time only what is new is proved
			l.grow(t, 12)
			p.Last()
			if last := a.bodies[len(a.bodies)-1]; !strings.HasPrefix(last, "POST /w/add-checkpoint\nold 10\n") || p.Cosigned() != 12 {
				t.Errorf("then asked %q", last)
			}
		})
	}
}

func TestQuorum(t *testing.T) {
	t.Parallel()
	l := newFakeLog(t)
	l.grow(t, 10)
	var ws []witness.Witness
	for i := range 3 {
		c := newCosigner(t, fmt.Sprintf("w%d.example", i))
		a := newAsking(t, func(_ int, body string) (int, string) {
			if i == 0 {
				return 500, ""
			}
			return 200, c.sign(checkpointOf(body))
		})
		ws = append(ws, witness.Witness{URL: a.URL, Key: c.vkey()})
	}
	for quorum, want := range map[int]uint64{2: 10, 3: 0} {
		p, dir, _ := publisher(t, l, witness.Config{Witnesses: ws, Quorum: quorum})
		p.Last()
		if p.Cosigned() != want || p.Health() == nil {
			t.Errorf("quorum %d: cosigned %d, health %v", quorum, p.Cosigned(), p.Health())
		}
		text, err := os.ReadFile(filepath.Join(dir, witness.CosignedFile))
		if (err == nil) != (want > 0) || want > 0 && strings.Count(string(text), "\n— ") != 3 {
			t.Errorf("quorum %d: %v\n%s", quorum, err, text)
		}
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	l := newFakeLog(t)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("Bearer x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	stored := map[string]string{}
	broken := true
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		_, there := stored[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") != "Bearer x":
			w.WriteHeader(http.StatusUnauthorized)
		case broken:
			w.WriteHeader(http.StatusBadGateway)
		case r.Method == http.MethodGet && there:
			_, _ = io.WriteString(w, stored[r.URL.Path])
		case r.Method == http.MethodPut && r.Header.Get("If-None-Match") == "*" && there:
			w.WriteHeader(http.StatusPreconditionFailed)
		case r.Method == http.MethodPut:
			stored[r.URL.Path] = string(body)
			w.WriteHeader(http.StatusCreated)
		}
	}))
	t.Cleanup(bucket.Close)
	file := filepath.Join(dir, "kept")
	config := witness.Config{Publish: []witness.Place{{File: file}, {URL: bucket.URL + "/c", AuthorizationFile: token}}}
	p, _, out := publisher(t, l, config)
	p.Last() // nothing is signed yet
	l.grow(t, 3)
	p.Last()
	if p.Health() == nil || !strings.Contains(out.String(), "answers 502") {
		t.Errorf("health %v, said %s", p.Health(), out)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	p.Last()
	l.grow(t, 8)
	p.Last()
	p.Last() // twice is once
	if p.Health() != nil || !strings.Contains(out.String(), "go out again") {
		t.Errorf("health %v, said %s", p.Health(), out)
	}
	note8, _ := l.SignedHead()
	if len(stored) != 2 || stored["/c/8"] != string(note8) {
		t.Errorf("stored %v", stored)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	notes, torn := audit.SplitNotes(append(text, "acme.internal/a\n12\nxx"...))
	if len(notes) != 2 || torn == 0 || !bytes.Equal(notes[1], note8) {
		t.Errorf("kept %q, %d torn", notes, torn)
	}
	// another process, or another log, finds its place taken
	again, _, _ := publisher(t, l, config)
	again.Last()
	if again.Health() != nil {
		t.Errorf("the same checkpoint again: %v", again.Health())
	}
	other := newFakeLog(t)
	other.grow(t, 8)
	forked, _, out := publisher(t, other, config)
	forked.Last()
	if !strings.Contains(out.String(), "already holds another checkpoint over 8 entries") {
		t.Errorf("a rewritten log: %s", out)
	}
}

// A full disk cuts a checkpoint short: those before and behind it are found.
func TestPublishBehindAPartOfOne(t *testing.T) {
	t.Parallel()
	l := newFakeLog(t)
	l.grow(t, 3)
	before, _ := l.SignedHead()
	l.grow(t, 8)
	whole, _ := l.SignedHead()
	for cut := range len(whole) {
		file := filepath.Join(t.TempDir(), "kept")
		if err := os.WriteFile(file, append(bytes.Clone(before), whole[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		p, _, _ := publisher(t, l, witness.Config{Publish: []witness.Place{{File: file}}})
		p.Last()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		notes, torn := audit.SplitNotes(text)
		wantTorn := cut > 0 && cut < len(whole)-1 // the last line break is made up for
		if len(notes) < 2 || !bytes.Equal(notes[0], before) || !bytes.Equal(notes[1], whole) || !bytes.Equal(notes[len(notes)-1], whole) || (torn > 0) != wantTorn {
			t.Fatalf("cut at %d of %d: %q, %d torn", cut, len(whole), notes, torn)
		}
	}
}

// A place that does not answer delays no other.
func TestSlowPlace(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(stuck); slow.Close() })
	l := newFakeLog(t)
	l.grow(t, 3)
	file := filepath.Join(t.TempDir(), "kept")
	p, _, _ := publisher(t, l, witness.Config{Publish: []witness.Place{{URL: slow.URL}, {File: file}}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { p.Run(ctx); close(done) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if b, _ := os.ReadFile(file); len(b) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is published")
		}
	}
	stop()
	<-done
}

func TestConfig(t *testing.T) {
	t.Parallel()
	c := newCosigner(t, "w.example")
	renamed := &cosigner{"v.example", c.key, c.time}
	wrongType := "w.example+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 32)...))
	for _, tt := range []struct {
		c    witness.Config
		want string
	}{
		{witness.Config{Publish: []witness.Place{{}}}, "publish[0]: write file or url, one of them"},
		{witness.Config{Publish: []witness.Place{{File: "a", URL: "https://b"}}}, "publish[0]: write file or url, one of them"},
		{witness.Config{Publish: []witness.Place{{File: "a", CAFile: "b"}}}, "publish[0]: authorization_file and ca_file go with url"},
		{witness.Config{Publish: []witness.Place{{File: "a", Every: 5}}}, "publish[0].every: 5ns is less than a second"},
		{witness.Config{Publish: []witness.Place{{URL: "http://example.com"}}}, "plain http is for loopback addresses"},
		{witness.Config{Publish: []witness.Place{{URL: "ftp://example.com"}}}, "want https"},
		{witness.Config{Publish: []witness.Place{{URL: "https://u:p@example.com"}}}, "want a URL such as"},
		{witness.Config{Publish: []witness.Place{{URL: "https://example.com?x=1"}}}, "without query"},
		{witness.Config{Witnesses: []witness.Witness{{URL: "https://w", Key: "x"}}}, "witnesses[0].key: \"x\" is not a verifier key"},
		{witness.Config{Witnesses: []witness.Witness{{URL: "https://w", Key: wrongType}}}, "type 0x1: witnesses have keys of type 0x04"},
		{witness.Config{Witnesses: []witness.Witness{{URL: "https://w", Key: strings.Replace(c.vkey(), "w.", "v.", 1)}}}, "a character was lost"},
		{witness.Config{Witnesses: []witness.Witness{{URL: "https://w", Key: c.vkey()}, {URL: "https://v", Key: renamed.vkey()}}}, "witnesses[1].key: is the key of witnesses[0]"},
		{witness.Config{Quorum: 1}, "quorum: 1 of 0 witnesses"},
		{witness.Config{Witnesses: []witness.Witness{{URL: "https://w", Key: c.vkey()}}, Quorum: -1}, "quorum: -1 of 1 witnesses"},
	} {
		if err := tt.c.Complete(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
	good := witness.Config{Publish: []witness.Place{{File: "a"}}, Witnesses: []witness.Witness{{URL: "http://127.0.0.1:1", Key: c.vkey()}}}
	if err := good.Complete(); err != nil || good.Quorum != 1 || good.Publish[0].Every != time.Minute {
		t.Errorf("%+v, %v", good, err)
	}
}

// Whatever a witness answers, what is kept verifies.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("acme.internal/a\n10\nAAAA\n\n— w.example AAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = witness.Open(text, nil)
		notes, torn := audit.SplitNotes(text)
		total := torn
		for _, n := range notes {
			total += len(n)
		}
		if total > len(text) {
			t.Errorf("%d bytes of %d", total, len(text))
		}
	})
}
