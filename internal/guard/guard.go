package guard

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/token"
)

// A BearerProver proves the tokens of one issuer.
type BearerProver interface {
	// Name is the provider's name, or identity.Self.
	Name() string
	// Issuer is the `iss` of its tokens.
	Issuer() string
	// Prove verifies a parsed token, all but its audience, or fails with an error
	// that has a Code and a Class.
	Prove(context.Context, *token.Token) (*identity.Proof, error)
}

// A CertificateProver proves the client certificates of one provider.
type CertificateProver interface {
	// Name is the provider's name.
	Name() string
	// ProveCertificate verifies a chain, the caller's own certificate first.
	ProveCertificate(context.Context, []*x509.Certificate) (*identity.Proof, error)
}

// A LocalProver attests the other end of a local connection.
type LocalProver interface {
	// Prove finds the one account of among that the caller is.
	Prove(ctx context.Context, c attest.Conn, among []string) (*identity.Proof, error)
	// Which finds all accounts of among that the caller is.
	Which(ctx context.Context, c attest.Conn, among []string) ([]string, error)
	// ProveUser finds the caller as user:local/UID.
	ProveUser(ctx context.Context, c attest.Conn) (*identity.Proof, error)
	// Account returns the principal of a declared account.
	Account(name string) (identity.Principal, bool)
}

// A Log makes records durable. Append returns only when the record is as durable
// as asked, and with an error when it is not.
type Log interface {
	Append(*audit.Record, audit.Durability) (uint64, error)
}

// A Service is what the guard knows of a protected service.
type Service struct {
	Audiences  []string         // a token must be for one of these
	Accept     []string         // names of the providers whose tokens are taken
	Durability audit.Durability // of its records
	MaxSession time.Duration    // how long a session of it may last; 0: as long as it is allowed
	Public     string           // what of it is public; anonymous sessions end when that changes
	Limits     Limits           // of how much may be asked of it
}

// Config is what a Guard is made of; every field without a default is required.
type Config struct {
	Policy   *policy.Snapshot
	Services map[string]Service
	Bearers  []BearerProver

	Certificates []CertificateProver // default: nobody takes client certificates

	Local   LocalProver
	Log     Log
	Keep    func([]Revocation) error // keeps all that are in force; default: nobody does
	Room    func() audit.Room        // for whom the log has room; default: for everybody
	Replica string                   // begins every decision id
	Now     func() time.Time
	Logger  *slog.Logger // hears alarms only; default slog.Default()
}

// A Guard admits or refuses. It is safe for concurrent use.
type Guard struct {
	c       Config
	view    atomic.Pointer[view]
	revoked revocations
	tokens  tokenCache
	crowd   crowd
	live    live
	limits  limits
	counts  counts

	closed    atomic.Bool
	reloading sync.Mutex // held by who changes view
}

// New returns a Guard.
func New(c Config) *Guard {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Room == nil {
		c.Room = func() audit.Room { return audit.Plenty }
	}
	g := &Guard{c: c}
	g.view.Store(newView(Rules{c.Policy, c.Services, c.Bearers, c.Certificates}))
	return g
}

// Admit proves the attempt's credential, decides, and records the decision. It
// returns a Pass, or a *fault.Error whose Decision names the record of the
// refusal. It returns only after the record is durable; when it cannot be made
// so, the answer is no.
func (g *Guard) Admit(ctx context.Context, a Attempt) (*Pass, error) {
	if g.closed.Load() {
		return nil, g.Refuse(ctx, a, guardClosed, "")
	}
	generation := g.revoked.generation.Load() // before the view, which changes first
	v := g.view.Load()
	e, credential, err := g.prove(ctx, v, &a)
	proof := e.proof
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok { // decided and recorded already
			return nil, f
		}
		code, f := explain(err)
		if r, ok := errors.AsType[refusal](err); ok {
			f.Code, f.Public = r.reason.public()
		}
		return nil, g.refuse(&a, proof, code, err.Error(), f)
	}
	if a.Resource.Kind == policy.AccountResource && a.Resource.Name == "" {
		a.Resource.Name = proof.Principal.Name
	}
	if f := g.crowdedPublic(&a); f != nil {
		return nil, f
	}
	now := g.c.Now()
	leave, f := g.limits.enter(v, &a, proof, now)
	if f != nil {
		return nil, g.limited(&a, f)
	}
	r := &receipt{guard: g, entry: e, attempt: a, started: now, view: v, leave: leave}
	pass, err := g.rule(r, &a, credential)
	if err != nil {
		leave()
		return nil, err
	}
	if err := g.overtaken(ctx, r, generation); err != nil {
		_ = pass.Close(Summary{}) // it is refused whether or not that can be recorded
		return nil, err
	}
	return pass, nil
}

