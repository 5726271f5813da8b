package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/guard"
)

// Paths of what goes on, and of what may.
const (
	SessionsPath    = "/v1/sessions"         // the live ones
	KillPath        = "/v1/sessions/kill"    // ID
	RevocationsPath = "/v1/revocations"      // those in force; POST a guard.Revocation for one more
	LiftPath        = "/v1/revocations/lift" // ID
	ApplyPath       = "/v1/policy/apply"     // Apply, answered with Applied
)

// Live are the live sessions and what is revoked, as an operator sees them.
type Live interface {
	// Sessions returns the live sessions, the oldest first.
	Sessions() []Session
	// Kill ends the session with a decision id; false if there is none.
	Kill(id, reason string) bool
	// Revocations returns those in force.
	Revocations() []guard.Revocation
	// Revoke puts one in force and returns how many sessions it ended.
	Revoke(guard.Revocation) (guard.Revocation, int, error)
	// Lift ends one.
	Lift(id string) error
}

// Rules are what the server decides by.
type Rules interface {
	// Apply reads the file again and puts it in force; accept lets it end as many live
	// sessions as it does. ErrNotApplied says why not, in words that may be shown.
	Apply(ctx context.Context, accept bool) (Applied, error)
}

// ErrNotApplied means that a file was not put in force.
var ErrNotApplied = errors.New("not applied")

// A Session is what an operator is told of one.
type Session struct {
	ID        string    `json:"id"` // the decision that admitted it
	Principal string    `json:"principal"`
	TokenID   string    `json:"token_id,omitzero"`
	Service   string    `json:"service"`
	Action    string    `json:"action"`
	Resource  string    `json:"resource,omitzero"`
	Peer      string    `json:"peer,omitzero"`
	Started   time.Time `json:"started"`
	Expires   time.Time `json:"expires,omitzero"` // of the credential
}

// ID names what is killed or lifted, and why.
type ID struct {
	ID     string `json:"id"`
	Reason string `json:"reason,omitzero"`
}

// Revoked is the answer to a new revocation.
type Revoked struct {
	Revocation guard.Revocation `json:"revocation"`
	Ended      int              `json:"ended"` // live sessions
}

// Apply is the body of ApplyPath.
type Apply struct {
	Accept bool `json:"accept"` // that live sessions end
}

// Applied is its answer.
type Applied struct {
	Revision string `json:"revision"` // of the policies
	Ends     int    `json:"ends"`     // live sessions that ended
	Live     int    `json:"live"`     // that there were
}

// errNoSession is told as it is.
var errNoSession = errors.New("there is no live session of that decision id")

// serveLive serves the paths above.
func (d *Door) serveLive(live Live, rules Rules) {
	d.serve("GET "+SessionsPath, "admin.sessions.list", func(*http.Request) (change, error) {
		return change{do: func(context.Context, string) (any, error) { return live.Sessions(), nil }}, nil
	})
	d.serve("POST "+KillPath, "admin.sessions.kill", func(r *http.Request) (change, error) {
		var in ID
		err := read(r, &in)
		return change{"session " + in.ID + because(in.Reason), func(context.Context, string) (any, error) {
			if !live.Kill(in.ID, in.Reason) {
				return nil, errNoSession
			}
			return in, nil
		}}, err
	})
	d.serve("GET "+RevocationsPath, "admin.revocations.list", func(*http.Request) (change, error) {
		return change{do: func(context.Context, string) (any, error) {
			return append([]guard.Revocation{}, live.Revocations()...), nil
		}}, nil
	})
	d.serve("POST "+RevocationsPath, "admin.revoke", func(r *http.Request) (change, error) {
		var in guard.Revocation
		err := read(r, &in)
		return change{string(in.Kind) + " " + in.Value + because(in.Reason), func(context.Context, string) (any, error) {
			out, ended, err := live.Revoke(guard.Revocation{Kind: in.Kind, Value: in.Value, Reason: in.Reason, Until: in.Until, Issued: in.Issued})
			return Revoked{out, ended}, err
		}}, err
	})
	d.serve("POST "+LiftPath, "admin.revocations.lift", func(r *http.Request) (change, error) {
		var in ID
		err := read(r, &in)
		return change{"revocation " + in.ID + because(in.Reason), func(context.Context, string) (any, error) { return in, live.Lift(in.ID) }}, err
	})
	d.serve("POST "+ApplyPath, "admin.policy.apply", func(r *http.Request) (change, error) {
		var in Apply
		err := read(r, &in)
		on := "the file"
		if in.Accept {
			on += ", whatever sessions it ends"
		}
		return change{on, func(ctx context.Context, _ string) (any, error) {
			out, err := rules.Apply(context.WithoutCancel(ctx), in.Accept)
			return out, err
		}}, err
	})
}
