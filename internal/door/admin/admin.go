// Package admin is the door through which a local operator administers the server:
// plain HTTP and JSON over data_dir/admin.sock. `sallyport keys`, `sessions`, `revoke`,
// `policy apply`, `audit erase` and `audit prune` are its clients.
//
// Who asks is attested by uid; whether they may is decided as admin.* and recorded
// before anything happens. The people's console comes later.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/token"
)

// Keys are the signing keys, as an operator sees them.
type Keys interface {
	// List returns every key.
	List() []Key
	// Rotate publishes new keys for purposes, all that rotate if there is none, and
	// lets them sign as soon as nobody can hold a document without them. ErrPurpose
	// if one is none, ErrKept if its key does not rotate.
	Rotate(ctx context.Context, purposes []string) error
	// Revoke withdraws a key at once; token.ErrUnknownKey if there is none, ErrKept if
	// it stays.
	Revoke(ctx context.Context, kid string) error
}

// What an operator may have asked for in vain. The text of an error that wraps one of
// them may be shown.
var (
	// ErrPurpose means that something is no purpose of a key.
	ErrPurpose = errors.New("unknown purpose")

	// ErrKept means that a key neither rotates nor can be revoked.
	ErrKept = errors.New("this key stays")
)

// A Key is what an operator is told of one.
type Key struct {
	ID        string          `json:"kid"`
	Purpose   string          `json:"purpose"`
	Algorithm token.Algorithm `json:"algorithm"`
	State     string          `json:"state"` // next, current, retired or revoked
	Created   time.Time       `json:"created"`
	Activates time.Time       `json:"activates"`      // when it begins to sign, or began to
	Until     time.Time       `json:"until,omitzero"` // when the state ends, if that is planned
}

// Paths of the door. What changes something is POST, with a JSON object for a body.
const (
	KeysPath   = "/v1/keys"
	RotatePath = "/v1/keys/rotate" // Rotate
	RevokePath = "/v1/keys/revoke" // Revoke
	ErasePath  = "/v1/audit/erase" // Erase, answered with Erased
	PrunePath  = "/v1/audit/prune" // Prune, answered with Pruned
)

// Log is the audit log, as an operator sees it. What it records names by, the decision id
// of who asked.
type Log interface {
	// Erase overwrites the payloads of the records that subject, by its qualified name,
	// is the principal or an actor of, and returns how many; reason is recorded.
	Erase(ctx context.Context, by, subject, reason string) (int, error)
	// Prune deletes records before a time, or, with the zero time, what the file says,
	// and returns the first entry that is left.
	Prune(ctx context.Context, by string, before time.Time) (first uint64, err error)
}

// Erase is the body of ErasePath.
type Erase struct {
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
}

// Erased is its answer.
type Erased struct {
	Records int `json:"records"` // whose payloads were erased
}

// Prune is the body of PrunePath.
type Prune struct {
	Before time.Time `json:"before,omitzero"`
}

// Pruned is its answer.
type Pruned struct {
	First uint64 `json:"first"` // entry that is left
}

// Rotate is the body of RotatePath.
type Rotate struct {
	Purposes []string `json:"purposes"`
}

// Revoke is the body of RevokePath.
type Revoke struct {
	KeyID string `json:"kid"`
}

// Problem is the body of every error.
type Problem struct {
	Error    string `json:"error"`
	Decision string `json:"decision,omitzero"`
}

// A Door serves operators.
type Door struct {
	guard door.Guard
	keys  Keys
	log   Log
	mux   *http.ServeMux
}

