// Package gateway is what every protocol's gateway shares: the settings of a
// protected service that have nothing to do with its protocol, and the core that
// a gateway calls to admit a caller and to speak for it upstream.
//
// The conversations are in the folders below, one for each protocol; package all
// lists them.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Config is decoded from the "gateway" section of the file.
type Config struct {
	// Listen is the address where HTTP services are served by host name.
	Listen string `yaml:"listen,omitempty"`

	// TLS are the certificates that it is served with, by the names in them. Default:
	// HTTP in the clear.
	TLS []Certificate `yaml:"tls,omitempty"`

	// TrustedProxies may say where a request comes from. Default: nobody.
	TrustedProxies TrustedProxies `yaml:"trusted_proxies,omitempty"`
}

// Service is the part of an entry of "services" that every protocol has.
type Service struct {
	// Name is how policy and records call the service.
	Name string `yaml:"name"`

	// Audiences are what a token for it says in `aud`; it is for one of these
	// exactly. URLs are https without a trailing slash, anything else free text.
	Audiences []string `yaml:"audiences"`

	// Accept names whose tokens are taken: self, or providers. Default self.
	Accept []string `yaml:"accept,omitempty"`

	// Audit overrides how durable its records are.
	Audit Audit `yaml:"audit,omitempty"`

	// MaxSession is how long a request, stream or WebSocket may last, whatever is allowed
	// by then. Default 12h.
	MaxSession time.Duration `yaml:"max_session,omitempty"`

	// Limits are how much may be asked of it. Default: no limit.
	Limits guard.Limits `yaml:"limits,omitempty"`
}

// maxSession is the default of MaxSession.
const maxSession = 12 * time.Hour

// Audit is how a service's decisions are recorded.
type Audit struct {
	// Durability is what a decision waits for before it takes effect: "written"
	// (survives a killed process), "synced" (survives power loss), or "buffered"
	// (nothing; written within 100 ms), which is for what a role marks as reads:
	// everything else of the service is written. Default audit.durability, and
	// without that written.
	Durability guard.Durability `yaml:"durability,omitempty"`
}

// Complete fills defaults and reports every mistake below "services[i]".
func (s *Service) Complete() error {
	var bad []error
	if !identity.ValidName(s.Name) {
		bad = append(bad, fmt.Errorf("name: %q: use lower-case letters, digits, - and _, at most 63", s.Name))
	}
	if len(s.Audiences) == 0 {
		bad = append(bad, errors.New("audiences: is empty: name what tokens for this service are for"))
	}
	for i, a := range s.Audiences {
		if err := CheckAudience(a); err != nil {
			bad = append(bad, fmt.Errorf("audiences[%d]: %q: %w", i, a, err))
		} else if slices.Contains(s.Audiences[:i], a) {
			bad = append(bad, fmt.Errorf("audiences[%d]: %q: is there twice", i, a))
		}
	}
	if len(s.Accept) == 0 {
		s.Accept = []string{identity.Self}
	}
	if s.MaxSession == 0 {
		s.MaxSession = maxSession
	}
	if s.MaxSession < time.Second {
		bad = append(bad, fmt.Errorf("max_session: %v is less than a second", s.MaxSession))
	}
	bad = append(bad, s.Limits.Complete())
	return errors.Join(bad...)
}

// CheckAudience says what is wrong with an audience of the file, if anything.
func CheckAudience(a string) error {
	switch {
	case a == "" || strings.TrimSpace(a) != a || strings.ContainsAny(a, " \t\r\n"):
		return errors.New("an audience has no white space and is not empty")
	case strings.Contains(a, "://") && (!strings.HasPrefix(a, "https://") || strings.HasSuffix(a, "/")):
		return errors.New("a URL audience is https without a trailing slash")
	}
	return nil
}

// A Guard admits and refuses, and records both.
type Guard interface {
	Admit(context.Context, guard.Attempt) (*guard.Pass, error)
	Refuse(context.Context, guard.Attempt, guard.Reason, string) *fault.Error
}

// An Asserter makes the statement about a caller that goes upstream.
type Asserter interface {
	Assertion(*guard.Pass) (string, error)
}

// Core is what a gateway calls.
type Core struct {
	Guard  Guard
	Assert Asserter
	// SelfToken makes an ID token of ours for an account and an audience, for upstreams
	// that want one. Nil: none are made.
	SelfToken func(ctx context.Context, account, audience string) (string, error)

	Logger *slog.Logger // for what is no security outcome: an upstream that is down

	// Trusted are those who may say where a request comes from. Nil: nobody.
	Trusted *TrustedProxies
}
