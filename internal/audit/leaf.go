package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

// versionOf returns the version of the leaf format that a record of kind k has: the
// least that knows it. A record never changes its version; readers know them all.
//
//	1  admit, refuse, check, close, note
//	2  gap
func versionOf(k Kind) int {
	if k == Gap {
		return 2
	}
	return 1
}

// appendLeaf appends the leaf of entry seq; tail is what appendLeafTail made.
func appendLeaf(dst []byte, version int, seq uint64, t time.Time, tail []byte) []byte {
	dst = append(dst, `{"v":`...)
	dst = strconv.AppendInt(dst, int64(version), 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = t.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, tail...)
}

// appendLeafTail appends the part of a leaf that does not depend on its place in
// the log, so that it can be made before the lock is taken.
func appendLeafTail(dst []byte, r *Record, commitment *[32]byte) []byte {
	dst = append(dst, `","kind":"`...)
	dst = append(dst, r.Kind...)
	dst = append(dst, '"')
	dst = appendMember(dst, `,"decision":`, string(r.Decision))
	dst = appendMember(dst, `,"rule":`, r.Rule)
	dst = appendMember(dst, `,"service":`, r.Service)
	dst = appendMember(dst, `,"policy":`, r.Policy)
	dst = append(dst, `,"payload":"`...)
	dst = base64.RawURLEncoding.AppendEncode(dst, commitment[:])
	return append(dst, `"}`...)
}

func appendMember(dst []byte, name, s string) []byte {
	if s == "" {
		return dst
	}
	s, _ = clean(s, maxLeafText)
	return appendQuote(append(dst, name...), s)
}

// leafJSON is a leaf as it is spelled.
type leafJSON struct {
	Version  int      `json:"v"`
	Seq      uint64   `json:"seq"`
	Time     string   `json:"time"`
	Kind     Kind     `json:"kind"`
	Decision Decision `json:"decision"`
	Rule     string   `json:"rule"`
	Service  string   `json:"service"`
	Policy   string   `json:"policy"`
	Payload  string   `json:"payload"`
}

// parseLeaf reads a leaf. It accepts exactly what appendLeaf writes: a second
// spelling of the same header would be a second meaning to somebody's parser.
func parseLeaf(leaf []byte) (Header, error) {
	var j leafJSON
	if err := json.Unmarshal(leaf, &j, json.RejectUnknownMembers(true)); err != nil {
		return Header{}, fmt.Errorf("leaf is not the JSON of a header: %w", err)
	}
	if j.Version < 1 || j.Version > leafVersions {
		return Header{}, fmt.Errorf("leaf has version %d, this program reads 1 to %d: a newer one wrote it", j.Version, leafVersions)
	}
	if !j.Kind.known() || j.Version != versionOf(j.Kind) || !j.Decision.known() {
		return Header{}, fmt.Errorf("leaf of version %d has kind %q and decision %q, not both known", j.Version, j.Kind, j.Decision)
	}
	t, err := time.Parse(time.RFC3339Nano, j.Time)
	if err != nil {
		return Header{}, fmt.Errorf("leaf has no time: %w", err)
	}
	h := Header{Seq: j.Seq, Time: t.UTC(), Kind: j.Kind, Decision: j.Decision, Rule: j.Rule, Service: j.Service, Policy: j.Policy}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(j.Payload)
	if err != nil || len(sum) != len(h.Commitment) {
		return Header{}, errors.New("leaf has no commitment of 32 bytes")
	}
	copy(h.Commitment[:], sum)
	if !bytes.Equal(h.leaf(), leaf) {
		return Header{}, errors.New("leaf is not spelled as this program spells it")
	}
	return h, nil
}

// leaf returns the bytes that h was read from.
func (h *Header) leaf() []byte {
	r := Record{Kind: h.Kind, Decision: h.Decision, Rule: h.Rule, Service: h.Service, Policy: h.Policy}
	return appendLeaf(nil, versionOf(h.Kind), h.Seq, h.Time, appendLeafTail(nil, &r, &h.Commitment))
}
