package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/tlog"
)

// A Line is a record as JSON output has it, and a line of an export. Leaf and Payload
// are what counts; the members before them say the same for whoever reads no leaf.
type Line struct {
	ID       string         `json:"id"` // decision id, REPLICA-SEQ
	Seq      uint64         `json:"seq"`
	Time     time.Time      `json:"time"`
	Kind     Kind           `json:"kind"`
	Decision Decision       `json:"decision,omitzero"`
	Rule     string         `json:"rule,omitzero"`
	Service  string         `json:"service,omitzero"`
	Policy   string         `json:"policy,omitzero"`
	State    string         `json:"state"`             // of the payload
	Payload  jsontext.Value `json:"payload,omitempty"` // the text that the leaf commits to
	Leaf     string         `json:"leaf"`              // what the tree hashes

	// Before, on the first line of an export, are the roots of the complete subtrees of
	// what comes before it, from left to right, in base64.
	Before []string `json:"before,omitempty"`

	// Checkpoint, on the last line that it covers, is the log's signed head.
	Checkpoint string `json:"checkpoint,omitzero"`

	// After, beside Checkpoint, are the roots of the subtrees between this line and the
	// end of what the checkpoint covers.
	After []string `json:"after,omitempty"`
}

// Line returns e as a Line.
func (r *Reader) Line(e *Entry) Line {
	return Line{ID: replicaOf(r.origin) + "-" + strconv.FormatUint(e.Seq, 10), Seq: e.Seq, Time: e.Time, Kind: e.Kind, Decision: e.Decision,
		Rule: e.Rule, Service: e.Service, Policy: e.Policy, State: e.State, Payload: jsontext.Value(e.PayloadText), Leaf: string(e.Leaf)}
}

// Replica returns what decision ids of this log begin with.
func (r *Reader) Replica() string { return replicaOf(r.origin) }

// replicaOf returns the last part of an origin, TRUST-DOMAIN/REPLICA.
func replicaOf(origin string) string { return origin[strings.LastIndexByte(origin, '/')+1:] }

// parseLine reads a line and checks that it says of itself what its leaf does, and that
// its payload is the one that the leaf commits to.
func parseLine(text []byte, origin string) (*Line, *Entry, error) {
	var l Line
	if err := json.Unmarshal(text, &l, json.RejectUnknownMembers(true)); err != nil {
		return nil, nil, fmt.Errorf("is not a record as `audit export` writes it: %w", err)
	}
	h, err := parseLeaf([]byte(l.Leaf))
	if err != nil {
		return nil, nil, err
	}
	if h.Seq > math.MaxInt64 { // the numbers of the tree's nodes would overflow
		return nil, nil, fmt.Errorf("entry %d: no checkpoint reaches so far", h.Seq)
	}
	e := &Entry{Header: h, State: l.State, Leaf: []byte(l.Leaf)}
	says := (&Reader{origin: origin}).Line(e)
	says.Payload, says.Before, says.Checkpoint, says.After = l.Payload, l.Before, l.Checkpoint, l.After
	same := l.ID == says.ID && l.Seq == h.Seq && l.Time.Equal(h.Time) && l.Kind == h.Kind && l.Decision == h.Decision &&
		l.Rule == h.Rule && l.Service == h.Service && l.Policy == h.Policy
	if !same {
		return nil, nil, fmt.Errorf("entry %d: the line says something else than its leaf, or is of another log than %s", h.Seq, origin)
	}
	switch l.State {
	case stateOpen:
		if sha256.Sum256(l.Payload) != h.Commitment {
			return nil, nil, fmt.Errorf("entry %d: the payload is not the one that the leaf commits to (it has to be kept byte for byte)", h.Seq)
		}
		var p Payload
		if err := json.Unmarshal(l.Payload, &p); err != nil {
			return nil, nil, fmt.Errorf("entry %d: the payload is none: %w", h.Seq, err)
		}
		e.Payload, e.PayloadText = &p, l.Payload
	case stateSealed, stateErased, stateWithheld:
		if len(l.Payload) > 0 {
			return nil, nil, fmt.Errorf("entry %d: it has a payload and calls it %s", h.Seq, l.State)
		}
	default:
		return nil, nil, fmt.Errorf("entry %d: its payload is %q: want open, sealed, erased or withheld", h.Seq, l.State)
	}
	return &l, e, nil
}

func hashTexts(hashes []tlog.Hash) []string {
	var out []string
	for _, h := range hashes {
		out = append(out, base64.StdEncoding.EncodeToString(h[:]))
	}
	return out
}

func parseHashes(texts []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, t := range texts {
		b, err := base64.StdEncoding.Strict().DecodeString(t)
		if err != nil || len(b) != tlog.HashSize {
			return nil, fmt.Errorf("%q is not a hash of 32 bytes in base64", t)
		}
		out = append(out, tlog.Hash(b))
	}
	return out, nil
}

// compact is the left part of a tree: complete subtrees, none of which is half of a
// larger complete one.
type compact []node

type node struct {
	subtree
	hash tlog.Hash
}

// push adds the subtree that comes next.
func (c *compact) push(n node) {
	for len(*c) > 0 {
		left := (*c)[len(*c)-1]
		if left.level != n.level || left.index != n.index-1 || left.index&1 != 0 {
			break
		}
		n = node{subtree{n.level + 1, left.index / 2}, tlog.NodeHash(left.hash, n.hash)}
		*c = (*c)[:len(*c)-1]
	}
	*c = append(*c, n)
}

// pushAll adds the subtrees that the entries from first up to end split into.
func (c *compact) pushAll(first, end uint64, texts []string) error {
	hashes, err := parseHashes(texts)
	if err != nil {
		return err
	}
	split := splitRange(first, end)
	if len(split) != len(hashes) {
		return fmt.Errorf("the entries from %d to %d take %d hashes, here are %d", first, end, len(split), len(hashes))
	}
	for i, s := range split {
		c.push(node{s, hashes[i]})
	}
	return nil
}

var errEmpty = errors.New("nothing was exported")

// root returns the root of the tree that c is all of.
func (c compact) root() (tlog.Hash, error) {
	if len(c) == 0 {
		return tlog.Hash{}, errEmpty
	}
	root := c[len(c)-1].hash
	for i := len(c) - 2; i >= 0; i-- {
		root = tlog.NodeHash(c[i].hash, root)
	}
	return root, nil
}
