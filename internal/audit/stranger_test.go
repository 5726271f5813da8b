package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// TestStranger checks a log with what doc.go says and the standard library alone:
// no code of this package, of sumdb/tlog or of sumdb/note.
func TestStranger(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 7, 8, 21} {
		o := filled(t, n)
		leaves := strangerLeaves(t, o.Dir)
		if len(leaves) != n {
			t.Fatalf("%d leaves, want %d", len(leaves), n)
		}
		text, signature, ok := strings.Cut(string(readFile(t, o.Dir, "checkpoint")), "\n\n")
		if !ok {
			t.Fatal("checkpoint has no blank line")
		}
		root := strangerRoot(leaves)
		want := fmt.Sprintf("%s\n%d\n%s", origin, n, base64.StdEncoding.EncodeToString(root[:]))
		if text != want {
			t.Errorf("checkpoint says %q, want %q", text, want)
		}
		key, err := base64.StdEncoding.DecodeString(strings.SplitN(o.VerifierKey, "+", 3)[2])
		if err != nil || key[0] != 1 {
			t.Fatalf("key %x, %v", key, err)
		}
		sig, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.TrimPrefix(signature, "— "+origin+" ")))
		if err != nil || !ed25519.Verify(key[1:], []byte(text+"\n"), sig[4:]) {
			t.Errorf("signature %q does not verify: %v", signature, err)
		}
	}
}

// strangerLeaves cuts leaves out of the segments and checks what can be checked.
func strangerLeaves(t *testing.T, dir string) (leaves [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "segments", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if i > 0 && len(leaves) != 4*i {
			t.Errorf("%d segments hold %d entries", i, len(leaves))
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%012d.seg", len(leaves)); filepath.Base(name) != want {
			t.Errorf("segment %s, want %s", name, want)
		}
		for len(b) > 0 {
			payload, leaf := int(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint16(b[4:]))
			if got := checksum(append(bytes.Clone(b[:6]), b[10:10+leaf]...)); got != binary.BigEndian.Uint32(b[6:]) {
				t.Errorf("leaf checksum %08x", got)
			}
			if got := checksum(b[14+leaf:][:payload]); got != binary.BigEndian.Uint32(b[10+leaf:]) {
				t.Errorf("payload checksum %08x", got)
			}
			leaves = append(leaves, b[10:10+leaf])
			b = b[14+leaf+payload:]
		}
	}
	if len(leaves) > 4*len(names) {
		t.Errorf("%d entries in %d segments", len(leaves), len(names))
	}
	return leaves
}

// strangerRoot is RFC 6962 section 2.1, word for word.
func strangerRoot(d [][]byte) [32]byte {
	switch len(d) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, d[0]...))
	}
	k := 1
	for k*2 < len(d) {
		k *= 2
	}
	l, r := strangerRoot(d[:k]), strangerRoot(d[k:])
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func TestStrangerChecksADisclosedPayload(t *testing.T) {
	t.Parallel()
	o := filled(t, 1)
	var leaf struct{ Payload string }
	if err := json.Unmarshal(strangerLeaves(t, o.Dir)[0], &leaf); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(readAll(t, o)[0].PayloadText)
	if got := base64.RawURLEncoding.EncodeToString(sum[:]); got != leaf.Payload {
		t.Errorf("payload hashes to %s, the leaf says %s", got, leaf.Payload)
	}
}

func TestLeafBytesAreWhatDocSays(t *testing.T) {
	t.Parallel()
	o := newOptions(t)
	l := open(t, o)
	if _, err := l.Append(&audit.Record{Kind: audit.Note, Rule: "a\"\n<\u00e9>"}, audit.Written); err != nil {
		t.Fatal(err)
	}
	got := string(strangerLeaves(t, o.Dir)[0])
	want := `{"v":1,"seq":0,"time":"2026-08-01T12:00:00.000005Z","kind":"note","rule":"a\"\n<é>","payload":"`
	if !strings.HasPrefix(got, want) || len(got) != len(want)+43+2 {
		t.Errorf("got  %s\nwant %s…", got, want)
	}
}