// rule decides about an attempt whose caller is known, and records that.
func (g *Guard) rule(r *receipt, a *Attempt, credential [32]byte) (*Pass, error) {
	proof, now, v := r.entry.proof, r.started, r.view
	d := v.decide(proof, a.Action, a.Request, a, now)
	if f, counted := g.crowdedUser(a, proof, &d); counted {
		return nil, f
	}
	rec := g.decisionRecord(v, audit.Admit, a, proof, &d)
	durability := v.durability(a, &d)
	if d.Allow && a.mints() {
		if rec.Payload.IssuedTokenID = g.reused(a, proof); rec.Payload.IssuedTokenID != "" {
			durability = audit.Written // that it exists is synced already
		} else {
			rec.Payload.IssuedTokenID = cmp.Or(a.TokenID, newTokenID())
		}
	}
	id, err := g.append(rec, durability)
	if err != nil {
		return nil, err
	}
	g.counts.decided(a.Service, string(d.Reason))
	if !d.Allow {
		f := notAllowed(&d)
		f.Decision = id
		return nil, f
	}
	r.rests(&d)
	r.admission = Admission{
		ID: id, Principal: proof.Principal, Provider: proof.Provider, Service: a.Service, Resource: a.Resource, Action: a.Action,
		Expires: proof.Expires, Attested: proof.Attested, IssuedTokenID: rec.Payload.IssuedTokenID, At: now, credential: credential,
	}
	if a.Service != "" {
		g.begin(r)
	}
	return &Pass{r}, nil
}

// Refuse records that a door or gateway turned the attempt away before there was
// a credential to judge, and returns what the caller may be told. why is detail
// for the owner.
func (g *Guard) Refuse(_ context.Context, a Attempt, r Reason, why string) *fault.Error {
	code, public := r.public()
	f := fault.New(code, nil, public)
	if why != "" {
		f.Cause = errors.New(why)
	}
	return g.refuse(&a, nil, string(r), why, f)
}

// An Event is something the server itself did.
type Event struct {
	Action  string // "server.start", "server.stop", "keys.create", …
	Detail  string
	Version string // of the program, at start
	Torn    int64  // bytes that a crash left behind, at start

	// Entries are those that the event takes out of the log.
	Entries []string
}

// Note records an Event, synced.
func (g *Guard) Note(_ context.Context, e Event) error {
	_, err := g.append(&audit.Record{Kind: audit.Note, Policy: g.view.Load().Policy.Revision(), Payload: audit.Payload{
		Action: e.Action, Detail: e.Detail, Version: e.Version, TornBytes: e.Torn, Entries: e.Entries, Replica: g.c.Replica,
	}}, audit.Synced)
	return err
}

// Close ends every live session and refuses what comes after. What was counted of
// refusals is recorded.
func (g *Guard) Close() {
	defer g.recordCrowd()
	g.closed.Store(true)
	g.Drain(func(*Session) bool { return true })
}

// refusal is an error of the guard's own that carries its reason.
type refusal struct {
	reason Reason
	why    string
}

func (r refusal) Error() string { return r.why }
func (r refusal) Code() string  { return string(r.reason) }
func (r refusal) Class() string { _, public := r.reason.public(); return public }

// prove returns the attempt's proof. With an error it may return one too: of a
// caller that is known, with a credential that is not for this service.
func (g *Guard) prove(ctx context.Context, v *view, a *Attempt) (entry, [32]byte, error) {
	var none [32]byte
	switch len(a.Credentials) {
	case 0:
		return entry{}, none, refusal{CredentialMissing, "the request has no credential"}
	case 1:
	default:
		return entry{}, none, refusal{CredentialMalformed, "the request has several credentials"}
	}
	c := a.Credentials[0]
	if _, ok := v.Services[a.Service]; ok && c.public {
		return entry{proof: anybody}, none, nil
	}
	if c.server != "" {
		return g.proveServer(v, c.server)
	}
	if c.conn != nil {
		proof, err := g.proveLocal(ctx, v, a, &c)
		if err == nil {
			err = g.unrevoked(v, &entry{proof: proof})
		}
		return entry{proof: proof}, none, err
	}
	svc, ok := v.Services[a.Service]
	if !ok {
		return entry{}, none, refusal{serviceUnknown, "no service is called " + strconv.Quote(a.Service)}
	}
	if len(c.certificates) > 0 {
		return g.proveCertificate(ctx, v, c.certificates, &svc)
	}
	return g.proveBearer(ctx, v, a, c.bearer, &svc)
}

