package search

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// Bundle is how many records the index takes together: those of one C2SP entry bundle.
const Bundle = 256

// An Index keeps, for each bundle, what there is in it. It must be safe for use beside
// a reader in another process.
type Index interface {
	// State returns what the index covers; the zero State of a new one.
	State(ctx context.Context) (State, error)
	// Add keeps summaries of bundles and the state after them, all or nothing.
	Add(ctx context.Context, s State, bundles []Summary) error
	// Bundles returns the bundles that may hold records like q, as far as columns and
	// times say, in order; with their marks if marks.
	Bundles(ctx context.Context, q *Query, marks bool) iter.Seq2[Found, error]
	// Sum counts the records like q, as far as columns say, by a column, "" for all of
	// them, in bundles from first up to end that lie within q's time.
	Sum(ctx context.Context, q *Query, by string, first, end uint64) ([]Count, error)
	// Forget drops what is before a bundle, and each text that nothing else has.
	Forget(ctx context.Context, before uint64) error
}

// State is what an index covers.
type State struct {
	Origin string // the log's name
	Next   uint64 // bundle that comes next
	Head   []byte // the newest checkpoint that was seen, a signed note
	Size   uint64 // entries that it covers
}

// Summary is what is in one bundle.
type Summary struct {
	Number      uint64
	First, Last time.Time // of its records, earliest and latest
	Rows        []Row
	Marks       []byte // see marked
}

// A Row counts the records of a bundle that are the same in these, and says which they are.
type Row struct {
	Principal, Service, Action, Decision, Rule string
	Count                                      uint64
	At                                         Places
}

// Places are records of a bundle, by their place in it.
type Places [Bundle / 8]byte

// Has reports whether the record at a place of the bundle is among them.
func (p *Places) Has(i uint64) bool { return p[i/8]&(1<<(i%8)) != 0 }

// Set adds the record at a place of the bundle.
func (p *Places) Set(i uint64) { p[i/8] |= 1 << (i % 8) }

// Join adds those of others.
func (p *Places) Join(others *Places) {
	for i := range p {
		p[i] |= others[i]
	}
}

// Found is a bundle that may hold what is searched.
type Found struct {
	Number      uint64
	First, Last time.Time
	At          *Places // those that columns fit; nil: all
	Marks       []byte
}

// Within reports whether all of the bundle is in q's time.
func (f *Found) Within(q *Query) bool {
	return (q.From.IsZero() || !f.First.Before(q.From)) && (q.To.IsZero() || !f.Last.After(q.To))
}

// Marks are a Bloom filter over the values of a bundle that have no column: 8192 bits,
// four for each value. With 1000 values, more than most bundles have, one in 40 of the
// others is taken for one of them, which costs reading a bundle in vain.
const (
	marksSize = 1024 // bytes
	marksEach = 4
)

// What a mark is of.
const (
	markActor  = "actor\x00"
	markReason = "reason\x00"
	markToken  = "token\x00"
	markPeer   = "peer\x00"

	markNetwork = "network\x00" // that a peer is one
)

func mark(bits []byte, value string) {
	for _, i := range markBits(value) {
		bits[i/8] |= 1 << (i % 8)
	}
}

// marked reports whether value may be among those that bits are of.
func marked(bits []byte, value string) bool {
	for _, i := range markBits(value) {
		if len(bits) != marksSize || bits[i/8]&(1<<(i%8)) == 0 {
			return false
		}
	}
	return true
}

func markBits(value string) (out [marksEach]uint16) {
	sum := sha256.Sum256([]byte(value))
	for i := range out {
		out[i] = binary.BigEndian.Uint16(sum[2*i:]) % (marksSize * 8)
	}
	return out
}

// Summarize makes the summary of one bundle's records.
func Summarize(number uint64, entries []*audit.Entry) Summary {
	s := Summary{Number: number, Marks: make([]byte, marksSize)}
	at := map[Row]int{} // by what is the same in them
	for i, e := range entries {
		if i == 0 || e.Time.Before(s.First) {
			s.First = e.Time
		}
		if i == 0 || e.Time.After(s.Last) {
			s.Last = e.Time
		}
		r := Row{Service: e.Service, Decision: string(e.Decision), Rule: e.Rule}
		r.Principal, r.Action = "("+e.State+")", "("+e.State+")" // as counting by them says
		if p := e.Payload; p != nil {
			r.Principal, r.Action = p.Principal, p.Action
			s.mark(p)
		}
		j, ok := at[r]
		if !ok {
			j = len(s.Rows)
			at[r] = j
			s.Rows = append(s.Rows, r)
		}
		s.Rows[j].Count++
		s.Rows[j].At.Set(uint64(i))
	}
	return s
}

