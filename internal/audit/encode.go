package audit

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// appendPayload appends p as JSON, salt first. It fails if p is over maxPayload
// with every string cut to 64 bytes, which takes hundreds of list members.
func appendPayload(dst []byte, salt *[saltSize]byte, p *Payload) ([]byte, error) {
	for limit := maxText; limit >= 64; limit /= 4 {
		e := encoder{dst: dst, limit: limit, cut: p.Cut}
		e.payload(salt, p)
		if len(e.dst)-len(dst) <= maxPayload {
			return e.dst, nil
		}
	}
	return dst, fmt.Errorf("audit: a payload with %d actors, %d vars, %d shadow decisions and %d unverified claims is over %d bytes",
		len(p.Actors), len(p.Vars), len(p.Shadow), len(p.Unverified), maxPayload)
}

// encoder writes one payload. It exists because encoding by reflection costs more
// than everything else that Append does together.
type encoder struct {
	dst   []byte
	limit int  // bytes of a string
	cut   bool // some text is not as it came
}

func (e *encoder) payload(salt *[saltSize]byte, p *Payload) {
	e.dst = append(e.dst, `{"salt":"`...)
	e.dst = base64.RawURLEncoding.AppendEncode(e.dst, salt[:])
	e.dst = append(e.dst, '"')
	e.text(`,"principal":`, p.Principal)
	e.list(`,"actors":`, p.Actors)
	e.text(`,"provider":`, p.Provider)
	e.dict(`,"attested":`, p.Attested, e.limit)
	e.text(`,"token_id":`, p.TokenID)
	e.text(`,"issued_token_id":`, p.IssuedTokenID)
	e.text(`,"action":`, p.Action)
	e.text(`,"resource":`, p.Resource)
	e.text(`,"reason":`, p.Reason)
	e.text(`,"peer":`, p.Peer)
	e.text(`,"replica":`, p.Replica)
	e.text(`,"trace_id":`, p.TraceID)
	e.dict(`,"vars":`, p.Vars, e.limit)
	e.list(`,"shadow":`, p.Shadow)
	e.text(`,"near":`, p.Near)
	e.text(`,"detail":`, p.Detail)
	e.number(`,"count":`, p.Count)
	e.dict(`,"unverified":`, p.Unverified, min(maxUnverified, e.limit))
	e.number(`,"bytes_in":`, p.BytesIn)
	e.number(`,"bytes_out":`, p.BytesOut)
	e.number(`,"duration_ms":`, p.DurationMS)
	e.number(`,"ending_ms":`, p.EndingMS)
	e.text(`,"version":`, p.Version)
	e.number(`,"truncated_bytes":`, p.TornBytes)
	e.list(`,"entries":`, p.Entries)
	if e.cut {
		e.dst = append(e.dst, `,"cut":true`...)
	}
	e.dst = append(e.dst, '}')
}

func (e *encoder) text(name, s string) {
	if s != "" {
		e.dst = append(e.dst, name...)
		e.quote(s, e.limit)
	}
}

func (e *encoder) number(name string, n int64) {
	if n != 0 {
		e.dst = append(e.dst, name...)
		e.dst = strconv.AppendInt(e.dst, n, 10)
	}
}

func (e *encoder) list(name string, list []string) {
	if len(list) == 0 {
		return
	}
	e.dst = append(e.dst, name...)
	sep := byte('[')
	for _, s := range list {
		e.dst = append(e.dst, sep)
		e.quote(s, e.limit)
		sep = ','
	}
	e.dst = append(e.dst, ']')
}

// dict writes m in the order of its keys. Of keys that cleaning makes equal the
// first stays: a duplicate member would make the payload unreadable.
func (e *encoder) dict(name string, m map[string]string, limit int) {
	if len(m) == 0 {
		return
	}
	type member struct{ key, value string }
	var room [16]member
	members := room[:0]
	for k, v := range m {
		key, whole := clean(k, limit)
		e.cut = e.cut || !whole
		members = append(members, member{key, v})
	}
	slices.SortFunc(members, func(a, b member) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	e.dst = append(e.dst, name...)
	sep := byte('{')
	for i, m := range members {
		if i > 0 && members[i-1].key == m.key {
			e.cut = true
			continue
		}
		e.dst = append(e.dst, sep)
		e.quote(m.key, limit)
		e.dst = append(e.dst, ':')
		e.quote(m.value, limit)
		sep = ','
	}
	e.dst = append(e.dst, '}')
}

func (e *encoder) quote(s string, limit int) {
	s, whole := clean(s, limit)
	e.cut = e.cut || !whole
	e.dst = appendQuote(e.dst, s)
}

// appendQuote appends s, which must be valid UTF-8, as a JSON string.
func appendQuote(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // fails on invalid UTF-8 only
	return dst
}

// clean returns s as valid UTF-8 of at most limit bytes, and whether that is s.
func clean(s string, limit int) (string, bool) {
	if len(s) <= limit && utf8.ValidString(s) {
		return s, true
	}
	// cut twice: before, so that a huge text costs no more than a long one, and
	// after, because U+FFFD is longer than the byte it stands for
	return cut(strings.ToValidUTF8(cut(s, limit), "\uFFFD"), limit), false
}

// cut returns at most the first limit bytes of s, without half a character that
// the cut itself made.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for i := limit; i > 0 && i > limit-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:limit]
}
