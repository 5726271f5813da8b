package guard

import (
	"crypto/x509"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// A Credential is what a caller shows: exactly one of a bearer token, a client
// certificate, a local connection and nothing. Make one with Bearer, Certificate, Local, LocalUser, RunAs, Anonymous or Server.
type Credential struct {
	bearer string
	conn   *attest.Conn
	among  []string // of conn: the accounts that it may be
	user   bool     // of conn: whoever it is by uid
	runAs  string   // of conn: the account that its user is to run as
	public bool     // nobody in particular
	server string   // the account that this server itself acts as

	certificates []*x509.Certificate // of a TLS client, its own first
}

// Bearer is a token in compact form (RFC 6750).
func Bearer(raw string) Credential { return Credential{bearer: raw} }

// Certificate is what a TLS client has shown, and proven to hold the key of: its own
// certificate first.
func Certificate(chain []*x509.Certificate) Credential { return Credential{certificates: chain} }

// Local is a connection whose other end is to be attested as one of the service
// accounts among.
func Local(c attest.Conn, among []string) Credential { return Credential{conn: &c, among: among} }

// LocalUser is a connection whose other end is to be attested as user:local/UID.
func LocalUser(c attest.Conn) Credential { return Credential{conn: &c, user: true} }

// RunAs is a connection whose other end is to be attested as user:local/UID, who
// acts as a service account: if policy allows that user workload.run on it, which is
// decided and recorded each time.
func RunAs(c attest.Conn, account string) Credential { return Credential{conn: &c, runAs: account} }

// Server is this server itself, as one of its accounts, where its own file says so: it has
// no other caller to attest.
func Server(account string) Credential { return Credential{server: account} }

// An Attempt is what somebody wants, in words that no protocol owns.
type Attempt struct {
	// Credentials are what the caller shows. One is proven; none, or more than
	// one, is refused.
	Credentials []Credential

	// Service is the name of the protected service, or "" at our own doors.
	Service string

	// Resource is what Action is done to: ToService, ToAudience or ToItself.
	Resource Resource

	// On is what Action is done to, in words, where it is nothing that policy knows: the
	// keys that an operator names. It is recorded and decides nothing.
	On string

	// Public, of an Anonymous attempt, is what of the service is public by the routes that
	// it was judged by: Service.Public of the rules that these belong to.
	Public string

	// Action is what is asked, such as "http.get" or "token.mint".
	Action string

	// Request holds the protocol's own variables for conditions; it may be nil.
	Request policy.Vars

	// Peer is the other end of the connection.
	Peer netip.AddrPort

	// Caller is the local connection that the attempt came over; nil for others, and
	// where the credential says it.
	Caller *attest.Conn

	// TraceID is the caller's W3C trace id, or "".
	TraceID string

	// Unverified holds what an unproven caller claims, such as kid and iss; it is
	// recorded, cut to 256 bytes.
	Unverified map[string]string

	// TokenID is the id of the token that an attempt to mint makes, when an attempt
	// before it has named one: of a token for several audiences. Default: a new one.
	TokenID string

	// Reuse is asked, of an attempt to mint that was allowed, for the id of a token
	// that is handed out once more in place of a new one; "" if there is none. It
	// may be nil.
	Reuse func(*identity.Proof) string
}

// A Resource is what an action is done to.
type Resource = policy.Resource

// ToService is the protected service called name.
func ToService(name string) Resource { return Resource{Kind: policy.ServiceResource, Name: name} }

// ToAudience is an audience that a token is to be minted for.
func ToAudience(audience string) Resource {
	return Resource{Kind: policy.AudienceResource, Name: audience}
}

// ToAccount is a service account that something is done to by name.
func ToAccount(name string) Resource { return Resource{Kind: policy.AccountResource, Name: name} }

// ToItself is the service account that the caller proves to be.
func ToItself() Resource { return Resource{Kind: policy.AccountResource} }

// Durability is how durable a service's records are before a decision takes
// effect: "written" or "synced".
type Durability = audit.Durability

// Size is an amount of bytes in the file, such as "1MiB".
type Size = audit.Bytes

// mints reports whether the attempt, if allowed, makes a new token.
func (a *Attempt) mints() bool { return a.Action == ActionMint }

// ActionMint is asked for every token that is made.
const ActionMint = "token.mint"

// ActionMetadata is asked by a workload that reads its own identity's metadata.
const ActionMetadata = "metadata.get"

// adminActions begin with this.
const adminActions = "admin."

// ActionRun is asked of a local user for each credential RunAs.
const ActionRun = "workload.run"