// New returns a Door.
func New(g door.Guard, k Keys, l Log, live Live, rules Rules) *Door {
	d := &Door{guard: g, keys: k, log: l, mux: http.NewServeMux()}
	d.serveLive(live, rules)
	d.serve("GET "+KeysPath, "admin.keys.list", func(*http.Request) (change, error) { return change{do: d.listed(nil)}, nil })
	d.serve("POST "+RotatePath, "admin.keys.rotate", func(r *http.Request) (change, error) {
		var in Rotate
		err := read(r, &in)
		return change{"keys for " + cmp.Or(strings.Join(in.Purposes, ", "), "every purpose"), d.listed(func(ctx context.Context) error { return d.keys.Rotate(ctx, in.Purposes) })}, err
	})
	d.serve("POST "+RevokePath, "admin.keys.revoke", func(r *http.Request) (change, error) {
		var in Revoke
		err := read(r, &in)
		return change{"key " + in.KeyID, d.listed(func(ctx context.Context) error { return d.keys.Revoke(ctx, in.KeyID) })}, err
	})
	d.serve("POST "+ErasePath, "admin.audit.erase", func(r *http.Request) (change, error) {
		var in Erase
		err := read(r, &in)
		if err == nil && !strings.Contains(in.Subject, ":") {
			err = errors.New("subject is not a qualified name, such as user:okta/alice or serviceAccount:orders")
		}
		// whoever is erased is not to be named by the record that says so
		return change{"the records of one subject" + because(in.Reason), func(ctx context.Context, by string) (any, error) {
			n, err := d.log.Erase(ctx, by, in.Subject, in.Reason)
			return Erased{n}, err
		}}, err
	})
	d.serve("POST "+PrunePath, "admin.audit.prune", func(r *http.Request) (change, error) {
		var in Prune
		err := read(r, &in)
		on := "what audit.retain and audit.max_size say"
		if !in.Before.IsZero() {
			on = "records before " + in.Before.UTC().Format(time.RFC3339)
		}
		return change{on, func(ctx context.Context, by string) (any, error) {
			first, err := d.log.Prune(ctx, by, in.Before)
			return Pruned{first}, err
		}}, err
	})
	return d
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ", because: " + reason
}

// listed returns what does something to keys and answers with the keys as they are then.
func (d *Door) listed(do func(context.Context) error) func(context.Context, string) (any, error) {
	return func(ctx context.Context, _ string) (any, error) {
		if do != nil {
			if err := do(ctx); err != nil {
				return nil, err
			}
		}
		return d.keys.List(), nil
	}
}

// change is what a request asks for: to what, for the record, and how it is answered, once
// there is a decision.
type change struct {
	on string
	do func(ctx context.Context, decision string) (any, error)
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.mux.ServeHTTP(w, r) }

// serve answers a path by what prepare returns: prepare reads the request, and is all
// that happens before it is admitted.
func (d *Door) serve(pattern, action string, prepare func(*http.Request) (change, error)) {
	d.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c, ok := door.Caller(r.Context())
		if !ok {
			fail(w, errors.New("the connection was not accepted by a listener that attests"))
			return
		}
		change, err := prepare(r)
		a := guard.Attempt{Action: action, On: change.on, Caller: &c}
		if err != nil {
			f := d.guard.Refuse(r.Context(), a, guard.ParameterRefused, err.Error())
			if f.Code != fault.Busy {
				f.Public = err.Error()
			}
			fail(w, f)
			return
		}
		var out any
		decision, err := d.admit(r.Context(), a)
		if err == nil {
			out, err = change.do(r.Context(), decision)
		}
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, out)
	})
}

// admit returns the decision id.
func (d *Door) admit(ctx context.Context, a guard.Attempt) (string, error) {
	a.Credentials = []guard.Credential{guard.LocalUser(*a.Caller)}
	pass, err := d.guard.Admit(ctx, a)
	if err != nil {
		return "", err
	}
	admission, err := pass.Admission()
	if err != nil {
		return "", err
	}
	return admission.ID, pass.Still(ctx)
}

// maxBody bounds a request, in bytes.
const maxBody = 64 << 10

func read(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody {
		return fmt.Errorf("the body cannot be read, or is longer than %d bytes", maxBody)
	}
	if err := json.Unmarshal(body, v, json.RejectUnknownMembers(true)); err != nil {
		return errors.New("the body is not the JSON object that this path takes")
	}
	return nil
}

// fail is the only place this door writes an error.
func fail(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	switch {
	case errors.Is(err, token.ErrUnknownKey):
		f = fault.New(fault.Absent, err, "there is no such key, or it was revoked before")
	case f.Code == fault.Absent: // a revocation of a session that has ended
	case errors.Is(err, ErrPurpose), errors.Is(err, guard.ErrRevocation):
		f = fault.New(fault.Invalid, err, err.Error())
	case errors.Is(err, ErrKept), errors.Is(err, ErrNotApplied):
		f = fault.New(fault.Denied, err, err.Error())
	case errors.Is(err, guard.ErrNotRevoked), errors.Is(err, errNoSession):
		f = fault.New(fault.Absent, err, err.Error())
	}
	answer(w, door.Status(w.Header(), f), Problem{f.Public, f.Decision})
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // never: texts and times
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone; nothing to add
}
