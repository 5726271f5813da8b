package audit_test

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func FuzzFrame(f *testing.F) {
	sealed := bytes.Repeat([]byte{7}, 40)
	whole := audit.WriteFrame([]byte("leaf"), checksum(sealed), sealed)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(audit.WriteFrame([]byte("l"), 0, make([]byte, 32)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		leaf, sum, sealed, state, n, err := audit.ParseFrame(in)
		if err != nil {
			return
		}
		if again := audit.WriteFrame(leaf, sum, sealed); !bytes.Equal(again, in[:n]) {
			t.Errorf("parsed %x, wrote %x", in[:n], again)
		}
		if (state == "sealed") != (sum == checksum(sealed)) {
			t.Errorf("payload is %s, checksum %08x", state, sum)
		}
		if _, _, _, _, m, err := audit.ParseFrame(in[:n]); err != nil || m != n {
			t.Errorf("the frame alone: %d, %v", m, err)
		}
		if _, _, _, _, _, err := audit.ParseFrame(in[:n-1]); err == nil {
			t.Error("a frame without its last byte is whole")
		}
	})
}

func FuzzLeaf(f *testing.F) {
	f.Add([]byte(`{"v":1,"seq":7,"time":"2026-08-01T00:00:00.5Z","kind":"admit","decision":"deny","rule":"r","service":"s","policy":"p","payload":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"v":1,"seq":0,"time":"2026-08-01T00:00:00Z","kind":"note","payload":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"v":1,"seq":0,"time":"2026-08-01T00:00:00+01:00","kind":"note","payload":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := audit.ParseLeaf(in)
		if err != nil {
			return
		}
		if again := audit.LeafOf(h); !bytes.Equal(again, in) {
			t.Errorf("read %s, wrote %s", in, again)
		}
	})
}

// Whatever a header holds, its leaf says it back.
func TestLeafRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 200, 1024)
		h := audit.Header{
			Seq:      rapid.Uint64().Draw(t, "seq"),
			Time:     time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
			Kind:     rapid.SampledFrom([]audit.Kind{audit.Admit, audit.Refuse, audit.Check, audit.Close, audit.Note}).Draw(t, "kind"),
			Decision: rapid.SampledFrom([]audit.Decision{"", audit.Allow, audit.Deny}).Draw(t, "decision"),
			Rule:     text.Draw(t, "rule"), Service: text.Draw(t, "service"), Policy: text.Draw(t, "policy"),
		}
		copy(h.Commitment[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "commitment"))
		got, err := audit.ParseLeaf(audit.LeafOf(h))
		if err != nil || got != h {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, h)
		}
	})
}

func TestLeafHasOneSpelling(t *testing.T) {
	t.Parallel()
	const head, tail = `{"v":1,"seq":7,"time":"2026-08-01T00:00:00Z","kind":"note"`, `,"payload":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`
	for _, tt := range []struct {
		name, leaf string
		ok         bool
	}{
		{"as it is written", head + tail, true},
		{"a space", `{"v":1, "seq":7,"time":"2026-08-01T00:00:00Z","kind":"note"` + tail, false},
		{"another order", `{"seq":7,"v":1,"time":"2026-08-01T00:00:00Z","kind":"note"` + tail, false},
		{"another version", `{"v":2,"seq":7,"time":"2026-08-01T00:00:00Z","kind":"note"` + tail, false},
		{"an unknown member", head + `,"x":1` + tail, false},
		{"a member twice", head + `,"rule":"a","rule":"b"` + tail, false},
		{"an empty member", head + `,"rule":""` + tail, false},
		{"a needless escape", head + `,"rule":"\u0061"` + tail, false},
		{"a time with zeros", `{"v":1,"seq":7,"time":"2026-08-01T00:00:00.50Z","kind":"note"` + tail, false},
		{"a time that is not UTC", `{"v":1,"seq":7,"time":"2026-08-01T00:00:00+02:00","kind":"note"` + tail, false},
		{"an unknown kind", `{"v":1,"seq":7,"time":"2026-08-01T00:00:00Z","kind":"maybe"` + tail, false},
		{"no commitment", head + `}`, false},
		{"something behind it", head + tail + "\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := audit.ParseLeaf([]byte(tt.leaf)); (err == nil) != tt.ok {
				t.Errorf("ParseLeaf(%s) = %v", tt.leaf, err)
			}
		})
	}
}
