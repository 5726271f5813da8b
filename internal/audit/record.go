package audit

import (
	"fmt"
	"time"
)

// Kind says what a record is about.
type Kind string

const (
	Admit  Kind = "admit"  // a caller's attempt was decided
	Refuse Kind = "refuse" // an attempt was turned away before there was a credential
	Check  Kind = "check"  // a further action of a session was decided
	Close  Kind = "close"  // a session ended
	Note   Kind = "note"   // the server did something: start, stop, reload, rotation
	Gap    Kind = "gap"    // a killed process had given this number out and lost the record; made by Open
)

// Decision says what was decided; "" for records that decide nothing.
type Decision string

const (
	Allow Decision = "allow" // the action may happen
	Deny  Decision = "deny"  // it may not
)

// Record is what a caller of Append wants kept. Its own strings go to the leaf,
// which is never erased: they must name no person. Each is cut to 1 KiB.
type Record struct {
	Kind     Kind
	Decision Decision
	Rule     string // name of the rule that decided
	Service  string // name of the service asked for
	Policy   string // revision of the policy that decided
	Payload  Payload
}

// check refuses kinds and decisions that a reader would not know.
func (r *Record) check() error {
	if !r.Kind.known() || r.Kind == Gap { // which Open alone makes
		return fmt.Errorf("audit: unknown kind %q", string(r.Kind))
	}
	if !r.Decision.known() {
		return fmt.Errorf("audit: unknown decision %q", string(r.Decision))
	}
	return nil
}

func (k Kind) known() bool {
	switch k {
	case Admit, Refuse, Check, Close, Note, Gap:
		return true
	}
	return false
}

func (d Decision) known() bool { return d == "" || d == Allow || d == Deny }

// Payload is the part of a record that can name a person, and can be erased.
// Append makes each string valid UTF-8 and cuts it to 4 KiB, those of Unverified
// to 256 bytes; if the whole is then over 64 KiB it cuts harder. A zero field is
// left out.
type Payload struct {
	Principal     string            `json:"principal,omitzero"`       // who acts, by qualified name
	Actors        []string          `json:"actors,omitempty"`         // who acts for the principal, as in RFC 8693 section 4.1, newest first
	Provider      string            `json:"provider,omitzero"`        // who vouched
	Attested      map[string]string `json:"attested,omitempty"`       // what the kernel said of a local caller: uid, cgroup, pid
	TokenID       string            `json:"token_id,omitzero"`        // of the credential, never the credential
	IssuedTokenID string            `json:"issued_token_id,omitzero"` // of the token that this decision minted
	Action        string            `json:"action,omitzero"`          // what was asked
	Resource      string            `json:"resource,omitzero"`        // of what: a canonical path without query, a table
	Reason        string            `json:"reason,omitzero"`          // reason code
	Peer          string            `json:"peer,omitzero"`            // address or local identity of the caller
	Replica       string            `json:"replica,omitzero"`         // which server decided
	TraceID       string            `json:"trace_id,omitzero"`        // W3C trace id
	Vars          map[string]string `json:"vars,omitempty"`           // values that candidate rules read
	Shadow        []string          `json:"shadow,omitempty"`         // what rules on trial would have decided
	Near          string            `json:"near,omitzero"`            // the rule that came nearest to allowing
	Detail        string            `json:"detail,omitzero"`          // free text for the owner
	Count         int64             `json:"count,omitzero"`           // of refusals that this record stands for, if it is not one
	Unverified    map[string]string `json:"unverified,omitempty"`     // claims that nobody vouched for, such as kid and iss
	BytesIn       int64             `json:"bytes_in,omitzero"`        // bytes from the caller, in a close record
	BytesOut      int64             `json:"bytes_out,omitzero"`       // bytes to the caller, in a close record
	DurationMS    int64             `json:"duration_ms,omitzero"`     // milliseconds, in a close record
	EndingMS      int64             `json:"ending_ms,omitzero"`       // from the reason to the end, in a close record of what was ended
	Version       string            `json:"version,omitzero"`         // of the program, in a start note
	TornBytes     int64             `json:"truncated_bytes,omitzero"` // Log.Recovered, in a start note
	Entries       []string          `json:"entries,omitempty"`        // which entries a note of erasing or pruning is about: "7", "9-12"
	Cut           bool              `json:"cut,omitzero"`             // set by Append: some text is not whole, or was no UTF-8
}

// Header is a decoded leaf.
type Header struct {
	Seq        uint64    // position in the log, from 0
	Time       time.Time // UTC; when the record took its place
	Kind       Kind
	Decision   Decision
	Rule       string
	Service    string
	Policy     string
	Commitment [32]byte // SHA-256 of the payload's JSON text
}

// Entry is one record as read back.
type Entry struct {
	Header

	// State is "open" if the payload could be read, "sealed" if its key is not
	// here, "erased" if it was overwritten on purpose, and "damaged" if it is
	// there but does not fit its checksum, key or commitment.
	State string

	// Payload is nil unless State is "open".
	Payload *Payload

	// PayloadText is the JSON text that Commitment commits to, to be shown to
	// someone who shall check it; nil unless State is "open".
	PayloadText []byte

	// Leaf is the header as it lies in the log: what the tree hashes.
	Leaf []byte
}

// values of Entry.State
const (
	stateOpen    = "open"
	stateSealed  = "sealed"
	stateErased  = "erased"
	stateDamaged = "damaged"

	stateWithheld = "withheld" // of an export: it was left out
)