func (s *Summary) mark(p *audit.Payload) {
	for _, a := range p.Actors {
		mark(s.Marks, markActor+a)
	}
	for _, v := range []struct{ kind, value string }{{markReason, p.Reason}, {markToken, p.TokenID}, {markToken, p.IssuedTokenID}} {
		if v.value != "" {
			mark(s.Marks, v.kind+v.value)
		}
	}
	if p.Peer != "" {
		mark(s.Marks, peerMark(p.Peer))
	}
}

// peerMark is the mark of a record's peer: its address without a port, or that it is
// some network, which an address may be in.
func peerMark(peer string) string {
	if a, ok := address(peer); ok {
		return markPeer + a.String()
	}
	if _, err := netip.ParsePrefix(peer); err == nil {
		return markNetwork
	}
	return markPeer + peer
}

// address reads an address, with or without a port; its zone is left out.
func address(peer string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(peer)
	if err != nil {
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(peer)
		a = with.Addr()
	}
	return a.Unmap().WithZone(""), err == nil
}

// ErrAhead means that an index has seen more of a log than is there: the log's directory
// was set back.
var ErrAhead = errors.New("the index has seen more of this log than is there")

// Indexer fills an index behind the log, one Step at a time.
type Indexer struct {
	Reader *audit.Reader
	Index  Index
	lag    atomic.Uint64
}

// batch is how many bundles one transaction takes.
const batch = 32

// Lag returns how many records under the checkpoint are not indexed yet.
func (x *Indexer) Lag() uint64 { return x.lag.Load() }

// Step indexes one batch of bundles and reports whether there is no more to do. An
// index of another log is emptied first; one that is ahead of the log is ErrAhead, and
// stays as it is: it is evidence.
func (x *Indexer) Step(ctx context.Context) (done bool, err error) {
	s, err := x.Index.State(ctx)
	if err != nil {
		return false, err
	}
	head, err := x.Reader.Head()
	if err != nil {
		return false, err
	}
	if s.Origin != "" && s.Origin != x.Reader.Origin() {
		s = State{}
		if err := x.Index.Forget(ctx, math.MaxUint64); err != nil {
			return false, err
		}
	}
	if s.Size > head.Size {
		return false, fmt.Errorf("%w: %d entries were signed, here are %d", ErrAhead, s.Size, head.Size)
	}
	first, err := x.Reader.First()
	if err != nil {
		return false, err
	}
	if err := x.Index.Forget(ctx, first/Bundle); err != nil {
		return false, err
	}
	from := max(s.Next, first/Bundle)
	end := max(from, min(head.Size/Bundle, from+batch))
	x.lag.Store(head.Size - min(head.Size, from*Bundle))
	bundles, err := x.bundles(ctx, from, end)
	if err != nil {
		return false, err
	}
	if len(bundles) == 0 && s.Size == head.Size && s.Origin != "" {
		return true, nil
	}
	// also without a bundle: it is the newest checkpoint that tells of a log set back
	if err := x.Index.Add(ctx, State{x.Reader.Origin(), end, head.Note, head.Size}, bundles); err != nil {
		return false, err
	}
	x.lag.Store(head.Size - min(head.Size, end*Bundle))
	return end >= head.Size/Bundle, nil
}

// bundles reads bundles from one up to another.
func (x *Indexer) bundles(ctx context.Context, from, end uint64) (out []Summary, err error) {
	if from == end {
		return nil, nil
	}
	var entries []*audit.Entry
	for e, err := range x.Reader.Entries(ctx, from*Bundle) {
		if err != nil {
			return nil, err
		}
		if want := (from+uint64(len(out)))*Bundle + uint64(len(entries)); e.Seq != want {
			return nil, fmt.Errorf("entry %d is gone meanwhile, the next is %d", want, e.Seq)
		}
		if entries = append(entries, e); len(entries) < Bundle {
			continue
		}
		out = append(out, Summarize(e.Seq/Bundle, entries))
		entries = entries[:0]
		if e.Seq+1 == end*Bundle {
			return out, nil
		}
	}
	return nil, fmt.Errorf("the log ends before entry %d, which its checkpoint covers", end*Bundle-1)
}