func (g *Guard) proveBearer(ctx context.Context, v *view, a *Attempt, raw string, svc *Service) (entry, [32]byte, error) {
	if len(raw) > token.MaxLength { // before it is hashed
		_, err := token.Parse(raw)
		return entry{}, [32]byte{}, malformed{err}
	}
	hash := sha256.Sum256([]byte(raw))
	if e, ok := g.tokens.get(hash); ok && e.stands(v) {
		if !slices.Contains(svc.Accept, e.proof.Provider) {
			return e, hash, refusal{issuerNotAccepted, "the service does not accept tokens of " + e.proof.Provider}
		}
		if err := g.still(ctx, v, &e); err != nil {
			g.tokens.drop(hash)
			return e, hash, err
		}
		return e, hash, e.proof.For(svc.Audiences)
	}
	t, err := token.Parse(raw)
	if err != nil {
		return entry{}, hash, malformed{err}
	}
	a.Unverified = map[string]string{"iss": t.Claims.Issuer, "kid": t.Header.KeyID}
	prover, ok := v.issuers[t.Claims.Issuer]
	if !ok || !slices.Contains(svc.Accept, prover.Name()) {
		return entry{}, hash, refusal{issuerNotAccepted, "the service accepts tokens of " + fmt.Sprint(svc.Accept) + ", and of these none has that issuer"}
	}
	proof, err := prover.Prove(ctx, t)
	if err != nil {
		return entry{}, hash, err
	}
	a.Unverified = nil // it is verified now, and the principal says it better
	e := entry{proof: proof, prover: prover, checked: new(atomic.Uint64), hash: string(hash[:])}
	if err := g.still(ctx, v, &e); err != nil {
		return e, hash, err
	}
	g.tokens.put(hash, e, g.c.Now())
	return e, hash, proof.For(svc.Audiences)
}

// still fails when what was proven holds no longer, or was revoked.
func (g *Guard) still(ctx context.Context, v *view, e *entry) error {
	if err := e.proof.Still(ctx); err != nil {
		return err
	}
	return g.unrevoked(v, e)
}

// malformed gives token.Parse's errors a code; its texts never quote the token.
type malformed struct{ error }

func (malformed) Code() string  { return "token_malformed" }
func (malformed) Class() string { return "token malformed" }

func (v *view) decide(p *identity.Proof, action string, vars policy.Vars, a *Attempt, now time.Time) policy.Decision {
	peer := ""
	if a.Peer.IsValid() {
		peer = a.Peer.Addr().Unmap().String()
	}
	return v.Policy.Decide(&policy.Query{
		Principal: p.Principal, Action: action, Resource: a.Resource, Vars: vars, Time: now, Peer: peer, Public: a.public(),
	})
}

// reused returns the id of the token that is handed out once more, or "".
func (g *Guard) reused(a *Attempt, proof *identity.Proof) string {
	if a.Reuse == nil {
		return ""
	}
	return g.reusable(a.Reuse(proof), proof)
}

// durability of the record of an attempt: a token that was handed out, and a change
// that somebody made to the server, must be in the log after a power cut; calls wait
// as long as their service says. Of a buffered service only reads that were allowed may
// wait: whoever is refused could be asking for something to be forgotten.
func (v *view) durability(a *Attempt, d *policy.Decision) audit.Durability {
	if a.mints() || strings.HasPrefix(a.Action, adminActions) {
		return audit.Synced
	}
	svc, ok := v.Services[a.Service]
	switch {
	case !ok, svc.Durability == audit.Buffered && !(d.Allow && d.Reads):
		return audit.Written
	}
	return svc.Durability
}

// newTokenID returns a `jti`: 128 random bits.
func newTokenID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read
	return base64.RawURLEncoding.EncodeToString(b[:])
}
